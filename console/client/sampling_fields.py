"""`SamplingField`: a sampling parameter as an operator types it, and what the server accepts.

The limits are those of the HTTP API; a test compares them.
"""

from __future__ import annotations

import math
import re
from typing import NamedTuple

MOST_STOPS = 16
MOST_STOP_CHARACTERS = 4096


class SamplingField(NamedTuple):
    """A number of `ChatParams`: its name there, its label on the screen, its limits."""

    name: str
    label: str
    initial: str = ""
    """The text at first; an empty one leaves the parameter to the server."""
    least: float = 0.0
    most: float = math.inf
    is_whole: bool = False
    is_least_excluded: bool = False

    @property
    def rule(self) -> str:
        """`a number from 0 to 100`, `a whole number from 0 to 20`, `a whole number, at least 1`."""
        kind = "a whole number" if self.is_whole else "a number"
        if self.most > 1 << 30:
            return f"{kind}, at least {self.least:g}" if self.least > -(1 << 30) else kind
        if self.is_least_excluded:
            return f"{kind} above {self.least:g}, at most {self.most:g}"
        return f"{kind} from {self.least:g} to {self.most:g}"

    def parse(self, text: str) -> float | None:
        """The number; None if there is none. Raises `ValueError` with the reason."""
        text = text.strip()
        if not text:
            return None
        try:
            number = int(text) if self.is_whole else float(text)
        except ValueError:
            number = math.nan
        is_low = number <= self.least if self.is_least_excluded else number < self.least
        if math.isnan(number) or is_low or number > self.most:
            raise ValueError(f"{self.label}: {text!r} is not {self.rule}")
        return number


SAMPLING_FIELDS = (
    SamplingField("temperature", "temp", "0.7", most=100.0),
    SamplingField("max_tokens", "max", "128", least=1, most=(1 << 31) - 1, is_whole=True),
    SamplingField("top_p", "top p", most=1.0, is_least_excluded=True),
    SamplingField("top_k", "top k", least=-1, most=(1 << 31) - 1, is_whole=True),
    SamplingField("min_p", "min p", most=1.0),
    SamplingField("seed", "seed", least=-(1 << 63), most=(1 << 63) - 1, is_whole=True),
    SamplingField("presence_penalty", "presence", least=-2.0, most=2.0),
    SamplingField("frequency_penalty", "frequency", least=-2.0, most=2.0),
    SamplingField("repetition_penalty", "repetition", most=10.0, is_least_excluded=True),
    SamplingField("logprobs", "logprobs", most=20, is_whole=True),
)


def parse_stops(text: str) -> tuple[str, ...]:
    r"""Stop strings with `|` between them; `\n` is a line end, `\t` a tab, `\|` a bar, `\\` a
    backslash. Raises `ValueError` with the reason."""
    if not text:
        return ()
    found = [""]
    for part in re.findall(r"\\.|\\|[^\\]", text, re.DOTALL):
        if part == "|":
            found.append("")
        else:
            found[-1] += {r"\n": "\n", r"\t": "\t", r"\|": "|", r"\\": "\\"}.get(part, part)
    if len(found) > MOST_STOPS or not all(found):
        raise ValueError(
            f"stop: up to {MOST_STOPS} strings with | between them, none of them empty"
        )
    if sum(map(len, found)) > MOST_STOP_CHARACTERS:
        raise ValueError(f"stop: at most {MOST_STOP_CHARACTERS} characters in all")
    return tuple(found)
