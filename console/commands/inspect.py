"""Commands that only read."""

# No future import of annotations: as objects they need not be evaluated for the parser.

from typing import Annotated, Literal

from .argument import Argument
from .base import Against, AgainstTokens, Command, Json, PipelineCommand


class WhereCommand(PipelineCommand, frozen=True, kw_only=True):
    NAME = "where"
    HELP = "the run directory, its files, and how to reach them"


class StatusCommand(PipelineCommand, frozen=True, kw_only=True):
    NAME = "status"
    HELP = "the processes and their states"


class AlertsCommand(PipelineCommand, frozen=True, kw_only=True):
    NAME = "alerts"
    HELP = "current alerts; exit 1 if there are any"


class LogsCommand(PipelineCommand, frozen=True, kw_only=True):
    NAME = "logs"
    HELP = "the processes' logs, merged"
    process: Annotated[str | None, Argument("only this process's", is_positional=True)] = None
    follow: Annotated[bool, Argument("follow: print new lines too", short="-f")] = False
    lines: Annotated[int, Argument("number of last lines", metavar="N", short="-n")] = 200


class DoctorCommand(PipelineCommand, frozen=True, kw_only=True):
    NAME = "doctor"
    HELP = "check this machine, or a model's files"
    model: Annotated[
        str | None,
        Argument("a model, as for up: check its files", metavar="MODEL", is_positional=True),
    ] = None
    adapter: Annotated[
        tuple[str, ...], Argument("an adapter to check too", metavar="NAME=PATH")
    ] = ()
    ignore_key: Annotated[
        tuple[str, ...], Argument("of config.json, as for up", metavar="KEY")
    ] = ()
    against: Against = None
    tokens: AgainstTokens = 16
    dtype: Annotated[
        Literal["float32", "bfloat16", "int4"] | None,
        Argument("dtype of our engine (default float32); the others may differ by rounding"),
    ] = None


class SettingsCommand(Command, frozen=True, kw_only=True):
    NAME = "settings"
    HELP = "the console's settings and their origins"
    json: Json = False
    path: Annotated[bool, Argument("print the file's path")] = False
    check: Annotated[bool, Argument("exit 1 if it has errors")] = False
    example: Annotated[bool, Argument("print a file with all settings")] = False
    keys: Annotated[bool, Argument("print every binding: its id and keys")] = False


class SpansCommand(PipelineCommand, frozen=True, kw_only=True):
    NAME = "spans"
    HELP = "total times of recorded spans, by name"
    path: Annotated[
        str | None,
        Argument(
            "a file or directory of spans (default: the last recording)",
            metavar="PATH",
            is_positional=True,
        ),
    ] = None
    trace: Annotated[
        str | None, Argument("also write one file for chrome://tracing", metavar="FILE")
    ] = None
