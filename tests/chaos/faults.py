"""`Fault`: what is done to the processes in one round, chosen by seed and number alone, so that a
round can be repeated. Knows no pipeline."""

from __future__ import annotations

import itertools
import random
from collections.abc import Sequence
from dataclasses import dataclass

RING = ("worker-0", "router", "server", "detokenizer", "supervisor")
KILL, STOP = "kill", "stop"
DELAYS = (0.0, 0.0, 0.05, 0.5, 2.0)
"""Seconds between the two of a pair; half a second and more is amid the first one's recovery."""


def ring_names(tp: int) -> tuple[str, ...]:
    """The processes of a pipeline with `tp` workers, and its supervisor."""
    return *(f"worker-{rank}" for rank in range(1, tp)), *RING


@dataclass(frozen=True)
class Fault:
    """`kill -9` of processes, or SIGSTOP of one for `seconds`."""

    kind: str
    names: tuple[str, ...]
    wait: float
    """Seconds of undisturbed load before it."""
    delay: float = 0.0
    """Seconds between the first and the second."""
    seconds: float = 0.0

    @property
    def title(self) -> str:
        return f"{self.kind} {' + '.join(self.names)}"


def deck(seed: int, number: int, names: Sequence[str], pairs: bool, stops: bool) -> list[Fault]:
    """One shuffled deck: every process alone; with `pairs` every pair once in two decks, in either
    order; with `stops` one SIGSTOP."""
    rng = random.Random(f"faults {seed} {number}")
    faults = [Fault(KILL, (name,), rng.uniform(0, 2)) for name in names]
    if pairs:
        for index, pair in enumerate(itertools.combinations(names, 2)):
            if index % 2 == number % 2:
                order = pair if rng.random() < 0.5 else pair[::-1]
                faults.append(Fault(KILL, order, rng.uniform(0, 2), rng.choice(DELAYS)))
    if stops:
        name, seconds = rng.choice(names), rng.uniform(1, 12)
        faults.append(Fault(STOP, (name,), rng.uniform(0, 2), seconds=seconds))
    rng.shuffle(faults)
    return faults


def fault_of(
    seed: int, number: int, names: Sequence[str] = RING, pairs: bool = True, stops: bool = True
) -> Fault:
    """The fault of round `number`."""
    for turn in itertools.count():
        cards = deck(seed, turn, names, pairs, stops)
        if number < len(cards):
            return cards[number]
        number -= len(cards)
    raise AssertionError("unreachable")
