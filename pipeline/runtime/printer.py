"""`Printer`: rich's console, to which a reader that has gone is what it is to `print`."""

from __future__ import annotations

from rich.console import Console


class Printer(Console):
    def on_broken_pipe(self) -> None:
        """rich would end the program as failed; see `stdout.py`."""
        raise BrokenPipeError
