"""Calls the code that carries out a command, which is imported here, so that `--help` is quick."""

from __future__ import annotations

import gc
import sys
from typing import assert_never

from ...pipeline.config import Config
from ...pipeline.errors import OperatorError
from ...pipeline.run_directory import default_run_directory
from ..commands import adapters, consoles, inspect, pipeline, processes, transcripts
from ..commands.base import Command, PipelineCommand


def dispatch(command: Command) -> int:
    """Carries out the command; returns the exit status. Raises `OperatorError` if it is refused."""
    match command:
        case PipelineCommand():
            return _about_a_pipeline(command, load_config(command.run))
        case consoles.ConsoleCommand() | consoles.AttachCommand() | consoles.PlayCommand():
            return _console(command)
        case consoles.ReplayCommand():
            from .replay import run_replay

            return run_replay(command)
        case pipeline.UpCommand():
            from .pipeline import up

            return up(command.run_options.config(), command)
        case pipeline.BenchCommand():
            from .bench import bench

            return bench(command)
        case inspect.SettingsCommand():
            from .settings import settings

            return settings(command)
        case transcripts.TranscriptsCommand():
            from .transcripts import run

            return run(command)
    raise NotImplementedError(command)


def _console(
    command: consoles.ConsoleCommand | consoles.AttachCommand | consoles.PlayCommand,
) -> int:
    gc.disable()  # until the first frame, `ConsoleApp._start`: imports leave no garbage to look for
    if not isinstance(command, consoles.ConsoleCommand) or command.mock is None:
        leave_out()
    from ..ui import session
    from .console import console

    match command:
        case consoles.PlayCommand():
            return session.play(command)
        case consoles.ConsoleCommand(mock=int(seed)):
            return session.mock(seed, command.screen, command.read_only)
        case consoles.ConsoleCommand():
            return console(command.run_options.config(), command)
        case consoles.AttachCommand(ssh=str(host)):
            return session.attach_over_ssh(host, command)
        case consoles.AttachCommand():
            return console(load_config(command.run or default_run_directory()), command)
    assert_never(command)


def _about_a_pipeline(command: PipelineCommand, config: Config) -> int:
    from . import inspect as look
    from . import pipeline as whole

    match command:
        case consoles.RecordCommand():
            from .record import record

            return record(config, command)
        case consoles.WebCommand():
            from .web import web

            return web(config, command.port)
        case inspect.WhereCommand():
            return look.where(config, command)
        case inspect.StatusCommand():
            return look.status(config, command)
        case inspect.AlertsCommand():
            return look.alerts(config, command)
        case inspect.LogsCommand():
            return look.logs(config, command)
        case inspect.DoctorCommand():
            from .doctor import doctor

            return doctor(command)
        case inspect.SpansCommand():
            from .profile import spans

            return spans(config, command)
        case pipeline.DownCommand():
            return whole.down(config, command)
        case pipeline.DrainCommand():
            return whole.drain(config, command)
        case pipeline.AbortCommand():
            return whole.abort(config, command)
        case pipeline.SchedulerCommand():
            from .scheduler import scheduler

            return scheduler(config, command)
        case pipeline.ProfileCommand():
            from .profile import profile

            return profile(config, command)
        case pipeline.PromptCommand():
            from .prompt import prompt

            return prompt(config, command)
        case processes.ProcessCommand():
            from .processes import order_process

            return order_process(config, command)
        case adapters.ListAdaptersCommand():
            from .adapters import list_adapters

            return list_adapters(config, command)
        case adapters.VerifyCommand(against=str()):
            from .against import verify_against

            return verify_against(config, command)
        case adapters.AdapterCommand():
            from .adapters import give_order

            return give_order(config, command)
    raise NotImplementedError(command)


def leave_out() -> None:
    """Keeps modules from being imported that the console does not need: it uses unix sockets and
    plain HTTP. asyncio (ssl), shutil (bz2, lzma) and markdown-it (linkify_it) work without them. An
    idle console takes 41.1 MiB, with them 45.5; a busy one 44.9 and 49.5 (medians of 6, in turns).
    A mock pipeline's HTTP server needs them."""
    for name in ("ssl", "bz2", "lzma", "linkify_it"):
        sys.modules[name] = None  # type: ignore[assignment]  # importing it raises ImportError


def load_config(run: str) -> Config:
    """The config of the pipeline in `run`; a default one if none ever ran there, so that the
    command reports `NotRunning`."""
    try:
        return Config.load(run)
    except OperatorError:
        return Config(run=run).absolute()
