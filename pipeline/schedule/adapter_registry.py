"""`AdapterRegistry`: every adapter by name, with a record of the state of each generation.

Knows neither files nor tensors nor the page pool, and reads no clock: callers pass times in unix
seconds. A request that could not be answered correctly is refused on arrival (`acquire`): the base
model never answers for an unknown name, and a request keeps the generation it arrived for.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Literal, TypeAlias

from ..adapter_name import not_registered, objection
from ..messages import AdapterInfo, AdapterState, AdapterView, EvictionRule
from ..runtime.wording import counted
from .tally import Tally

UNUSABLE = "infinite, NaN or all alike"
ANSWER_AWAITED = frozenset({AdapterState.FETCHING, AdapterState.VALIDATING, AdapterState.LOADING})
"""States in which an answer about the adapter is due, from a worker or the hub."""


AdapterPlace: TypeAlias = Literal["current", "next", "leaving"]
"""Serves new requests; is read to become current; serves its present requests and is then gone."""


class AdapterRefused(Exception):
    """A request or an operator's order about an adapter is refused: an HTTP status and a reason."""

    def __init__(self, status: int, reason: str) -> None:
        super().__init__(reason)
        self.status = status
        self.reason = reason


class AdapterRecord:
    """One generation of one adapter. The record named "" stands for the base model."""

    def __init__(
        self, name: str, path: str, now: float, generation: int = 1, *, pinned: bool = False
    ) -> None:
        self.name = name
        self.path = path
        """As ordered: a directory, or a hub id."""
        self.directory = path
        """Directory of its files."""
        self.generation = generation
        self.pinned = pinned
        self.state = AdapterState.REGISTERED
        self.reason = ""
        self.since = now
        """When it entered its state, unix seconds."""
        self.info: AdapterInfo | None = None
        self.digest = ""
        """Of the files that this generation is made of; "" until they were read."""
        self.pages: tuple[int, ...] = ()
        self.is_draining = False
        self.used = 0
        """The registry's count of requests when it was last requested: the order of evictions."""
        self.running = 0
        self.waiting = 0
        self.kv_pages = 0
        """Pages of KV that its running sequences hold."""
        self.held = 0
        """Verifications and merges under way, which keep it from being evicted."""
        self.merged = False
        self.chat_warning = ""
        """The server's warning about its chat template and tokenizer files."""
        self.tally = Tally()
        self.reading = 0
        """Number of the newest `ReadAdapter` for it; answers to older ones are ignored."""
        self._answers: dict[int, AdapterInfo] = {}
        self._placed: set[int] = set()

    @property
    def key(self) -> str:
        """Its name among the workers: name@generation."""
        return f"{self.name}@{self.generation}"

    @property
    def is_wanted(self) -> bool:
        return self.running > 0 or self.waiting > 0 or self.held > 0

    @property
    def is_usable(self) -> bool:
        """Whether it has not failed: it serves requests, or will."""
        return self.state is not AdapterState.FAILED

    def change_state(self, state: AdapterState, now: float, reason: str = "") -> None:
        """Changes the state; nothing else does."""
        self.state, self.reason, self.since = state, reason, now

    def begin_reading(self, number: int, now: float) -> None:
        """Marks that every rank reads it; answers to earlier reads are ignored."""
        self.reading = number
        self._answers.clear()
        self.change_state(AdapterState.VALIDATING, now)

    def note_read(self, rank: int, info: AdapterInfo, num_ranks: int, now: float) -> bool:
        """Records a rank's answer. True once all ranks have answered; the state is then HOST or
        FAILED.

        A generation is its content: workers that read it again must find the same files.
        """
        self._answers[rank] = info
        if self.state is not AdapterState.VALIDATING or len(self._answers) < num_ranks:
            return False
        self.info = self._answers[0]
        reasons = [answer.reason for answer in self._answers.values() if answer.reason]
        if not reasons and len({answer.digest for answer in self._answers.values()}) > 1:
            reasons = ["its files changed while they were read: the ranks hold different ones"]
        if not reasons and self.digest not in ("", self.info.digest):
            reasons = [f"its files changed since generation {self.generation} was read: reload it"]
        if not reasons:
            self.digest = self.info.digest
        self._answers.clear()
        state = AdapterState.FAILED if reasons else AdapterState.HOST
        self.change_state(state, now, "".join(reasons[:1]))
        return True

    def note_placed(self, rank: int, num_ranks: int, now: float) -> bool:
        """Records that a rank has copied it into its pages. True once all have; the state is then
        GPU."""
        self._placed.add(rank)
        if self.state is not AdapterState.LOADING or len(self._placed) < num_ranks:
            return False
        self.change_state(AdapterState.GPU, now)
        self.tally.placements += 1
        return True

    def lose_pages(self, now: float, reason: str = "") -> tuple[int, ...]:
        """Returns its state to HOST, and the pages it had. `reason`: why it was evicted."""
        pages, self.pages = self.pages, ()
        self._placed.clear()
        self.change_state(AdapterState.HOST, now, reason)
        return pages

    @property
    def warning(self) -> str:
        """Warnings to the operator about an adapter that is served; "" if there are none."""
        warnings = [self.info.warning] if self.info and self.info.warning else []
        if self.chat_warning:
            warnings.append(self.chat_warning)
        if count := self.tally.broken:
            warnings.append(f"its logits were {UNUSABLE} in {counted(count, 'request')}")
        return "; ".join(warnings)

    def view(self, now: float) -> AdapterView:
        info, tally = self.info, self.tally
        recent_us, recent_tokens = tally.recent_cost(now)
        ttft_p50_ms, ttft_p99_ms = tally.first_tokens.percentiles_ms(now)
        wait_p50_ms, wait_p99_ms = tally.queue_waits.percentiles_ms(now)
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
            requests=tally.requests,
            prompt_tokens=tally.prompt_tokens,
            output_tokens=tally.output_tokens,
            pinned=self.pinned,
            merged=self.merged,
            warning=self.warning,
            hits=tally.hits,
            placements=tally.placements,
            directory=self.directory,
            kv_pages=self.kv_pages,
            device_us=round(tally.device_us),
            recent_device_us=round(recent_us),
            recent_tokens=recent_tokens,
            ttft_p50_ms=ttft_p50_ms,
            ttft_p99_ms=ttft_p99_ms,
            wait_p50_ms=wait_p50_ms,
            wait_p99_ms=wait_p99_ms,
            evictions=tally.evictions,
            merged_bytes=info.merged_bytes if info else 0,
        )


EVICTION_ORDERS: Mapping[EvictionRule, Callable[[AdapterRecord], tuple[int, int]]] = {
    "lru": lambda adapter: (adapter.used, 0),
    "lfu": lambda adapter: (adapter.tally.requests, adapter.used),
    "largest": lambda adapter: (-len(adapter.pages), adapter.used),
}
"""Sort keys of idle adapters, the first to be evicted first; equals go by their last request."""


class AdapterRegistry:
    """Current generations by name, next generations being read, generations being unloaded, and
    the base model's record."""

    def __init__(
        self,
        adapters: dict[str, str],
        base_names: tuple[str, ...] = (),
        *,
        now: float,
        evict: EvictionRule = "lru",
    ) -> None:
        """`adapters` are paths by name; `base_names` are those of the base in requests; `evict`
        orders idle adapters."""
        self._base_names = base_names
        self._eviction_order = EVICTION_ORDERS[evict]
        self.base = AdapterRecord("", "", now)
        self.base.change_state(AdapterState.GPU, now)
        self._current = {name: AdapterRecord(name, path, now) for name, path in adapters.items()}
        self._next: dict[str, AdapterRecord] = {}
        """Generations being read that will replace the current one of their name."""
        self._leaving: list[AdapterRecord] = []
        self._num_requests = 0

    def __iter__(self) -> Iterator[AdapterRecord]:
        """Every generation that the workers may hold, without the base."""
        yield from self._current.values()
        yield from self._next.values()
        yield from self._leaving

    def places(self) -> Iterator[tuple[AdapterPlace, AdapterRecord]]:
        """Every generation, as `__iter__`, with its place."""
        for adapter in self._current.values():
            yield "current", adapter
        for adapter in self._next.values():
            yield "next", adapter
        for adapter in self._leaving:
            yield "leaving", adapter

    def restore(self, adapters: Iterable[tuple[AdapterPlace, AdapterRecord]]) -> None:
        """Replaces all adapters by those of an earlier router."""
        self._current.clear()
        for place, adapter in adapters:
            match place:
                case "current":
                    self._current[adapter.name] = adapter
                case "next":
                    self._next[adapter.name] = adapter
                case "leaving":
                    self._leave(adapter)
        for name, adapter in self._next.items():
            if old := self._current.get(name):
                adapter.tally = old.tally

    def find(self, key: str) -> AdapterRecord | None:
        """The record of a name@generation."""
        return next((adapter for adapter in self if adapter.key == key), None)

    # -- requests

    def acquire(self, name: str | None) -> AdapterRecord:
        """The record that serves a new request for `name`; None is the base. Raises
        `AdapterRefused` (404 unknown, 409 failed). If the adapter is not placed yet, its request
        waits and shows that reason."""
        if name is None:
            return self.base
        adapter = self._current.get(name)
        if adapter is None:
            served = [each.name for each in self._current.values() if each.is_usable]
            base = self._base_names[0] if self._base_names else ""
            raise AdapterRefused(404, not_registered(name, served, base))
        if adapter.state is AdapterState.FAILED:
            raise AdapterRefused(409, f"adapter {name!r} failed to load: {adapter.reason}")
        return adapter

    def touch(self, adapter: AdapterRecord) -> None:
        """Marks it as the most recently requested."""
        self._num_requests += 1
        adapter.used = self._num_requests

    def idle(self, *, unwanted: bool = False) -> Iterator[AdapterRecord]:
        """Adapters that may be evicted, in order of eviction: placed, not pinned, without a running
        sequence. First those without waiting requests, in the order of the rule (with `unwanted`
        only those); then the others, most recently used first. Nothing is computed before the first
        is requested."""
        idle = [
            adapter
            for adapter in self
            if adapter.state is AdapterState.GPU
            and adapter.pages
            and not (adapter.running or adapter.held or adapter.pinned)
            and not (unwanted and adapter.waiting)
        ]

        def eviction_rank(adapter: AdapterRecord) -> tuple[bool, tuple[int, int]]:
            if adapter.waiting > 0:
                return True, (-adapter.used, 0)
            return False, self._eviction_order(adapter)

        yield from sorted(idle, key=eviction_rank)

    # -- operators' orders

    def current(self, name: str) -> AdapterRecord:
        """The generation that serves this name now. Raises `AdapterRefused` (404 unknown)."""
        if adapter := self._current.get(name):
            return adapter
        raise AdapterRefused(404, f"no adapter {name!r} is registered")

    def register_adapter(
        self, name: str, path: str, now: float, *, pinned: bool = False
    ) -> AdapterRecord:
        """A new adapter, to be read. Raises `AdapterRefused` (400 bad name, 409 name in use)."""
        if reason := objection(name, self._base_names):
            raise AdapterRefused(400, reason)
        known = self._current.get(name)
        if known is not None and known.is_usable:
            raise AdapterRefused(409, f"adapter {name!r} is already loaded, from {known.path}")
        if any(adapter.name == name for adapter in self._leaving):
            raise AdapterRefused(409, f"adapter {name!r} is still being unloaded")
        generation = known.generation + 1 if known else 1
        adapter = self._current[name] = AdapterRecord(name, path, now, generation, pinned=pinned)
        return adapter

    def is_served(self, name: str) -> bool:
        """Whether an adapter of this name has not failed, and is not being unloaded."""
        adapter = self._current.get(name)
        return adapter is not None and adapter.is_usable

    def forget_failed(self, adapter: AdapterRecord) -> None:
        """Removes an adapter that could not be read, and its name."""
        if self._current.get(adapter.name) is adapter:
            del self._current[adapter.name]

    def is_next(self, adapter: AdapterRecord) -> bool:
        """Whether it is read to replace the current generation of its name."""
        return self._next.get(adapter.name) is adapter

    def register_next(self, name: str, now: float, path: str = "") -> AdapterRecord:
        """The next generation of an adapter, from `path` or else the same path, to be read beside
        the old one. Raises `AdapterRefused` (404 unknown, 409 while another is being read)."""
        old = self.current(name)
        if name in self._next:
            raise AdapterRefused(409, f"adapter {name!r} is being reloaded already")
        new = AdapterRecord(name, path or old.path, now, old.generation + 1, pinned=old.pinned)
        new.tally = old.tally
        self._next[name] = new
        return new

    def promote_next(self, new: AdapterRecord) -> AdapterRecord:
        """Makes a generation that was read the current one. Returns the old one, which drains."""
        del self._next[new.name]
        old, self._current[new.name] = self._current[new.name], new
        self._leave(old)
        return old

    def discard_next(self, new: AdapterRecord) -> None:
        """Drops a generation that could not be read; the old one remains."""
        del self._next[new.name]

    def unregister_adapter(self, name: str) -> AdapterRecord:
        """Refuses new requests for it from now on; present requests keep it. Raises
        `AdapterRefused` (404 unknown, 409 while its next generation is being read)."""
        if name in self._next:
            raise AdapterRefused(409, f"adapter {name!r} is being reloaded: unload it then")
        adapter = self.current(name)
        del self._current[name]
        self._leave(adapter)
        return adapter

    def _leave(self, adapter: AdapterRecord) -> None:
        adapter.is_draining = True
        self._leaving.append(adapter)

    def forget_drained(self) -> list[AdapterRecord]:
        """Removes and returns the adapters being unloaded that have no request left."""
        gone = [a for a in self._leaving if not a.is_wanted and a.state not in ANSWER_AWAITED]
        self._leaving = [adapter for adapter in self._leaving if adapter not in gone]
        return gone

    # -- views

    def views(self, now: float) -> tuple[AdapterView, ...]:
        """The current generations, then those being unloaded."""
        return tuple(adapter.view(now) for adapter in (*self._current.values(), *self._leaving))

    def views_of(self, name: str, now: float) -> tuple[AdapterView, ...]:
        """The `views` with this name."""
        found = [self._current[name]] if name in self._current else []
        return tuple(a.view(now) for a in (*found, *(a for a in self._leaving if a.name == name)))
