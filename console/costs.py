"""What is lost when processes stop, in a sentence or two: said before it is done."""

from __future__ import annotations

from .board import Board


def restart_costs(board: Board, name: str, hard: bool = False) -> str:
    """When a process of the ring is restarted."""
    how = "It is killed at once and started again. " if hard else ""
    live = _number(_live(board), "live request")
    placed = sum(row.view.pages > 0 for row in board.adapters)
    if name.startswith("worker-"):
        loss = f"{live} wait meanwhile and are computed again from their tokens; none is lost."
        back = f" The weights and {_number(placed, 'adapter')} are loaded again."
        return how + loss + _ranks(board, "restart") + back
    if name == "detokenizer":
        return f"{how}{live} stand still for a moment; their text is told again. Nothing is lost."
    if name == "router":
        added = "Adapters that were loaded while it ran are to be loaded again."
        return f"{how}{live} END with an error that says so. {added}"
    if name == "server":
        return f"{how}{_streams(board)} BREAK: their clients see a closed connection."
    return how or "It is stopped politely and started again."


def stop_costs(board: Board, name: str) -> str:
    """When a process of the ring is stopped and stays so."""
    live = _number(_live(board), "live request")
    until = "until it is started again"
    refused = f"New ones are refused (503) {until}"
    if name.startswith("worker-"):
        ranks = _ranks(board, "stop")
        return f"{live} stand still. {refused}; then they are computed again.{ranks}"
    if name == "detokenizer":
        return f"{live} are computed, but their text is not told. {refused}; then it is."
    if name == "router":
        return f"{live} END with an error that says so. {refused}."
    return f"{_streams(board)} BREAK, and nobody can connect, not even /health, {until}."


def pipeline_costs(board: Board, now: bool = False) -> str:
    """When everything stops; with `now` requests that run may not finish."""
    router = board.router
    if router is None or not router.running + router.waiting:
        lost = "No request is live"
    elif now:
        lost = f"{_number(_live(board), 'live request')} END with an error"
    else:
        lost = (
            f"{_number(router.running, 'running request')} may finish for ten seconds, then "
            f"whatever is left of them and of {router.waiting} waiting ENDS with an error"
        )
    return f"{lost}. Every process ends; the next start loads the model again. The console stays."


def quit_costs(board: Board) -> str:
    """When whoever leaves stops everything as well."""
    live = _number(_live(board), "live request")
    return f"If it is stopped, {live} END with an error." if _live(board) else ""


def _live(board: Board) -> int:
    return board.router.running + board.router.waiting if board.router else 0


def _streams(board: Board) -> str:
    return _number(board.server.open_streams if board.server else 0, "open stream")


def _ranks(board: Board, verb: str) -> str:
    return f" All {len(board.workers)} ranks {verb} together." if len(board.workers) > 1 else ""


def _number(number: int, noun: str) -> str:
    return f"{number} {noun}{'' if number == 1 else 's'}"
