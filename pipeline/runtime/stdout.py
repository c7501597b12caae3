"""`ends_with_its_reader`: a program prints without a traceback to `| head`, to a closed terminal or
output, and in any encoding such as latin-1. A full disk is an error of one line."""

from __future__ import annotations

import contextlib
import errno
import os
import sys
from collections.abc import Iterator

from .text_output import write_any_text

HUNG_UP = 129
"""Exit status of a program after its terminal was closed: 128 + the number of SIGHUP."""
FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


@contextlib.contextmanager
def ends_with_its_reader() -> Iterator[None]:
    """Wraps a program's `main`: it exits silently when its output is closed, and replaces
    characters that the output's encoding lacks."""
    if sys.stdout is None:  # `>&-`
        sys.stdout = open(os.devnull, "w")  # noqa: SIM115  # as long as the program
    if sys.stderr is None:
        sys.stderr = open(os.devnull, "w")  # noqa: SIM115
    write_any_text()
    was_terminal = sys.stdout.isatty()
    try:
        try:
            yield
        finally:
            sys.stdout.flush()
    except BrokenPipeError:
        _drop_output()
        raise SystemExit(0) from None
    except OSError as error:
        if error.errno in FULL:
            _drop_output()
            raise SystemExit(f"cannot write: {error.strerror}") from None
        if error.errno != errno.EIO or not was_terminal:
            raise
        _drop_output()
        raise SystemExit(HUNG_UP) from None


def _drop_output() -> None:
    """Points stdout at /dev/null: Python flushes the rest at exit and would report an error."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
