"""`Load`: keeps a number of seeded requests running, and holds each answer against the undisturbed
one. `Truth` is made of the same requests asked before anything is disturbed."""

from __future__ import annotations

import asyncio
import itertools
import random
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace

from .asks import Ask
from .client import Client, Outcome

PAUSE_SECONDS = 0.3
"""Before the next request after one that was refused."""


class Truth:
    """The undisturbed answers. A request whose answer depends on its company (two logits closer
    than float32's rounding) proves nothing and is left out."""

    def __init__(self) -> None:
        self._answers: dict[Ask, tuple[object, ...]] = {}
        self.num_unstable = 0

    async def learn(self, client: Client, asks: Sequence[Ask], at_once: int = 8) -> None:
        """Asks everything twice, in other company the second time."""
        first = await self._ask_all(client, asks, at_once)
        second = await self._ask_all(client, asks[::-1], max(1, at_once // 3))
        for ask in asks:
            if first[ask] == second[ask]:
                self._answers[ask.content] = first[ask]
            else:
                self.num_unstable += 1

    async def check(self, client: Client, asks: Iterable[Ask], at_once: int) -> None:
        """Leaves out those that are answered otherwise now, for instance by merged weights."""
        asks = [ask for ask in asks if ask.content in self._answers]
        for ask, answer in (await self._ask_all(client, asks, at_once)).items():
            if answer != self._answers[ask.content]:
                del self._answers[ask.content]
                self.num_unstable += 1

    async def _ask_all(
        self, client: Client, asks: Sequence[Ask], at_once: int
    ) -> dict[Ask, tuple[object, ...]]:
        found: dict[Ask, tuple[object, ...]] = {}
        waiting = iter(enumerate(asks))

        async def ask_some() -> None:
            for number, ask in waiting:
                out = await client.send(ask, f"truth-{id(found):x}-{number}")
                assert out.answer.is_complete and not out.answer.faults, (
                    f"undisturbed, and not answered: {ask} {out.reason} {out.answer.faults}"
                )
                found[ask] = out.answer.content

        await asyncio.gather(*(ask_some() for _ in range(at_once)))
        return found

    def asks(self) -> list[Ask]:
        return list(self._answers)

    def expected(self, ask: Ask, owners: Iterable[str]) -> set[tuple[object, ...]]:
        """The right answers to `ask` if its model has the weights of one of `owners`."""
        asks = (replace(ask, model=owner, is_streamed=False) for owner in owners)
        answers = map(self._answers.get, asks)
        return {answer for answer in answers if answer is not None}


class Load:
    """`width` requests at all times. `models` says which names may be asked, `owners` whose answers
    are right for a name."""

    def __init__(
        self,
        client: Client,
        truth: Truth,
        seed: int,
        models: Callable[[], Sequence[str]],
        owners: Callable[[str], set[str]],
    ) -> None:
        self._client, self._truth, self._seed = client, truth, seed
        self._models, self._owners = models, owners
        self._is_open = asyncio.Event()
        self._numbers = itertools.count()
        self._tasks: list[asyncio.Task[None]] = []
        self.outcomes: list[Outcome] = []
        """Every request that was sent, the running ones too."""

    def start(self, width: int) -> None:
        self._is_open.set()
        self._tasks = [asyncio.create_task(self._run(number)) for number in range(width)]

    def pause(self) -> None:
        """Sends no new request; running ones go on."""
        self._is_open.clear()

    def resume(self) -> None:
        self._is_open.set()

    async def stop(self) -> None:
        """Waits for the running requests, and sends no more."""
        self.pause()
        while self.running():
            await asyncio.sleep(0.1)
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def running(self) -> list[Outcome]:
        return [outcome for outcome in self.outcomes if outcome.ended_at is None]

    def raise_errors(self) -> None:
        """A fault of the harness itself must not look like silence."""
        for task in self._tasks:
            if task.done() and not task.cancelled():
                task.result()

    async def _run(self, lane: int) -> None:
        rng = random.Random(f"load {self._seed} {lane}")
        asks = self._truth.asks()
        while True:
            await self._is_open.wait()
            ask = replace(rng.choice(asks), is_streamed=rng.random() < 0.75)
            ask = self._renamed(ask, rng)
            out = self._client.begin(ask, f"chaos-{self._seed}-{next(self._numbers)}")
            out.expected |= self._truth.expected(ask, self._owners(ask.model))
            self.outcomes.append(out)
            watching = asyncio.create_task(self._widen(out))
            await self._client.send(ask, out.request_id, out)
            watching.cancel()
            if out.verdict in ("refused", "unread", "lost"):
                await asyncio.sleep(PAUSE_SECONDS)

    def _renamed(self, ask: Ask, rng: random.Random) -> Ask:
        """The same request to a name that has the same weights now, such as a loaded copy."""
        names = [
            name for name in self._models() if name != ask.model and ask.model in self._owners(name)
        ]
        if not names or rng.random() < 0.5:
            return ask
        return replace(ask, model=rng.choice(names))

    async def _widen(self, out: Outcome) -> None:
        """Until a request is accepted its adapter may be renewed: both answers are right then."""
        while out.accepted_at is None:
            out.expected |= self._truth.expected(out.ask, self._owners(out.ask.model))
            await asyncio.sleep(0.05)
