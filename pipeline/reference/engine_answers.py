"""Our engine's answers to prompts, without a pipeline: reads `EngineQuestion`s and writes
`Answers`, as lines of JSON. `loraconsole doctor MODEL --against transformers` starts it.

Uses the tokenizer, adapters and steps of the pipeline's processes; base and adapters share each
step as requests do. Knows nothing of the reference.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor

from ..config import Config
from ..errors import OperatorError
from ..messages import Admission, Batch, BatchRow, SamplingParams
from ..model.page_pool import PAGE_SIZE, pages_for
from ..runner.runner import ModelRunner
from ..server.chat.adapter_chat import AdapterChats
from ..text.chat_template import ChatTemplate
from ..text.tokenizer import TextError, Tokenizer
from .line_server import LineServer
from .reference import Answers, EngineQuestion, Prompt, PromptAnswer

LEAST = -1e30
"""Replaces a logprob that is not finite, which JSON cannot represent."""
CHUNK_TOKENS = 512
"""Prompt tokens per step, so that a long prompt is computed in pieces as in serving."""


class AnswerEngine:
    """One model on the CPU with its adapters placed."""

    def __init__(self, question: EngineQuestion) -> None:
        """Raises `OperatorError` if the model is refused."""
        self._question = question
        config = Config(
            model=question.directory,
            dtype=question.dtype,
            device="cpu",
            ignore_key=question.ignored,
            no_step_times=True,
        )
        directory = Path(question.directory)
        self._tokenizer = Tokenizer(directory)
        self._runner = ModelRunner(config, directory, 0, lambda _: None)
        ready = self._runner.load()
        self._free = list(range(ready.num_pages))
        self._longest = min(ready.max_model_len, ready.num_pages * PAGE_SIZE) - question.tokens
        self._chats = AdapterChats(
            self._tokenizer, ready.vocab_size, ready.eos_token_ids, (), lambda *_: None
        )
        self.refusals: dict[str, str] = {}
        """Refused adapters, and why."""
        self._keys: dict[str | None, str | None] = {None: None}
        self._templates: dict[str | None, ChatTemplate | None] = {None: None}
        for name, path in question.adapters:
            self._place(name, path)

    def _place(self, name: str, path: str) -> None:
        info = self._runner.adapters.read(name, path)
        if not info.reason and info.pages > len(self._free):
            self.refusals[name] = f"its {info.pages} pages do not fit beside the other adapters"
        elif info.reason:
            self.refusals[name] = info.reason
        else:
            pages = [self._free.pop() for _ in range(info.pages)]
            self._runner.adapters.place(info.key, pages).result()
            self._keys[name] = info.key
            self._templates[name] = self._chats.read_directory(name, path).template

    def answer(self, prompt: Prompt) -> Iterator[tuple[PromptAnswer, Tensor | None]]:
        """Answers of base and adapters, with logits [num_tokens, vocab_size]."""
        for name, reason in self.refusals.items():
            yield PromptAnswer(prompt=prompt.name, adapter=name, refusal=reason), None
        names_of: dict[tuple[int, ...], list[str | None]] = {}
        for adapter in self._keys:
            try:
                names_of.setdefault(self._encode(prompt, adapter), []).append(adapter)
            except TextError as error:
                yield PromptAnswer(prompt=prompt.name, adapter=adapter, refusal=str(error)), None
        for ids, names in names_of.items():
            each = pages_for(len(ids) + self._question.tokens)
            together = max(1, len(self._free) // each)
            for first in range(0, len(names), together):
                yield from self._generate(prompt, ids, names[first : first + together], each)

    def _encode(self, prompt: Prompt, adapter: str | None) -> tuple[int, ...]:
        if prompt.turns:
            turns = [{"role": turn.role, "content": turn.content} for turn in prompt.turns]
            template = self._templates[adapter]
            ids = self._tokenizer.encode_chat(turns, chat_template=template)
        else:
            ids = self._tokenizer.encode(prompt.text)
        if not 0 < len(ids) <= self._longest:
            raise TextError(f"{len(ids)} tokens; a prompt has 1 to {self._longest} of them here")
        return tuple(ids)

    def _generate(
        self, prompt: Prompt, ids: tuple[int, ...], names: list[str | None], each: int
    ) -> Iterator[tuple[PromptAnswer, Tensor]]:
        """Greedy answers of base and adapters in one batch, with `each` pages per sequence."""
        greedy = SamplingParams(temperature=0.0, ignore_eos=True)
        tables = [tuple(self._free[row * each : (row + 1) * each]) for row in range(len(names))]
        admit = tuple(
            Admission(row, ids, len(ids), greedy, self._keys[name])
            for row, name in enumerate(names)
        )
        tokens: list[list[int]] = [[] for _ in names]
        logits: list[list[Tensor]] = [[] for _ in names]
        computed = 0
        while len(tokens[0]) < self._question.tokens:
            count = min(CHUNK_TOKENS, max(1, len(ids) - computed))
            rows = tuple(
                BatchRow(row, count, () if computed else table) for row, table in enumerate(tables)
            )
            batch = Batch(1, 1, (), () if computed else admit, rows)
            pending = self._runner.launch(batch, keep_logits=True)
            computed += count
            sampled, _ = pending.wait()
            for place, token in enumerate(sampled):
                assert pending.logits is not None
                tokens[token.sequence].append(max(0, token.token_id))  # NO_TOKEN continues as 0
                logits[token.sequence].append(pending.logits[place].cpu())
        self._runner.launch(Batch(1, 1, tuple(range(len(names))), (), ())).wait()
        for row, name in enumerate(names):
            kept = torch.stack(logits[row])
            chosen = kept.log_softmax(dim=-1).gather(1, torch.tensor(tokens[row])[:, None])
            answer = PromptAnswer(
                prompt=prompt.name,
                adapter=name,
                prompt_ids=ids,
                token_ids=tuple(tokens[row]),
                logprobs=tuple(chosen[:, 0].nan_to_num(nan=LEAST, neginf=LEAST).tolist()),
                logits=f"{prompt.name}/{name or ''}",
            )
            yield answer, kept


def answer_question(question: EngineQuestion) -> Answers:
    """Answers all prompts and writes the logits to the question's file. Raises `OperatorError`."""
    engine = AnswerEngine(question)
    found = [pair for prompt in question.prompts for pair in engine.answer(prompt)]
    kept = {answer.logits: logits for answer, logits in found if logits is not None}
    save_file(kept, question.logits)
    return Answers(question.dtype, tuple(answer for answer, _ in found), question.logits)


def main() -> None:
    server = LineServer()
    while (question := server.read(EngineQuestion)) is not None:
        try:
            server.write(answer_question(question))
        except OperatorError as error:
            server.refuse(error)


if __name__ == "__main__":
    main()
