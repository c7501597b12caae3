"""The LoRA tax in words: never a figure without its spread, never an old one without its age."""

from __future__ import annotations

from loraconsole.console.text.lora_tax import tax_figure, tax_spans
from loraconsole.pipeline.runtime.step_statistics import LoraTax

TAX = LoraTax(median=0.41, spread=0.06, pairs=64, base_steps=31, at=1000.0)


def words(tax: LoraTax, now: float, *, is_brief: bool = False) -> str:
    return "".join(text for text, _ in tax_spans(tax, now, is_brief=is_brief))


def test_a_tax_has_its_spread_its_pairs_and_when_it_is_old_its_age() -> None:
    assert words(TAX, 1001.0) == "+41 % ± 6 %  n 64"
    assert words(TAX, 1001.0, is_brief=True) == "+41 % ± 6 %"
    assert words(TAX, 1192.0, is_brief=True) == "+41 % ± 6 %  3 m 12 s ago"


def test_where_it_is_not_certain_the_reason_stands_in_its_place() -> None:
    assert words(LoraTax(), 1001.0) == "— no step to compare"
    assert words(LoraTax(median=-0.43, spread=0.1, pairs=64, base_steps=31), 1001.0) == "— noise"


def test_a_figure_of_nine_cells_has_its_spread_too() -> None:
    assert tax_figure(TAX) == "+41 ± 6 %"
    assert tax_figure(LoraTax(median=1.34, spread=0.25, pairs=64, base_steps=31)) == "+134±25 %"
    assert tax_figure(LoraTax()) == "—"
