"""The table of a run: rounds, streams, times by what was killed; made of its JSON lines."""

from __future__ import annotations

import statistics
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from typing import Any

HEAD = (
    "fault",
    "rounds",
    "streams accepted",
    "lost",
    "wrong",
    "stuck",
    "connections broken / resumed",
    "unread",
    "whole again s, median / worst",
    "longest pause s, median / worst",
)


def _pair(values: Sequence[float]) -> str:
    return f"{statistics.median(values):.1f} / {max(values):.1f}" if values else "-"


def kill_table(lines: Iterable[dict[str, Any]]) -> str:
    """A Markdown table, a row for each kind of fault. A stream that lives over two rounds is
    counted in both; a kind's columns are sums over its rounds."""
    groups: defaultdict[str, list[dict[str, Any]]] = defaultdict(list)
    for line in lines:
        if "round" in line:
            kind, _, names = line["fault"].partition(" ")
            groups[f"{kind} {' + '.join(sorted(names.split(' + ')))}"].append(line)
    rows = [" | ".join(HEAD), " | ".join("---" for _ in HEAD)]
    for fault in sorted(groups, key=lambda fault: (fault.count("+"), fault)):
        found = groups[fault]
        verdicts: Counter[str] = Counter()
        for line in found:
            verdicts.update(line["verdicts"])
        cells = [
            fault,
            str(len(found)),
            str(sum(line["accepted"] for line in found)),
            *(str(verdicts[name]) for name in ("lost", "wrong", "stuck")),
            f"{sum(line['broken'] for line in found)} / {sum(line['resumed'] for line in found)}",
            str(verdicts["unread"]),
            _pair([line["back_s"] for line in found if line["back_s"] is not None]),
            _pair([line["longest_pause_s"] for line in found]),
        ]
        rows.append(" | ".join(cells))
    return "\n".join(f"| {row} |" for row in rows)


def faults_of(lines: Iterable[dict[str, Any]]) -> list[str]:
    """A sentence for each thing that should not be."""
    found = []
    for line in lines:
        place = f"round {line['round']} ({line['fault']})" if "round" in line else "at the end"
        found += [f"{place}: {fault}" for fault in line.get("faults", ())]
        for bad in line.get("bad", ()):
            found.append(f"{place}: {bad['verdict']} {bad['id']}: {bad['reason'] or bad['faults']}")
    return found
