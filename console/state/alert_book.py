"""`AlertBook`: the findings of the rules in `alerts` over time. Pure: no clock, no widget.

An alert fires, may be acknowledged, and is cleared when its rule no longer finds it. Cleared alerts
are kept, so an operator who was away for an hour sees what fired, and for how long.
"""

from __future__ import annotations

from enum import Enum

import msgspec
from msgspec import Struct

from .alerts import BY_NAME, AlertFinding, AlertLimits, Rule, findings
from .board import Board

KEPT = 200
"""Most alerts kept; the oldest cleared ones are dropped first."""
GONE_S = 4 * 3600.0
CALM_S = 60.0
"""An alert that fires again within this time is the same occurrence: a queue that hovers around its
limit is one alert, not twenty."""


class AlertState(Enum):
    FIRING = "firing"
    ACKNOWLEDGED = "acknowledged"
    """Still firing, but an operator has seen it."""
    CLEARED = "cleared"


class Alert(Struct, frozen=True):
    """One finding over time. `last_seen` is the newest board that had it."""

    finding: AlertFinding
    state: AlertState
    first_seen: float
    last_seen: float
    times: int = 1
    """How often it fired."""

    @property
    def rule(self) -> Rule:
        return BY_NAME[self.finding.rule]


_ORDER = {AlertState.FIRING: 0, AlertState.ACKNOWLEDGED: 1, AlertState.CLEARED: 2}


def _cleared(alert: Alert) -> Alert:
    """The alert once it is over, with no text that says `7 s ago` for hours."""
    finding = alert.finding._replace(text=alert.finding.past or alert.finding.text)
    return msgspec.structs.replace(alert, finding=finding, state=AlertState.CLEARED)


class AlertBook:
    """All alerts. `update` takes every new board; `acknowledge` marks an alert as seen."""

    def __init__(self, limits: AlertLimits | None = None) -> None:
        self.limits = limits or AlertLimits()
        """Thresholds of the rules."""
        self.begun_at: float | None = None
        """Time of the first board; None before it."""
        self._alerts: dict[tuple[str, str], Alert] = {}
        self._found: tuple[Board, AlertLimits, tuple[AlertFinding, ...]] | None = None

    def findings(self, board: Board) -> tuple[AlertFinding, ...]:
        """The findings on `board`, worst first; the rules run once per board."""
        known = self._found
        if known is None or known[0] is not board or known[1] is not self.limits:
            known = self._found = board, self.limits, findings(board, self.limits)
        return known[2]

    @property
    def alerts(self) -> tuple[Alert, ...]:
        """Firing alerts, then acknowledged, then cleared ones; in each group bad ones first, then
        the newest."""
        return tuple(
            sorted(
                self._alerts.values(),
                key=lambda a: (_ORDER[a.state], a.finding.level != "bad", -a.last_seen),
            )
        )

    @property
    def firing(self) -> tuple[Alert, ...]:
        return tuple(a for a in self.alerts if a.state is AlertState.FIRING)

    def update(self, board: Board) -> list[Alert]:
        """Records the findings on `board`; returns the alerts that have begun to fire."""
        if self.begun_at is None:
            self.begun_at = board.now
        fresh = []
        found = {finding.key: finding for finding in self.findings(board)}
        for key, finding in found.items():
            known = self._alerts.get(key)
            if known is None:
                known = Alert(finding, AlertState.FIRING, board.now, board.now)
                fresh.append(known)
            elif known.state is AlertState.CLEARED:
                is_again = board.now - known.last_seen > CALM_S
                times = known.times + is_again
                known = msgspec.structs.replace(known, state=AlertState.FIRING, times=times)
                if is_again:
                    fresh.append(known)
            self._alerts[key] = msgspec.structs.replace(known, finding=finding, last_seen=board.now)
        for key, alert in list(self._alerts.items()):
            if key not in found:
                if alert.state is not AlertState.CLEARED:
                    self._alerts[key] = _cleared(alert)
                elif board.now - alert.last_seen > GONE_S:
                    del self._alerts[key]
        for alert in self.alerts[KEPT:]:
            del self._alerts[alert.finding.key]
        return fresh

    def acknowledge(self, key: tuple[str, str]) -> None:
        """Marks a firing alert as seen by an operator; others are unchanged."""
        alert = self._alerts.get(key)
        if alert is not None and alert.state is AlertState.FIRING:
            state = AlertState.ACKNOWLEDGED
            self._alerts[key] = msgspec.structs.replace(alert, state=state)
