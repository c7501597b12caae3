"""`ScreenApp`: what the `:` line, the palette and the actions need of the app. `app.py` is one."""

from __future__ import annotations

from ...pipeline.config import Config
from .widgets.pane import PaintedApp, Panel


class ScreenApp(PaintedApp):
    """An app of screens, themes and lists that can be filtered."""

    config: Config

    @property
    def screen_names(self) -> list[str]:
        """Names of screens, as `action_show` takes them."""
        raise NotImplementedError

    @property
    def active_panel(self) -> Panel:
        """The screen on top."""
        raise NotImplementedError

    @property
    def themes(self) -> list[str]:
        """Names of the themes that could be read."""
        raise NotImplementedError

    async def action_show(self, name: str) -> None:
        """Brings a screen to the top."""
        raise NotImplementedError

    def wear_theme(self, name: str) -> None:
        """Changes the colours, now and for the next time."""
        raise NotImplementedError

    def filter_panel(self, text: str) -> None:
        """Filters what the screen on top lists. Raises `OperatorError` where it lists nothing."""
        raise NotImplementedError

    def save_picture(self) -> None:
        """Writes the screen to a file, as SVG."""
        raise NotImplementedError
