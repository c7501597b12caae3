"""`RecordFile`: the `RouterRecord` in the run directory, for a router that is restarted."""

from __future__ import annotations

import contextlib
from pathlib import Path

import msgspec

from ..private_files import replace_private
from ..run_directory import ROUTER_RECORD
from .record import RouterRecord


class RecordFile:
    """One file, replaced whole by a rename. It need not survive the machine, so nothing is synced.

    A record that cannot be written is removed: a router that went on from an older one could answer
    with the weights of an older generation."""

    def __init__(self, run: Path) -> None:
        self.path = run / ROUTER_RECORD
        self.error = ""
        """Why the last record could not be read or written; "" if it was."""
        self._written = b""

    def read(self) -> RouterRecord | None:
        """The record of an earlier router of this pipeline; None if there is none."""
        try:
            self._written = self.path.read_bytes()
            return msgspec.json.decode(self._written, type=RouterRecord)
        except FileNotFoundError:
            return None
        except (OSError, msgspec.MsgspecError) as error:
            self.error = f"cannot read {self.path}: {error}"
            return None

    def write(self, record: RouterRecord) -> None:
        """Replaces the file if the record has changed. Never raises: see `error`."""
        data = msgspec.json.encode(record)
        if data == self._written and not self.error:
            return
        try:
            replace_private(self.path, data)
        except OSError as error:
            self.error = f"cannot write {self.path}: {error.strerror}"
            with contextlib.suppress(OSError):  # the run directory is gone or read-only
                self.path.unlink(missing_ok=True)
        else:
            self.error, self._written = "", data
