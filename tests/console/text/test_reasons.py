"""Reasons in narrow places: the cause first, the path last and short."""

from __future__ import annotations

import pytest

from loraconsole.console.text.reasons import reason_first, short_path


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


def test_a_path_keeps_the_part_that_says_which() -> None:
    assert short_path("/home/me/adapters/sql/") == "…/sql"
    assert short_path("/home/me/adapters/sql/adapter_config.json") == "…/sql/adapter_config.json"
    assert short_path("/sql") == "…/sql"
    assert short_path("/home/me/adapters/sql.v2") == "…/adapters/sql.v2"
