"""`reason_first`: reasons of errors for a narrow place, the cause first and paths short;
`cause_first`: the same with whole paths."""

from __future__ import annotations

import re

_PATH = r"(?:~|\.{1,2})?(?:/[^\s/:;,'\"()]+){2,}/?"
_LEADING = re.compile(rf"^((?:adapter \S+|\S+) failed: )?({_PATH}): (?=\S)(.+)$", re.DOTALL)
_SUBJECT = re.compile(rf"^((?:adapter \S+|\S+) failed: )?({_PATH}) (?=\S)(.+)$", re.DOTALL)
_ANY = re.compile(rf"(?<![\w/.~…-]){_PATH}")


def reason_first(text: str) -> str:
    """`no rank (…/sql/adapter_config.json)` for `/home/me/adapters/sql/adapter_config.json: no
    rank`. An absolute path at the start goes to the end, after the word `failed:` if that is there;
    so does the file that a sentence is about (`cut short (…/sql/adapter_model.safetensors)` for
    `… is cut short`). Each path is shortened (`short_path`). URLs and hub ids stay."""
    if found := _LEADING.match(text):
        head, path, cause = found.groups()
        return f"{head or ''}{_shortened(cause)} ({short_path(path)})"
    if (found := _SUBJECT.match(text)) and _is_file(found[2]):
        head, path, cause = found.groups()
        return f"{head or ''}{_shortened(cause.removeprefix('is '))} ({short_path(path)})"
    return _shortened(text)


def cause_first(text: str) -> str:
    """`no rank (/home/me/adapters/sql/adapter_config.json)`: as `reason_first`, with whole paths,
    for a place where the text is wrapped."""
    if found := _LEADING.match(text):
        head, path, cause = found.groups()
        return f"{head or ''}{cause} ({path})"
    return text


def _shortened(text: str) -> str:
    return _ANY.sub(lambda found: short_path(found[0]), text)


def short_path(path: str) -> str:
    """`…/sql` for a directory, `…/sql/adapter_config.json` for a file in it."""
    parts = path.rstrip("/").split("/")
    kept = parts[-2:] if _is_file(path) else parts[-1:]
    return path if len(kept) == len(parts) else "/".join(("…", *kept))


def _is_file(path: str) -> bool:
    """Whether the last part of a path has an extension."""
    return "." in path.rstrip("/").rpartition("/")[2].lstrip(".")
