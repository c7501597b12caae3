"""Verification: compares adapters as served with their weights merged in float32.

`VerificationRun` makes the batches, which take the same path as requests, among their steps.
`reference_logits` computes the reference with W + scale B A from the adapter's files, layer by
layer, so that a model of any size needs the memory of one layer. Knows no router and no socket.
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
"""Allowed ratio of an adapter rows' mean difference from their reference to the base row's. Both
contain the rounding of the served type, which an adapter may amplify. Random adapters on random
bfloat16 models reached 4; a single logit's difference varies much more."""
RANGE_SHARE = 1e-4
"""Allowed additional difference, as a share of the logits' range, for types without rounding."""


@dataclass
class Served:
    """One generated sequence of a verification."""

    place: str
    key: str | None
    token_ids: list[int]
    num_prompt: int
    logits: list[Tensor] = field(default_factory=list)
    """[vocab_size] for each generated token."""


class VerificationRun:
    """The adapter alone, then twice in one batch with the base and other adapters.

    Its sequences have negative numbers, which requests never have.
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
        """The batches to launch, in this order; none depends on the tokens of an earlier one."""
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
        """Records a batch's results; logits [num_rows, vocab_size] in the order of `tokens`."""
        for row, token in enumerate(tokens):
            served = self.sequences[-1 - token.sequence]
            served.token_ids.append(max(0, token.token_id))  # the history has 0 for NO_TOKEN
            assert logits is not None
            served.logits.append(logits[row].float().cpu())


def compare(
    trial: VerificationRun, references: list[Tensor]
) -> tuple[tuple[Comparison, ...], bool]:
    """Compares each sequence with its reference, [NEW_TOKENS, vocab_size]; also whether all pass.

    A row passes if its logits' mean difference is at most `BASE_FACTOR` times the base row's, plus
    `RANGE_SHARE` of their range. Unusable logits (`find_logits_flaw`) never pass, even if both
    sides are equal.
    """
    pairs = [*zip(trial.sequences, references, strict=True)]
    found = tuple(_comparison(served, expected) for served, expected in pairs)
    base = next((row.mean_logit for row in found if row.adapter is None), 0.0)
    judged = tuple(
        msgspec.structs.replace(row, mean_limit=BASE_FACTOR * base + RANGE_SHARE * row.range_logit)
        for row in found
    )
    return judged, all(row.passes for row in judged)


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
        # Always finite: JSON has no other numbers.
        largest_logit=float(difference.max()) if len(difference) else 0.0,
        mean_logit=float(difference.mean()) if len(difference) else 0.0,
        range_logit=float(reference.max() - reference.min()) if len(reference) else 0.0,
        flaw=find_logits_flaw("served", logits) or find_logits_flaw("merged", expected),
    )


def find_logits_flaw(whose: str, logits: Tensor) -> str:
    """Why logits [num_tokens, vocab_size] cannot choose a token; "" if they can.

    A norm turns a state whose square overflowed into zeros. So logits that are all alike, like
    those that are not finite, can come from weights that are too large.
    """
    if not logits.isfinite().all():
        return f"the {whose} logits are not finite (its weights overflow)"
    if (logits.amax(dim=-1) == logits.amin(dim=-1)).any():
        return f"the {whose} logits of a token are all alike (its weights overflow, or are zero)"
    return ""


# --- the reference ------------------------------------------------------------------------------


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
    """The merged weights' logits for each sequence, all its tokens at once: those from which each
    generated token should have been chosen, [num_generated, vocab_size].

    `directories` maps an adapter's key to its directory; `advance` is called once per layer.
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
    """Runs one sequence through one layer at a time, over a scratch pool of one layer."""

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
