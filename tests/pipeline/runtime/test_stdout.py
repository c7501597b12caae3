"""Printing for somebody who has read enough."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

pytestmark = pytest.mark.processes

PRINT = "print('x\\n' * 100_000)"
TABLE = (
    "from loraconsole.pipeline.runtime.stdout_console import StdoutConsole;"
    "StdoutConsole().print('x\\n' * 100_000)"
)


@pytest.mark.parametrize("does", [PRINT, TABLE, "import sys; sys.stdout.write('x')"])
def test_a_program_ends_well_and_silently_when_its_reader_goes_away(does: str) -> None:
    script = f"""
from loraconsole.pipeline.runtime.stdout import ends_with_its_reader
@ends_with_its_reader()
def main():
    import time; time.sleep(0.3)
    {does}
    raise SystemExit(1)
main()
"""
    with subprocess.Popen(
        [sys.executable, "-P", "-c", script], stdout=subprocess.PIPE, stderr=subprocess.PIPE
    ) as program:
        assert program.stdout is not None and program.stderr is not None
        program.stdout.close()
        assert program.stderr.read() == b""
        assert program.wait(20) == 0


SCRIPT = """
import sys
from loraconsole.pipeline.runtime.stdout import ends_with_its_reader
@ends_with_its_reader()
def main():
    print("x" * 100_000)
    print("y", file=sys.stderr)
    raise SystemExit(4)
main()
"""


@pytest.mark.parametrize("closed", [">&-", "2>&-", ">&- 2>&-"])
def test_an_output_that_is_closed_takes_all_and_shows_nothing(closed: str) -> None:
    command = ["sh", "-c", f'exec "$0" -P -c "$1" {closed}', sys.executable, SCRIPT]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert done.returncode == 4 and "Traceback" not in done.stderr


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="no /dev/full here")
def test_a_full_disk_is_a_line_and_no_traceback() -> None:
    with open("/dev/full", "w") as full:
        done = subprocess.run(
            [sys.executable, "-P", "-c", SCRIPT],
            stdout=full,
            stderr=subprocess.PIPE,
            text=True,
            timeout=60,
        )
    assert done.returncode == 1
    assert done.stderr.strip() == "cannot write: No space left on device"
