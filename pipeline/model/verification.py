"""Verification: what adapters are served as, against their weights merged in float32.

`VerificationRun` makes the batches, which run among all others through the very path that requests
take; `reference_logits` is the other side: W + scale B A from the adapter's files, layer by layer,
so that a model of any size needs the memory of one layer. Knows no router and no socket.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from zlib import crc32

import msgspec
import torch
import torch.nn.functional as F
from torch import Tensor

from ..messages import (
    Admission,
    Batch,
    BatchRow,
    CheckAdapter,
    Comparison,
    SampledToken,
    SamplingParams,
)
from ..model_files.model_config import ModelConfig
from .adapter import read_pairs
from .adapter_store import AdapterStore
from .batch_torch import Staging, StepRow, TorchPlan
from .checkpoint import Checkpoint
from .compute_queue import ComputeQueue
from .layers import Int4Blocks, Rotary, pair_heads
from .llama import DecoderLayer, layer_windows
from .loader import ModelLoader, Precision
from .page_pool import PAGE_SIZE, PagePool, pages_for

PROMPT_LENGTHS = (24, 9, 16, 5, 12, 20)
NEW_TOKENS = 16
BASE_FACTOR = 8.0
"""An adapter's rows may differ from their reference by this many times what the base's rows do, in
the mean: both carry the rounding of the served type, which an adapter may amplify. Random adapters
on random models of bfloat16 reached 4; a single logit's difference varies much more."""
RANGE_SHARE = 1e-4
"""Further difference allowed, as a share of the logits' range, for types that round nothing
away."""


@dataclass
class Served:
    """One sequence of a trial, as it was generated."""

    place: str
    key: str | None
    token_ids: list[int]
    num_prompt: int
    logits: list[Tensor] = field(default_factory=list)
    """[vocab_size] for each generated token."""


class VerificationRun:
    """The adapter alone, then twice in one batch with the base and its neighbours.

    Sequences have negative numbers, which no request has.
    """

    def __init__(self, order: CheckAdapter, vocab_size: int) -> None:
        self._order = order
        rng = random.Random(crc32(order.key.encode()))
        prompts = [[rng.randrange(vocab_size) for _ in range(n)] for n in PROMPT_LENGTHS]
        mixed = [order.key, None, *order.others, order.key]
        self.alone = Served("alone", order.key, prompts[0], len(prompts[0]))
        self.mixed = [
            Served("mixed", key, list(prompt), len(prompt))
            for key, prompt in zip(mixed, prompts, strict=False)
        ]

    @property
    def sequences(self) -> list[Served]:
        return [self.alone, *self.mixed]

    def batches(self) -> Iterator[Batch]:
        """The batches to launch, in this order; none needs the answer to one before."""
        yield from self._generate([self.alone], first=0)
        yield from self._generate(self.mixed, first=1)

    def _generate(self, served: list[Served], first: int) -> Iterator[Batch]:
        free = list(self._order.pages)
        tables = [
            tuple(free.pop() for _ in range(pages_for(s.num_prompt + NEW_TOKENS))) for s in served
        ]
        numbers = [-1 - first - index for index in range(len(served))]
        params = SamplingParams(temperature=0.0, ignore_eos=True)
        admissions = tuple(
            Admission(number, tuple(s.token_ids), s.num_prompt, params, s.key)
            for number, s in zip(numbers, served, strict=True)
        )
        rows = tuple(
            BatchRow(number, s.num_prompt, pages)
            for number, s, pages in zip(numbers, served, tables, strict=True)
        )
        yield Batch(self._order.epoch, 0, (), admissions, rows)
        for _ in range(NEW_TOKENS - 1):
            again = tuple(BatchRow(number, 1) for number in numbers)
            yield Batch(self._order.epoch, 0, (), (), again)
        yield Batch(self._order.epoch, 0, tuple(numbers), (), ())

    def take(self, tokens: Sequence[SampledToken], logits: Tensor | None) -> None:
        """What a batch brought; logits [num_rows, vocab_size] in the order of `tokens`."""
        for row, token in enumerate(tokens):
            served = self.sequences[-1 - token.sequence]
            served.token_ids.append(max(0, token.token_id))  # of NO_TOKEN 0 is in the history
            assert logits is not None
            served.logits.append(logits[row].float().cpu())


def compare(
    trial: VerificationRun, references: list[Tensor]
) -> tuple[tuple[Comparison, ...], bool]:
    """Each sequence against its reference, [NEW_TOKENS, vocab_size]; whether all is right.

    Right is: no row's logits differ in the mean by more than `BASE_FACTOR` times what the base
    row's do, plus `RANGE_SHARE` of their range. Logits that say nothing, see
    `find_logits_flaw`, are never right, however equal both sides are.
    """
    pairs = [*zip(trial.sequences, references, strict=True)]
    found = tuple(_comparison(served, expected) for served, expected in pairs)
    base = next((row.mean_logit for row in found if row.adapter is None), 0.0)
    is_right = all(
        not row.flaw and row.mean_logit <= BASE_FACTOR * base + RANGE_SHARE * row.range_logit
        for row in found
    )
    return found, is_right


def _comparison(served: Served, expected: Tensor) -> Comparison:
    """`expected` [num_generated, vocab_size]."""
    logits = torch.stack(served.logits)
    tokens = torch.tensor(served.token_ids[served.num_prompt :])
    difference = (logits - expected).abs()
    difference = difference[difference.isfinite()]
    reference = expected[expected.isfinite()]
    return Comparison(
        place=served.place,
        adapter=served.key,
        tokens=len(tokens),
        equal_tokens=int((expected.argmax(dim=-1) == tokens).sum()),
        # Finite whatever came: JSON has no other numbers.
        largest_logit=float(difference.max()) if len(difference) else 0.0,
        mean_logit=float(difference.mean()) if len(difference) else 0.0,
        range_logit=float(reference.max() - reference.min()) if len(reference) else 0.0,
        flaw=find_logits_flaw("served", logits) or find_logits_flaw("merged", expected),
    )


def find_logits_flaw(whose: str, logits: Tensor) -> str:
    """Why logits [num_tokens, vocab_size] choose no token; "" where they do.

    A norm turns a state that overflowed when squared into zeros, so that logits which are all
    alike come from weights that are too large as much as those that are not finite do.
    """
    if not logits.isfinite().all():
        return f"the {whose} logits are not finite (its weights overflow)"
    if (logits.amax(dim=-1) == logits.amin(dim=-1)).any():
        return f"the {whose} logits of a token are all alike (its weights overflow, or are zero)"
    return ""


# --- the other side -----------------------------------------------------------------------------


class MergedCheckpoint:
    """A checkpoint in float32 with an adapter's files merged into it: W + scale B A."""

    has_int4 = False

    def __init__(
        self, checkpoint: Checkpoint, directory: str | None, model_config: ModelConfig
    ) -> None:
        self._checkpoint, self._model_config = checkpoint, model_config
        self.paired_heads = checkpoint.paired_heads
        self._pairs = {} if directory is None else read_pairs(directory, model_config)

    def has(self, name: str) -> bool:
        return self._checkpoint.has(name)

    def tensor(self, name: str, shape: tuple[int, ...]) -> Tensor:
        weight = self._checkpoint.tensor(name, shape).float()
        module = name.removesuffix(".weight")
        if (pair := self._pairs.get(module)) is None:
            return weight
        delta = (pair.b @ pair.a) * pair.scale
        heads = {"q_proj": self._model_config.num_heads, "k_proj": self._model_config.num_kv_heads}
        if self.paired_heads and (kind := module.rpartition(".")[2]) in heads:
            delta = pair_heads(delta, heads[kind])
        return weight + delta

    def int4(self, name: str, shape: tuple[int, ...]) -> Int4Blocks | None:
        return None


def reference_logits(
    checkpoint: Checkpoint,
    model_config: ModelConfig,
    served: Sequence[Served],
    directories: dict[str, str],
    advance: Callable[[], object],
) -> list[Tensor]:
    """For each sequence, what the merged weights make of all its tokens at once: the logits from
    which each generated token should have been chosen, [num_generated, vocab_size].

    `directories` has each adapter's files by its key; `advance` is called once a layer.
    """
    queue = ComputeQueue(torch.device("cpu"), 1)
    wide = Precision(torch.float32, torch.float32)
    keys = {sequence.key for sequence in served}
    loaders = {
        key: ModelLoader(
            model_config,
            MergedCheckpoint(checkpoint, key and directories[key], model_config),
            wide,
            queue,
            lambda: None,
        )
        for key in keys
    }
    base = next(iter(loaders.values()))
    embedding = base.table()
    steps = [Forward(model_config, sequence) for sequence in served]
    hidden = [F.embedding(step.token_ids, embedding.float()) for step in steps]
    for index in range(model_config.num_layers):
        for key, loader in loaders.items():
            layer = loader.layer(index)
            for sequence, step, state in zip(served, steps, hidden, strict=True):
                if sequence.key == key:
                    step.run(layer, state)
        advance()
    norm, head = base.norm(), base.head(embedding)
    return [
        head(norm(state[sequence.num_prompt - 1 :])).float()
        for sequence, state in zip(served, hidden, strict=True)
    ]


class Forward:
    """One sequence through single layers, over a scratch pool of one layer."""

    def __init__(self, model_config: ModelConfig, sequence: Served) -> None:
        length = len(sequence.token_ids) - 1
        self.token_ids = torch.tensor(sequence.token_ids[:-1])
        one = msgspec.structs.replace(model_config, num_layers=1)
        cpu, count = torch.device("cpu"), pages_for(length)
        self._pool = PagePool(one, count, torch.float32, cpu)
        windows = tuple(sorted(set(layer_windows(model_config))))
        staging = Staging()
        plan = TorchPlan(
            [StepRow(0, 0, length, length, list(range(count)), None)],
            staging,
            self._pool,
            AdapterStore(one, torch.float32, self._pool),
            windows=windows,
            history_width=count * PAGE_SIZE + 1,
        )
        history = torch.zeros(1, count * PAGE_SIZE + 1, dtype=torch.int32)
        history[0, :length] = self.token_ids
        self._batch = plan.to_device(
            staging.ship(cpu), history, Rotary(model_config, cpu), torch.float32
        )

    def run(self, layer: DecoderLayer, hidden: Tensor) -> None:
        """Runs a layer in place. hidden [num_tokens, hidden_size]."""
        hidden.add_(layer(hidden, None, self._batch, self._pool.pages[0]).y)
