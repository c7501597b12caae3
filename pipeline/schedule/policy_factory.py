"""Makes policies by name, and changes settings while requests run."""

from __future__ import annotations

import math

import msgspec

from ..messages import (
    POLICIES,
    POLICY_ALIASES,
    ClientWeight,
    SchedulerSettings,
    SetScheduler,
)
from .merged_policies import Credit, Merged
from .pets import LatencyTable, Pets
from .policies import (
    Cluster,
    EarlyAbort,
    FirstComeFirstServed,
    LastInFirstOut,
    Policy,
    VirtualTokenCounter,
)

SIMPLE: dict[str, type[Policy]] = {
    "fcfs": FirstComeFirstServed,
    "lifo": LastInFirstOut,
    "merged": Merged,
    "cluster": Cluster,
    "abort": EarlyAbort,
    "vtc_fair": VirtualTokenCounter,
    "credit": Credit,
}
"""Policies that need only settings."""


def make_policy(settings: SchedulerSettings, table: LatencyTable) -> Policy:
    """The policy of `settings`. Raises `KeyError` on an unknown name; callers have checked it."""
    if settings.policy == "pets":
        return Pets(settings, table)
    return SIMPLE[settings.policy](settings)


def changed_settings(
    settings: SchedulerSettings, order: SetScheduler, base_names: tuple[str, ...]
) -> SchedulerSettings:
    """The settings with the changes of an order. Raises `ValueError` with the reason."""
    changes = {
        name: value
        for name in SchedulerSettings.__struct_fields__
        if (value := getattr(order, name)) is not None
    }
    if order.policy is not None:
        changes["policy"] = POLICY_ALIASES.get(order.policy, order.policy)
        if changes["policy"] not in POLICIES:
            raise ValueError(f"no policy {order.policy!r}; known: {', '.join(POLICIES)}")
    if order.weights is not None:
        for name, weight in ((w.name, w.weight) for w in order.weights):
            if not 0 < weight < math.inf:
                raise ValueError(f"weight {weight:g} of {name!r} is not above 0")
        changes["weights"] = tuple(
            ClientWeight("" if w.name in base_names else w.name, w.weight) for w in order.weights
        )
    if order.batch_num_adapters is not None and order.batch_num_adapters < 1:
        raise ValueError(f"batch_num_adapters {order.batch_num_adapters} is not above 0")
    if order.slo_seconds is not None and not 0 < order.slo_seconds < math.inf:
        raise ValueError(f"slo_seconds {order.slo_seconds:g} is not above 0")
    for name in ("max_wait_tokens", "max_per_adapter"):
        if changes.get(name, 0) < 0:
            raise ValueError(f"{name} {changes[name]} is below 0")
    return msgspec.structs.replace(settings, **changes)
