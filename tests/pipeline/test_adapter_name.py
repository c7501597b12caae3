"""One rule for adapters' names, wherever a name comes from."""

from __future__ import annotations

import pytest

from loraconsole.pipeline.adapter_name import normal, objection
from loraconsole.pipeline.config import Config
from loraconsole.pipeline.errors import UsageError
from loraconsole.pipeline.schedule.adapter_registry import AdapterRefused, AdapterRegistry

BASE = "org/model"
GOOD = [
    "sql",
    "v1.2_final-3",
    "org/name",
    "名前",
    "हिन्दी",
    "ชื่อ",
    "_a",
    "7b",
    "a+b",
    "model",
    "x" * 200,
]
BAD = {
    "": "a name is letters, digits and -_./+, at most 200 characters",
    "a b": "a name is",
    "a:b": "a name is",
    "a@1": "a name is",
    "a=b": "a name is",
    "a,b": "a name is",
    "a\x1b[2J": "a name is",
    "a\u202eb": "a name is",
    "/etc/passwd": "a name is",
    "../x": "a name is",
    "-x": "a name is",
    "x" * 201: "a name is",
    BASE: "it means the base model",
    "/models/a": "a name is",
    "base": "it means the base model",
    "a/pin": "/pin at its end means something else",
    "a/": "/ at its end",
    "a/..": "/.. at its end",
}


@pytest.mark.parametrize("name", GOOD)
def test_a_good_name_is_taken_everywhere(name: str) -> None:
    assert not objection(name, (BASE,))
    assert Config(model=BASE, adapter=(f"{name}=/x",)).adapters() == {name: "/x"}
    assert AdapterRegistry({}, (BASE,), now=0.0).register_adapter(name, "/x", 0.0).name == name


@pytest.mark.parametrize("name", BAD)
def test_a_bad_name_is_refused_everywhere_with_the_rule(name: str) -> None:
    reason = objection(name, (BASE,))
    assert BAD[name] in reason and reason.isprintable() and len(reason) < 400
    with pytest.raises(AdapterRefused) as refused:
        AdapterRegistry({}, (BASE,), now=0.0).register_adapter(name, "/x", 0.0)
    assert (refused.value.status, refused.value.reason) == (400, reason)
    if name and "=" not in name:  # the first = parts a name from its path
        with pytest.raises(UsageError) as wrong:
            Config(model=BASE, adapter=(f"{name}=/x",)).adapters()
        assert reason in str(wrong.value)


def test_a_name_has_one_spelling_whatever_the_keyboard_writes() -> None:
    composed, apart = "caf\u00e9", "cafe\u0301"
    assert objection(composed) == "" and normal(apart) == composed
    assert repr(composed) in objection(apart)


def test_a_name_that_nothing_has_is_refused_with_the_names_there_are() -> None:
    registry = AdapterRegistry({"sql": "/a"}, (BASE,), now=0.0)
    with pytest.raises(AdapterRefused, match=f"known: sql; the base model is '{BASE}'"):
        registry.acquire(f"{BASE}/")
