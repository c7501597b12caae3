"""`LineServer`: the process's end of a `LineClient`: lines of JSON on stdin and stdout.

Output of libraries is redirected to stderr, so that stdout carries only answers.
"""

from __future__ import annotations

import os
import sys
from typing import Any

import msgspec

from ..errors import OperatorError
from .reference import ReferenceRefusal


class LineServer:
    def __init__(self) -> None:
        self._answers = os.fdopen(os.dup(sys.stdout.fileno()), "wb")
        os.dup2(sys.stderr.fileno(), sys.stdout.fileno())

    def read(self, kind: Any) -> Any:
        """The next question, a struct of `kind` or of one of its types; None at end of input."""
        line = sys.stdin.buffer.readline()
        return msgspec.json.decode(line, type=kind) if line else None

    def write(self, answer: msgspec.Struct) -> None:
        self._answers.write(msgspec.json.encode(answer) + b"\n")
        self._answers.flush()

    def refuse(self, error: OperatorError) -> None:
        self.write(ReferenceRefusal(error.what, error.hint))
