"""`Finding`: one thing that is known of a model before it is loaded, and whether it is served.

The checks of config.json, of files and of tensors all give findings: a start refuses the bad ones
and says the notes, a report lists all.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Literal

import msgspec

from ..errors import OperatorError

Verdict = Literal["good", "note", "bad"]
SHOWN = 3
"""Bad findings that a refusal spells out; the report has all of them."""


class Finding(msgspec.Struct, frozen=True):
    """`name` is what was looked at (a key, a file, a tensor); `finding` goes on from the name."""

    name: str
    verdict: Verdict
    finding: str
    hint: str = ""
    """What to do about it; empty for what is good."""
    source: str = ""
    """The file it stands in, relative to the model directory."""

    @property
    def text(self) -> str:
        """Name and finding, as in a sentence."""
        return f"{self.name} {self.finding}" if self.name != self.source else self.finding


def require_good(findings: Iterable[Finding], directory: Path) -> None:
    """Raises `OperatorError` with the bad findings: where they stand, and the first hint."""
    bad = [finding for finding in findings if finding.verdict == "bad"]
    if not bad:
        return
    first = bad[0]
    texts = [first.text]
    for other in bad[1:SHOWN]:
        is_elsewhere = other.source and other.source != first.source
        texts.append(f"{other.source}: {other.text}" if is_elsewhere else other.text)
    if len(bad) > SHOWN:
        texts.append(f"and {len(bad) - SHOWN} more")
    where = directory / first.source if first.source else directory
    hint = next((finding.hint for finding in bad if finding.hint), "")
    raise OperatorError(f"{where}: {'; '.join(texts)}", hint)


def notes(findings: Iterable[Finding]) -> list[str]:
    """What an operator should know though the model is served, a line each."""
    return [
        f"{finding.source}: {finding.text}" if finding.source else finding.text
        for finding in findings
        if finding.verdict == "note"
    ]
