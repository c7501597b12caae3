"""Writes one setting into the settings file, which is made if there is none."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path
from typing import Any, Literal, get_args, get_origin

import msgspec

from ...pipeline.errors import OperatorError
from ...pipeline.private_files import private_umask
from ..text.near_words import did_you_mean, with_choices
from .settings import allowed_words, setting_fields, settings_path, theme_names
from .toml_document import Document, DocumentError, tidy
from .toml_edit import drop_value, set_value

TRUE, FALSE = ("true", "yes", "on", "1"), ("false", "no", "off", "0")


def choices_of(name: str) -> tuple[Any, ...]:
    """The values of a setting that has few: those of a switch or an enumeration; else none."""
    field = setting_fields().get(name)
    if field is None:
        return ()
    kind = get_args(field[0])[0]
    if kind is bool:
        return (False, True)
    return get_args(kind) if get_origin(kind) is Literal else ()


def parse_setting(name: str, text: str) -> Any:
    """The value that was typed for a setting. Raises `ValueError` with the values allowed."""
    text = text.strip()
    field = setting_fields().get(name)
    if field is None:  # of the key map; `check_key_map` knows the keys
        return text
    annotated = field[0]
    kind = get_args(annotated)[0]
    value: Any = text
    try:
        if kind is bool:
            value = {**dict.fromkeys(TRUE, True), **dict.fromkeys(FALSE, False)}[text.lower()]
        elif kind in (int, float):
            value = kind(text)
        value = msgspec.convert(value, annotated)
    except (KeyError, ValueError):  # a validation error of msgspec is a ValueError
        raise ValueError(f"{text or 'nothing'} is not {allowed_words(name)}") from None
    if name == "theme" and value not in (known := theme_names()):
        raise ValueError(f"no theme {value}; {with_choices(did_you_mean(value, known), known)}")
    return value


def write_setting(name: str, value: Any) -> Path:
    """Writes the value into the file, or for None takes the setting out of it, so that its default
    holds; returns the file's path. Raises `OperatorError` if the file cannot be read, changed or
    written."""
    path = settings_path()
    try:
        document = Document.read(path) if path.exists() else Document(tidy(str(path)), {}, "")
        names = name.split(".", 1)
        text = drop_value(document, names) if value is None else set_value(document, names, value)
    except DocumentError as error:
        raise OperatorError(str(error.problem), "correct it in the file") from error
    if text == document.text:
        return path
    try:
        _replace(path, text)
    except OSError as error:
        raise OperatorError(f"cannot write {tidy(str(path))}: {error.strerror}") from error
    return path


def _replace(path: Path, text: str) -> None:
    """Replaces the file at once: a reader sees the old text or the new one. A link stays one; a new
    file is readable by its owner alone."""
    with private_umask():
        path.parent.mkdir(parents=True, exist_ok=True)
    target = path.resolve()
    mode = target.stat().st_mode & 0o777 if target.exists() else 0o600
    handle, temporary = tempfile.mkstemp(dir=target.parent, prefix=f".{target.name}.")
    try:
        with os.fdopen(handle, "w", encoding="utf-8") as file:
            file.write(text)
        os.chmod(temporary, mode)
        os.replace(temporary, target)
    except BaseException:
        os.unlink(temporary)
        raise
