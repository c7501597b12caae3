"""The command line's parser, made from the records of the commands. Imports no command's code.

`parse` is the only entry point: it returns a record, never an `argparse.Namespace`.
"""

from __future__ import annotations

import argparse
import re
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any, NoReturn, TypeAlias

from ... import __version__
from ...pipeline.config_flags import add_config_flags, add_usual_config_flags, config_fields
from ...pipeline.errors import UsageError
from ..text.near_words import did_you_mean, near_words, or_list, with_choices
from .argument import Argument, arguments_of, usage_of
from .base import Command, RunOptions, ScreenOptions
from .consoles import ConsoleCommand
from .pipeline import BenchCommand
from .table import COMMANDS, CommandGroup

DESCRIPTION = "Serve many LoRA adapters over one base model, from a terminal console."
EPILOG = "Without a command: open the console, and start the pipeline first if none is running."
OVERVIEW = """\
examples:
  loraconsole                      the console; starts the pipeline if none runs
  loraconsole --mock               look around with a simulated pipeline
  loraconsole up --model ./Llama-3.2-1B --adapter sql=./my-sql
  loraconsole attach --read-only   look at a running pipeline, change nothing
  loraconsole attach --ssh HOST    the console here, the pipeline there
  loraconsole prompt --adapter pirate --adapter haiku "Tell me about the sea."

loraconsole COMMAND --help: a command's options.
Exit status: 0 success, 1 failure, 2 wrong usage, 3 no pipeline is running.
"""

if TYPE_CHECKING:
    Group: TypeAlias = argparse.ArgumentParser | argparse._ArgumentGroup


def parse(arguments: Sequence[str]) -> Command:
    """The command of a command line. Raises `UsageError` for a wrong one, with what was probably
    meant; exits 0 after --help or --version."""
    if arguments[:1] == ["bench"]:
        return BenchCommand(flags=tuple(arguments[1:]))
    if arguments and not arguments[0].startswith("-"):
        return parse_with(command_parser(only=arguments[:1]), arguments)
    if arguments and arguments[0] in ("-h", "--help"):
        return parse_with(overview(), arguments)
    return parse_with(console_parser(), arguments)


def parse_with(parser: argparse.ArgumentParser, arguments: Sequence[str]) -> Command:
    """The command that a parser of this module reads from `arguments`. Raises `UsageError`."""
    known, unknown = parser.parse_known_args(arguments)
    given = vars(known)
    if unknown:
        raise _unknown(unknown[0], given["record"])
    return _record(given["record"], given)  # type: ignore[no-any-return]  # set by the parser


def _record(kind: type[Any], given: dict[str, Any]) -> Any:
    """A record of the given values; other fields have their defaults."""
    values: dict[str, Any] = {}
    for name in kind.__struct_fields__:
        if name == "screen":
            values[name] = _record(ScreenOptions, given)
        elif name == "run_options":
            known = {"config", *(field.name for field in config_fields())}
            run_options = {key: given[key] for key in known & given.keys()}
            values[name] = RunOptions({k: v for k, v in run_options.items() if v is not None})
        elif name in given:
            value = given[name]
            values[name] = tuple(value) if isinstance(value, list) else value
    return kind(**values)


FEW = 8
"""Options that a message lists at most."""


# --- what is wrong ------------------------------------------------------------------------------


class CommandParser(argparse.ArgumentParser):
    """Raises `UsageError` for wrong arguments, with what was probably meant."""

    def error(self, message: str) -> NoReturn:
        record = self.get_default("record")
        if found := _CHOICE.fullmatch(message):
            argument, word, listed = found.groups()
            choices = [choice.strip("' ") for choice in listed.split(",")]
            raise _no_choice(argument, word.strip("'"), choices)
        usage = f"{self.prog} {usage_of(arguments_of(record))}".strip() if record else self.prog
        raise UsageError(message, f"usage: {usage}")


_CHOICE = re.compile(r"argument (\S+): invalid choice: (.+?) \(choose from (.*)\)", re.DOTALL)
"""argparse's message for a word that is none of an argument's choices."""


def _no_choice(argument: str, word: str, choices: Sequence[str]) -> UsageError:
    """The error for a word that is none of the choices."""
    if argument != "COMMAND":
        what = f"{argument} cannot be" if argument.startswith("-") else f"no {argument.lower()}"
        return UsageError(f"{what} {word}", with_choices(did_you_mean(word, choices), choices))
    verbs = {verb.NAME: typed_name(verb) for known in _groups() for verb in known.verbs}
    meant = verbs | {name: name for name in choices}
    near = [meant[name] for name in near_words(word, meant)]
    hint = f"did you mean {or_list(near)}? " if near else ""
    return UsageError(f"no command {word}", f"{hint}loraconsole --help lists the commands")


def _unknown(word: str, record: type[Command]) -> UsageError:
    """The error for an argument that a command does not take."""
    name = typed_name(record)
    if not word.startswith("-"):
        usage = f"loraconsole {name} {usage_of(arguments_of(record))}"
        return UsageError(f"{name} takes no argument {word}".strip(), f"usage: {usage}".strip())
    flags = [flag for argument in arguments_of(record) for flag in argument.spellings]
    if "run_options" in record.__struct_fields__:
        flags += [
            "--config",
            "--prefetch",
            *(flag for field in config_fields() for flag in field.flags),
        ]
    option = word.partition("=")[0]
    hint = did_you_mean(option, flags)
    if len(flags) <= FEW:
        hint = with_choices(hint, flags)
    else:
        hint += f" loraconsole {name} --help lists them".replace("  ", " ")
    what = f"{name} has no option" if name else "no option"
    return UsageError(f"{what} {option}", hint.strip())


def typed_name(record: type[Command]) -> str:
    """The words that invoke a command: `status`, `adapters load`; "" for the console."""
    group = next((known.NAME for known in _groups() if record in known.verbs), "")
    return f"{group} {record.NAME}".strip()


def _groups() -> list[CommandGroup]:
    return [known for known in COMMANDS if isinstance(known, CommandGroup)]


# --- parsers ------------------------------------------------------------------------------------


def overview() -> argparse.ArgumentParser:
    """The parser of `loraconsole --help`: the commands, and the options without a command."""
    parser = command_parser(only=())
    parser.usage = "loraconsole [OPTIONS]\n       loraconsole COMMAND [OPTIONS]"
    parser.description = (
        f"{DESCRIPTION}\nWithout a command: the console. It starts the pipeline first if none runs."
    )
    parser.epilog = OVERVIEW
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    add_usual_config_flags(parser)
    _add_all(parser, [each for each in arguments_of(ConsoleCommand) if each.group])
    return parser


def console_parser() -> argparse.ArgumentParser:
    """The parser of `loraconsole [OPTIONS]` without a command."""
    parser = CommandParser(
        "loraconsole", usage="loraconsole [OPTIONS]", description=DESCRIPTION, epilog=EPILOG
    )
    parser.add_argument("--version", action="version", version=__version__)
    _add_arguments(parser, ConsoleCommand)
    return parser


def command_parser(
    kind: type[CommandParser] = CommandParser,
    only: Sequence[str] | None = None,
) -> argparse.ArgumentParser:
    """The parser of `loraconsole COMMAND …`. The console's `:` line passes a `kind` of its own.

    With `only`, the other commands get no arguments: this takes 2 ms instead of 9.
    """
    parser = kind(
        "loraconsole",
        description=DESCRIPTION,
        epilog=f"{EPILOG} Its options: loraconsole --help.",
    )
    parser.add_argument("--version", action="version", version=__version__)
    commands = parser.add_subparsers(
        title="commands", dest="command", metavar="COMMAND", required=True
    )
    for command in COMMANDS:
        added = commands.add_parser(command.NAME, help=command.HELP, description=command.HELP)
        if only is not None and command.NAME not in only:
            continue
        if isinstance(command, CommandGroup):
            _add_verbs(added, command)
        else:
            added.usage, added.epilog = command.USAGE, command.EPILOG
            _add_arguments(added, command)
    return parser


def _add_verbs(parser: argparse.ArgumentParser, group: CommandGroup) -> None:
    """Adds the verbs of a group; their shared options are allowed before the verb too."""
    shared = arguments_of(group.base)
    for argument in shared:
        _add(parser, argument)
    parser.set_defaults(record=group.verbs[0])
    verbs = parser.add_subparsers(dest="verb", metavar="VERB")
    for command in group.verbs:
        added = verbs.add_parser(command.NAME, help=command.HELP, description=command.HELP)
        of_command = (each for each in arguments_of(command) if each not in shared)
        _add_all(added, (*(each._replace(help=None) for each in shared), *of_command))
        added.set_defaults(record=command)


def _add_arguments(parser: argparse.ArgumentParser, command: type[Command]) -> None:
    parser.set_defaults(record=command)
    _add_all(parser, [each for each in arguments_of(command) if not each.group])
    if "run_options" in command.__struct_fields__:
        add_config_flags(parser)
    _add_all(parser, [each for each in arguments_of(command) if each.group])


def _add_all(parser: argparse.ArgumentParser, arguments: Iterable[Argument]) -> None:
    """Adds each argument under the title of its group."""
    groups: dict[str, Group] = {"": parser}
    for argument in arguments:
        if argument.group not in groups:
            groups[argument.group] = parser.add_argument_group(argument.group)
        _add(groups[argument.group], argument)


def _add(parser: Group, argument: Argument) -> None:
    """Adds one argument. If it is not given, it is absent from the result: the record has the
    default."""
    options: dict[str, Any] = {"help": argument.help, "default": argparse.SUPPRESS}
    if argument.is_positional:
        if argument.takes_many:
            options["nargs"] = "+" if argument.is_required else "*"
        elif not argument.is_required:
            options["nargs"] = "?"
    elif argument.kind is bool and argument.is_optional:
        options["action"] = argparse.BooleanOptionalAction
    elif argument.kind is bool:
        options["action"] = "store_true"
    elif argument.takes_many:
        options["action"] = "append"
    if argument.alone is not None:
        options |= {"nargs": "?", "const": argument.alone}
    if argument.takes_value:
        options["metavar"] = argument.metavar
        convert = argument.convert or (argument.kind if argument.kind in (int, float) else None)
        if convert is not None:
            options["type"] = convert
        if argument.choices:
            options["choices"] = argument.choices
    parser.add_argument(*(argument.flags or (argument.name,)), **options)
