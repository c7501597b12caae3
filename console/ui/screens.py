"""The screens, their keys, and `make_panel`, which creates them."""

from __future__ import annotations

from .widgets.pane import Panel

PANELS: dict[str, tuple[str, str]] = {
    "1": ("Overview", "overview"),
    "2": ("Batch", "batch"),
    "3": ("Latency", "latency"),
    "4": ("Adapters", "adapters"),
    "5": ("Prompt", "prompt"),
    "6": ("Bench", "bench"),
    "7": ("Logs", "logs"),
    "8": ("Processes", "processes"),
}
"""Key to name and module."""
PAGES: dict[str, tuple[str, str]] = {"9": ("Alerts", "alerts"), "comma": ("Settings", "settings")}
"""Screens that the tabs of a narrow terminal only number."""


def make_panel(name: str) -> Panel:
    """A panel by name. Its module is imported only here, so that it does not delay the first frame.
    Raises `KeyError`."""
    match name:
        case "Batch":
            from .panels.batch import BatchPanel

            return BatchPanel()
        case "Latency":
            from .panels.latency import LatencyPanel

            return LatencyPanel()
        case "Adapters":
            from .panels.adapters import AdaptersPanel

            return AdaptersPanel()
        case "Prompt":
            from .panels.prompt import PromptPanel

            return PromptPanel()
        case "Bench":
            from .panels.bench import BenchPanel

            return BenchPanel()
        case "Logs":
            from .panels.logs import LogsPanel

            return LogsPanel()
        case "Processes":
            from .panels.processes import ProcessesPanel

            return ProcessesPanel()
        case "Alerts":
            from .panels.alerts import AlertsPanel

            return AlertsPanel()
        case "Settings":
            from .panels.settings import SettingsPanel

            return SettingsPanel()
    raise KeyError(name)
