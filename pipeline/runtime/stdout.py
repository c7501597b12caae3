"""`ends_with_its_reader`: printing is no error, to whatever end and in whatever encoding: not to
`| head`, not to a terminal that has gone, not to an output that is closed, not in latin-1. A disk
that is full is one, in a line."""

from __future__ import annotations

import contextlib
import errno
import os
import sys
from collections.abc import Iterator

from .text_output import write_any_text

HUNG_UP = 129
"""Exit status of a program whose terminal has gone: 128 and the number of SIGHUP."""
FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


@contextlib.contextmanager
def ends_with_its_reader() -> Iterator[None]:
    """Around a program's `main`: it ends well and silently when its output is closed, and writes
    what its output can take."""
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
    """Python itself flushes at the end what is left, and would complain."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
