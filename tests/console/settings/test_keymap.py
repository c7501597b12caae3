"""Every key of every binding is pressed in a real console, and does what its description says."""

import asyncio
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import pytest
from driver import save_adapter
from key_cases import CASES
from ring import Ring, tiny_model
from stage import screen_text, wait

from loraconsole.console.supervisor.launcher import start_again
from loraconsole.console.ui.app import ConsoleApp
from loraconsole.console.ui.bindings import catalogue
from loraconsole.pipeline.config import Config
from loraconsole.pipeline.messages import AdapterView


@pytest.fixture(autouse=True)
def alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Data of its own."""
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path))


def test_every_binding_has_a_case() -> None:
    ids = {binding.id for binding in catalogue()}
    assert ids - set(CASES) == set(), "say in key_cases.py what these do"
    assert set(CASES) - ids == set(), "there is no such binding"


@pytest.mark.slow
@pytest.mark.parametrize(
    ("id", "key"),
    [
        pytest.param(binding.id, key, marks=CASES[binding.id].marks if binding.id in CASES else ())
        for binding in catalogue()
        for key in binding.keys
    ],
)
def test_a_key_does_what_it_says(id: str, key: str) -> None:
    async def main() -> None:
        case = CASES[id]
        async with case.staged() as scene:
            await scene.press(key)
            await case.holds(scene)

    asyncio.run(main())


@pytest.fixture(scope="module")
def real(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Ring]:
    """A pipeline that computes, if only with a tiny model of no sense, and two adapters."""
    root = tmp_path_factory.mktemp("tiny")
    model = tiny_model(root)
    adapters: list[str] = []
    for seed, name in enumerate(("one", "two")):
        adapters += ["--adapter", f"{name}={save_adapter(root / name, model, seed, r=4)}"]
    options = ("--dummy", "--dtype", "float32", "--model", str(model), *adapters)
    with Ring(tmp_path_factory.mktemp("r"), *options) as ring:
        yield ring


@pytest.mark.processes
def test_a_real_pipeline_does_what_keys_order(real: Ring) -> None:
    """Each step: what is pressed, and what the pipeline then says of itself."""

    async def main() -> None:
        config = Config.load(str(real.run))
        app = ConsoleApp(config, starter=partial(start_again, config.run))

        def view() -> AdapterView | None:
            return next((row.view for row in app.board.adapters if row.name == "one"), None)

        def is_pinned() -> bool:
            return bool((adapter := view()) and adapter.pinned)

        def is_merged() -> bool:
            return bool((adapter := view()) and adapter.merged)

        def state(name: str) -> str:
            row = app.board.process(name)
            return row.state.value if row else ""

        def falls() -> int:
            row = app.board.process("detokenizer")
            return row.restarts if row else 0

        def is_shown(*texts: str) -> bool:
            return all(text in screen_text(app) for text in texts)

        async with app.run_test(size=(120, 40), notifications=True) as pilot:
            await wait(lambda: len(app.board.adapters) == 3)
            adapter = view()
            assert adapter is not None
            steps: list[tuple[str, Callable[[], bool]]] = [
                ("4 down p", is_pinned),
                ("p", lambda: not is_pinned()),
                ("m y", is_merged),
                ("m", lambda: not is_merged()),
                ("r", lambda: bool((now := view()) and now.generation > adapter.generation)),
                ("v", lambda: is_shown("verification of one", "largest")),
                (f"escape w ={adapter.path} enter", lambda: is_shown("fits now")),
                ("escape u y", lambda: view() is None),
                (f"l =one enter ={adapter.path} enter", lambda: view() is not None),
                ("8 down down down r y", lambda: falls() == 1 and state("detokenizer") == "ready"),
                ("d y", lambda: state("router") == "draining"),
                ("d", lambda: state("router") == "ready"),
                ("X y", lambda: app.board.condition.word == "STOPPED"),
                ("S", lambda: app.board.condition.word == "READY" and len(app.board.adapters) == 3),
            ]
            for way, holds in steps:
                for word in way.split():
                    await pilot.press(*(word[1:] if word[0] == "=" else [word]))
                    await pilot.pause()
                try:
                    await wait(holds)
                except AssertionError:
                    raise AssertionError(f"after {way}:\n{screen_text(app)}") from None

    asyncio.run(main())
