"""Grammars that would take seconds or gigabytes to compile, found before they are: a compilation
cannot be ended from outside."""

from __future__ import annotations

import math
import re

MOST_MULTIPLES = 10_000
"""Largest sum of the numbers of `multipleOf` in a grammar, each without its decimal point: an
automaton has a state for each remainder, 6 us to make. (99 991: 0.4 s, and 50 MB.)"""
MULTIPLE = re.compile(r'"multipleOf"\s*:\s*([-+.\deE]+)')
ESCAPE = re.compile(r"\\u00([2-7][\da-fA-F])")
MERGES = re.compile(r'"(allOf|anyOf|oneOf|\$ref)"\s*:')
"""Keywords by which two `multipleOf` may describe one number."""


def cost_fault(text: str) -> str:
    """Why a grammar would take too long to compile; "" if it would not."""
    if "multipleOf" not in text and "\\u" not in text:
        return ""
    text = ESCAPE.sub(lambda found: chr(int(found[1], 16)), text)
    values = {found[1]: _digits(found[1]) for found in MULTIPLE.finditer(text)}
    for shown, digits in values.items():
        if _states(digits) > MOST_MULTIPLES:
            return (
                f"multipleOf {shown[:40]} takes too long to compile: without its decimal point it "
                f"may be at most {MOST_MULTIPLES}, or a power of ten"
            )
    if (total := sum(_states(digits) for digits in values.values())) > MOST_MULTIPLES:
        return (
            f"the numbers of multipleOf are {total} together, without their decimal points, which "
            f"takes too long to compile; at most {MOST_MULTIPLES}"
        )
    if len(values) > 1 and MERGES.search(text):
        common = math.lcm(*(digits for digits in values.values()))
        if _states(common) > MOST_MULTIPLES:
            return (
                "several numbers of multipleOf in a form with allOf, anyOf, oneOf or $ref take too "
                f"long to compile: their least common multiple is {common}; at most "
                f"{MOST_MULTIPLES}"
            )
    return ""


def _digits(number: str) -> int:
    """A number as llguidance scales it: times ten until it is whole, which rounding may delay. 0
    for one that it refuses."""
    try:
        value = abs(float(number))
    except ValueError:
        return 0
    if not math.isfinite(value):
        return 0
    while value % 1:
        value *= 10
    return int(value)


def _states(number: int) -> int:
    """Remainders that an automaton tells apart; few for a power of ten, which only ends in 0s."""
    return 1 if str(number).strip("0") == "1" else number
