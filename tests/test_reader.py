"""Printing for somebody who has read enough."""

from __future__ import annotations

import subprocess
import sys

import pytest

PRINT = "print('x\\n' * 100_000)"
TABLE = "from loraconsole.pipeline.printer import Printer; Printer().print('x\\n' * 100_000)"


@pytest.mark.parametrize("does", [PRINT, TABLE, "import sys; sys.stdout.write('x')"])
def test_a_program_ends_well_and_silently_when_its_reader_goes_away(does: str) -> None:
    script = f"""
from loraconsole.pipeline.reader import ends_with_its_reader
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
