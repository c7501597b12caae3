"""Commands about the pipeline as a whole."""

# No future import of annotations: as objects they need not be evaluated for the parser.

import time
from typing import Annotated, Literal

from ...pipeline.config import parse_weight
from ...pipeline.messages import ClientWeight, SetScheduler, SpansOrder, StartSpans, StopSpans
from ...pipeline.order_id import make_order_id
from .argument import Argument
from .base import Command, Json, PipelineCommand, RunOptions

NUMBERS = ("batch_num_adapters", "slo_seconds", "max_wait_tokens", "max_per_adapter")
"""Fields that `SchedulerCommand` and `SchedulerSettings` have in common."""


class UpCommand(Command, frozen=True, kw_only=True):
    NAME = "up"
    HELP = "start the pipeline without a console"
    USAGE = "loraconsole up [OPTIONS]"
    EPILOG = (
        "`loraconsole` without a command takes these options too: it starts the pipeline and opens "
        "the console. Its other options, --mock among them: loraconsole --help."
    )
    json: Json = False
    foreground: Annotated[bool, Argument("stay until it stops (Ctrl-C stops it)")] = False
    again: Annotated[bool, Argument("with the options it last ran with; of others only --run")] = (
        False
    )
    run_options: RunOptions = RunOptions()


class DownCommand(PipelineCommand, frozen=True, kw_only=True):
    NAME = "down"
    HELP = "stop the pipeline"
    now: Annotated[bool, Argument("do not let running requests finish")] = False


class DrainCommand(PipelineCommand, frozen=True, kw_only=True):
    NAME = "drain"
    HELP = "refuse new requests; running ones finish"
    resume: Annotated[bool, Argument("admit requests again")] = False


class AbortCommand(PipelineCommand, frozen=True, kw_only=True):
    NAME = "abort"
    HELP = "end one request; its client keeps the text so far"
    request: Annotated[
        str, Argument("request id, or its last characters", metavar="ID", is_positional=True)
    ]


class SchedulerCommand(PipelineCommand, frozen=True, kw_only=True):
    NAME = "scheduler"
    HELP = "show or change the scheduling policy"
    policy: Annotated[
        str | None,
        Argument("as for up --scheduler", metavar="POLICY", is_positional=True),
    ] = None
    fair_weight: Annotated[
        tuple[str, ...] | None, Argument("replaces all weights of vtc_fair", metavar="NAME=W")
    ] = None
    slo_seconds: Annotated[float | None, Argument("as for up", metavar="S")] = None
    batch_num_adapters: Annotated[int | None, Argument("as for up", metavar="N")] = None
    max_wait_tokens: Annotated[int | None, Argument("as for up", metavar="N")] = None
    max_per_adapter: Annotated[int | None, Argument("as for up", metavar="N")] = None

    @property
    def changes(self) -> bool:
        """Whether any setting is given; otherwise the settings are only shown."""
        return any(getattr(self, name) is not None for name in ("policy", "fair_weight", *NUMBERS))

    def order(self, reply_to: str) -> SetScheduler:
        """The message for the router. Raises `UsageError` if a weight is not NAME=W."""
        weights = None
        if self.fair_weight is not None:
            pairs = [parse_weight(entry) for entry in self.fair_weight]
            weights = tuple(ClientWeight(name, weight) for name, weight in pairs)
        return SetScheduler(
            order=make_order_id(),
            reply_to=reply_to,
            policy=self.policy,
            weights=weights,
            **{name: getattr(self, name) for name in NUMBERS},
        )


class ProfileCommand(PipelineCommand, frozen=True, kw_only=True):
    NAME = "profile"
    HELP = "record time spans of every process while it serves"
    verb: Annotated[Literal["start", "stop"], Argument(is_positional=True)]
    layers: Annotated[bool, Argument("also the model's layers, which slows steps down")] = False
    nvtx: Annotated[bool, Argument("also NVTX ranges (nsys gets them anyway)")] = False

    def order(self, reply_to: str, at: float | None = None) -> SpansOrder:
        """The message for every process. `at`, unix seconds, gives the recording's name; None:
        now."""
        if self.verb == "stop":
            return StopSpans(order=make_order_id(), reply_to=reply_to)
        from ...pipeline.runtime.spans import recording_name  # it imports asyncio

        return StartSpans(
            order=make_order_id(),
            reply_to=reply_to,
            recording=recording_name(time.time() if at is None else at),
            layers=self.layers,
            nvtx=self.nvtx,
        )


class PromptCommand(PipelineCommand, frozen=True, kw_only=True):
    NAME = "prompt"
    HELP = "prompt the base model and adapters, side by side"
    text: Annotated[
        str,
        Argument("the prompt; - reads standard input", metavar="TEXT", is_positional=True),
    ]
    adapter: Annotated[tuple[str, ...], Argument(metavar="NAME")] = ()
    base: Annotated[bool, Argument("the base model too")] = False
    system: Annotated[str | None, Argument("system message", metavar="TEXT")] = None
    max_tokens: Annotated[int | None, Argument(metavar="N")] = None
    temperature: Annotated[float | None, Argument(metavar="T")] = None
    seed: Annotated[int | None, Argument(metavar="S")] = None


class BenchCommand(Command, frozen=True, kw_only=True):
    """`flags` are passed to the benchmark's own parser unchanged."""

    NAME = "bench"
    HELP = "measure the pipeline, or any OpenAI-compatible --url"
    flags: tuple[str, ...] = ()

    @property
    def as_json(self) -> bool:
        return "--json" in self.flags
