"""Kernels made ahead: what this needs of Triton's insides, and what happens without."""

import pytest

pytest.importorskip("triton")

from triton.runtime.jit import JITFunction

from loraconsole.kernels import precompile


def test_the_installed_triton_has_what_is_needed() -> None:
    assert precompile.why_off() == ""


def test_launches_are_replaced_within_alone() -> None:
    launch = JITFunction.run
    with precompile.compiled_ahead(lambda: None, lambda: None):
        assert JITFunction.run is not launch
    assert JITFunction.run is launch


@pytest.mark.parametrize("how", ["no mode", "other parameters"])
def test_without_it_launches_stay_as_they_are(how: str, monkeypatch: pytest.MonkeyPatch) -> None:
    if how == "no mode":
        monkeypatch.setattr(precompile, "AsyncCompileMode", None)
    else:
        monkeypatch.setattr(JITFunction, "run", lambda self, grid, *args: None)
    assert precompile.why_off().startswith("triton ")
    launch = JITFunction.run
    with precompile.compiled_ahead(lambda: None, lambda: None):
        assert JITFunction.run is launch
