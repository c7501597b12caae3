"""Costs of stopping or restarting processes, in a sentence or two for the confirmation dialog."""

from __future__ import annotations

from ...pipeline.runtime.wording import counted
from .board import Board

NONE_LIVE = "No request is live"


def restart_costs(board: Board, name: str, hard: bool = False) -> str:
    """Costs of restarting a process of the ring."""
    how = "It is killed at once and restarted. " if hard else ""
    if name.startswith("worker-"):
        placed = counted(sum(row.view.pages > 0 for row in board.adapters), "adapter")
        loss = _live(board, "wait", "meanwhile, then all are recomputed; none is lost")
        ranks = _ranks(board, "restart")
        return f"{how}{loss}{ranks} The weights and {placed} are reloaded."
    if name == "detokenizer":
        more = "still for a moment; their text is sent again, none is lost"
        return how + _live(board, "stand", more)
    if name == "router":
        added = "Adapters loaded since its start must be loaded again."
        return f"{how}{_live(board, 'END', 'with an error that says so')} {added}"
    if name == "server":
        return how + _streams(board, ": clients see a closed connection")
    return how or "It gets SIGTERM and is restarted."


def stop_costs(board: Board, name: str) -> str:
    """Costs of stopping a process of the ring until it is started again."""
    until = "until it is started again"
    refused = f"New ones are refused (503) {until}"
    if name.startswith("worker-"):
        still = _live(board, "stand", "still")
        return f"{still} {refused}; then they are recomputed.{_ranks(board, 'stop')}"
    if name == "detokenizer":
        unsent = _live(board, "are", "computed, but their text is not sent")
        return f"{unsent} {refused}; then it is."
    if name == "router":
        return f"{_live(board, 'END', 'with an error that says so')} {refused}."
    return f"{_streams(board)} No client can connect, not even to /health, {until}."


def pipeline_costs(board: Board, now: bool = False) -> str:
    """Costs of stopping the pipeline; with `now`, running requests are not allowed to finish."""
    router = board.router
    if router is None or not router.running + router.waiting:
        lost = NONE_LIVE
    elif now:
        lost = _live(board, "END", "with an error").rstrip(".")
    else:
        lost = (
            f"{counted(router.running, 'running request', 'get')} ten seconds to finish; "
            f"the rest, and {router.waiting} waiting, END with an error"
        )
    ends = "Every process ends; the next start loads the model again. The console stays open."
    return f"{lost}. {ends}"


def quit_costs(board: Board) -> str:
    """Costs of leaving the console and stopping the pipeline too; "" if no request is live."""
    lost = _live(board, "END", "with an error")
    return "" if lost.startswith(NONE_LIVE) else f"If it is stopped, {lost}"


def _live(board: Board, do: str, more: str) -> str:
    """A sentence on what happens to live requests, or that there are none."""
    number = board.router.running + board.router.waiting if board.router else 0
    return f"{counted(number, 'live request', do)} {more}." if number else f"{NONE_LIVE}."


def _streams(board: Board, more: str = "") -> str:
    number = board.server.open_streams if board.server else 0
    return f"{counted(number, 'open stream', 'BREAK')}{more}." if number else "No stream is open."


def _ranks(board: Board, verb: str) -> str:
    return f" All {len(board.workers)} ranks {verb} together." if len(board.workers) > 1 else ""
