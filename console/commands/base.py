"""Base classes of the commands, and shared options."""

# No future import of annotations: as objects they need not be evaluated for the parser.

from typing import Annotated, Any, ClassVar, Literal, TypeAlias

import msgspec

from ...pipeline.config import Config
from ...pipeline.config_flags import config_from_flags
from ...pipeline.run_directory import default_run_directory
from .argument import Argument

SCREEN = "screen options"
READ_ONLY_HELP = "read-only console: no prompts, no changes"

Json: TypeAlias = Annotated[bool, Argument("one JSON document on stdout")]
RunDirectory: TypeAlias = Annotated[str, Argument("run directory")]
ReadOnly: TypeAlias = Annotated[bool, Argument(READ_ONLY_HELP, group=SCREEN)]
Against: TypeAlias = Annotated[
    Literal["transformers"] | None,
    Argument("compare answers with those of this library (and peft) from the same files"),
]
AgainstTokens: TypeAlias = Annotated[int, Argument("greedy tokens per answer", metavar="N")]


class Command(msgspec.Struct, frozen=True, kw_only=True):
    """A command: its annotated fields are its arguments, `NAME` and `HELP` its line in the list of
    commands. `HELP` also serves as its documentation; few have a docstring."""

    NAME: ClassVar[str] = ""
    HELP: ClassVar[str] = ""
    USAGE: ClassVar[str | None] = None
    """The usage line of a command with too many arguments to list."""
    EPILOG: ClassVar[str | None] = None

    @property
    def as_json(self) -> bool:
        """Whether to print one JSON document, also for an error."""
        return bool(getattr(self, "json", False))


class PipelineCommand(Command, frozen=True, kw_only=True):
    """Base of the commands about the pipeline in a run directory."""

    json: Json = False
    run: RunDirectory = msgspec.field(default_factory=default_run_directory)


class ScreenOptions(msgspec.Struct, frozen=True, kw_only=True):
    """Appearance of the console; None leaves an option to the settings."""

    fps: Annotated[
        float | None,
        Argument("frames per second while the screen changes", metavar="N", group=SCREEN),
    ] = None
    theme: Annotated[
        str | None, Argument("colours; `t` cycles them", metavar="NAME", group=SCREEN)
    ] = None
    ascii: Annotated[bool, Argument("borders, bars and plots in ASCII", group=SCREEN)] = False
    low_bandwidth: Annotated[
        bool | None,
        Argument("at most 5 frames/s; the default over ssh", group=SCREEN),
    ] = None
    no_mouse: Annotated[
        bool, Argument("no mouse in the console; the terminal keeps it", group=SCREEN)
    ] = False
    show_cost: Annotated[
        bool, Argument("show the cost of drawing in one line; also `C`", group=SCREEN)
    ] = False


class RunOptions(msgspec.Struct, frozen=True):
    """Settings of a pipeline as given: by name, or in a TOML file by --config."""

    values: dict[str, Any] = {}

    def config(self) -> Config:
        """The whole configuration. Raises `UsageError` as `config_from_flags` does."""
        return config_from_flags(self.values)
