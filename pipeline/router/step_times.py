"""`StepTimes`: how long a step takes, learnt from the steps of a log.

A step's seconds are modelled as a sum: a constant, and a price of each decoding row, prompt token,
adapter and 1 000 tokens of KV; times the machine's slowness around that time. Pure.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import NamedTuple

import numpy as np

from ..messages import Batch
from ..runtime.percentile import percentile

DRIFT_S = 5.0
"""The machine's slowness is that of the steps of this much time: what they took together, beside
the sum of their estimates. So a stall stays where it was, and the whole is as long as it was."""
ROUNDS = 8
"""Of the fit, each with the weights that the one before gives."""
ENOUGH = 0.5
"""A relative error from which on a step counts as an outlier."""


class StepShape(NamedTuple):
    """What a step computes."""

    decode_rows: int
    prompt_tokens: int
    adapters: int
    kv_tokens: int
    """Tokens whose K and V its rows read."""
    prompt_rows: int = 0

    @property
    def phase(self) -> str:
        """As in `Step`."""
        if not self.prompt_tokens:
            return "decode"
        return "mixed" if self.decode_rows else "prefill"


class StepSample(NamedTuple):
    """A step of a log: when it was answered, unix seconds, and how long the workers took."""

    at: float
    shape: StepShape
    seconds: float
    step: int = 0
    """Its number."""


class ShapeReader:
    """The shapes of batches in order: it knows each sequence's adapter and length so far."""

    def __init__(self) -> None:
        self._adapters: dict[int, str | None] = {}
        self._computed: dict[int, int] = {}
        self._prompts: dict[int, int] = {}

    def read_batch(self, batch: Batch) -> StepShape:
        for number in batch.release:
            self._adapters.pop(number, None)
            self._computed.pop(number, None)
            self._prompts.pop(number, None)
        for admission in batch.admit:
            self._adapters[admission.sequence] = admission.adapter
            self._computed[admission.sequence] = 0
            self._prompts[admission.sequence] = len(admission.token_ids)
        decode_rows = prompt_rows = prompt_tokens = kv_tokens = 0
        adapters: set[str] = set()
        for row in batch.rows:
            number = row.sequence
            done = self._computed.get(number, 0)
            if done >= self._prompts.get(number, 0):
                decode_rows += 1
            else:
                prompt_rows += 1
                prompt_tokens += row.num_tokens
            self._computed[number] = done + row.num_tokens
            kv_tokens += done + row.num_tokens
            if adapter := self._adapters.get(number):
                adapters.add(adapter)
        return StepShape(decode_rows, prompt_tokens, len(adapters), kv_tokens, prompt_rows)


class StepTimes:
    """The model. `fit` learns it."""

    def __init__(self, prices: Sequence[float], drift: dict[int, float], error: float) -> None:
        self.prices = tuple(prices)
        """Seconds: a step's constant, a decoding row, a prompt token, an adapter, a 1 000 tokens of
        KV."""
        self.error = error
        """Median relative error on the log's own steps."""
        self._drift = drift

    @classmethod
    def fit(cls, samples: Iterable[StepSample]) -> StepTimes | None:
        """None for a log without a step."""
        known = [sample for sample in samples if sample.seconds > 0]
        if not known:
            return None
        seconds = np.array([sample.seconds for sample in known])
        features = np.array([_features(sample.shape) for sample in known])
        prices = _fit(features, seconds, np.ones(len(known)))
        for _ in range(ROUNDS):
            prices = _fit(features, seconds, _weights(features @ prices, seconds))
        estimates = np.maximum(features @ prices, 1e-9)
        taken: dict[int, float] = {}
        estimated: dict[int, float] = {}
        for sample, estimate in zip(known, estimates, strict=True):
            bucket = _bucket(sample.at - sample.seconds)
            taken[bucket] = taken.get(bucket, 0.0) + sample.seconds
            estimated[bucket] = estimated.get(bucket, 0.0) + float(estimate)
        drift = {bucket: taken[bucket] / estimated[bucket] for bucket in taken}
        model = cls([float(price) for price in prices], drift, 0.0)
        errors = [abs(model.seconds(s.shape, s.at - s.seconds) / s.seconds - 1) for s in known]
        model.error = percentile(sorted(errors), 0.5) or 0.0
        return model

    def seconds(self, shape: StepShape, at: float) -> float:
        """The estimate for a step that begins at a time of the log."""
        total = sum(p * f for p, f in zip(self.prices, _features(shape), strict=True))
        return max(total, 1e-6) * self._drift.get(_bucket(at), 1.0)


def _features(shape: StepShape) -> tuple[float, ...]:
    """The most important first: the last are left out of a fit first."""
    return (1.0, shape.decode_rows, shape.prompt_tokens, shape.adapters, shape.kv_tokens / 1000)


def _weights(estimates: np.ndarray, seconds: np.ndarray) -> np.ndarray:
    """Weights by which the fit minimises relative errors, of which none above `ENOUGH` counts more
    for being larger: a router that was late finds two answers at once, and one took no time."""
    scale = np.maximum(estimates, np.median(estimates) / 4)
    errors = np.abs(seconds - estimates) / scale
    return np.asarray(np.sqrt(ENOUGH / np.maximum(errors, ENOUGH)) / scale)


def _fit(features: np.ndarray, seconds: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Prices of the least weighted error. While one is negative, a part is left out: that one, or
    if it is the constant, without which no step is, the least of the others in the order of the
    features."""
    used = list(range(features.shape[1]))
    prices = np.zeros(features.shape[1])
    while used:
        part = features[:, used] * weights[:, None]
        found, *_ = np.linalg.lstsq(part, seconds * weights, rcond=None)
        if (found >= 0).all():
            prices[used] = found
            break
        negative = [part for part, price in zip(used, found, strict=True) if price < 0]
        used.remove(max(negative) or max(used))
    return prices


def _bucket(at: float) -> int:
    return int(at // DRIFT_S)
