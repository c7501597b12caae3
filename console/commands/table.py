"""`COMMANDS`: every command of `loraconsole`.

To add one: write its record in this folder, a line here, and a case in `cli/dispatch.py`.
"""

from __future__ import annotations

from typing import NamedTuple

from .adapters import (
    ListAdaptersCommand,
    LoadCommand,
    MergeCommand,
    PinCommand,
    PlanCommand,
    ReloadCommand,
    UnloadCommand,
    UnmergeCommand,
    UnpinCommand,
    VerifyCommand,
)
from .base import Command, PipelineCommand
from .consoles import AttachCommand, PlayCommand, RecordCommand, ReplayCommand, WebCommand
from .inspect import (
    AlertsCommand,
    DoctorCommand,
    LogsCommand,
    SettingsCommand,
    SpansCommand,
    StatusCommand,
    WhereCommand,
)
from .pipeline import (
    AbortCommand,
    BenchCommand,
    DownCommand,
    DrainCommand,
    ProfileCommand,
    PromptCommand,
    SchedulerCommand,
    UpCommand,
)
from .processes import RestartCommand, SignalCommand, StartCommand, StopCommand
from .transcripts import (
    DeleteTranscriptsCommand,
    ExportTranscriptsCommand,
    ListTranscriptsCommand,
    SearchTranscriptsCommand,
    TranscriptsCommand,
)


class CommandGroup(NamedTuple):
    """A command name followed by a verb; the first verb is the default."""

    NAME: str
    HELP: str
    base: type[Command]
    """The base class of its verbs; its options are allowed before or after the verb."""
    verbs: tuple[type[Command], ...]


COMMANDS: tuple[type[Command] | CommandGroup, ...] = (
    UpCommand,
    AttachCommand,
    RecordCommand,
    PlayCommand,
    WebCommand,
    WhereCommand,
    StatusCommand,
    AlertsCommand,
    DownCommand,
    StopCommand,
    StartCommand,
    RestartCommand,
    SignalCommand,
    LogsCommand,
    DrainCommand,
    AbortCommand,
    SchedulerCommand,
    DoctorCommand,
    SettingsCommand,
    CommandGroup(
        "adapters",
        "the adapters of the running pipeline",
        PipelineCommand,
        (
            ListAdaptersCommand,
            LoadCommand,
            UnloadCommand,
            ReloadCommand,
            PinCommand,
            UnpinCommand,
            MergeCommand,
            VerifyCommand,
            UnmergeCommand,
            PlanCommand,
        ),
    ),
    ReplayCommand,
    ProfileCommand,
    SpansCommand,
    CommandGroup(
        "transcripts",
        "saved prompts and answers of the console",
        TranscriptsCommand,
        (
            ListTranscriptsCommand,
            SearchTranscriptsCommand,
            ExportTranscriptsCommand,
            DeleteTranscriptsCommand,
        ),
    ),
    BenchCommand,
    PromptCommand,
)
"""Every command, in the order of `loraconsole --help`."""
