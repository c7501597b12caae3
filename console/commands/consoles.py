"""Commands that open the console, or make what it can be opened on."""

# No future import of annotations: as objects they need not be evaluated for the parser.

from typing import Annotated

from .argument import Argument
from .base import SCREEN, Command, Json, PipelineCommand, ReadOnly, RunOptions, ScreenOptions


class ConsoleCommand(Command, frozen=True, kw_only=True):
    """No command: the console, which starts the pipeline first if none runs."""

    run_options: RunOptions = RunOptions()
    screen: ScreenOptions = ScreenOptions()
    read_only: ReadOnly = False
    mock: Annotated[
        int | None,
        Argument(
            "a pipeline that computes nothing, another one for every seed",
            metavar="SEED",
            alone=7,
            group=SCREEN,
        ),
    ] = None


class AttachCommand(Command, frozen=True, kw_only=True):
    NAME = "attach"
    HELP = "the console on a running pipeline"
    EPILOG = "A running pipeline keeps its run options; those are for `loraconsole up`."
    json: Json = False
    run: Annotated[str | None, Argument("run directory (with --ssh: the one over there)")] = None
    ssh: Annotated[
        str | None, Argument("the pipeline runs there, as ssh knows it", metavar="HOST")
    ] = None
    ssh_command: Annotated[
        str, Argument("what loraconsole is called over there", metavar="COMMAND")
    ] = "loraconsole"
    screen: ScreenOptions = ScreenOptions()
    read_only: ReadOnly = False


class RecordCommand(PipelineCommand, frozen=True, kw_only=True):
    NAME = "record"
    HELP = "write all telemetry to a file, for `play`"
    file: Annotated[
        str,
        Argument("gzipped JSON lines; it must not exist", metavar="FILE", is_positional=True),
    ]
    seconds: Annotated[float | None, Argument("end by itself", metavar="N")] = None
    max_mib: Annotated[float, Argument("end at this size", metavar="N")] = 256.0


class PlayCommand(Command, frozen=True, kw_only=True):
    NAME = "play"
    HELP = "the console on a recording that `record` made"
    file: Annotated[str, Argument(metavar="FILE", is_positional=True)]
    speed: Annotated[float, Argument("times as fast", metavar="X")] = 1.0
    screen: ScreenOptions = ScreenOptions()


class WebCommand(PipelineCommand, frozen=True, kw_only=True):
    NAME = "web"
    HELP = "the console in a browser on this machine"
    port: Annotated[int, Argument("0 is any that is free")] = 8300


class ReplayCommand(Command, frozen=True, kw_only=True):
    NAME = "replay"
    HELP = "decide an event log again; 1 if it comes out otherwise"
    file: Annotated[
        str,
        Argument("RUN/events/router-….jsonl of --event-log", metavar="FILE", is_positional=True),
    ]
    json: Json = False
    speed: Annotated[float | None, Argument("X times as fast as it happened", metavar="X")] = None
    show: Annotated[bool, Argument("print each decision")] = False
    console: Annotated[bool, Argument("show it in the console")] = False
    screen: ScreenOptions = ScreenOptions()
