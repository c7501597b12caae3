"""Documents that commands about a pipeline print with `--json`, where no message is one.
`docs/json-schema.json` is made of them; units are in the names of the fields."""

from __future__ import annotations

from typing import Literal, TypeAlias

import msgspec

from ...pipeline.messages import AdapterPlan, AdapterView, SpansReply, Verification
from ..client.failed_adapters import FailedAdapter
from ..state.adapter_costs import CostShares
from ..state.alerts import Severity

ProcessWord: TypeAlias = Literal["ready", "starting", "stopped", "sent"]
"""A process's state after an order; `sent`: a signal was sent to it."""


class ErrorDocument(msgspec.Struct, frozen=True):
    """Any command that is refused or fails; the exit status is 1, 2 or 3."""

    error: str
    hint: str


class FailedStart(ErrorDocument, frozen=True):
    """`up` if an adapter could not be loaded."""

    failed_adapters: tuple[FailedAdapter, ...]


class UpDocument(msgspec.Struct, frozen=True, kw_only=True):
    """`up`: the pipeline is ready."""

    state: Literal["ready"] = "ready"
    url: str
    run: str
    """The run directory."""
    failed_adapters: tuple[FailedAdapter, ...]
    """Those left out by --ignore-failed-adapters."""


class DownDocument(msgspec.Struct, frozen=True):
    """`down`: the pipeline has ended."""

    state: Literal["stopped"] = "stopped"


class DrainDocument(msgspec.Struct, frozen=True):
    """`drain`: the router's new state."""

    router: str
    status: Literal["ok"] = "ok"


class AbortDocument(msgspec.Struct, frozen=True):
    """`abort`: the request has ended."""

    request: str
    """Its whole id."""
    status: Literal["ok"] = "ok"


class ProcessDocument(msgspec.Struct, frozen=True):
    """`stop`, `start`, `restart`, `signal`: the process's new state."""

    process: str
    state: ProcessWord


class AlertDocument(msgspec.Struct, frozen=True):
    """`alerts` prints an array of these; empty if there is none."""

    level: Severity
    text: str
    rule: str
    subject: str
    """The process or adapter it is about; "" if it is about the whole."""


class AdaptersDocument(msgspec.Struct, frozen=True, kw_only=True):
    """`adapters list`: the router's table, and what part of the whole each adapter has cost."""

    at: float
    base_model: str
    adapters: tuple[AdapterView, ...]
    """In the router's order."""
    base: AdapterView
    """The base model's own row: requests and tokens without any adapter."""
    shares: dict[str, CostShares]
    """By the adapter's name; "" is the base."""


class SchedulerDocument(msgspec.Struct, frozen=True, kw_only=True):
    """`scheduler`: the settings in force."""

    policy: str
    weights: dict[str, float]
    """Weight under `vtc_fair` by client; the base model has its served name."""
    batch_num_adapters: int
    slo_seconds: float
    max_wait_tokens: int
    max_per_adapter: int


class OrderDocument(msgspec.Struct, frozen=True):
    """`adapters load`, `unload`, `reload`, `pin`, `unpin`, `merge`, `unmerge`."""

    adapter: str
    status: Literal["ok"]
    message: str


class PlansDocument(msgspec.Struct, frozen=True):
    """`adapters plan`."""

    plans: tuple[AdapterPlan, ...]


class VerificationDocument(msgspec.Struct, frozen=True):
    """`adapters verify` without --against."""

    adapter: str
    verification: Verification


class AnswerDocument(msgspec.Struct, frozen=True, kw_only=True):
    """`prompt` prints an array of these, one a model."""

    adapter: str | None
    """None is the base model."""
    model: str
    text: str
    finish_reason: str | None
    output_tokens: int
    ttft_ms: float | None
    error: str | None


class ProfileDocument(msgspec.Struct, frozen=True):
    """`profile start`, `profile stop`."""

    directories: tuple[str, ...]
    spans: int
    processes: tuple[SpansReply, ...]


class RecordDocument(msgspec.Struct, frozen=True):
    """`record`, at its end."""

    file: str
    messages: int
    bytes: int
    end: str
    """Why it ended."""
