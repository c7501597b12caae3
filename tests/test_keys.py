"""Every key of every binding is pressed in a real console, and does what its description says."""

import asyncio
from pathlib import Path

import pytest
from key_cases import CASES

from loraconsole.console.keys import catalogue


@pytest.fixture(autouse=True)
def alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Data of its own; and Textual's pilot, which naps 40 ms a key, naps less: what a key does
    is waited for anyway."""
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path))
    monkeypatch.setattr("textual._wait.SLEEP_GRANULARITY", 0.005)


def test_every_binding_has_a_case() -> None:
    ids = {binding.id for binding in catalogue()}
    assert ids - set(CASES) == set(), "say in key_cases.py what these do"
    assert set(CASES) - ids == set(), "there is no such binding"


@pytest.mark.parametrize(
    ("id", "key"), [(binding.id, key) for binding in catalogue() for key in binding.keys]
)
def test_a_key_does_what_it_says(id: str, key: str) -> None:
    async def main() -> None:
        case = CASES[id]
        async with case.staged() as scene:
            await scene.press(key)
            await case.holds(scene)

    asyncio.run(main())
