"""`Argument`: one argument of a command, i.e. a field of the command's record.

The annotation adds to the field's name, type and default, which are used as they are.
"""

from __future__ import annotations

import types
import typing
from collections.abc import Callable, Collection, Sequence
from functools import cache
from typing import Annotated, Any, Literal, NamedTuple, get_args, get_origin

import msgspec


class Argument(NamedTuple):
    """The spelling and the help of an argument."""

    help: str | None = None
    metavar: str | None = None
    """The placeholder of its value in help texts; None: the name in capitals."""
    short: str = ""
    """The short form of an option: `-f`."""
    is_positional: bool = False
    choices: Collection[str] = ()
    convert: Callable[[str], Any] | None = None
    """Converts the typed word to the value; None: the field's type does."""
    alone: Any = None
    """The value of an option given without one; None: a value is required."""
    group: str = ""
    """Its group's title in the help; "": the default group."""
    name: str = ""
    """The field's name. This field and those below are empty in an annotation."""
    kind: Any = str
    """The field's type, without None."""
    is_optional: bool = False
    """Whether its value may be None."""
    is_required: bool = False

    @property
    def flags(self) -> tuple[str, ...]:
        """An option's names, the long one first; none for a positional argument."""
        if self.is_positional:
            return ()
        return (f"--{self.name.replace('_', '-')}", *((self.short,) if self.short else ()))

    @property
    def spellings(self) -> tuple[str, ...]:
        """Its flags, and `--no-…` of an optional bool."""
        is_yes_or_no = self.kind is bool and self.is_optional
        no = tuple(f"--no-{flag.removeprefix('--')}" for flag in self.flags if is_yes_or_no)
        return (*self.flags, *no)

    @property
    def takes_many(self) -> bool:
        """Whether a positional argument takes all remaining words, or an option may be repeated."""
        return get_origin(self.kind) is tuple

    @property
    def takes_value(self) -> bool:
        """Whether it has a value; False for a plain switch."""
        return self.kind is not bool


@cache
def arguments_of(record: type[msgspec.Struct]) -> tuple[Argument, ...]:
    """The annotated fields of a record and of its nested records, in order."""
    found: list[Argument] = []
    hints = typing.get_type_hints(record, include_extras=True)
    for field in msgspec.structs.fields(record):
        hint = hints[field.name]
        if isinstance(hint, type) and issubclass(hint, msgspec.Struct):
            found += arguments_of(hint)
        elif get_origin(hint) is Annotated:
            kind, argument = get_args(hint)
            is_optional = get_origin(kind) in (types.UnionType, typing.Union)
            if is_optional:
                (kind,) = (each for each in get_args(kind) if each is not types.NoneType)
            found.append(
                argument._replace(
                    name=field.name,
                    kind=kind,
                    choices=get_args(kind) if get_origin(kind) is Literal else argument.choices,
                    is_optional=is_optional,
                    is_required=field.required,
                )
            )
    return tuple(found)


def usage_of(arguments: Sequence[Argument]) -> str:
    """`NAME PATH [--pin]`: without --json and --run, which most commands have."""
    words = []
    for argument in arguments:
        if argument.name in ("json", "run"):
            continue
        if argument.flags:
            value = f" {argument.metavar}" if argument.metavar and argument.takes_value else ""
            words.append(f"[{argument.flags[0]}{value}]")
        else:
            name = (argument.metavar or argument.name).upper()
            name += "…" if argument.takes_many else ""
            words.append(name if argument.is_required else f"[{name}]")
    return " ".join(words)
