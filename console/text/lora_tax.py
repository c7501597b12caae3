"""The LoRA tax in words: `+41 % ± 6 %  n 64`, or `—` and why none is stated."""

from __future__ import annotations

from ...pipeline.runtime.step_statistics import LoraTax
from . import units
from .lines import TextSpan

OLD_S = 5.0
"""Age from which a tax is shown with its age."""


FIGURE_CELLS = 9


def tax_figure(tax: LoraTax) -> str:
    """`+41 ± 6 %` or `—`, in at most nine cells unless the tax is beyond all measure."""
    if tax.value is None:
        return units.NOTHING
    middle, spread = f"{tax.value * 100:+.0f}", f"{tax.spread * 100:.0f} %"
    wide = f"{middle} ± {spread}"
    return wide if len(wide) <= FIGURE_CELLS else f"{middle}±{spread}"


def tax_spans(tax: LoraTax, now: float, *, is_brief: bool = False) -> tuple[TextSpan, ...]:
    """`+41 % ± 6 %  n 64  3 m ago`; in brief without the number of pairs. The age is shown unless
    the newest pair is recent; `now` is unix seconds."""
    if tax.value is None:
        return ((units.NOTHING, "number"), (f" {tax.doubt}", "dim"))
    found = [(units.change(tax.value), "number"), (f" ± {units.share(tax.spread)}", "dim")]
    if not is_brief:
        found.append((f"  n {tax.pairs}", "dim"))
    if now - tax.at >= OLD_S:
        found.append((f"  {units.age(now - tax.at)} ago", "warn"))
    return tuple(found)
