"""pip with a line for each package: its size when it is fetched, its turn when it is installed.

`python .ci/install.py PYTHON REQUIREMENT…` installs for that interpreter by constraints.txt. pip
itself says nothing while it installs, and without a terminal nothing while it downloads.
"""

import os
import re
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

SECONDS = 5.0
"""Between lines about a download that goes on; on a terminal that line is redrawn each second."""
FETCHED = re.compile(r"\s*(Downloading|Using cached|Processing) (\S+)(?: \(([\d.]+ \w?B)\))?")
WHEEL = re.compile(r"^(?P<name>[^-]+)-(?P<version>[^-]+)-.*\.whl")
QUIET = ("PYTHONWARNINGS", "ignore:Editable installation")
"""The build tool warns of an editable install from a folder of the package's own name."""


class Progress:
    """What pip does, as lines on stdout."""

    def __init__(self, packages: Path, downloads: Path) -> None:
        self._packages, self._downloads = packages, downloads
        self._present = self._installed()
        self._began = time.monotonic()
        self._shown_at = self._began
        self._fetching = ""
        self._wanted = 0
        self._done: set[str] = set()
        self._line = ""
        """The line that is redrawn, if one is on the terminal."""

    def read_line(self, line: str) -> None:
        """Takes a line of pip's output."""
        if found := FETCHED.match(line):
            name = found[2].rpartition("/")[2]
            if wheel := WHEEL.match(name):
                name = f"{wheel['name'].replace('_', '-')} {wheel['version']}"
            self._fetching = name if found[1] == "Downloading" else ""
            self._print(f"{name:<36} {found[3] or _shown_size(Path(found[2]))}")
        elif line.startswith("Installing collected packages: "):
            self._fetching = ""
            self._wanted = line.count(",") + 1
            self._print(f"installing {self._wanted} package{'s' * (self._wanted > 1)}")

    def look(self) -> None:
        """Prints what has changed on the disk since the last look."""
        if self._wanted:
            for entry in sorted(self._installed() - self._present - self._done):
                self._done.add(entry)
                name, _, version = entry.removesuffix(".dist-info").rpartition("-")
                self._print(f"[{len(self._done):>3} of {self._wanted}] {name} {version}")
            if time.monotonic() - self._shown_at > SECONDS:
                self._print(f"[{len(self._done):>3} of {self._wanted}] installing")
        elif self._fetching:
            self._show_download()

    def _show_download(self) -> None:
        terminal = sys.stdout.isatty()
        if time.monotonic() - self._shown_at < (1.0 if terminal else SECONDS):
            return
        size = sum(_size(path) for path in self._downloads.rglob("*.whl"))
        self._print(f"  {self._fetching}: {size / 1e6:.0f} MB so far", stays=not terminal)

    def _print(self, text: str, stays: bool = True) -> None:
        now = time.monotonic()
        self._shown_at = now
        clear = "\r\x1b[K" if self._line else ""
        self._line = "" if stays else text
        end = "\n" if stays else ""
        print(f"{clear}{now - self._began:6.1f} s  {text}".rstrip(), end=end, flush=True)

    def _installed(self) -> set[str]:
        """The metadata folders of packages that are wholly installed."""
        records = self._packages.glob("[!~]*.dist-info/RECORD")  # ~: about to be removed
        return {path.parent.name for path in records}


def _size(path: Path) -> int:
    try:
        return path.stat().st_size if path.is_file() else 0
    except OSError:  # pip has removed it
        return 0


def _shown_size(path: Path) -> str:
    """The size of a file of this machine; "" if it is none."""
    return f"{size / 1e6:.1f} MB" if (size := _size(path)) else ""


def main(python: str, *requirements: str) -> int:
    where = "import sysconfig; print(sysconfig.get_path('purelib'))"
    packages = Path(subprocess.check_output([python, "-c", where], text=True).strip())
    command = [python, "-m", "pip", "--disable-pip-version-check", "install"]
    command += ["--progress-bar", "off", "--constraint", "constraints.txt", *requirements]
    with tempfile.TemporaryDirectory(prefix="pip-") as directory:
        progress = Progress(packages, Path(directory))
        environment = {**os.environ, QUIET[0]: QUIET[1], "TMPDIR": directory}
        with subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=environment
        ) as pip:
            assert pip.stdout is not None
            ended = threading.Event()

            def watch() -> None:
                while not ended.wait(0.5):
                    progress.look()

            watcher = threading.Thread(target=watch)
            watcher.start()
            last: list[str] = []
            for line in pip.stdout:
                last = [*last[-19:], line.rstrip()]
                progress.read_line(line.rstrip())
            ended.set()
            watcher.join()
        progress.look()
    if pip.returncode:
        print("\n".join(last), file=sys.stderr)
    return pip.returncode


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
