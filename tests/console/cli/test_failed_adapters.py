"""A start with adapters that cannot be loaded: they are named, and nothing is left running."""

import json
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from driver import save_adapter
from pseudo_terminal import PseudoTerminal
from ring import Ring, tiny_model

pytestmark = pytest.mark.processes

OPTIONS = ("--dummy", "--dtype", "float32", "--port", "0", "--max-total-tokens", "2048")
HUB = "nobody-here/no-such-adapter"


@pytest.fixture(scope="module")
def given(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """A model, an adapter of it, and one that is refused."""
    root = tmp_path_factory.mktemp("tiny")
    model = tiny_model(root)
    good = save_adapter(root / "good", model, 0, r=4)
    bad = save_adapter(root / "bad", model, 0, r=4)
    path = Path(bad) / "adapter_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"use_dora": True}))
    return {"model": str(model), "good": str(good), "bad": str(bad)}


@pytest.fixture
def ring(tmp_path: Path) -> Iterator[Ring]:
    ring = Ring(tmp_path / "r")
    yield ring
    ring.cli("down", "--now", check=False)


def flags(given: dict[str, str], *adapters: str) -> list[str]:
    named = (f"{name}={given.get(name, name)}" for name in adapters)
    return [*OPTIONS, "--model", given["model"], *(w for n in named for w in ("--adapter", n))]


def test_up_names_it_stops_the_pipeline_and_exits_1(ring: Ring, given: dict[str, str]) -> None:
    done = ring.cli("up", *flags(given, "good", "bad"), check=False)
    assert done.returncode == 1 and "READY" not in done.stdout
    assert f"adapter bad failed: {given['bad']}/adapter_config.json: use_dora" in done.stderr
    assert "1 adapter of 2 could not be loaded" in done.stderr
    assert "--ignore-failed-adapters" in done.stderr and "adapter good" not in done.stderr
    assert ring.cli("status", check=False).returncode == 3


def test_json_has_its_name_path_and_reason(ring: Ring, given: dict[str, str]) -> None:
    done = ring.cli("up", "--json", *flags(given, "bad"), check=False)
    assert done.returncode == 1
    document = json.loads(done.stdout)
    (failed,) = document["failed_adapters"]
    assert (failed["name"], failed["path"]) == ("bad", given["bad"])
    assert "use_dora" in failed["reason"]
    assert "could not be loaded" in document["error"]


def test_it_starts_without_them_when_told_to(
    ring: Ring, given: dict[str, str], tmp_path: Path
) -> None:
    """By a TOML file; one of a hub that cannot be had is another of them."""
    file = tmp_path / "up.toml"
    file.write_text(
        f'model = "{given["model"]}"\nport = 0\ndummy = true\ndtype = "float32"\n'
        f"ignore-failed-adapters = true\n"
        f'adapter = ["good={given["good"]}", "bad={given["bad"]}", "far={HUB}"]\n'
    )
    done = ring.cli("up", "--json", "--config", str(file))
    document = json.loads(done.stdout)
    assert document["state"] == "ready"
    assert [row["name"] for row in document["failed_adapters"]] == ["bad", "far"]
    assert "adapter bad failed: " in done.stderr
    assert "adapter far failed: " in done.stderr and HUB in done.stderr
    for verb, code in (("status", 0), ("alerts", 1)):
        told = ring.cli(verb, check=False)
        assert told.returncode == code
        assert "adapter bad failed: " in told.stdout and "adapter far failed: " in told.stdout
    listed = ring.cli("adapters", "list").stdout
    assert "bad: " in listed and "far: " in listed
    assert ring.cli("prompt", "--adapter", "good", "--max-tokens", "2", "x").returncode == 0


def test_one_of_a_hub_that_cannot_be_had_ends_the_start_too(
    ring: Ring, given: dict[str, str]
) -> None:
    done = ring.cli("up", *flags(given), "--adapter", HUB, check=False)
    assert done.returncode == 2  # a hub id alone is no NAME=PATH
    done = ring.cli("up", *flags(given), "--adapter", f"far={HUB}", check=False)
    assert done.returncode == 1 and "adapter far failed: " in done.stderr and HUB in done.stderr


def test_the_console_goes_on_and_shows_an_alert(ring: Ring, given: dict[str, str]) -> None:
    command = (sys.executable, "-P", "-m", "loraconsole.console")
    terminal = PseudoTerminal(
        (*command, "--run", str(ring.run), *flags(given, "good", "bad")), (120, 40)
    )
    try:
        terminal.wait_for("adapter bad failed", 60)
        terminal.send("9")
        terminal.wait_for("firing")
        assert "use_dora" in terminal.text
        assert ring.cli("status", check=False).returncode == 0
    finally:
        terminal.close()
