"""`ScreenApp`: the app's interface for the `:` line, the palette and the actions; `ConsoleApp`
implements it."""

from __future__ import annotations

from ...pipeline.config import Config
from .widgets.pane import PaintedApp, Panel


class ScreenApp(PaintedApp):
    """An app with screens, themes and lists that can be filtered."""

    config: Config

    @property
    def screen_names(self) -> list[str]:
        """The screen names that `action_show` accepts."""
        raise NotImplementedError

    @property
    def active_panel(self) -> Panel:
        """The visible screen."""
        raise NotImplementedError

    @property
    def themes(self) -> list[str]:
        """Names of all valid themes."""
        raise NotImplementedError

    async def action_show(self, name: str) -> None:
        """Shows a screen."""
        raise NotImplementedError

    async def action_command(self, text: str = "") -> None:
        """Opens the `:` line with a text."""
        raise NotImplementedError

    def wear_theme(self, name: str) -> None:
        """Changes the theme and saves the choice for later runs."""
        raise NotImplementedError

    def filter_panel(self, text: str) -> None:
        """Filters the active screen's list. Raises `OperatorError` if it has none, or for an
        invalid expression."""
        raise NotImplementedError

    def seek_to(self, text: str) -> None:
        """Moves a recording to a time. Raises `OperatorError` if none is played, or for other
        text."""
        raise NotImplementedError

    async def save_picture(self, path: str = "") -> None:
        """Writes the screen as SVG to `path`, by default a new file beside the transcripts. Raises
        `OperatorError` if `path` cannot be written."""
        raise NotImplementedError
