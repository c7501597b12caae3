"""docs/limits.md names every limit with its figure."""

from __future__ import annotations

import re
from pathlib import Path

from loraconsole.pipeline.config import Config
from loraconsole.pipeline.server.bodies.sampling_fields import MOST_STOP_CHARACTERS, MOST_STOPS
from loraconsole.pipeline.server.gateway import prompt_reader
from loraconsole.pipeline.server.http import request_limits
from loraconsole.pipeline.text import chat_template

ROOT = Path(__file__).parents[3]


def rows() -> dict[str, str]:
    """The limits by what they bound, numbers without their spaces."""
    text = (ROOT / "docs" / "limits.md").read_text()
    cells = [line.split("|") for line in text.splitlines() if line.startswith("| ")]
    return {cell[1].strip(): re.sub(r"(?<=\d) (?=\d{3})", "", cell[2]) for cell in cells}


def test_the_figures_are_those_of_the_code() -> None:
    limits, config = request_limits, Config()
    figures = {
        "body": (f"{config.max_body_mib} MiB",),
        "bodies that are being received, together": (f"{limits.BODY_BYTES_OF_ALL >> 20} MiB",),
        "nesting of a body": (f"{limits.MOST_DEPTH} lists",),
        "values in a body": (f"{limits.MOST_VALUES}",),
        "a number in a body": (f"{limits.MOST_DIGITS} characters",),
        "requests of one body: its prompts times `n`": (f"{config.max_choices}, inputs",),
        "waiting requests": (f"{config.max_waiting}",),
        "… if a token may stand for any length of text": (
            f"{limits.TEXT_BYTES >> 20} MiB",
            f"{limits.TEXT_BYTES_PER_TOKEN} bytes",
        ),
        "a chat template": (
            f"{chat_template.MOST_LOOP_STEPS} turns",
            f"{chat_template.MOST_SECONDS:.0f} s",
        ),
        "texts that wait to be tokenised": (
            f"{limits.MOST_SHORT_TEXTS} short",
            f"{limits.SHORT_TEXT} characters",
            f"{limits.MOST_LONG_TEXTS} longer",
        ),
        "forms of answers that wait to be compiled": (f"{limits.MOST_GRAMMARS}, each",),
        "time until a text is tokenised": (f"{limits.TEXT_SECONDS:.0f} s",),
        "`stop`": (
            f"{MOST_STOPS} strings",
            f"{MOST_STOP_CHARACTERS} characters",
        ),
        "request line's path and query": (f"{limits.MOST_TARGET_BYTES >> 10} KiB",),
        "headers": (f"{limits.MOST_HEADERS},", f"{limits.MOST_HEADER_BYTES >> 10} KiB"),
        "a body in chunks": (f"{limits.MOST_SMALL_CHUNKS} of under {limits.SMALL_CHUNK} bytes",),
        "time for the headers": (f"{limits.HEAD_SECONDS:.0f} s",),
        "time for the body": (f"{limits.BODY_SECONDS:.0f} s",),
        "connections": (f"{config.max_connections},",),
        "… of one client's address": (f"{config.max_connections_per_client}",),
        "reading an answer": (
            f"{limits.SLOW_READER_BYTES >> 10} KiB",
            f"{limits.SLOW_READER_SECONDS:.0f} s",
        ),
    }
    found = rows()
    for what, words in figures.items():
        for word in words:
            assert word in found[what], (what, found[what])


def test_the_prose_has_the_other_figures() -> None:
    text = re.sub(r"(?<=\d) (?=\d{3})", "", (ROOT / "docs" / "limits.md").read_text())
    assert f"up to {prompt_reader.AT_ONCE} characters" in text
    assert f"body** of over {request_limits.MOST_READ_ON >> 20} MiB" in text
    assert f"drops up to {request_limits.LINGER_BYTES >> 20} MiB" in text
    assert f"for up to {request_limits.LINGER_SECONDS:.0f} s" in text
