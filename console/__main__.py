"""The command line. Parses, then hands over; what a command does stands in `cli/`.

Exit status: 0 well, 1 failed, 2 wrong usage, 3 not running.
"""

from __future__ import annotations

import argparse
import json
import sys
from typing import Any, NoReturn

from .. import __version__
from ..pipeline.config import Config
from ..pipeline.config_flags import add_config_flags, add_usual_config_flags, config_from_flags
from ..pipeline.errors import OperatorError, UsageError
from ..pipeline.run_directory import default_run_directory
from ..pipeline.runtime.stdout import ends_with_its_reader
from .state.signals import SIGNALS, signal_name
from .terminal.ending import end_in_order

FAILED, USAGE, NOT_RUNNING = 1, 2, 3

DESCRIPTION = "Serve many LoRA adapters over one base model, from a terminal console."
EPILOG = "Without a command: open the console, and start the pipeline first if none is running."
OVERVIEW = """\
examples:
  loraconsole                      the console; starts the pipeline if none runs
  loraconsole --mock               look around: that pipeline computes nothing
  loraconsole up --model ./Llama-3.2-1B --adapter sql=./my-sql
  loraconsole attach --read-only   look at a running pipeline, change nothing
  loraconsole attach --ssh HOST    the console here, the pipeline there
  loraconsole prompt --adapter pirate --adapter haiku "Tell me about the sea."

loraconsole COMMAND --help: a command's options.
Exit status: 0 well, 1 failed, 2 wrong usage, 3 not running.
"""


@ends_with_its_reader()
def main() -> NoReturn:
    """The `loraconsole` command."""
    end_in_order()
    arguments = sys.argv[1:]
    given = argparse.Namespace(command="bench", json="--json" in arguments)
    try:
        if arguments[:1] != ["bench"]:
            given = parse(arguments)
        code = dispatch(given, arguments[1:])
    except OperatorError as error:
        code = report(error, getattr(given, "json", False))
    except UnicodeEncodeError as error:  # messages, JSON and sockets are UTF-8
        what = f"{error.object!a} is not text: bytes in it are no {error.encoding}"
        hint = "give the file or the directory a name that is"
        code = report(OperatorError(what, hint), getattr(given, "json", False))
    except KeyboardInterrupt:
        code = 130
    sys.exit(code)


def parse(arguments: list[str]) -> argparse.Namespace:
    """The command and its options. Exits 2 on bad usage, as argparse does."""
    names = [name for name in arguments if not name.startswith("-")]
    if arguments and names and arguments[0] == names[0]:
        return command_parser().parse_args(arguments)
    if arguments and arguments[0] in ("-h", "--help"):
        return overview().parse_args(arguments)
    return console_parser().parse_args(arguments)


def overview() -> argparse.ArgumentParser:
    """What `loraconsole --help` prints: the commands, and what the console takes without one."""
    parser = command_parser()
    parser.usage = "loraconsole [OPTIONS]\n       loraconsole COMMAND [OPTIONS]"
    parser.description = (
        f"{DESCRIPTION}\nWithout a command: the console. It starts the pipeline first if none runs."
    )
    parser.epilog = OVERVIEW
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    add_usual_config_flags(parser)
    add_console_flags(parser)
    return parser


def console_parser() -> argparse.ArgumentParser:
    """`loraconsole [RUN OPTIONS]`: no command, all settings."""
    parser = argparse.ArgumentParser(
        "loraconsole", usage="loraconsole [OPTIONS]", description=DESCRIPTION, epilog=EPILOG
    )
    parser.add_argument("--version", action="version", version=__version__)
    add_config_flags(parser)
    add_console_flags(parser)
    parser.set_defaults(command="console")
    return parser


def add_console_flags(parser: argparse.ArgumentParser) -> None:
    """Of the console without a command."""
    screen = add_screen_flags(parser)
    add_read_only(screen)
    screen.add_argument(
        "--mock",
        type=int,
        nargs="?",
        const=7,
        metavar="SEED",
        help="a pipeline that computes nothing, another one for every seed",
    )


def add_screen_flags(parser: argparse.ArgumentParser) -> argparse._ArgumentGroup:
    """Of whatever opens the console."""
    group = parser.add_argument_group("screen options")
    group.add_argument("--fps", type=float, metavar="N", help="frames a second while it moves")
    group.add_argument("--theme", metavar="NAME", help="colours; `t` cycles them")
    group.add_argument("--ascii", action="store_true", help="borders, bars and plots in ASCII")
    group.add_argument(
        "--low-bandwidth",
        action=argparse.BooleanOptionalAction,
        help="spare the line: 5 frames/s at most; over ssh by itself",
    )
    group.add_argument("--no-mouse", action="store_true", help="leave the mouse to the terminal")
    group.add_argument(
        "--show-cost", action="store_true", help="what the screen costs, in a line; `C` as well"
    )
    return group


def add_read_only(group: argparse._ArgumentGroup) -> None:
    group.add_argument(
        "--read-only", action="store_true", help="only look: nothing is asked or changed from here"
    )


def command_parser(
    kind: type[argparse.ArgumentParser] = argparse.ArgumentParser,
) -> argparse.ArgumentParser:
    """`loraconsole COMMAND …`. The `:` line of the console reads with a `kind` of its own."""
    parser = kind(
        "loraconsole",
        description=DESCRIPTION,
        epilog=f"{EPILOG} Its options: loraconsole --help.",
    )
    parser.add_argument("--version", action="version", version=__version__)
    commands = parser.add_subparsers(
        title="commands", dest="command", metavar="COMMAND", required=True
    )

    def add(name: str, help: str, run: bool = True) -> argparse.ArgumentParser:
        command = commands.add_parser(name, help=help, description=help)
        command.add_argument("--json", action="store_true", help="one JSON document on stdout")
        if run:
            command.add_argument("--run", default=default_run_directory(), help="run directory")
        return command

    up = add("up", "start the pipeline without a screen, until it is ready", run=False)
    up.usage = "loraconsole up [OPTIONS]"
    up.epilog = (
        "`loraconsole` alone takes the run options as well: it starts such a pipeline and opens "
        "the console on it. That and its own, --mock among them: loraconsole --help."
    )
    up.add_argument("--foreground", action="store_true", help="stay until it stops (Ctrl-C)")
    add_config_flags(up)
    attach = add("attach", "the console on a running pipeline", run=False)
    attach.add_argument("--run", help="run directory (with --ssh: the one over there)")
    attach.add_argument("--ssh", metavar="HOST", help="the pipeline runs there, as ssh knows it")
    attach.add_argument(
        "--ssh-command",
        default="loraconsole",
        metavar="COMMAND",
        help="what loraconsole is called over there",
    )
    attach.epilog = "A running pipeline keeps its run options; those are for `loraconsole up`."
    add_read_only(add_screen_flags(attach))
    record = add("record", "write all telemetry to a file, for `play`")
    record.add_argument("file", metavar="FILE", help="gzipped JSON lines; it must not exist")
    record.add_argument("--seconds", type=float, metavar="N", help="end by itself")
    record.add_argument(
        "--max-mib", type=float, default=256.0, metavar="N", help="end at this size"
    )
    play = commands.add_parser("play", help="the console on a recording that `record` made")
    play.add_argument("file", metavar="FILE")
    play.add_argument("--speed", type=float, default=1.0, metavar="X", help="times as fast")
    add_screen_flags(play)
    web = add("web", "the console in a browser on this machine")
    web.add_argument("--port", type=int, default=8300, help="0 is any that is free")
    add("where", "the run directory, its files, and how to reach them")
    add("status", "what runs, and how it is")
    add("alerts", "what is wrong right now; 1 if anything is")
    down = add("down", "stop the pipeline")
    down.add_argument("--now", action="store_true", help="do not let running requests finish")
    for verb, help in (
        ("stop", "stop one process; a worker with all its ranks"),
        ("start", "start a process that was stopped or given up"),
        ("restart", "restart one process"),
        ("signal", "send one process a signal"),
    ):
        order = add(verb, help)
        order.add_argument("process", help="worker-0, detokenizer, router, server")
        if verb == "restart":
            order.add_argument("--hard", action="store_true", help="kill it, rather than ask")
        elif verb == "signal":
            does = "; ".join(f"{name} {what}" for name, what in SIGNALS.items())
            order.add_argument("signal", type=signal_name, choices=SIGNALS, help=does)
    logs = add("logs", "the processes' logs, merged")
    logs.add_argument("process", nargs="?", help="only this one's")
    logs.add_argument("--follow", "-f", action="store_true", help="go on as they grow")
    logs.add_argument("--lines", "-n", type=int, default=200, metavar="N", help="how many back")
    drain = add("drain", "admit nothing new; what runs may finish")
    drain.add_argument("--resume", action="store_true", help="admit again")
    abort = add("abort", "end one request; its client keeps what it has")
    abort.add_argument("request", metavar="ID", help="its id, or how that ends")
    scheduler = add("scheduler", "who is admitted first; changes it while it serves")
    scheduler.add_argument("policy", nargs="?", metavar="POLICY", help="as up --scheduler takes")
    scheduler.add_argument(
        "--fair-weight", action="append", metavar="NAME=W", help="all weights of vtc_fair anew"
    )
    scheduler.add_argument("--slo-seconds", type=float, metavar="S", help="as in up")
    for flag in ("--batch-num-adapters", "--max-wait-tokens", "--max-per-adapter"):
        scheduler.add_argument(flag, type=int, metavar="N", help="as in up")
    doctor = add("doctor", "what this machine has and lacks; or what a model says")
    doctor.add_argument(
        "model", nargs="?", metavar="MODEL", help="a model as up takes it: what its files say"
    )
    doctor.add_argument(
        "--adapter", action="append", default=[], metavar="NAME=PATH", help="compare it as well"
    )
    doctor.add_argument(
        "--ignore-key", action="append", default=[], metavar="KEY", help="of config.json, as in up"
    )
    add_against(doctor)
    doctor.add_argument(
        "--dtype",
        choices=("float32", "bfloat16", "int4"),
        help="what our side computes in (default float32); others may differ by what they round",
    )
    settings = add("settings", "what holds in the console, and where it comes from", False)
    settings.add_argument("--path", action="store_true", help="where the file is")
    settings.add_argument("--check", action="store_true", help="1 if anything in it is wrong")
    settings.add_argument("--example", action="store_true", help="a file with all of them")
    settings.add_argument("--keys", action="store_true", help="every binding: its id and keys")
    adapters = add("adapters", "the adapters of the running pipeline")
    pipeline = adapters.add_subparsers(dest="verb", metavar="VERB")

    def add_verb(verb: str, help: str) -> argparse.ArgumentParser:
        command = pipeline.add_parser(verb, help=help, description=help)
        command.add_argument("--json", action="store_true", default=argparse.SUPPRESS)
        command.add_argument("--run", default=argparse.SUPPRESS)
        return command

    add_verb("list", "all of them, and what they have done (the default)")
    load = add_verb("load", "serve a PEFT directory by a name")
    load.add_argument("name", metavar="NAME")
    load.add_argument("path", metavar="PATH", help="its directory, or org/name on the hub")
    load.add_argument(
        "--pin", action="store_true", help="never evict it, even while no request uses it"
    )
    for verb, help in (
        ("unload", "refuse it from now on; return when its pages are free"),
        ("reload", "read its files again; requests that run finish on the old weights"),
        ("pin", "never evict it, even while no request uses it"),
        ("unpin", "let it be evicted when its pages are wanted and no request uses it"),
        ("merge", "keep a copy of the weights with it merged, for steps of its own"),
        ("verify", "compare its answers with its weights merged in float32; 1 if it is not right"),
    ):
        command = add_verb(verb, help)
        command.add_argument("name", metavar="NAME")
        if verb == "verify":
            add_against(command)
    add_verb("unmerge", "give the copy with a merged adapter up")
    plan = add_verb("plan", "what loading directories would take; 1 if any would be refused")
    plan.add_argument("paths", metavar="PATH", nargs="+", help="one after the other")
    replay = commands.add_parser(
        "replay", help="decide an event log again; 1 if it comes out otherwise"
    )
    replay.add_argument("file", metavar="FILE", help="RUN/events/router-….jsonl of --event-log")
    replay.add_argument("--json", action="store_true", help="one JSON document on stdout")
    replay.add_argument("--speed", type=float, metavar="X", help="X times as fast as it happened")
    replay.add_argument("--show", action="store_true", help="print each decision")
    replay.add_argument("--console", action="store_true", help="show it in the console")
    add_screen_flags(replay)
    profile = add("profile", "record time spans of every process while it serves")
    profile.add_argument("verb", choices=("start", "stop"))
    profile.add_argument(
        "--layers", action="store_true", help="the model's layers too; steps are slower then"
    )
    profile.add_argument(
        "--nvtx", action="store_true", help="NVTX ranges too (nsys gets them anyway)"
    )
    spans = add("spans", "what recorded spans took, by name")
    spans.add_argument(
        "path", nargs="?", metavar="PATH", help="a file or directory of spans; else the last of run"
    )
    spans.add_argument("--trace", metavar="FILE", help="write one file for chrome://tracing, too")
    transcripts = add("transcripts", "what was asked and answered in the console", run=False)
    kept = transcripts.add_subparsers(dest="verb", metavar="VERB")

    def add_kept(verb: str, help: str) -> argparse.ArgumentParser:
        command = kept.add_parser(verb, help=help, description=help)
        command.add_argument("--json", action="store_true", default=argparse.SUPPRESS)
        return command

    listed = add_kept("list", "conversations, the newest first (the default)")
    search = add_kept("search", "turns that have all these words; 1 if there is none")
    search.add_argument("words", nargs="+", metavar="WORD")
    for command in (listed, search):
        command.add_argument("--limit", type=int, default=20, metavar="N")
    export = add_kept("export", "conversations in full; all of them where none is named")
    export.add_argument("conversations", nargs="*", metavar="ID")
    export.add_argument("--format", choices=("markdown", "jsonl"), default="markdown")
    export.add_argument("--out", metavar="FILE", help="default: standard output")
    delete = add_kept("delete", "forget conversations")
    delete.add_argument("conversations", nargs="*", metavar="ID")
    delete.add_argument("--all", action="store_true", help="every one")
    # Listed here; its flags are the benchmark's own, and it is given them untouched.
    commands.add_parser("bench", help="measure the pipeline, or any OpenAI-compatible --url")
    prompt = add("prompt", "ask the base or adapters; several answer side by side")
    prompt.add_argument("text", metavar="TEXT", help="the prompt; - reads standard input")
    prompt.add_argument("--adapter", action="append", default=[], metavar="NAME")
    prompt.add_argument("--base", action="store_true", help="the base model beside the adapters")
    prompt.add_argument("--system", metavar="TEXT", help="a system message before it")
    prompt.add_argument("--max-tokens", type=int, metavar="N")
    prompt.add_argument("--temperature", type=float, metavar="T")
    prompt.add_argument("--seed", type=int, metavar="S")
    return parser


def add_against(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--against",
        choices=("transformers",),
        help="compare answers with that library's (and peft's), which read the same files",
    )
    parser.add_argument(
        "--tokens", type=int, default=16, metavar="N", help="greedy tokens of each answer"
    )


def dispatch(given: argparse.Namespace, rest: list[str]) -> int:
    """Runs the command; returns the exit status. Imports wait until here: `--help` is quick."""
    if given.command in ("console", "attach", "play") and getattr(given, "mock", None) is None:
        leave_out()
    from .cli import pipeline
    from .ui import session

    match given.command:
        case "bench":
            return pipeline.bench(rest)
        case "replay":
            from .cli.replay import replay

            return replay(given)
        case "console" if given.mock is not None:
            return session.mock(given)
        case "console":
            return pipeline.console(config_from_flags(given), given, start=True)
        case "play":
            return session.play(given)
        case "attach" if given.ssh:
            return session.attach_over_ssh(given)
        case "attach":
            given.run = given.run or default_run_directory()
        case "up":
            return pipeline.up(config_from_flags(given), given.foreground, given.json)
        case "transcripts":
            from .cli import transcripts

            return transcripts.run(given)
        case "settings":
            from .cli import settings

            return settings.settings(given)
    config = load_config(given.run)
    match given.command:
        case "attach":
            return pipeline.console(config, given, start=False)
        case "record":
            from .client.recording import record

            return record(config, given)
        case "web":
            from .cli.web import web

            return web(config, given.port)
        case "where":
            return pipeline.where(config, given.json)
        case "status":
            return pipeline.status(config, given.json)
        case "alerts":
            return pipeline.alerts(config, given.json)
        case "down":
            return pipeline.down(config, given.now, given.json)
        case "stop" | "start" | "restart" | "signal":
            from .cli import processes

            return processes.order_process(config, given)
        case "drain":
            return pipeline.drain(config, given.resume, given.json)
        case "abort":
            return pipeline.abort(config, given.request, given.json)
        case "logs":
            return pipeline.logs(config, given.process, given.follow, given.lines, given.json)
        case "doctor":
            return pipeline.doctor(given)
        case "scheduler":
            from .cli import scheduler

            return scheduler.scheduler(config, given)
        case "profile":
            from .cli import profile

            return profile.profile(config, given)
        case "spans":
            from .cli import profile

            return profile.spans(config, given.path, given.trace, given.json)
        case "adapters":
            from .cli import adapters

            if given.verb in (None, "list"):
                return adapters.list_adapters(config, given.json)
            if given.verb == "verify" and given.against:
                from .cli import against

                return against.verify_against(config, given)
            return adapters.give_order(config, given)
        case _:
            return pipeline.prompt(config, given)


def leave_out() -> None:
    """What asyncio (ssl), shutil (bz2, lzma) and Markdown (linkify_it) import where they can, and
    no screen needs: it speaks to unix sockets and, in plain HTTP, to the server. That spares it
    5 MiB. (A mock pipeline's HTTP server cannot do without.)"""
    for name in ("ssl", "bz2", "lzma", "linkify_it"):
        sys.modules[name] = None  # type: ignore[assignment]  # Python's way to say: not to be had


def load_config(run: str) -> Config:
    """The config of the pipeline in `run`; where none ever ran, one that says so when used."""
    try:
        return Config.load(run)
    except OperatorError:
        return Config(run=run).absolute()


def report(error: OperatorError, as_json: bool) -> int:
    """An operator's error as text (or JSON), and its exit status."""
    from .client.failed_adapters import AdaptersFailed, line_of
    from .client.remote import NotRunning
    from .text.units import visible

    document: dict[str, Any] = {"error": error.what, "hint": error.hint}
    if isinstance(error, AdaptersFailed):
        document |= error.document
        for view in error.failed:
            print(f"loraconsole: {line_of(view)}", file=sys.stderr)
    if as_json:
        print(json.dumps(document))
    print(f"loraconsole: {visible(error.what)}", file=sys.stderr)
    if error.hint:
        print(f"  {visible(error.hint)}", file=sys.stderr)
    if isinstance(error, UsageError):
        return USAGE
    return NOT_RUNNING if isinstance(error, NotRunning) else FAILED


if __name__ == "__main__":
    main()
