"""`comparison_lines`: a replay beside the same log with other settings."""

from __future__ import annotations

from collections.abc import Sequence

from ....pipeline.errors import OperatorError
from ...state import what_if
from ...state.playback import Comparison
from ...text import units
from ...text.lines import TextLine, TextSpan, line

GAP = "  "


def comparison_lines(read: Comparison, width: int) -> list[TextLine]:
    """The figures of both runs, then each adapter's; a sentence while they are computed."""
    try:
        found = read()
    except OperatorError as error:
        return [line((error.what, "bad")), line((error.hint, "dim"))]
    if found is None:
        return [line(("The log is simulated with the changed settings …", "dim"))]
    was, against = map(what_if.describe_settings, (found.was, found.against))
    lines = [
        line(("in the log ", "dim"), (was, "text"), ("   changed to ", "dim"), (against, "warn")),
        line(),
        *_table([what_if.FIGURE_HEADS, *what_if.figure_rows(found)], width),
        line(),
        *_table([what_if.CLIENT_HEADS, *what_if.client_rows(found)], width),
        line(),
        *(line((part, "dim")) for part in units.wrap(what_if.describe_error(found), width)),
    ]
    return lines


def _table(rows: Sequence[Sequence[str]], width: int) -> list[TextLine]:
    """Columns as wide as their longest cell; the last ones are left out where there is no room."""
    widths = [max(len(row[at]) for row in rows) for at in range(len(rows[0]))]
    while len(widths) > 2 and sum(widths) + len(GAP) * (len(widths) - 1) > width:
        widths.pop()
    found = []
    for number, row in enumerate(rows):
        spans: list[TextSpan] = []
        for at, size in enumerate(widths):
            style = "dim" if not number else "text" if not at else "number"
            text = units.fit(row[at], size, right=at > 0)
            spans.append((text if not at else f"{GAP}{text}", style))
        found.append(line(*spans))
    return found
