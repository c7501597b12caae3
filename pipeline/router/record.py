"""`RouterRecord`: what a router must know again after its death and can ask of no other process.

Pure. `RecordFile` keeps it in the run directory; `AdapterLifecycle` and `RouterCore` make it and
go on from it. The requests themselves come from the server, the weights from the workers.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

import msgspec

from ..messages import (
    LoadAdapter,
    MergeAdapter,
    ReloadAdapter,
    SchedulerSettings,
    UnloadAdapter,
)
from ..schedule.adapter_registry import AdapterPlace

NO_COUNTERS: Mapping[str, float] = MappingProxyType({})


class AdapterEntry(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """One generation of an adapter."""

    name: str
    path: str
    """As ordered: a directory, or a hub id."""
    directory: str
    """Directory of its files."""
    generation: int
    digest: str
    """Of its files when they were first read; "" if they were not."""
    place: AdapterPlace
    pinned: bool = False
    order: LoadAdapter | ReloadAdapter | UnloadAdapter | None = None
    """The order that is answered when it is read or gone."""
    requests: tuple[str, ...] = ()
    """Ids of its live requests, if the next generation serves new ones or none does."""

    @property
    def key(self) -> str:
        return f"{self.name}@{self.generation}"


class AnsweredOrder(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """An order that was carried out or refused. Its reply may have been lost, and its sender may
    send it again."""

    order: str
    reply_to: str
    status: int
    text: str
    name: str
    is_scheduler: bool = False
    """Whether it was a `SetScheduler`."""


class RouterRecord(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """What an operator's orders have made of a router, and what they are still to do."""

    adapters: tuple[AdapterEntry, ...]
    scheduling: SchedulerSettings
    counters: dict[str, float]
    """The policy's counters, by client."""
    is_draining: bool = False
    merged: str = ""
    """Key of the adapter that an operator has merged or has ordered to merge."""
    merge: MergeAdapter | None = None
    """The order to merge or to unmerge that is not answered yet."""
    answered: tuple[AnsweredOrder, ...] = ()
    """The last orders, oldest first."""
