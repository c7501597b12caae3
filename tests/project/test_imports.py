"""The floors of the house, proved in a fresh interpreter each."""

from __future__ import annotations

import subprocess
import sys

import pytest

pytestmark = pytest.mark.processes

HEAVY = ("torch", "triton", "transformers")


def imported_by(module: str) -> set[str]:
    """Names of all modules loaded after `import module`, in a process of its own."""
    code = f"import sys, {module}; print('\\n'.join(sys.modules))"
    done = subprocess.run(
        [sys.executable, "-P", "-c", code], capture_output=True, text=True, check=True
    )
    return set(done.stdout.split())


@pytest.mark.parametrize(
    "module",
    [
        "loraconsole.console.__main__",
        "loraconsole.console.cli.pipeline",
        "loraconsole.console.ui.app",
        "loraconsole.console.supervisor.supervisor",
        "loraconsole.console.cli.bench_compare",
        "loraconsole.pipeline.fetch.fetch",
        "loraconsole.pipeline.bench.bench",
        "loraconsole.pipeline.router.router",
        "loraconsole.pipeline.server.server",
        "loraconsole.pipeline.detokenizer",
        "loraconsole.pipeline.worker",  # imports torch after its first beat
    ],
)
def test_nobody_but_the_model_pays_for_torch(module: str) -> None:
    assert not imported_by(module) & set(HEAVY)


def test_the_supervisor_pays_for_no_screen() -> None:
    loaded = imported_by("loraconsole.console.supervisor.supervisor")
    assert not loaded & {"textual", "rich"}


def test_the_command_line_parses_before_it_imports() -> None:
    loaded = imported_by("loraconsole.console.__main__")
    assert not loaded & {"textual", "rich", "zmq", "httpx", "asyncio"}


def test_a_screen_pays_for_no_tls() -> None:
    """The prompt included, which asks the server over plain HTTP."""
    loaded = imported_by(
        "loraconsole.console.cli.dispatch as cli; cli.leave_out()"
        "; import loraconsole.console.ui.app, loraconsole.console.ui.panels.prompt"
    )
    assert "loraconsole.console.client.http_client" in loaded
    assert not loaded & {"_ssl", "httpx", "anyio"}


def test_contracts_are_kept() -> None:
    """The import-linter contracts of pyproject.toml."""
    from importlinter.cli import lint_imports

    assert lint_imports(no_cache=True) == 0
