"""`read_text` and `read_json`: a text file of a model as editors and downloads leave it.

A byte order mark and UTF-16 are read, which editors and shells on Windows write. A pointer of Git
LFS in the file's place is reported as one, not as a broken file.
"""

from __future__ import annotations

import codecs
import json
import re
from pathlib import Path
from typing import Any

LFS_POINTER = b"version https://git-lfs"
SURROGATE = re.compile(r"\\u[dD][89a-fA-F]")


def read_text(path: Path) -> str:
    """The text. Raises `OSError`, and `ValueError` with the reason where it is none."""
    data = path.read_bytes()
    if data.startswith(LFS_POINTER):
        raise ValueError("it is a Git LFS pointer: the file itself was not downloaded (git lfs)")
    if data.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        return data.decode("utf-16")
    return data.decode("utf-8-sig")


def read_json(path: Path) -> Any:
    """What the file holds. Raises `OSError`, and `ValueError` with the reason."""
    text = read_text(path)
    try:
        value = json.loads(text)
    except RecursionError as error:
        raise ValueError("it is nested too deeply") from error
    if SURROGATE.search(text):  # Python's reader lets half of a pair pass, which no writer takes
        try:
            json.dumps(value, ensure_ascii=False).encode()
        except UnicodeEncodeError as error:
            raise ValueError("it holds half of a surrogate pair, which is no character") from error
    return value
