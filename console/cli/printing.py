"""Output of commands: a JSON document or a line on stdout, progress bars on stderr."""

from __future__ import annotations

import os
import sys
from typing import Any

import msgspec

from ...pipeline.messages import Progress, Telemetry
from ...pipeline.runtime.json_document import to_document
from ...pipeline.runtime.text_output import json_text
from ..text import units


class Bars:
    """A bar for each stage of the `Progress` messages; without a terminal, a line when it is done.

    A bar shows its last message, so that a finished one no longer changes."""

    def __init__(self) -> None:
        self._bars: dict[tuple[str, str], Any] = {}
        self._terminal = sys.stderr.isatty()

    def show(self, message: Telemetry) -> None:
        if not isinstance(message, Progress):
            return
        if not self._terminal:
            if message.done:
                word = "failed after" if message.failed else "done in"
                stage = units.visible(message.stage)
                took = f"{word} {message.elapsed_s:.1f} s"
                print(f"{message.source}: {stage} {took}", file=sys.stderr)
            return
        key = (message.source, message.stage)
        if key not in self._bars:
            from .progress import StageBar

            self._bars[key] = StageBar(message)
        self._bars[key].show(message)

    def close(self) -> None:
        for bar in self._bars.values():
            bar.close()


def print_json(document: object) -> None:
    """Prints one document; fields of messages and rows by name."""
    encoded = msgspec.json.format(msgspec.json.encode(to_document(document)))
    sys.stdout.write(json_text(encoded) + os.linesep)


def say(document: msgspec.Struct, text: str, as_json: bool) -> None:
    if as_json:
        print_json(document)
    else:
        print(units.visible(text))
