"""`Finding`: one fact about a model that is known before loading, with its verdict.

All checks of config.json, files and tensors return findings. A start refuses bad ones and prints
the notes; a report lists all.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Literal

import msgspec

from ..errors import OperatorError

Verdict = Literal["good", "note", "bad"]
SHOWN = 3
"""Most bad findings listed in a refusal; the report has all of them."""


class Finding(msgspec.Struct, frozen=True):
    """`name`: a key, a file or a tensor; `finding` completes the sentence that begins with it."""

    name: str
    verdict: Verdict
    finding: str
    hint: str = ""
    """What to do about it; empty for a good finding."""
    source: str = ""
    """The file it is about, relative to the model directory."""

    @property
    def text(self) -> str:
        """Name and finding as one sentence."""
        return f"{self.name} {self.finding}" if self.name != self.source else self.finding


def require_good(findings: Iterable[Finding], directory: Path) -> None:
    """Raises `OperatorError` with the bad findings, their files, and the first hint."""
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
    """The notes, one line each: what an operator should know although the model is served."""
    return [
        f"{finding.source}: {finding.text}" if finding.source else finding.text
        for finding in findings
        if finding.verdict == "note"
    ]
