"""Orders about one process of the ring."""

# No future import of annotations: as objects they need not be evaluated for the parser.

from collections.abc import Sequence
from typing import Annotated

from ...pipeline.errors import OperatorError
from ...pipeline.messages import (
    ProcessOrder,
    RestartProcess,
    SignalProcess,
    StartProcess,
    StopProcess,
)
from ..state.signals import SIGNALS, signal_name
from ..text.near_words import did_you_mean, with_choices
from .argument import Argument
from .base import PipelineCommand


class ProcessCommand(PipelineCommand, frozen=True, kw_only=True):
    """Base of the commands about one process; `order` makes the message."""

    process: Annotated[str, Argument("worker-0, detokenizer, router, server", is_positional=True)]

    def order(self, known: Sequence[str]) -> ProcessOrder:
        """The message for the supervisor. Raises `OperatorError` if the process is not in `known`
        or does not accept this order."""
        name = self.process
        if name not in known:
            hint = with_choices(did_you_mean(name, known), known)
            raise OperatorError(f"no process {name!r}", hint)
        if name == "fetch" and not isinstance(self, RestartCommand):
            raise OperatorError("fetch exits by itself", "use stop, start and signal on the others")
        return self._order()

    def _order(self) -> ProcessOrder:
        raise NotImplementedError


class StopCommand(ProcessCommand, frozen=True, kw_only=True):
    NAME = "stop"
    HELP = "stop one process; a worker with all its ranks"

    def _order(self) -> StopProcess:
        return StopProcess(self.process)


class StartCommand(ProcessCommand, frozen=True, kw_only=True):
    NAME = "start"
    HELP = "start a process that was stopped or has failed"

    def _order(self) -> StartProcess:
        return StartProcess(self.process)


class RestartCommand(ProcessCommand, frozen=True, kw_only=True):
    NAME = "restart"
    HELP = "restart one process"
    hard: Annotated[bool, Argument("SIGKILL instead of SIGTERM")] = False

    def _order(self) -> RestartProcess:
        return RestartProcess(self.process, self.hard)


class SignalCommand(ProcessCommand, frozen=True, kw_only=True):
    NAME = "signal"
    HELP = "send one process a signal"
    signal: Annotated[
        str,
        Argument(
            "; ".join(f"{name} {what}" for name, what in SIGNALS.items()),
            is_positional=True,
            choices=SIGNALS,
            convert=signal_name,
        ),
    ]

    def _order(self) -> SignalProcess:
        return SignalProcess(self.process, self.signal)
