"""Bases of the commands, and the options that several share."""

# No future import of annotations: as objects they need not be evaluated for the parser.

from typing import Annotated, Any, ClassVar, Literal, TypeAlias

import msgspec

from ...pipeline.config import Config
from ...pipeline.config_flags import config_from_flags
from ...pipeline.run_directory import default_run_directory
from .argument import Argument

SCREEN = "screen options"
READ_ONLY_HELP = "only look: nothing is asked or changed from here"

Json: TypeAlias = Annotated[bool, Argument("one JSON document on stdout")]
RunDirectory: TypeAlias = Annotated[str, Argument("run directory")]
ReadOnly: TypeAlias = Annotated[bool, Argument(READ_ONLY_HELP, group=SCREEN)]
Against: TypeAlias = Annotated[
    Literal["transformers"] | None,
    Argument("compare answers with that library's (and peft's), which read the same files"),
]
AgainstTokens: TypeAlias = Annotated[int, Argument("greedy tokens of each answer", metavar="N")]


class Command(msgspec.Struct, frozen=True, kw_only=True):
    """A command: its annotated fields are its arguments, `NAME` and `HELP` its line in the list of
    commands. `HELP` is what there is to say of a command; few have a docstring beside it."""

    NAME: ClassVar[str] = ""
    HELP: ClassVar[str] = ""
    USAGE: ClassVar[str | None] = None
    """The usage line, where the arguments are too many for one."""
    EPILOG: ClassVar[str | None] = None

    @property
    def as_json(self) -> bool:
        """Whether one JSON document is wanted, of an error as well."""
        return bool(getattr(self, "json", False))


class PipelineCommand(Command, frozen=True, kw_only=True):
    """Base of the commands about the pipeline in a run directory."""

    json: Json = False
    run: RunDirectory = msgspec.field(default_factory=default_run_directory)


class ScreenOptions(msgspec.Struct, frozen=True, kw_only=True):
    """How the console looks; None leaves it to the settings."""

    fps: Annotated[
        float | None, Argument("frames a second while it moves", metavar="N", group=SCREEN)
    ] = None
    theme: Annotated[
        str | None, Argument("colours; `t` cycles them", metavar="NAME", group=SCREEN)
    ] = None
    ascii: Annotated[bool, Argument("borders, bars and plots in ASCII", group=SCREEN)] = False
    low_bandwidth: Annotated[
        bool | None,
        Argument("spare the line: 5 frames/s at most; over ssh by itself", group=SCREEN),
    ] = None
    no_mouse: Annotated[bool, Argument("leave the mouse to the terminal", group=SCREEN)] = False
    show_cost: Annotated[
        bool, Argument("what the screen costs, in a line; `C` as well", group=SCREEN)
    ] = False


class RunOptions(msgspec.Struct, frozen=True):
    """Settings of a pipeline as they were given: by name, or by --config in a TOML file."""

    values: dict[str, Any] = {}

    def config(self) -> Config:
        """The whole configuration. Raises `UsageError` as `config_from_flags` does."""
        return config_from_flags(self.values)
