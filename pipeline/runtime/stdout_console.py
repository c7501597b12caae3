"""`StdoutConsole`: rich's console, which handles a closed pipe as `print` does.

Not in stdout.py, so that a command line can parse its arguments before it imports rich.
"""

from __future__ import annotations

from rich.console import Console


class StdoutConsole(Console):
    def on_broken_pipe(self) -> None:
        """Raises `BrokenPipeError`, which `stdout.py` handles; rich would exit with status 1."""
        raise BrokenPipeError
