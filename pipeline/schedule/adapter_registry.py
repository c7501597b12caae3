"""`AdapterRegistry`: the one truth about each adapter, and each generation of it. Knows neither
files nor tensors nor the page pool.

Refused at the door (`acquire`) is anything that cannot be answered rightly: an unknown name is
never answered by the base model, and a request keeps the generation it came for.
"""

from __future__ import annotations

import time
from collections.abc import Iterator

from ..adapter_name import objection
from ..messages import AdapterInfo, AdapterState, AdapterView
from ..runtime.wording import counted

UNUSABLE = "infinite, NaN or all alike"


class AdapterRefused(Exception):
    """A request or an order about an adapter is refused: an HTTP status and the reason."""

    def __init__(self, status: int, reason: str) -> None:
        super().__init__(reason)
        self.status = status
        self.reason = reason


class Tally:
    """What an adapter has done, whatever its generation."""

    def __init__(self) -> None:
        self.requests = 0
        self.prompt_tokens = 0
        self.output_tokens = 0
        self.hits = 0
        self.placements = 0
        self.broken = 0
        """Requests that ended because nothing could be chosen from their logits."""


class Adapter:
    """One generation of one adapter. `name` "" stands for the base model's own row."""

    def __init__(self, name: str, path: str, generation: int = 1, *, pinned: bool = False) -> None:
        self.name = name
        self.path = path
        """As it was ordered: a directory, or a hub id."""
        self.directory = path
        """Where its files lie."""
        self.generation = generation
        self.pinned = pinned
        self.state = AdapterState.REGISTERED
        self.reason = ""
        self.since = time.time()
        self.info: AdapterInfo | None = None
        self.pages: tuple[int, ...] = ()
        self.is_draining = False
        self.used = 0
        """When it was last wanted, in requests of the registry: for the least recently used."""
        self.running = 0
        self.waiting = 0
        self.held = 0
        """Verifications that need it where it is."""
        self.merged = False
        self.chat_warning = ""
        """What the server says of its chat template and tokenizer files."""
        self.tally = Tally()
        self.reading = 0
        """The order that workers were last told to read it by: answers to others are too old."""
        self._answers: dict[int, AdapterInfo] = {}
        self._placed: set[int] = set()

    @property
    def key(self) -> str:
        """What the workers know it by."""
        return f"{self.name}@{self.generation}"

    @property
    def is_wanted(self) -> bool:
        return self.running > 0 or self.waiting > 0 or self.held > 0

    def become(self, state: AdapterState, reason: str = "") -> None:
        """The one place where an adapter's state changes."""
        self.state, self.reason, self.since = state, reason, time.time()

    def begin_reading(self, order: int) -> None:
        """Every rank shall read it, whatever some have answered before."""
        self.reading = order
        self._answers.clear()
        self.become(AdapterState.VALIDATING)

    def read(self, rank: int, info: AdapterInfo, num_ranks: int) -> bool:
        """A rank's word on its files. True once all have answered: HOST then, or FAILED.

        A generation is its content: workers that read it again must find what it was.
        """
        self._answers[rank] = info
        if self.state is not AdapterState.VALIDATING or len(self._answers) < num_ranks:
            return False
        before, self.info = self.info, self._answers[0]
        reasons = [answer.reason for answer in self._answers.values() if answer.reason]
        if not reasons and len({answer.digest for answer in self._answers.values()}) > 1:
            reasons = ["its files changed while they were read: the ranks hold different ones"]
        if not reasons and before and before.digest != self.info.digest:
            reasons = [f"its files changed since generation {self.generation} was read: reload it"]
        self._answers.clear()
        self.become(AdapterState.FAILED if reasons else AdapterState.HOST, "".join(reasons[:1]))
        return True

    def placed(self, rank: int, num_ranks: int) -> bool:
        """A rank has it in its pages. True once all have: GPU then."""
        self._placed.add(rank)
        if self.state is not AdapterState.LOADING or len(self._placed) < num_ranks:
            return False
        self.become(AdapterState.GPU)
        self.tally.placements += 1
        return True

    def lose_pages(self) -> tuple[int, ...]:
        """Back to the host; the pages it had."""
        pages, self.pages = self.pages, ()
        self._placed.clear()
        self.become(AdapterState.HOST)
        return pages

    @property
    def warning(self) -> str:
        """What an operator should know of an adapter that is served, "" where there is nothing."""
        words = [self.info.warning] if self.info and self.info.warning else []
        if self.chat_warning:
            words.append(self.chat_warning)
        if count := self.tally.broken:
            words.append(f"its logits were {UNUSABLE} in {counted(count, 'request')}")
        return "; ".join(words)

    def view(self) -> AdapterView:
        info = self.info
        return AdapterView(
            name=self.name,
            path=self.path,
            state=AdapterState.DRAINING if self.is_draining else self.state,
            reason=self.reason,
            since=self.since,
            generation=self.generation,
            digest=info.digest if info else "",
            rank=info.rank if info else 0,
            target_modules=info.target_modules if info else (),
            num_bytes=info.num_bytes if info else 0,
            pages=len(self.pages),
            running=self.running,
            waiting=self.waiting,
            requests=self.tally.requests,
            prompt_tokens=self.tally.prompt_tokens,
            output_tokens=self.tally.output_tokens,
            pinned=self.pinned,
            merged=self.merged,
            warning=self.warning,
            hits=self.tally.hits,
            placements=self.tally.placements,
            directory=self.directory,
        )


class AdapterRegistry:
    """Every adapter by name, those on their way out, and the base model's row beside them."""

    def __init__(self, adapters: dict[str, str], base_model: str = "") -> None:
        """`base_model` is the name that requests have for the base."""
        self._base_model = base_model
        self.base = Adapter("", "")
        self.base.become(AdapterState.GPU)
        self._current = {name: Adapter(name, path) for name, path in adapters.items()}
        self._next: dict[str, Adapter] = {}
        """Generations being read, to take their name over."""
        self._leaving: list[Adapter] = []
        self._clock = 0

    def __iter__(self) -> Iterator[Adapter]:
        """Every generation that the workers may hold, but not the base."""
        yield from self._current.values()
        yield from self._next.values()
        yield from self._leaving

    def find(self, key: str) -> Adapter | None:
        """By name@generation."""
        return next((adapter for adapter in self if adapter.key == key), None)

    # -- requests

    def acquire(self, name: str | None) -> Adapter:
        """The record that a new request counts on. Raises `AdapterRefused` (404 unknown, 409
        failed); one that is not placed yet is fine: its request waits with that reason."""
        if name is None:
            return self.base
        adapter = self._current.get(name)
        if adapter is None:
            known = ", ".join([*self._current][:8]) or "none"
            more = f" and {len(self._current) - 8} more" if len(self._current) > 8 else ""
            base = f"; the base model is {self._base_model!r}" if self._base_model else ""
            raise AdapterRefused(
                404, f"no adapter {name!r} is registered; known: {known}{more}{base}"
            )
        if adapter.state is AdapterState.FAILED:
            raise AdapterRefused(409, f"adapter {name!r} failed to load: {adapter.reason}")
        return adapter

    def touch(self, adapter: Adapter) -> None:
        """It is wanted now."""
        self._clock += 1
        adapter.used = self._clock

    def idle(self, *, unwanted: bool = False) -> Iterator[Adapter]:
        """Adapters in pages that no running sequence has and nobody pinned: those first that nobody
        waits for (with `unwanted` those alone), the least recently used first; of those that others
        wait for, the last that was asked for. Nothing is looked through before the first is asked
        for."""
        idle = [
            adapter
            for adapter in self
            if adapter.state is AdapterState.GPU
            and adapter.pages
            and not (adapter.running or adapter.held or adapter.pinned)
            and not (unwanted and adapter.waiting)
        ]

        def order(adapter: Adapter) -> tuple[bool, int]:
            is_wanted = adapter.waiting > 0
            return is_wanted, -adapter.used if is_wanted else adapter.used

        yield from sorted(idle, key=order)

    # -- orders

    def get(self, name: str) -> Adapter:
        """The one that serves by this name now. Raises `AdapterRefused` (404 unknown)."""
        if adapter := self._current.get(name):
            return adapter
        raise AdapterRefused(404, f"no adapter {name!r} is registered")

    def add(self, name: str, path: str, *, pinned: bool) -> Adapter:
        """A new adapter, to be read. Raises `AdapterRefused` (400 no name, 409 taken)."""
        if reason := objection(name, self._base_model):
            raise AdapterRefused(400, reason)
        known = self._current.get(name)
        if known is not None and known.state is not AdapterState.FAILED:
            raise AdapterRefused(409, f"adapter {name!r} is loaded already, from {known.path}")
        if any(adapter.name == name for adapter in self._leaving):
            raise AdapterRefused(409, f"adapter {name!r} is still being unloaded")
        generation = known.generation + 1 if known else 1
        adapter = self._current[name] = Adapter(name, path, generation, pinned=pinned)
        return adapter

    def renew(self, name: str) -> Adapter:
        """The next generation of an adapter, from the same path, to be read beside the old one.
        Raises `AdapterRefused` (404 unknown, 409 while one is on its way)."""
        old = self.get(name)
        if name in self._next:
            raise AdapterRefused(409, f"adapter {name!r} is being reloaded already")
        new = self._next[name] = Adapter(name, old.path, old.generation + 1, pinned=old.pinned)
        new.tally = old.tally
        return new

    def succeed(self, new: Adapter) -> Adapter:
        """A generation that was read takes its name over; the old one, which drains."""
        del self._next[new.name]
        old, self._current[new.name] = self._current[new.name], new
        self._leave(old)
        return old

    def give_up(self, new: Adapter) -> None:
        """A generation that could not be read; the old one stays."""
        del self._next[new.name]

    def remove(self, name: str) -> Adapter:
        """From now on nobody gets it; who has it keeps it. Raises `AdapterRefused` (404 unknown,
        409 while its next generation is on its way)."""
        if name in self._next:
            raise AdapterRefused(409, f"adapter {name!r} is being reloaded: unload it then")
        adapter = self.get(name)
        del self._current[name]
        self._leave(adapter)
        return adapter

    def _leave(self, adapter: Adapter) -> None:
        adapter.is_draining = True
        self._leaving.append(adapter)

    def drained(self) -> list[Adapter]:
        """Those that nobody has any more; they are forgotten here."""
        busy = (
            AdapterState.FETCHING,
            AdapterState.VALIDATING,
            AdapterState.LOADING,
        )  # a worker still answers for it
        gone = [a for a in self._leaving if not a.is_wanted and a.state not in busy]
        self._leaving = [adapter for adapter in self._leaving if adapter not in gone]
        return gone

    # -- what others look at

    def views(self) -> tuple[AdapterView, ...]:
        """The current ones, then those that leave."""
        return tuple(adapter.view() for adapter in (*self._current.values(), *self._leaving))

    def views_of(self, name: str) -> tuple[AdapterView, ...]:
        """Of `views` those with this name."""
        found = [self._current[name]] if name in self._current else []
        return tuple(a.view() for a in (*found, *(a for a in self._leaving if a.name == name)))
