"""Runs the fast tests with the lowest and with the newest versions that pyproject.toml allows.

    python tests/versions.py [lowest] [newest] [--keep DIRECTORY] [-- PYTEST ARGUMENTS]

For each it makes a virtual environment of the versions that `uv` resolves for the direct
dependencies, those of the tests too. torch and triton, which are large, are those of the Python
that runs this. Exits 1 if a test failed, or if a stated lowest version is not available.
"""

from __future__ import annotations

import argparse
import re
import subprocess
import sys
import tempfile
import tomllib
import venv
from importlib.util import find_spec
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
RESOLUTIONS = {"lowest": "lowest-direct", "newest": "highest"}
BORROWED = ("torch", "torchgen", "functorch", "triton")
"""Packages that are linked rather than installed."""
LEFT_OUT = re.compile(r"(torch|triton|cuda|nvidia)[-_=]")
"""Distributions of the linked packages and of torch's GPU libraries."""
FAST = ("--numprocesses", "2", "--dist", "loadfile", "-m", "not processes and not slow", "tests")
"""The arguments of `make test-fast`."""
BESIDES = ("tests/console/terminal/test_reaches.py", "tests/console/cli/test_web.py")
"""Slower tests of features that another version of a library may lack."""


def resolve(which: str) -> dict[str, str]:
    """Versions of all packages to install, by lower-case name."""
    pins = (ROOT / "constraints.txt").read_text().splitlines()
    with tempfile.NamedTemporaryFile("w", suffix=".txt") as constraints:
        constraints.writelines(f"{pin}\n" for pin in pins if pin.startswith("torch=="))
        constraints.flush()
        command = [*_uv("pip", "compile"), "--quiet", "--no-header", "--no-annotate"]
        command += ["--resolution", RESOLUTIONS[which], "--constraint", constraints.name]
        command += ["--extra", "dev", "--python", sys.executable, str(ROOT / "pyproject.toml")]
        found = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout
    pairs = (line.split("==") for line in found.split() if "==" in line)
    return {name.lower(): version for name, version in pairs if not LEFT_OUT.match(f"{name}=")}


def stated() -> dict[str, str]:
    """The lowest version that pyproject.toml states for each package that the program needs."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    found = {}
    for requirement in project["dependencies"]:
        name, _, rest = requirement.partition(">=")
        found[name.strip().lower()] = re.split(r"[,;]", rest)[0].strip()
    return {name: version for name, version in found.items() if name not in BORROWED}


def make_environment(directory: Path, versions: dict[str, str]) -> Path:
    """Makes a virtual environment with these versions, or updates one; returns its Python."""
    venv.create(directory, with_pip=False, symlinks=True)
    python = directory / "bin" / "python"
    requirements = [f"{name}=={version}" for name, version in versions.items()]
    subprocess.run(
        [*_uv("pip", "sync"), "--quiet", "--python", str(python), "-"],
        input="\n".join([*requirements, "pip"]),  # the fetch tests install with pip
        check=True,
        text=True,
    )
    (packages,) = (directory / "lib").glob("python*/site-packages")
    links = directory / "linked"
    links.mkdir(exist_ok=True)
    _link(links / "loraconsole", ROOT)
    for name in BORROWED:
        spec = find_spec(name)
        if spec is not None and spec.origin is not None:
            place = Path(spec.origin).parent
            for each in (place, *place.parent.glob(f"{name}-*.dist-info")):
                _link(links / each.name, each)
    (packages / "linked.pth").write_text(f"{links}\n")
    return python


def test(which: str, directory: Path, arguments: list[str]) -> bool:
    """Whether all tests pass with these versions, and the lowest ones equal the stated ones."""
    versions, lowest = resolve(which), stated()
    direct = {name: versions[name] for name in lowest}
    print(f"{which}: {', '.join(' '.join(pair) for pair in direct.items())}", flush=True)
    wrong = {
        name for name in lowest if which == "lowest" and not _equals(direct[name], lowest[name])
    }
    for name in sorted(wrong):
        print(f"{name}>={lowest[name]} is stated, {direct[name]} is the lowest available")
    python = make_environment(directory, versions)
    runs = [arguments] if arguments else [[*FAST], [*BESIDES]]
    codes = [
        subprocess.run([str(python), "-m", "pytest", "--quiet", *run], cwd=ROOT).returncode
        for run in runs
    ]
    return not wrong and not any(codes)


def _equals(version: str, other: str) -> bool:
    """Whether versions are equal apart from trailing zeros: 1.0 is 1.0.0."""
    return re.sub(r"(\.0)+$", "", version) == re.sub(r"(\.0)+$", "", other)


def _link(link: Path, target: Path) -> None:
    link.unlink(missing_ok=True)
    link.symlink_to(target)


def _uv(*command: str) -> list[str]:
    return [sys.executable, "-m", "uv", *command]


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("which", nargs="*", choices=[*RESOLUTIONS, []])
    parser.add_argument("--keep", type=Path, metavar="DIRECTORY", help="keep the environments here")
    at = sys.argv.index("--") if "--" in sys.argv else len(sys.argv)
    given = parser.parse_args(sys.argv[1:at])
    with tempfile.TemporaryDirectory(prefix="lc-versions-") as made:
        directory = (given.keep or Path(made)).absolute()
        passed = [
            test(which, directory / which, sys.argv[at + 1 :])
            for which in given.which or RESOLUTIONS
        ]
    sys.exit(0 if all(passed) else 1)


if __name__ == "__main__":
    main()
