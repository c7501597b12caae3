"""`Config` from the command line: a flag for each field, TOML, environment.

Flags are made from the fields of `Config`; a field is declared nowhere else.
"""

from __future__ import annotations

import argparse
import os
import re
import tomllib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Literal, get_args, get_origin, get_type_hints

import msgspec
from msgspec import Meta

from .api_keys import KEY_VARIABLES, read_key
from .config import DEFAULT_MODEL, Config, flag_of, shipped_adapters
from .errors import UsageError

ABLATION = "ablation: "
USUAL = (
    *("run", "model", "adapter", "dummy", "device", "dtype", "tp", "host", "port"),
    *("scheduler", "max_total_tokens"),
)
TUPLE_METAVARS = {
    "fair_weight": "NAME=W",
    "ignore_key": "KEY",
    "served_model_name": "NAME",
    "allow_host": "NAME",
    "allow_origin": "URL",
}
"""Placeholders of repeatable flags other than NAME=PATH."""


class ConfigField(msgspec.Struct, frozen=True):
    """A field of `Config`, with the parts of its flag."""

    name: str
    kind: Any
    help: str

    @property
    def flag(self) -> str:
        return flag_of(self.name)

    @property
    def is_yes_or_no(self) -> bool:
        """Whether it has a second flag, `--no-…`, because without either it has a third value."""
        return bool(self.kind == (bool | None))

    @property
    def flags(self) -> tuple[str, ...]:
        """All its flags."""
        opposite = (f"--no-{self.flag.removeprefix('--')}",) if self.is_yes_or_no else ()
        return (self.flag, *opposite)

    @property
    def metavar(self) -> str:
        """The placeholder of its value in the help."""
        if get_origin(self.kind) is tuple:
            return TUPLE_METAVARS.get(self.name, "NAME=PATH")
        if get_origin(self.kind) is Literal:
            return "NAME"
        return {int: "N", float: "S"}.get(self.kind, self.name.upper())

    @property
    def short(self) -> str:
        """The help up to its first explanation."""
        return re.split(r"[;:(]", self.help)[0].strip()


def config_fields() -> Iterator[ConfigField]:
    """Every setting, in order of declaration."""
    for name, annotation in get_type_hints(Config, include_extras=True).items():
        kind, *extras = get_args(annotation)
        yield ConfigField(
            name, kind, next(e.description for e in extras if isinstance(e, Meta)) or ""
        )


def add_config_flags(parser: argparse.ArgumentParser) -> None:
    """Adds one flag per field. A flag not given sets nothing, so that the TOML value applies."""
    group = parser.add_argument_group("run options")
    group.add_argument(
        "--config", metavar="FILE", help="TOML file of these settings; flags win over it"
    )
    ablations = parser.add_argument_group("ablations", "what the parts cost, by leaving them out")
    for field in config_fields():
        _add_flag(ablations if field.help.startswith(ABLATION) else group, field)
    ablations.add_argument(
        "--prefetch",
        dest="no_prefetch",
        action="store_false",
        default=argparse.SUPPRESS,
        help="the default: undoes no-prefetch of a --config file",
    )


def add_usual_config_flags(parser: argparse.ArgumentParser) -> None:
    """Adds the most used flags, a line each, for an overview that parses nothing."""
    group = parser.add_argument_group("run options", "the usual ones; all: loraconsole up --help")
    for field in config_fields():
        if field.name in USUAL:
            _add_flag(group, field, metavar=None if field.kind is bool else field.metavar)


def _add_flag(
    group: argparse._ArgumentGroup, field: ConfigField, metavar: str | None = None
) -> None:
    help = field.short if metavar else field.help.removeprefix(ABLATION)
    options: dict[str, Any] = {"help": help, "default": argparse.SUPPRESS}
    if field.kind is bool:
        options["action"] = "store_true"
    elif field.is_yes_or_no:
        options["action"] = argparse.BooleanOptionalAction
    elif get_origin(field.kind) is Literal:
        options |= {"choices": get_args(field.kind), "metavar": metavar}
    else:
        options["metavar"] = field.metavar
    if field.name == "served_model_name":  # as in vLLM: several names after one flag
        options |= {"action": "extend", "nargs": "+"}
    elif get_origin(field.kind) is tuple:
        options["action"] = "append"
    elif field.kind in (int, float):
        options["type"] = field.kind
    group.add_argument(field.flag, **options)


def config_from_flags(given: Mapping[str, Any]) -> Config:
    """The `Config` of the flags `given`, by field name; the TOML file is "config". Flags win over
    the file, the file over the environment's keys, and those over the defaults."""
    values: dict[str, Any] = {}
    if file := given.get("config"):
        values |= _read_toml(Path(file))
    sources = dict.fromkeys(values, f"--config {file}")
    for name, variable in KEY_VARIABLES.items():
        if name not in values and (key := os.environ.get(variable)):
            values[name], sources[name] = key, f"${variable}"
    values |= {f.name: given[f.name] for f in config_fields() if f.name in given}
    for name in KEY_VARIABLES:
        if isinstance(key := values.get(name), str):
            values[name] = read_key(key, flag_of(name) if name in given else sources[name])
    if "adapter" not in values and values.get("model", DEFAULT_MODEL) == DEFAULT_MODEL:
        values["adapter"] = shipped_adapters()
    try:
        return msgspec.convert(values, Config).absolute()
    except msgspec.ValidationError as error:
        reason, _, at = str(error).partition(" - at ")
        field = at.strip("`$.").replace("_", "-")
        raise UsageError(f"--{field}: {reason.lower()}", "see loraconsole up --help") from error


def _read_toml(path: Path) -> dict[str, Any]:
    try:
        values = tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise UsageError(f"cannot read {path}: {error.strerror}") from error
    except ValueError as error:  # not TOML, or not UTF-8
        raise UsageError(f"{path} is not TOML: {error}") from error
    known = {f.name for f in config_fields()}
    values = {name.replace("-", "_"): value for name, value in values.items()}
    if unknown := sorted(set(values) - known):
        raise UsageError(
            f"{path} has unknown settings: {', '.join(unknown)}",
            f"known are {', '.join(sorted(known))}",
        )
    return values
