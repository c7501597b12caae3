"""`CostShares`: an adapter's part of the device time and of the tokens, from the router's table.

Shares are of all adapters and the base together, so they add up to 1 over a table.
"""

from __future__ import annotations

from collections.abc import Iterable

from msgspec import Struct

from ...pipeline.messages import AdapterTable, AdapterView


class CostShares(Struct, frozen=True):
    """Parts of a whole, 0 to 1; None if nothing was computed (or, for device time, measured)."""

    device: float | None = None
    """Of the steps' device time in the last minute."""
    tokens: float | None = None
    """Of the prompt and output tokens of the last minute."""
    run_device: float | None = None
    """Of the device time since the router started."""
    run_tokens: float | None = None
    """Of the tokens since the router started."""

    @property
    def rank(self) -> tuple[float, float, float, float]:
        """Sort key, the costliest first: by the last minute, then by the whole run."""
        known = (self.device, self.tokens, self.run_device, self.run_tokens)
        first, second, third, fourth = (-(share or 0.0) for share in known)
        return first, second, third, fourth


def cost_shares(table: AdapterTable) -> dict[str, CostShares]:
    """The shares of each name in a table; "" is the base. The generations of an adapter share
    their counters, so each name counts once."""
    views: dict[str, AdapterView] = {view.name: view for view in table.adapters}
    views[""] = table.base
    device = sum(view.recent_device_us for view in views.values())
    tokens = sum(view.recent_tokens for view in views.values())
    run_device = sum(view.device_us for view in views.values())
    run_tokens = sum(map(tokens_of, views.values()))
    return {
        name: CostShares(
            _share(view.recent_device_us, device),
            _share(view.recent_tokens, tokens),
            _share(view.device_us, run_device),
            _share(tokens_of(view), run_tokens),
        )
        for name, view in views.items()
    }


def tokens_of(view: AdapterView) -> int:
    """Prompt and output tokens since the router started."""
    return view.prompt_tokens + view.output_tokens


def top_share(shares: Iterable[float | None]) -> float:
    """The largest share, for bars relative to it; 0 if none is known."""
    return max((share for share in shares if share is not None), default=0.0)


def _share(part: int, whole: int) -> float | None:
    return part / whole if whole else None
