"""`Workload`: requests by arrival and adapter, made by seeded functions: the same arguments give
the same workload.

Has S-LoRA's generator, settings and suites, its fork's long-tail lengths, and Punica's
popularities. Lists and recorded traces are read in `workload_files.py`. Knows no server and no
clock: an arrival's time counts from the start, and a closed loop ignores it.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any, Literal, TypeAlias, get_args

import numpy as np
from numpy.typing import NDArray

from ..errors import UsageError

SEED = 42
"""S-LoRA's seed; only with it are the requests those of its published results."""

LengthRange: TypeAlias = tuple[int, int]
"""Lengths in tokens, [low, high)."""
Ints: TypeAlias = NDArray[np.int64]
Popularity: TypeAlias = Literal["distinct", "uniform", "skewed", "identical"]
POPULARITIES: tuple[str, ...] = get_args(Popularity)
SLORA_LENGTHS: LengthRange = (8, 512)
LONG_TAIL_LENGTHS: LengthRange = (8, 1024)
ZIPF = 1.5
"""Factor of Punica's skewed popularity: each adapter gets this many times as many requests as the
next."""


@dataclass(frozen=True, slots=True)
class Arrival:
    """One request: seconds after the start, its adapter's number (None: the base model), and
    lengths in tokens."""

    at: float
    adapter: int | None
    input_len: int
    output_len: int


@dataclass(frozen=True)
class Workload:
    """Requests by arrival, over the adapters 0 … `num_adapters` - 1. With `chat` their prompts are
    questions to an assistant, and `input_len` is not used."""

    num_adapters: int
    arrivals: tuple[Arrival, ...]
    chat: bool = False

    def __len__(self) -> int:
        return len(self.arrivals)

    def head(self, count: int) -> Workload:
        """The first `count` requests, or all if there are fewer."""
        return replace(self, arrivals=self.arrivals[:count])

    def until(self, seconds: float) -> Workload:
        """The requests that arrive before `seconds`."""
        return replace(self, arrivals=tuple(a for a in self.arrivals if a.at < seconds))

    def paced(self, speed: float) -> Workload:
        """The same requests at `speed` times the rate."""
        arrivals = tuple(replace(arrival, at=arrival.at / speed) for arrival in self.arrivals)
        return replace(self, arrivals=arrivals)


def slora(
    *,
    num_adapters: int,
    alpha: float,
    rate: float,
    cv: float,
    duration: float,
    input_range: LengthRange = SLORA_LENGTHS,
    output_range: LengthRange = SLORA_LENGTHS,
    seed: int = SEED,
) -> Workload:
    """S-LoRA's generator (benchmarks/trace.py), bit for bit, which requires numpy's legacy random
    numbers in this order.

    N = int(rate * duration) requests; adapter = int(X * num_adapters) with X of density
    alpha * x^(alpha - 1) on [0, 1), so the most popular adapter has a share of
    (1 / num_adapters)^alpha and alpha 1 is uniform; lengths uniform in their ranges; gaps gamma of
    shape 1 / cv^2 and mean 1 / rate seconds, Poisson arrivals for cv 1. Raises `UsageError` on
    parameters out of range.
    """
    rng = np.random.RandomState(seed)
    count = _count(rate, duration)
    adapters = _adapters(rng, num_adapters, alpha, count)
    inputs = rng.randint(*_checked(input_range), count)
    outputs = rng.randint(*_checked(output_range), count)
    return _workload(num_adapters, adapters, inputs, outputs, _gamma(rng, rate, cv, count))


def long_tail(
    *,
    num_adapters: int,
    alpha: float,
    rate: float,
    cv: float,
    duration: float,
    input_range: LengthRange = LONG_TAIL_LENGTHS,
    output_range: LengthRange = LONG_TAIL_LENGTHS,
    seed: int = SEED,
) -> Workload:
    """`slora` with lengths that are mostly short and sometimes very long, as in S-LoRA's profiled
    fork: low + (1 - X) * (high - low) with X of density 10 x^9, so a mean of
    low + (high - low) / 11."""
    rng = np.random.RandomState(seed)
    count = _count(rate, duration)
    adapters = _adapters(rng, num_adapters, alpha, count)

    def lengths(low: int, high: int) -> Ints:
        return (low + (1 - rng.power(10, count)) * (high - low)).astype(np.int64)

    inputs, outputs = lengths(*_checked(input_range)), lengths(*_checked(output_range))
    return _workload(num_adapters, adapters, inputs, outputs, _gamma(rng, rate, cv, count))


def punica(
    *,
    popularity: Popularity,
    num_adapters: int,
    rate: float,
    cv: float,
    duration: float,
    output_range: LengthRange = SLORA_LENGTHS,
    seed: int = SEED,
) -> Workload:
    """Punica's popularities over N = int(rate * duration) requests, shuffled. `distinct`: each
    request has its own adapter; `uniform`: ceil(sqrt(N)) adapters, equally often; `skewed` (Zipf
    1.5): an adapter gets 1.5 times as many requests as the next; `identical`: one adapter for all.
    Prompt lengths are log-normal (shape 0.8, location -1, scale 18: Punica's fit to chats), at
    least two tokens. Gaps as in `slora`.

    If more than `num_adapters` adapters are needed, they are reused in turn. With no adapters, all
    requests go to the base model.
    """
    rng = np.random.RandomState(seed)
    count = _count(rate, duration)
    shares = popularity_shares(popularity, count)
    owners = np.repeat(np.arange(len(shares)), shares)
    rng.shuffle(owners)
    inputs = np.maximum(2, np.exp(0.8 * rng.standard_normal(count)) * 18 - 1).astype(np.int64)
    outputs = rng.randint(*_checked(output_range), count)
    adapters = owners % num_adapters if num_adapters else None
    return _workload(num_adapters, adapters, inputs, outputs, _gamma(rng, rate, cv, count))


def popularity_shares(popularity: Popularity, count: int) -> list[int]:
    """Number of requests for each adapter, the most popular first; the sum is `count`."""
    match popularity:
        case "distinct":
            return [1] * count
        case "identical":
            return [count]
        case "uniform":
            adapters = int(np.ceil(np.sqrt(count)))
            return [count // adapters + (i < count % adapters) for i in range(adapters)]
    shares: list[int] = []
    wanted = 1.0
    while sum(shares) + int(wanted) < count:
        shares.append(int(wanted))
        wanted *= ZIPF
    return sorted([*shares, count - sum(shares)], reverse=True)


def chat_workload(
    *,
    num_adapters: int,
    count: int,
    max_tokens: int,
    rate: float | None = None,
    cv: float = 1.0,
    seed: int = SEED,
) -> Workload:
    """Questions to the models in turn; all at time 0, or with gaps as in `slora`."""
    rng = np.random.RandomState(seed)
    gaps = np.zeros(count) if rate is None else _gamma(rng, rate, cv, count)
    adapters = np.arange(count) % num_adapters if num_adapters else None
    lengths = np.full(count, max_tokens)
    return replace(_workload(num_adapters, adapters, lengths, lengths, gaps), chat=True)


def _count(rate: float, duration: float) -> int:
    if rate <= 0 or duration <= 0:
        raise UsageError(f"rate {rate:g} and duration {duration:g} must be above 0")
    if (count := int(rate * duration)) < 1:
        raise UsageError(f"{rate:g} requests/s for {duration:g} s give no request", "raise one")
    return count


def _checked(lengths: LengthRange) -> LengthRange:
    low, high = lengths
    if not 1 <= low < high:
        raise UsageError(f"the range of lengths [{low}, {high}) is not valid", "e.g. 8 512")
    return lengths


def _adapters(rng: np.random.RandomState, number: int, alpha: float, count: int) -> Ints | None:
    """Each request's adapter. Drawn even without adapters, so that later draws do not change."""
    if alpha <= 0:
        raise UsageError(f"alpha {alpha:g} must be above 0", "1 is uniform, less is skewed")
    drawn: Ints = (rng.power(alpha, count) * number).astype(np.int64)
    return drawn if number else None


def _gamma(rng: np.random.RandomState, rate: float, cv: float, count: int) -> NDArray[np.float64]:
    """Seconds between arrivals."""
    if rate <= 0 or cv <= 0:
        raise UsageError(f"rate {rate:g} and cv {cv:g} must be above 0", "cv 1 is Poisson")
    shape = 1 / (cv * cv)
    return rng.gamma(shape, cv * cv / rate, count)


def _workload(
    num_adapters: int,
    adapters: Ints | None,
    inputs: Ints,
    outputs: Ints,
    gaps: NDArray[np.float64],
) -> Workload:
    owners = itertools.repeat(None) if adapters is None else adapters.tolist()
    rows = zip(np.cumsum(gaps).tolist(), owners, inputs.tolist(), outputs.tolist(), strict=False)
    return Workload(num_adapters, tuple(itertools.starmap(Arrival, rows)))


# --- S-LoRA's settings and suites ---------------------------------------------------------------


@dataclass(frozen=True)
class ModelSetting:
    """A base model's size and the ranks of its adapters, used in turn; adapters change q, k, v and
    o of every layer."""

    base: str
    hidden_size: int
    ranks: tuple[int, ...]


SETTINGS = {
    "S1": ModelSetting("llama-7b", 4096, (8,)),
    "S2": ModelSetting("llama-7b", 4096, (64, 32, 16, 8)),
    "S3": ModelSetting("llama-13b", 5120, (16,)),
    "S4": ModelSetting("llama-13b", 5120, (64, 32, 16)),
    "S5": ModelSetting("llama-30b", 7168, (32,)),
    "S6": ModelSetting("llama-70b", 8192, (64,)),
}


@dataclass(frozen=True)
class Suite:
    """A grid of `slora` workloads: every combination of these values."""

    num_adapters: tuple[int, ...]
    alpha: tuple[float, ...] = (1,)
    rate: tuple[float, ...] = (2,)
    cv: tuple[float, ...] = (1,)
    duration: float = 300

    def points(self) -> Iterator[dict[str, Any]]:
        """Arguments of `slora`, in the order in which S-LoRA runs them."""
        for n, alpha, rate, cv in itertools.product(
            self.num_adapters, self.alpha, self.rate, self.cv
        ):
            yield {
                "num_adapters": n,
                "alpha": alpha,
                "rate": rate,
                "cv": cv,
                "duration": self.duration,
            }


NUM_ADAPTERS = (1, 20, 50, 100, 200)
SUITES = {
    "a10g-num-adapter": Suite(NUM_ADAPTERS),
    "a10g-alpha": Suite((200,), alpha=(0.1, 0.3, 0.6, 1)),
    "a10g-cv": Suite((200,), cv=(1, 2, 4, 6, 8)),
    "a10g-req-rate": Suite((200,), rate=(1, 1.5, 2, 2.5)),
    "a100-40-num-adapter": Suite((0, *NUM_ADAPTERS)),
    "a100-80-S2-num-adapter": Suite(NUM_ADAPTERS, rate=(10,)),
    "a100-80-S4-num-adapter": Suite((0, 1, 100, 200, 400), rate=(6,)),
    "a100-80-S4-req-rate": Suite((400,), rate=(1, 2, 4, 6, 8)),
    "a100-80-S4-cv": Suite((400,), rate=(6,), cv=(1, 2, 4, 6, 8)),
    "a100-80-table": Suite((2, 5, 100, 1000, 2000), rate=(10,), duration=120),
    "ablation-no-mem": Suite((1, 10, 25, 50, 100, 200), rate=(2.5,)),
    # S-LoRA's published code swaps the lists of alpha and cv here; its published results do not.
    "ablation-cluster": Suite((32,), alpha=(0.1, 0.3, 0.6, 1), duration=120),
    "ablation-cluster-cv": Suite((32,), cv=(1, 2, 4, 6, 8), duration=120),
}
"""S-LoRA's suites, by its names; `suite_named` also finds the first four without their `a10g-`."""


def suite_named(name: str) -> Suite:
    """The suite with this name. Raises `UsageError` listing all names."""
    if suite := SUITES.get(name) or SUITES.get(f"a10g-{name}"):
        return suite
    raise UsageError(f"no suite {name!r}", f"suites are {', '.join(SUITES)}")


GENERATORS: dict[str, Callable[..., Workload]] = {
    "slora": slora,
    "long-tail": long_tail,
    "punica": punica,
}
"""Generators that take a rate and a duration."""
