"""Commands that look and change nothing."""

# No future import of annotations: as objects they need not be evaluated for the parser.

from typing import Annotated, Literal

from .argument import Argument
from .base import Against, AgainstTokens, Command, Json, PipelineCommand


class WhereCommand(PipelineCommand, frozen=True, kw_only=True):
    NAME = "where"
    HELP = "the run directory, its files, and how to reach them"


class StatusCommand(PipelineCommand, frozen=True, kw_only=True):
    NAME = "status"
    HELP = "what runs, and how it is"


class AlertsCommand(PipelineCommand, frozen=True, kw_only=True):
    NAME = "alerts"
    HELP = "what is wrong right now; 1 if anything is"


class LogsCommand(PipelineCommand, frozen=True, kw_only=True):
    NAME = "logs"
    HELP = "the processes' logs, merged"
    process: Annotated[str | None, Argument("only this one's", is_positional=True)] = None
    follow: Annotated[bool, Argument("go on as they grow", short="-f")] = False
    lines: Annotated[int, Argument("how many back", metavar="N", short="-n")] = 200


class DoctorCommand(PipelineCommand, frozen=True, kw_only=True):
    NAME = "doctor"
    HELP = "what this machine has and lacks; or what a model says"
    model: Annotated[
        str | None,
        Argument("a model as up takes it: what its files say", metavar="MODEL", is_positional=True),
    ] = None
    adapter: Annotated[tuple[str, ...], Argument("compare it as well", metavar="NAME=PATH")] = ()
    ignore_key: Annotated[tuple[str, ...], Argument("of config.json, as in up", metavar="KEY")] = ()
    against: Against = None
    tokens: AgainstTokens = 16
    dtype: Annotated[
        Literal["float32", "bfloat16", "int4"] | None,
        Argument(
            "what our side computes in (default float32); others may differ by what they round"
        ),
    ] = None


class SettingsCommand(Command, frozen=True, kw_only=True):
    NAME = "settings"
    HELP = "what holds in the console, and where it comes from"
    json: Json = False
    path: Annotated[bool, Argument("where the file is")] = False
    check: Annotated[bool, Argument("1 if anything in it is wrong")] = False
    example: Annotated[bool, Argument("a file with all of them")] = False
    keys: Annotated[bool, Argument("every binding: its id and keys")] = False


class SpansCommand(PipelineCommand, frozen=True, kw_only=True):
    NAME = "spans"
    HELP = "what recorded spans took, by name"
    path: Annotated[
        str | None,
        Argument(
            "a file or directory of spans; else the last of run",
            metavar="PATH",
            is_positional=True,
        ),
    ] = None
    trace: Annotated[
        str | None, Argument("write one file for chrome://tracing, too", metavar="FILE")
    ] = None
