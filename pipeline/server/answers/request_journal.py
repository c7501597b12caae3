"""`RequestJournal`: the accepted requests that are not answered yet, in a file of the run
directory. A server that is started after a `kill -9` goes on with them.

Each line is four bytes of length and a msgpack record. It must survive the process, not the
machine, so nothing is synced. Knows no socket and no stream.
"""

from __future__ import annotations

import contextlib
import os
import shutil
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import TypeAlias

import msgspec

from ...messages import PromptLogprobs, Request, SamplingParams, TokenLogprob
from ...run_directory import REQUEST_JOURNAL
from .answer_format import Format

LEAST_BYTES = 4 << 20
"""The file is written anew, without the requests that were answered, once it has this size and
twice what was left the last time."""
HEAD_BYTES = 4


class AcceptedChoice(msgspec.Struct, frozen=True, array_like=True):
    """One choice of an answer, as the router got it."""

    request_id: str
    prompt: int
    """Its place among the prompts of the answer."""
    params: SamplingParams


class AnswerAccepted(msgspec.Struct, frozen=True, array_like=True, tag="accepted"):
    """An HTTP request was accepted: written before the router gets its requests."""

    form: Format
    owner: bytes
    adapter: str | None
    arrived_at: float
    prompts: tuple[tuple[int, ...], ...]
    choices: tuple[AcceptedChoice, ...]
    adapters: tuple[str | None, ...] = ()
    """Of each choice, if they differ."""

    @classmethod
    def of(cls, form: Format, owner: bytes, requests: Iterable[Request]) -> AnswerAccepted:
        """The record of these choices; those of one prompt share its tuple."""
        requests = tuple(requests)
        first = requests[0]
        numbers: dict[int, int] = {}
        prompts: list[tuple[int, ...]] = []
        choices = []
        for request in requests:
            number = numbers.setdefault(id(request.prompt_ids), len(prompts))
            if number == len(prompts):
                prompts.append(request.prompt_ids)
            choices.append(AcceptedChoice(request.request_id, number, request.params))
        adapters = tuple(request.adapter for request in requests)
        if len(set(adapters)) == 1:
            adapters = ()
        return cls(
            form,
            owner,
            first.adapter,
            first.arrived_at,
            tuple(prompts),
            tuple(choices),
            adapters,
        )

    def requests(self) -> list[Request]:
        """The requests of its choices."""
        return [
            Request(
                request_id=choice.request_id,
                adapter=self.adapters[index] if self.adapters else self.adapter,
                prompt_ids=self.prompts[choice.prompt],
                params=choice.params,
                arrived_at=self.arrived_at,
            )
            for index, choice in enumerate(self.choices)
        ]


class ChoiceEnded(msgspec.Struct, frozen=True, array_like=True, tag="ended"):
    """All of a choice: written before the router forgets it."""

    request_id: str
    token_ids: tuple[int, ...]
    pieces: tuple[str, ...]
    tail: str
    finish_reason: str
    logprobs: tuple[TokenLogprob, ...] = ()
    stopped_by: str | int | None = None
    prompt_logprobs: tuple[PromptLogprobs, ...] = ()


class AnswerClosed(msgspec.Struct, frozen=True, array_like=True, tag="closed"):
    """The client has the answer, or it was given up."""

    answer_id: str


JournalRecord: TypeAlias = AnswerAccepted | ChoiceEnded | AnswerClosed


class RequestJournal:
    """The file of one server. An error to write costs the request its way back, nothing else."""

    def __init__(self, run: Path, report: Callable[[str, str], None]) -> None:
        """`report(level, text)` publishes an event."""
        self.path = run / REQUEST_JOURNAL / "journal"
        self._report = report
        self._encoder = msgspec.msgpack.Encoder()
        self._file = -1
        self._size = 0
        self._most = LEAST_BYTES
        self._error = ""
        self.live: Callable[[], Iterable[JournalRecord]] = tuple
        """The records of what is open now."""

    def read(self) -> Iterator[JournalRecord]:
        """The records of an earlier server, in their order. One that a kill has cut off ends
        them. Raises `FileNotFoundError` if there was no earlier server."""
        decoder = msgspec.msgpack.Decoder(JournalRecord)
        with self.path.open("rb") as file:
            while len(head := file.read(HEAD_BYTES)) == HEAD_BYTES:
                size = int.from_bytes(head, "little")
                try:
                    record = decoder.decode(file.read(size))
                except msgspec.MsgspecError as error:
                    if file.read(1):  # not the end
                        self._report("warning", f"{self.path} is damaged: {error}")
                    return
                yield record

    def open(self) -> None:
        """Begins the file with what is open now, in place of an earlier one."""
        fresh, size = self.path.with_suffix(".new"), 0
        try:
            self.path.parent.mkdir(mode=0o700, exist_ok=True)
            flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_APPEND | os.O_CLOEXEC
            file = os.open(fresh, flags, 0o600)
            try:
                for record in self.live():
                    size += _write(file, self._line(record))
                os.replace(fresh, self.path)
            except BaseException:
                os.close(file)
                raise
        except OSError as error:
            self._note_error(error)
            # What is there goes on to be used, but not tried again at every record.
            self._most = max(self._most, self._size) * 2
            return
        self.close()
        self._file, self._size = file, size
        self._most = max(LEAST_BYTES, 2 * size)
        self._note_success()

    def write(self, record: JournalRecord) -> None:
        """Appends a record. Never raises: an event says what is wrong."""
        if self._file < 0:
            self.open()
            return  # which wrote all that is open, or failed
        try:
            self._size += _write(self._file, self._line(record))
        except OSError as error:
            with contextlib.suppress(OSError):
                os.ftruncate(self._file, self._size)  # without the part that was written
            self._note_error(error)
            return
        if self._error or self._size > self._most:
            self.open()  # which also writes what could not be written before

    def close(self) -> None:
        """Closes the file, which stays for the next server."""
        if self._file >= 0:
            os.close(self._file)
        self._file = -1

    def remove(self) -> None:
        """Removes the file: the pipeline ends."""
        self.close()
        shutil.rmtree(self.path.parent, ignore_errors=True)

    def _line(self, record: JournalRecord) -> bytes:
        data = self._encoder.encode(record)
        return len(data).to_bytes(HEAD_BYTES, "little") + data

    def _note_error(self, error: OSError) -> None:
        if not self._error:
            self._error = error.strerror or str(error)
            self._report(
                "warning",
                f"cannot write {self.path}: {self._error}; requests go on, but are lost if the "
                "server dies",
            )

    def _note_success(self) -> None:
        if self._error:
            self._error = ""
            self._report("info", f"{self.path} is written again")


def _write(file: int, data: bytes) -> int:
    """Writes all of it. Returns its size; raises `OSError`."""
    rest = memoryview(data)
    while rest:
        rest = rest[os.write(file, rest) :]
    return len(data)
