"""`read_text` and `read_json`: text files of a model, with a byte order mark or in UTF-16 too, as
editors and shells on Windows write them.

A Git LFS pointer in place of the file is reported as such, not as a broken file.
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
    """The text. Raises `OSError`, and `ValueError` with the reason if the file is not text."""
    data = path.read_bytes()
    if data.startswith(LFS_POINTER):
        raise ValueError("it is a Git LFS pointer: the file itself was not downloaded (git lfs)")
    if data.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        return data.decode("utf-16")
    return data.decode("utf-8-sig")


def read_json(path: Path) -> Any:
    """The decoded JSON. Raises `OSError`, and `ValueError` with the reason."""
    text = read_text(path)
    try:
        value = json.loads(text)
    except RecursionError as error:
        raise ValueError("it is nested too deeply") from error
    if SURROGATE.search(text):  # json.loads accepts half of a pair, but it cannot be encoded
        try:
            json.dumps(value, ensure_ascii=False).encode()
        except UnicodeEncodeError as error:
            raise ValueError("it has half of a surrogate pair: not a valid character") from error
    return value
