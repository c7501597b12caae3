"""`LineFormatter`: log lines that any program may show on a terminal."""

from __future__ import annotations

import logging
from typing import Any

from .text_output import visible

WARNINGS = "py.warnings"
"""The logger of Python's own warnings, which have several lines."""


class LineFormatter(logging.Formatter):
    """One line for each message, whatever names and reasons it holds, without characters that
    control a terminal. Tracebacks and warnings of Python keep their lines."""

    def formatMessage(self, record: logging.LogRecord) -> str:  # logging's name
        is_warning = record.name == WARNINGS
        record.message = _visible_lines(record.message) if is_warning else visible(record.message)
        return super().formatMessage(record)

    def formatException(self, ei: Any) -> str:
        return _visible_lines(super().formatException(ei))


def _visible_lines(text: str) -> str:
    return "\n".join(map(visible, text.split("\n")))
