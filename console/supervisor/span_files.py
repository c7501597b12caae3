"""The ends of a recording's span files, read by the supervisor for a console, which may be on
another machine and parses them in `state/span_tail.py`.
"""

from __future__ import annotations

import os
from pathlib import Path

from ...pipeline.messages import SpanEnds, SpanFile

TAIL_BYTES = 48 << 10
"""Bytes from the end of each file: a few hundred spans, those of a few steps."""
SHOWN = ("router", "worker-0")
"""The processes whose spans show a step."""


def span_ends(run: Path) -> SpanEnds:
    """The current ends of the last recording's files."""
    recordings = sorted(path for path in (run / "spans").glob("*") if path.is_dir())
    if not recordings:
        return SpanEnds("none", "", ())
    stamp, files = recordings[-1].name, []
    for name in SHOWN:
        path = recordings[-1] / f"{name}.jsonl"
        try:
            with path.open("rb") as file:
                size = file.seek(0, os.SEEK_END)
                file.seek(max(0, size - TAIL_BYTES))
                if size > TAIL_BYTES:
                    file.readline()  # the rest of a line that began earlier
                lines = file.read(TAIL_BYTES)
        except OSError:  # this process does not record
            continue
        stamp += f" {name} {size}"
        files.append(SpanFile(name, lines[: lines.rfind(b"\n") + 1]))
    return SpanEnds(stamp, recordings[-1].name, tuple(files))
