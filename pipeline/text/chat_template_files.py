"""`read_chat_template`: the chat templates of a directory, from the same files as transformers.

chat_template.jinja and additional_chat_templates/*.jinja, else tokenizer_config.json's
chat_template (one, or several by name), else chat_template.json.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from .chat_template import ChatTemplate

MAIN = "chat_template.jinja"
LEGACY = "chat_template.json"
FOLDER = "additional_chat_templates"
NAMES = ("tool_use", "rag")
"""Templates other than the default that a request can choose."""

Read = Callable[[str], str | None]
"""The text of a file of the directory; None if there is no such file."""


class TemplateFileError(ValueError):
    """A chat template's file cannot be used; the text names the file and the reason."""


def read_chat_template(
    read: Read,
    config: Mapping[str, Any],
    variables: Mapping[str, str],
    origin: str,
    names: Sequence[str] = NAMES,
) -> ChatTemplate | None:
    """The chat templates of the files that `read` returns and of tokenizer_config.json; None if
    there are none.

    `names` are the files to read in additional_chat_templates. Raises `TemplateFileError`.
    """
    sources = {}
    for name in ("default", *names):
        text = read(MAIN if name == "default" else f"{FOLDER}/{name}.jinja")
        if text is not None:
            sources[name] = text
    if not sources:
        sources = _sources(config.get("chat_template"), "tokenizer_config.json")
    if not sources and (text := read(LEGACY)) is not None:
        try:
            found = json.loads(text)
        except (ValueError, RecursionError) as error:
            raise TemplateFileError(f"{LEGACY} is not JSON: {error}") from error
        sources = _sources(found.get("chat_template") if isinstance(found, dict) else found, LEGACY)
    return ChatTemplate(sources, variables, origin) if sources else None


def read_model_template(
    directory: Path, config: Mapping[str, Any], variables: Mapping[str, str]
) -> ChatTemplate | None:
    """The chat templates of a model directory, including every file in additional_chat_templates.
    `config` is tokenizer_config.json. Raises `TemplateFileError`."""

    def read(name: str) -> str | None:
        try:
            return (directory / name).read_text(encoding="utf-8")
        except FileNotFoundError:
            return None
        except (OSError, ValueError) as error:
            raise TemplateFileError(f"{directory / name} is not readable: {error}") from error

    names = sorted(
        path.name.removesuffix(".jinja") for path in (directory / FOLDER).glob("*.jinja")
    )
    return read_chat_template(read, config, variables, "the model", names)


def _sources(found: Any, file: str) -> dict[str, str]:
    """Templates by name: a text is "default"; a list or an object has several."""
    if not found:
        return {}
    if isinstance(found, str):
        return {"default": found}
    if isinstance(found, list) and all(isinstance(entry, dict) for entry in found):
        found = {str(entry.get("name")): entry.get("template") for entry in found}
    if isinstance(found, dict) and all(isinstance(text, str) for text in found.values()):
        return found
    raise TemplateFileError(f"{file}: chat_template is neither a text nor texts by name")
