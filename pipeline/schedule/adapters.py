"""`AdapterRegistry`: the one truth about each adapter. Knows neither files nor tensors.

Refused at the door (`acquire`) is anything that cannot be answered rightly: an unknown name is
never answered by the base model.
"""

from __future__ import annotations

import time

from ..messages import AdapterInfo, AdapterState, AdapterView


class AdapterRefused(Exception):
    """A request may not use this adapter: an HTTP status and the reason."""

    def __init__(self, status: int, reason: str) -> None:
        super().__init__(reason)
        self.status = status
        self.reason = reason


class Adapter:
    """One adapter's record. `name` "" stands for the base model's own row."""

    def __init__(self, name: str, path: str) -> None:
        self.name = name
        self.path = path
        self.state = AdapterState.REGISTERED
        self.reason = ""
        self.since = time.time()
        self.generation = 1
        self.info: AdapterInfo | None = None
        self.running = 0
        self.waiting = 0
        self.requests = 0
        self.prompt_tokens = 0
        self.output_tokens = 0

    def become(self, state: AdapterState, reason: str = "") -> None:
        """The one place where an adapter's state changes."""
        self.state, self.reason, self.since = state, reason, time.time()

    def view(self) -> AdapterView:
        info = self.info
        return AdapterView(
            name=self.name,
            path=self.path,
            state=self.state,
            reason=self.reason,
            since=self.since,
            generation=self.generation,
            digest=info.digest if info else "",
            rank=info.rank if info else 0,
            target_modules=info.target_modules if info else (),
            num_bytes=info.num_bytes if info else 0,
            pages=0,
            running=self.running,
            waiting=self.waiting,
            requests=self.requests,
            prompt_tokens=self.prompt_tokens,
            output_tokens=self.output_tokens,
        )


class AdapterRegistry:
    """Every adapter by name, and the base model's row beside them."""

    def __init__(self, adapters: dict[str, str]) -> None:
        self.base = Adapter("", "")
        self.base.become(AdapterState.GPU)
        self._adapters = {name: Adapter(name, path) for name, path in adapters.items()}

    def loading(self) -> None:
        """The workers (re)start: whatever is registered is on its way."""
        for adapter in self._adapters.values():
            adapter.become(AdapterState.LOADING)

    def confirm(self, found: tuple[AdapterInfo, ...]) -> list[Adapter]:
        """The workers' word on each adapter. Returns those that changed state."""
        changed = []
        for info in found:
            adapter = self._adapters[info.name]
            adapter.info = info
            state = AdapterState.FAILED if info.reason else AdapterState.GPU
            if adapter.state is not state or adapter.reason != info.reason:
                adapter.become(state, info.reason)
                changed.append(adapter)
        return changed

    def acquire(self, name: str | None) -> Adapter:
        """The record a new request counts on. Raises `AdapterRefused` (404 unknown, 409 failed);
        one that is still loading is fine: its request waits with that reason."""
        if name is None:
            return self.base
        adapter = self._adapters.get(name)
        if adapter is None:
            known = ", ".join(self._adapters) or "none"
            raise AdapterRefused(404, f"no adapter {name!r} is registered; known: {known}")
        if adapter.state is AdapterState.FAILED:
            raise AdapterRefused(409, f"adapter {name!r} failed to load: {adapter.reason}")
        return adapter

    def get(self, name: str | None) -> Adapter:
        return self.base if name is None else self._adapters[name]

    def is_placed(self, name: str | None) -> bool:
        """Whether every worker can compute with it now."""
        return self.get(name).state is AdapterState.GPU

    def views(self) -> tuple[AdapterView, ...]:
        return tuple(adapter.view() for adapter in self._adapters.values())
