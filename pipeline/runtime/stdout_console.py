"""`StdoutConsole`: rich's console, on which a closed pipe is what it is to `print`.

Beside stdout.py, not in it: a command line parses its arguments before it imports rich.
"""

from __future__ import annotations

from rich.console import Console


class StdoutConsole(Console):
    def on_broken_pipe(self) -> None:
        """Raises `BrokenPipeError`, which `stdout.py` handles; rich would end the program as
        failed."""
        raise BrokenPipeError
