"""For tests of tensor parallelism: processes that run the ranks of one model after another, and the
functions that they run. All ranks run the same; the test compares their results.
"""

from __future__ import annotations

import faulthandler
import gc
import multiprocessing
import os
import signal
import time
import traceback
from collections.abc import Callable
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from driver import Driver, start_runner
from torch import Tensor

from loraconsole.pipeline.config import MEETING
from loraconsole.pipeline.messages import CheckAdapter, SamplingParams
from loraconsole.pipeline.runner.runner import ModelRunner

PROMPTS = ([*range(4, 20)], [7], [*range(90, 50, -1)], [3, 1, 4, 1, 5], [*range(30, 63)])
SAMPLED = SamplingParams(temperature=0.9, seed=5)


class Said(NamedTuple):
    """The tokens of each sequence, and the logits they were chosen from."""

    tokens: list[list[int]]
    logits: list[Tensor]


class RankProcesses:
    """Up to `most` rank processes; started once, because each takes seconds to import torch."""

    def __init__(self, most: int, directory: Path) -> None:
        self._directory, self._plays = directory, 0
        context = multiprocessing.get_context("spawn")
        self._pipes: list[Connection] = []
        self._processes = []
        for rank in range(most):
            ours, theirs = context.Pipe()
            process = context.Process(
                target=_serve, args=(rank, theirs, self._stacks(rank)), daemon=True
            )
            process.start()
            self._pipes.append(ours)
            self._processes.append(process)

    def play(
        self, tp: int, scene: Callable[..., Any], *arguments: Any, **settings: Any
    ) -> list[Any]:
        """The results of `scene(runner, …)` on each of `tp` ranks."""
        self._plays += 1
        meeting = str(self._directory / f"meeting-{self._plays}")
        for pipe in self._pipes[:tp]:
            pipe.send((tp, meeting, scene, arguments, settings))
        answers = []
        for rank, pipe in enumerate(self._pipes[:tp]):
            assert pipe.poll(90), f"rank {rank} does not answer:\n{self._where(rank)}"
            answers.append(pipe.recv())
        errors = [answer for answer, is_error in answers if is_error]
        assert not errors, errors[0]
        return [answer for answer, _ in answers]

    def _stacks(self, rank: int) -> Path:
        return self._directory / f"stacks-{rank}"

    def _where(self, rank: int) -> str:
        """Every thread's stack in a rank that hangs."""
        os.kill(self._processes[rank].pid or 0, signal.SIGUSR1)
        time.sleep(1.0)
        return self._stacks(rank).read_text()

    def close(self) -> None:
        for process in self._processes:
            process.kill()


def _serve(rank: int, pipe: Connection, stacks: Path) -> None:
    faulthandler.register(signal.SIGUSR1, stacks.open("w"), all_threads=True)
    while True:
        tp, os.environ[MEETING], scene, (model, *arguments), settings = pipe.recv()
        try:
            runner, started = start_runner(model, rank=rank, tp=tp, **settings)
            pipe.send((scene(runner, started, *arguments), False))
        except BaseException:
            pipe.send((traceback.format_exc(), True))
        # NCCL's group would wait forever for CUDA graphs that captured its operations.
        runner = started = None
        gc.collect()
        if tp > 1 and torch.distributed.is_initialized():
            torch.distributed.destroy_process_group()


# --- scenes -------------------------------------------------------------------------------------


def _said(driver: Driver, numbers: list[int]) -> Said:
    return Said(
        [driver.tokens[n] for n in numbers], [torch.stack(driver.logits[n]) for n in numbers]
    )


def converse(runner: ModelRunner, started: Any, names: list[str | None]) -> tuple[Said, list[Any]]:
    """Prompts of many lengths, in chunks, one for each of `names`; then single tokens."""
    driver = Driver(runner)
    numbers = [
        driver.add(prompt, adapter=name) for prompt, name in zip(PROMPTS, names, strict=True)
    ]
    numbers.append(driver.add(PROMPTS[0], SAMPLED, names[0]))
    driver.generate(numbers, 10, chunk=13)
    return _said(driver, numbers), [(i.digest, i.pages, i.reason) for i in started.adapters]


def score(runner: ModelRunner, started: Any, names: list[str | None]) -> list[list[Tensor]]:
    """The prompts' logprobs, likeliest tokens and ranks, of prompts in chunks."""
    driver = Driver(runner)
    params = SamplingParams(temperature=0.0, prompt_logprobs=3)
    for prompt, name in zip(PROMPTS, names, strict=True):
        driver.add(prompt, params, name)
    pieces: list[list[Tensor]] = [[] for _ in PROMPTS]
    left = {number: len(prompt) for number, prompt in enumerate(PROMPTS)}
    while left:
        counts = {number: min(13, count) for number, count in left.items()}
        pending = driver.launch(counts)
        driver.read(pending)
        for scored in pending.prompt_logprobs:
            piece = scored.piece
            kinds = (("f4", piece.logprobs), ("i4", piece.likeliest), ("i4", piece.ranks))
            for kind, data in kinds:
                pieces[scored.sequence].append(torch.tensor(np.frombuffer(data, f"<{kind}").copy()))
        left = {n: count - counts[n] for n, count in left.items() if count > counts[n]}
    return pieces


def come_and_go(runner: ModelRunner, started: Any, first: str, second: str) -> Said:
    """Loads an adapter beside a running sequence, unloads it, and loads another under its name."""
    driver = Driver(runner)
    steady = driver.add(PROMPTS[0])
    driver.generate([steady], 3)
    numbers = [steady]
    for path, pages in ((first, range(70, 120)), (second, range(120, 70, -1))):
        info = runner.adapters.read("it", path)
        assert not info.reason
        placing = runner.adapters.place("it", [*pages][: info.pages])
        driver.decode([steady], 2)
        placing.result()
        number = driver.add(PROMPTS[3], adapter="it")
        driver.step({number: 5, steady: 1})
        driver.decode([number, steady], 4)
        driver.drop(number)
        driver.decode([steady], 1)
        runner.adapters.drop("it")
        numbers.append(number)
    return _said(driver, numbers)


def merge(runner: ModelRunner, started: Any, name: str) -> Said:
    """Steps of one adapter alone, on its merged weights; then of it beside the base."""
    runner.use_merged(runner.adapters.merge(name))
    driver = Driver(runner)
    alone = driver.add(PROMPTS[0], adapter=name)
    driver.generate([alone], 5)
    beside = driver.add(PROMPTS[1])
    driver.prefill([beside])
    driver.decode([alone, beside], 3)
    return _said(driver, [alone, beside])


def verify(runner: ModelRunner, started: Any, key: str, others: tuple[str, ...]) -> Any:
    """A verification as the worker runs it on several ranks: all batches launched at once, beside a
    sequence."""
    order = CheckAdapter(epoch=1, order="o", key=key, others=others, pages=tuple(range(60, 76)))
    trial = runner.adapters.new_verification(order)
    driver = Driver(runner, num_pages=60)
    number = driver.add(PROMPTS[0])
    driver.prefill([number])
    steps = [runner.launch(batch, keep_logits=True) for batch in trial.batches()]
    driver.decode([number], 2)
    for step in steps:
        tokens, _ = step.wait()
        trial.take(tokens, step.logits)
    return runner.adapters.compare(trial) if runner._rank == 0 else None
