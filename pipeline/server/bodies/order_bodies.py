"""The bodies of orders: about adapters, the scheduler and the profiler."""

from __future__ import annotations

from typing import Annotated, ClassVar

from msgspec import Meta

from . import request_fields
from .body import Body
from .field_table import Table
from .value_types import (
    Name,
    ShortName,
    Whole,
)


class LoadBody(Body, frozen=True, kw_only=True):
    """vLLM's and SGLang's body to load an adapter; `pinned` is SGLang's, `load_inplace` vLLM's."""

    table: ClassVar[Table] = request_fields.LOAD

    lora_name: Name
    lora_path: Name
    pinned: bool = False
    load_inplace: bool = False


class UnloadBody(Body, frozen=True, kw_only=True):
    """vLLM's and SGLang's body to unload an adapter."""

    table: ClassVar[Table] = request_fields.UNLOAD

    lora_name: Name


class AdapterBody(Body, frozen=True, kw_only=True):
    """POST /v1/adapters."""

    table: ClassVar[Table] = request_fields.ADAPTER_BODY

    name: Name
    path: Name
    pin: bool = False


class SchedulerBody(Body, frozen=True, kw_only=True):
    """PUT /v1/scheduler; fields not given stay unchanged."""

    table: ClassVar[Table] = request_fields.SCHEDULER

    policy: ShortName | None = None
    weights: Annotated[dict[ShortName, float], Meta(max_length=1024)] | None = None
    batch_num_adapters: Whole | None = None
    slo_seconds: float | None = None
    max_wait_tokens: Whole | None = None
    max_per_adapter: Whole | None = None


class PlanBody(Body, frozen=True, kw_only=True):
    """POST /v1/adapters/plan."""

    table: ClassVar[Table] = request_fields.PLAN

    paths: Annotated[list[Name], Meta(max_length=1024)]


class ProfilerBody(Body, frozen=True, kw_only=True):
    """POST /profiler/start; both fields and the body itself are optional."""

    table: ClassVar[Table] = request_fields.PROFILER

    layers: bool = False
    nvtx: bool = False
