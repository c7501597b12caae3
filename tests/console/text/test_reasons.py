"""Reasons, names and times in narrow places: the cause first, the path last, names cut in their
middle."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.cells import cell_len

from loraconsole.console.text import units
from loraconsole.console.text.reasons import cause_first, reason_first, short_path


@pytest.mark.parametrize(
    ("whole", "shown"),
    [
        (
            "/home/me/adapters/trunc/adapter_model.safetensors: the file is cut off",
            "the file is cut off (…/trunc/adapter_model.safetensors)",
        ),
        (
            "adapter trunc failed: /home/me/adapters/trunc/adapter_config.json: use_dora",
            "adapter trunc failed: use_dora (…/trunc/adapter_config.json)",
        ),
        (
            "adapter trunc failed: /home/me/trunc/adapter_model.safetensors is cut short: no end",
            "adapter trunc failed: cut short: no end (…/trunc/adapter_model.safetensors)",
        ),
        (
            "/home/me/adapters/trunc is empty; an adapter is a directory with files",
            "…/trunc is empty; an adapter is a directory with files",
        ),
        ("no adapter_config.json in /home/me/adapters/x", "no adapter_config.json in …/x"),
        ("worker-0 failed: no memory", "worker-0 failed: no memory"),
        ("it takes 12/16 pages", "it takes 12/16 pages"),
        ("see https://huggingface.co/org/name/tree/main", None),
        ("org/name is a hub id: not found", None),
        ("adapter x failed: org/name: not found", None),
        ("/a/b.json: /a/b.json: twice", "…/a/b.json: twice (…/a/b.json)"),
        ("", ""),
    ],
)
def test_the_cause_stands_before_the_path(whole: str, shown: str | None) -> None:
    assert reason_first(whole) == (whole if shown is None else shown)


def test_where_a_text_is_wrapped_its_paths_stay_whole() -> None:
    path = "/home/me/adapters/trunc/adapter_model.safetensors"
    assert cause_first(f"{path}: the file is cut off") == f"the file is cut off ({path})"
    assert cause_first(f"no adapter_config.json in {path}") == f"no adapter_config.json in {path}"


def test_a_path_keeps_the_part_that_says_which() -> None:
    assert short_path("/home/me/adapters/sql/") == "…/sql"
    assert short_path("/home/me/adapters/sql/adapter_config.json") == "…/sql/adapter_config.json"
    assert short_path("/sql") == "…/sql"
    assert short_path("/home/me/adapters/sql.v2") == "…/adapters/sql.v2"


@pytest.mark.parametrize(
    ("width", "shown"),
    [
        (46, "customer-support-german-formal-v2.17-rc1-final"),
        (48, "customer-support-german-formal-v2.17-rc1-final  "),
        (20, "customer-s…rc1-final"),
        (11, "custo…final"),
        (5, "cu…al"),
        (4, "cus…"),
        (0, ""),
    ],
)
def test_a_name_is_cut_in_its_middle(width: int, shown: str) -> None:
    found = units.fit_name("customer-support-german-formal-v2.17-rc1-final", width)
    assert found == shown


@given(text=st.text("añ名-😀x", max_size=30), width=st.integers(0, 20))
def test_a_cut_name_fills_its_cells_exactly(text: str, width: int) -> None:
    assert cell_len(units.fit_name(text, width)) == width


@given(ms=st.floats(0, 9e5))
def test_a_rounded_time_has_at_most_seven_cells(ms: float) -> None:
    assert len(units.milliseconds(ms)) <= 7
    assert not units.milliseconds(ms).startswith("1000")


def test_names_that_differ_in_their_middle_stay_different() -> None:
    names = [f"customer-{number:04}-support-german-rc1-final" for number in range(300)]
    names += ["sql", "sql-v2", "a-name-that-shares-nothing-with-any-other-one"]
    differs_at = units.distinct_from(names)
    for width in (13, 16, 24, 33):
        shown = {units.fit_name(name, width, differs_at[name]) for name in names}
        assert len(shown) == len(names)
    assert units.fit_name(names[17], 16, differs_at[names[17]]) == "…0017-support-g…"
    assert units.fit_name(names[-1], 16, differs_at[names[-1]]) == "a-name-t…her-one"
    assert units.fit_name("sql-v2", 8, differs_at["sql-v2"]) == "sql-v2  "


@given(st.lists(st.text("ab", min_size=1, max_size=6), min_size=1, max_size=8))
def test_the_letter_by_which_a_name_differs_is_the_first_that_tells_it_apart(
    names: list[str],
) -> None:
    for name, at in units.distinct_from(names).items():
        others = {other for other in names if other != name}
        assert all(other[: at + 1] != name[: at + 1] or at == len(name) for other in others)
        assert at == 0 or any(other[:at] == name[:at] for other in others)
