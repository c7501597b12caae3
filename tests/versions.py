"""The quick tests with the lowest and with the newest versions that pyproject.toml allows.

    python tests/versions.py [lowest|newest ...] [--keep DIRECTORY] [-- PYTEST ARGUMENTS]

For each it makes a virtual environment of what `uv` finds for the direct dependencies (those of
the tests too) in the package registry. torch and triton, which are large, are those of the Python
that runs this. Exits 1 if any test failed.
"""

from __future__ import annotations

import argparse
import re
import subprocess
import sys
import tempfile
import venv
from importlib.util import find_spec
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
RESOLUTIONS = {"lowest": "lowest-direct", "newest": "highest"}
BORROWED = ("torch", "torchgen", "functorch", "triton")
"""Packages that are linked rather than installed."""
LEFT_OUT = re.compile(r"(torch|triton|cuda|nvidia)[-_=]")
"""What they are installed from, and the libraries that come with a build of torch for GPUs."""
QUICK = (
    *(f"console/{name}" for name in ("client", "settings", "state", "text", "mock")),
    *(f"console/terminal/{name}.py" for name in ("test_reaches", "test_screen_diff")),
    *(f"console/terminal/{name}.py" for name in ("test_strip_cache", "test_driver")),
    *("console/ui/test_app.py", "console/cli/test_web.py"),
    *(f"pipeline/{name}" for name in ("gguf", "model_files", "runtime", "server", "text")),
    *("pipeline/test_config.py", "pipeline/test_messages.py", "pipeline/fetch/test_fetch.py"),
    *("pipeline/model/test_loader.py", "pipeline/bench/test_stats.py"),
)
"""Tests of everything that another package does for us; no ring of processes."""


def resolve(which: str) -> list[str]:
    """`NAME==VERSION` of every package to install, one that a dependency brings too."""
    pinned = [
        line
        for line in (ROOT / "constraints.txt").read_text().splitlines()
        if line.startswith("torch==")
    ]
    with tempfile.NamedTemporaryFile("w", suffix=".txt") as constraints:
        constraints.write("\n".join(pinned))
        constraints.flush()
        command = [*_uv("pip", "compile"), "--quiet", "--no-header", "--no-annotate"]
        command += ["--resolution", RESOLUTIONS[which], "--constraint", constraints.name]
        command += ["--extra", "dev", "--python", sys.executable, str(ROOT / "pyproject.toml")]
        found = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout
    lines = [line for line in found.splitlines() if line and not LEFT_OUT.match(line)]
    return [*lines, "pip"]  # tests of the fetch install with it


def make_environment(directory: Path, requirements: list[str]) -> Path:
    """A virtual environment with these; returns its Python. An existing one is brought to them."""
    venv.create(directory, with_pip=False, symlinks=True)
    python = directory / "bin" / "python"
    subprocess.run(
        [*_uv("pip", "sync"), "--quiet", "--python", str(python), "-"],
        input="\n".join(requirements),
        check=True,
        text=True,
    )
    (packages,) = (directory / "lib").glob("python*/site-packages")
    links = directory / "linked"
    links.mkdir(exist_ok=True)
    _link(links / "loraconsole", ROOT)
    for name in BORROWED:
        spec = find_spec(name)
        if spec is None or spec.origin is None:
            continue
        place = Path(spec.origin).parent
        for each in (place, *place.parent.glob(f"{name}-*.dist-info")):
            _link(links / each.name, each)
    (packages / "linked.pth").write_text(f"{links}\n")
    return python


def _link(link: Path, target: Path) -> None:
    link.unlink(missing_ok=True)
    link.symlink_to(target)


def _uv(*command: str) -> list[str]:
    return [sys.executable, "-m", "uv", *command]


def main() -> None:
    arguments, _, pytest_arguments = _split(sys.argv[1:])
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("which", nargs="*", choices=[*RESOLUTIONS, []])
    parser.add_argument("--keep", type=Path, metavar="DIRECTORY", help="of the environments")
    given = parser.parse_args(arguments)
    tests = pytest_arguments or [f"tests/{name}" for name in QUICK]
    has_failed = False
    with tempfile.TemporaryDirectory(prefix="lc-versions-") as made:
        for which in given.which or RESOLUTIONS:
            requirements = resolve(which)
            directory = (given.keep or Path(made)).absolute() / which
            python = make_environment(directory, requirements)
            print(f"{which}: {', '.join(_direct(requirements))}", flush=True)
            code = subprocess.run([str(python), "-m", "pytest", "--quiet", *tests], cwd=ROOT)
            has_failed |= code.returncode != 0
    sys.exit(1 if has_failed else 0)


def _split(arguments: list[str]) -> tuple[list[str], str, list[str]]:
    """Before and behind `--`."""
    if "--" not in arguments:
        return arguments, "", []
    at = arguments.index("--")
    return arguments[:at], "--", arguments[at + 1 :]


def _direct(requirements: list[str]) -> list[str]:
    """Those of them that pyproject.toml names for the program."""
    text = (ROOT / "pyproject.toml").read_text()
    block = text[text.index("dependencies = [") : text.index("[project.optional-dependencies]")]
    names = {name.lower() for name in re.findall(r'"([A-Za-z0-9_-]+)', block)}
    return [each for each in requirements if each.partition("==")[0].lower() in names]


if __name__ == "__main__":
    main()
