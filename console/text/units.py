"""`units`: numbers formatted for an operator, short and of steady width; text fitted to cells.

Knows no widget. Argument names give the units.
"""

from __future__ import annotations

import math
import re
import time
from collections.abc import Callable, Iterable, Sequence
from typing import TypeAlias

from rich.cells import cell_len, set_cell_size

from ...pipeline.messages import LATENCY_BUCKETS_MS
from ...pipeline.runtime.text_output import COMMANDING
from ...pipeline.runtime.text_output import visible as visible  # beside `clean` and `tame`

Formatter: TypeAlias = Callable[[float], str]
"""One of the functions below that make a text of a number."""
ELLIPSIS = "…"
NOTHING = "—"
"""Shown for a value that was not measured."""
_ESCAPES = re.compile(r"\x1b(?:\[[0-?]*[ -/]*[@-~]|\][^\x07\x1b]*(?:\x07|\x1b\\)|[@-_])")


def count(number: float) -> str:
    """`7`, `1 204`, `12.3k`, `4.56M`."""
    if number < 10_000:
        return f"{number:,.0f}".replace(",", " ")
    if number < 1_000_000:
        return f"{number / 1e3:.1f}k"
    return f"{number / 1e6:.2f}M"


def count_noun(number: int, noun: str) -> str:
    """`1 hit`, `2 hits`, `12.3k hits`."""
    return f"{count(number)} {noun}{'' if number == 1 else 's'}"


def rate(per_second: float) -> str:
    """`0`, `2.1`, `128`, `1 204`, `12.3k`: a decimal only below 100."""
    if per_second < 0.05:
        return "0"
    return f"{per_second:.1f}" if per_second < 99.95 else count(per_second)


def tick(number: float) -> str:
    """A round number in at most five cells, for an axis: `0.5`, `1.5`, `140`, `1 200`, `12k`,
    `2.5M`."""
    if number < 10_000:
        return count(number) if number == round(number) else f"{number:.3g}"
    return f"{number / 1e3:.4g}k" if number < 1e6 else f"{number / 1e6:.4g}M"


def size(num_bytes: float) -> str:
    """`512 B`, `97.2 MiB`, `1.43 GiB`."""
    if num_bytes < 1024:
        return f"{num_bytes:.0f} B"
    for unit in ("KiB", "MiB"):
        num_bytes /= 1024
        if num_bytes < 1024:
            return f"{num_bytes:.0f} {unit}" if num_bytes >= 100 else f"{num_bytes:.1f} {unit}"
    return f"{num_bytes / 1024:.2f} GiB"


def duration(seconds: float) -> str:
    """`0.42 s`, `12.3 s`, `3 m 12 s`, `2 h 05 m`, `4 d 3 h`."""
    if seconds < 1:
        return f"{max(0.0, seconds):.2f} s"
    if seconds < 60:
        return f"{seconds:.1f} s"
    return age(seconds)


def age(seconds: float) -> str:
    """Whole units only, so that it changes once a second and then once a minute: `12 s`."""
    whole = max(0, int(seconds))
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} m {whole % 60:02} s"
    if whole < 86400:
        return f"{whole // 3600} h {whole % 3600 // 60:02} m"
    return f"{whole // 86400} d {whole % 86400 // 3600} h"


def ago(seconds: float) -> str:
    """An age on a time axis, in one unit if it is a whole number of them: `40 s`, `60 m`."""
    whole = max(0, round(seconds))
    if whole <= 120:
        return f"{whole} s"
    return f"{whole // 60} m" if whole % 60 == 0 and whole <= 7200 else age(whole)


def uptime(seconds: float) -> str:
    """In minutes or longer, for values that stay on the screen all day: `12 m`, `2 h 05 m`."""
    return f"{max(0, int(seconds)) // 60} m" if seconds < 3600 else age(seconds)


def milliseconds(ms: float | None) -> str:
    """`0.42 ms`, `31.2 ms`, `340 ms`, `1.24 s`, `—` for None. Infinity, which is beyond the last
    bound of the latency histograms, is `> 1000 s`."""
    if ms is None:
        return NOTHING
    if ms == math.inf:
        return f"> {LATENCY_BUCKETS_MS[-1] / 1000:.0f} s"
    if ms < 9.995:
        return f"{ms:.2f} ms"
    if ms < 99.95:
        return f"{ms:.1f} ms"
    if ms < 999.5:
        return f"{ms:.0f} ms"
    return f"{ms / 1000:.{2 if ms < 99_995 else 0}f} s"


def clock(at: float) -> str:
    """Wall-clock time on this machine: `12:03:22`."""
    return time.strftime("%H:%M:%S", time.localtime(at))


def percent(fraction: float) -> str:
    """`0 %` to `100 %`, rounded down: 100 only when complete."""
    return f"{min(int(fraction * 100), 99) if fraction < 1 else 100} %"


def share(fraction: float | None) -> str:
    """`54 %`, `112 %`, `—`: a fraction that may exceed 1."""
    return NOTHING if fraction is None else f"{fraction * 100:.0f} %"


def part(fraction: float | None) -> str:
    """`54 %`, `< 1 %`, `0 %`, `—`: a part of a whole, 0 only if it is nothing."""
    return "< 1 %" if fraction and fraction < 0.005 else share(fraction)


def change(fraction: float | None) -> str:
    """`+41 %`, `-2 %`, `—`: a relative change."""
    return NOTHING if fraction is None else f"{fraction * 100:+.0f} %"


def speed(bytes_s: float | None) -> str:
    """`5.32 GB/s`, `39.3 GB/s`, `871 GB/s`, `3.91 TB/s`, `—`: decimal units, as on data sheets."""
    if bytes_s is None:
        return NOTHING
    value, unit = (bytes_s / 1e9, "GB/s") if bytes_s < 999.5e9 else (bytes_s / 1e12, "TB/s")
    return f"{value:.{2 if value < 9.995 else 1 if value < 99.95 else 0}f} {unit}"


def clean(text: str) -> str:
    """Printable text: escape sequences and characters that control a terminal or the direction of
    writing removed, tabs widened. For answers and log lines; names, paths and reasons keep them as
    escapes (`visible`)."""
    if text.isprintable():
        return text
    return tame(_ESCAPES.sub("", text).replace("\t", "    "))


def tame(text: str) -> str:
    """`text` without those characters, for places with no room for an escape."""
    return COMMANDING.sub("", text)


def glimpse(text: str, width: int = 44) -> str:
    """`first line  +2 lines`, in at most `width` cells: the first line of a text, and how many more
    there are."""
    first, *rest = text.splitlines() or [""]
    more = f"  +{count_noun(len(rest), 'line')}" if rest else ""
    return fit(visible(first), width - len(more)).rstrip() + more


def quoted(names: Sequence[str]) -> str:
    """`sql`, `sql, tax`, `5 names`: the names, or their number if they are many."""
    return ", ".join(names) if len(names) < 3 else f"{len(names)} names"


def fit(text: str, width: int, right: bool = False) -> str:
    """`text` in exactly `width` cells: padded, or cut with an ellipsis."""
    length = len(text) if text.isascii() else cell_len(text)
    if length == width:
        return text
    if length < width:
        return " " * (width - length) + text if right else text + " " * (width - length)
    if width < 1:
        return ""
    return set_cell_size(text, width - 1) + ELLIPSIS


def fit_name(text: str, width: int, differs_at: int | None = None) -> str:
    """`text` in exactly `width` cells: padded, or with an ellipsis in its middle. If that would
    hide the letter `differs_at`, which distinguishes it from others, the ellipsis stands before the
    part that has that letter: `…0017-support-g…`."""
    length = len(text) if text.isascii() else cell_len(text)
    if length <= width:
        return text + " " * (width - length)
    if width < 5:
        return fit(text, width)
    tail = (width - 1) // 2
    if differs_at is not None and width - 1 - tail <= differs_at < len(text) - tail:
        start = max((text.rfind(mark, 0, differs_at) for mark in "-_./"), default=-1) + 1
        return fit(
            ELLIPSIS + text[start if differs_at - start < width - 2 else differs_at :], width
        )
    end = text
    while cell_len(end) > tail:
        end = end[1:]
    return set_cell_size(text, width - 1 - cell_len(end)) + ELLIPSIS + end


def distinct_from(names: Iterable[str]) -> dict[str, int]:
    """The first letter of each name, counted from 0, that no other name shares with all before
    it: by sorting, the others that share most are its neighbours."""
    ordered = sorted(set(names))
    shared = [0, *map(_shared_prefix, ordered, ordered[1:]), 0]
    return {name: max(shared[at], shared[at + 1]) for at, name in enumerate(ordered)}


def _shared_prefix(one: str, other: str) -> int:
    pairs = enumerate(zip(one, other, strict=False))
    return next((at for at, (a, b) in pairs if a != b), min(len(one), len(other)))


def wrap(text: str, width: int) -> list[str]:
    """Lines of at most `width` cells, broken at spaces if possible."""
    lines: list[str] = []
    for paragraph in text.split("\n"):
        line, length = "", 0
        for word in re.findall(r"\S+\s*|\s+", clean(paragraph)):
            word_length = cell_len(word.rstrip())
            if length and length + word_length > width:
                lines.append(line.rstrip())
                line, length = "", 0
            while word_length > width:  # a word longer than a line is cut at its end
                head = set_cell_size(word, width).rstrip() or word[:1]
                lines.append(head)
                word = word[len(head) :]
                word_length = cell_len(word.rstrip())
            line += word
            length += cell_len(word)
        lines.append(line.rstrip())
    return lines
