"""Commands that open the console, or make recordings for it."""

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
            "a simulated pipeline, different for each seed",
            metavar="SEED",
            alone=7,
            group=SCREEN,
        ),
    ] = None


class AttachCommand(Command, frozen=True, kw_only=True):
    NAME = "attach"
    HELP = "open the console on a running pipeline"
    EPILOG = "A running pipeline keeps its run options; those are for `loraconsole up`."
    json: Json = False
    run: Annotated[str | None, Argument("run directory (with --ssh: on that machine)")] = None
    ssh: Annotated[
        str | None, Argument("the pipeline's machine, as an ssh destination", metavar="HOST")
    ] = None
    ssh_command: Annotated[
        str, Argument("the loraconsole command on that machine", metavar="COMMAND")
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
    seconds: Annotated[float | None, Argument("end after N seconds", metavar="N")] = None
    max_mib: Annotated[float, Argument("end at this file size", metavar="N")] = 256.0


class PlayCommand(Command, frozen=True, kw_only=True):
    NAME = "play"
    HELP = "open the console on a recording made by `record`"
    file: Annotated[str, Argument(metavar="FILE", is_positional=True)]
    speed: Annotated[float, Argument("X times the original speed", metavar="X")] = 1.0
    screen: ScreenOptions = ScreenOptions()


class WebCommand(PipelineCommand, frozen=True, kw_only=True):
    NAME = "web"
    HELP = "serve the console to a browser on this machine"
    port: Annotated[int, Argument("0 takes any free port")] = 8300


class ReplayCommand(Command, frozen=True, kw_only=True):
    NAME = "replay"
    HELP = "repeat an event log's decisions; exit 1 if any differs"
    file: Annotated[
        str,
        Argument("RUN/events/router-….jsonl of --event-log", metavar="FILE", is_positional=True),
    ]
    json: Json = False
    speed: Annotated[float | None, Argument("X times the original speed", metavar="X")] = None
    against: Annotated[
        tuple[str, ...],
        Argument(
            "simulate it with another setting too, side by side: policy=vtc_fair, pool=4096 "
            "(tokens), max_running=16 …; repeat for more",
            metavar="NAME=VALUE",
        ),
    ] = ()
    show: Annotated[bool, Argument("print each decision")] = False
    console: Annotated[bool, Argument("show it in the console")] = False
    screen: ScreenOptions = ScreenOptions()
