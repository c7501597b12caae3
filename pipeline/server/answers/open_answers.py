"""`OpenAnswers`: the HTTP requests that are accepted and not answered yet, also those of an earlier
server whose clients may come back.

Knows no HTTP and no socket: `post` sends to the router.
"""

from __future__ import annotations

import contextlib
import hmac
from collections.abc import Callable, Iterable, Iterator, Sequence
from urllib.parse import quote

from ...messages import (
    Abort,
    AnswerHeard,
    Message,
    PromptScored,
    Refused,
    Request,
    TextDelta,
)
from ...runtime.wording import counted
from ...text.tokenizer import Tokenizer
from ..http.bad_request import BadRequest, shortened
from .answer_format import Format
from .request_counters import RequestCounters
from .request_journal import (
    AnswerAccepted,
    AnswerClosed,
    ChoiceEnded,
    JournalRecord,
    RequestJournal,
)
from .streams import AnswerReader, AnswerStreams, Stream

GRACE_SECONDS = 30.0
"""After a restart a client may come back for its answer this long; then the work is ended."""
DISOWNED_KEPT = 1024
CANCELLED = "the response was cancelled"


class OpenAnswers:
    """The open answers of one server, by id, and their streams, by request."""

    def __init__(
        self,
        journal: RequestJournal,
        post: Callable[[Message], None],
        report: Callable[[str, str], None],
        counters: RequestCounters,
    ) -> None:
        """`post` sends to the router, or drops the message if the router is gone: a restarted one
        is sent all open requests. `report(level, text)` publishes an event."""
        self.streams: dict[str, Stream] = {}
        self._answers: dict[str, AnswerStreams] = {}
        self._disowned: dict[str, None] = {}
        """Requests that the router was last asked to end."""
        self._journal, self._post, self._report = journal, post, report
        self._counters = counters
        self.on_ended: Callable[[AnswerStreams], None] = lambda answer: None
        """Called when an answer has ended that was not refused at once."""
        self.check_new: Callable[[Format], None] = lambda form: None
        """Called before an answer is registered; raises `BadRequest` if its id is taken."""
        self.tokenizer: Tokenizer | None = None
        """The model's, set by the server before it is READY."""
        self.is_sealed = False
        """Whether the answers are left to the next server."""
        journal.live = self._records

    # -- accepting, reading, closing

    def open(self, form: Format, owner: bytes, requests: Sequence[Request]) -> AnswerStreams:
        """Registers an answer, in the journal too. Raises `BadRequest` (409) if its id is taken."""
        answer_id = form.answer_id
        if answer_id in self._answers:
            raise BadRequest(
                f"request {answer_id!r} is already running: GET /v1/requests/{quote(answer_id)} "
                "returns its answer",
                status=409,
                param="X-Request-Id",
            )
        self.check_new(form)
        answer = AnswerStreams(form, owner, requests)
        self._register(answer)
        self._journal.write(AnswerAccepted.of(form, owner, requests))
        self._counters.requests += len(requests)
        self._counters.prompt_tokens += sum(len(request.prompt_ids) for request in requests)
        return answer

    def _register(self, answer: AnswerStreams) -> None:
        self._answers[answer.form.answer_id] = answer
        answer.on_ended = self._note_end
        for stream in answer.streams:
            self.streams[stream.request.request_id] = stream

    def _note_end(self, answer: AnswerStreams) -> None:
        answer.tokenizer = self.tokenizer
        if not answer.is_refused:
            self.on_ended(answer)
        if answer.is_background and not answer.readers:
            self._close(answer)

    def find(self, answer_id: str, owner: bytes) -> AnswerStreams:
        """The open answer with this id. Raises `BadRequest` (404), also for that of another
        key."""
        answer = self._answers.get(answer_id)
        if answer is None or not hmac.compare_digest(answer.owner, owner):
            raise BadRequest(
                f"no request {shortened(answer_id)!r} is open: it was answered or given up, or was "
                "not accepted with this API key",
                status=404,
                param="id",
            )
        return answer

    @contextlib.contextmanager
    def reading(self, answer: AnswerStreams) -> Iterator[AnswerReader]:
        """A client reads the answer. When the last one leaves, the answer is closed: it was read,
        or nothing wants it any more. One in the background goes on to its end."""
        reader = AnswerReader(answer)
        answer.tokenizer = self.tokenizer
        answer.readers.append(reader)
        try:
            yield reader
        finally:
            answer.readers.remove(reader)
            if not answer.readers and not self._needs_no_client(answer):
                self._close(answer)

    def _needs_no_client(self, answer: AnswerStreams) -> bool:
        return answer.is_background and not answer.has_ended

    def cancel(self, answer: AnswerStreams) -> None:
        """Ends an answer, also for the clients that read it."""
        answer.is_cancelled = True
        for stream in answer.streams:
            if not stream.ended:
                self._counters.ended.note_abandoned()
                self._disown(stream.request.request_id)
                stream.refuse(Refused(stream.request.request_id, 409, CANCELLED))

    def _close(self, answer: AnswerStreams) -> None:
        """Forgets an answer, and aborts those of its requests that run."""
        if self.is_sealed or self._answers.pop(answer.form.answer_id, None) is None:
            return
        for stream in answer.streams:
            request_id = stream.request.request_id
            del self.streams[request_id]
            if not stream.ended:
                self._counters.ended.note_abandoned()
                self._disown(request_id)
        self._journal.write(AnswerClosed(answer.form.answer_id))

    def _disown(self, request_id: str) -> None:
        """Has the router end a request that no client wants."""
        if request_id in self._disowned:
            return
        self._disowned[request_id] = None
        while len(self._disowned) > DISOWNED_KEPT:
            del self._disowned[next(iter(self._disowned))]
        self._post(Abort(request_id, "client gone"))

    # -- what the router and the detokenizer say

    def put(self, delta: TextDelta) -> Stream | None:
        """Passes a piece of an answer to its stream, which is returned if it was new. The router
        may forget a request as soon as all of it is here; one that is unknown here is ended."""
        stream = self.streams.get(delta.request_id)
        if stream is None:
            if delta.finish_reason:
                self._post(AnswerHeard(delta.request_id))
            else:
                self._disown(delta.request_id)
            return None
        is_new = stream.put(delta)
        if delta.finish_reason and stream.ended:
            if is_new and delta.request_id in self.streams:
                self._journal.write(_ended(stream))
            self._post(AnswerHeard(delta.request_id))
        return stream if is_new else None

    def put_scores(self, scored: PromptScored) -> None:
        """Passes logprobs of a prompt to its stream."""
        if stream := self.streams.get(scored.request_id):
            stream.put_scores(scored.piece)

    def refuse_all(self, reason: str) -> None:
        """Ends every stream with an error (503)."""
        for request_id, stream in self.streams.items():
            if not stream.ended:
                self._counters.errors += 1
                self._counters.ended.note_refused(503, has_begun=stream.num_tokens > 0)
                stream.refuse(Refused(request_id, 503, reason))

    # -- over a change of server

    def restore(self) -> bool:
        """Goes on with the answers of an earlier server of this pipeline; False if there was
        none."""
        try:
            for record in self._journal.read():
                self._fold(record)
        except FileNotFoundError:
            self._journal.open()
            return False
        except OSError as error:
            self._report("error", f"cannot read {self._journal.path}: {error.strerror}")
        self._journal.open()
        if self._answers:
            self._report(
                "warning",
                f"server restarted; {counted(len(self._answers), 'request')} can be taken up "
                f"again with GET /v1/requests/ID",
            )
        return True

    def _fold(self, record: JournalRecord) -> None:
        match record:
            case AnswerAccepted():
                requests = record.requests()
                self._register(AnswerStreams(record.form, record.owner, requests, is_restored=True))
            case ChoiceEnded():
                if stream := self.streams.get(record.request_id):
                    _restore_ended(stream, record)
            case AnswerClosed():
                if answer := self._answers.pop(record.answer_id, None):
                    for stream in answer.streams:
                        del self.streams[stream.request.request_id]

    def _records(self) -> Iterable[JournalRecord]:
        for answer in self._answers.values():
            requests = [stream.request for stream in answer.streams]
            yield AnswerAccepted.of(answer.form, answer.owner, requests)
            yield from (
                _ended(stream) for stream in answer.streams if stream.finish_reason is not None
            )

    @property
    def num_unclaimed(self) -> int:
        """Answers without a client."""
        return len(self._unclaimed())

    def _unclaimed(self) -> list[AnswerStreams]:
        return [
            answer
            for answer in self._answers.values()
            if not answer.readers and not self._needs_no_client(answer)
        ]

    def abandon_unclaimed(self) -> None:
        """Gives up the answers whose clients have not come back."""
        unclaimed = self._unclaimed()
        for answer in unclaimed:
            if answer.is_background:  # it had ended when the last server did
                self._note_end(answer)
            else:
                self._close(answer)
        unclaimed = [answer for answer in unclaimed if not answer.is_background]
        self._counters.abandoned += len(unclaimed)
        if unclaimed:
            given_up = counted(len(unclaimed), "request", "are")
            self._report(
                "warning",
                f"{given_up} given up: no client came back for them in {GRACE_SECONDS:.0f} s",
            )

    def write_journal(self) -> None:
        """Writes the journal anew, in place of one that was removed."""
        self._journal.open()

    def seal(self) -> None:
        """Leaves everything to the next server: connections may break, and nothing is aborted."""
        self.is_sealed = True
        self._journal.close()

    def end(self) -> None:
        """Removes the journal: the pipeline ends."""
        self.is_sealed = True  # a late handler must not write it again
        self._journal.remove()


def _ended(stream: Stream) -> ChoiceEnded:
    assert stream.finish_reason is not None
    return ChoiceEnded(
        stream.request.request_id,
        tuple(stream.token_ids),
        tuple(stream.pieces),
        stream.tail,
        stream.finish_reason,
        tuple(stream.logprobs),
        stream.stopped_by,
        tuple(stream.prompt_logprobs),
    )


def _restore_ended(stream: Stream, record: ChoiceEnded) -> None:
    for piece in record.prompt_logprobs:
        stream.put_scores(piece)
    stream.token_ids.extend(record.token_ids)
    stream.pieces += record.pieces
    stream.tail, stream.finish_reason = record.tail, record.finish_reason
    stream.stopped_by = record.stopped_by
    stream.num_chars = len(stream.text)
    stream.logprobs += record.logprobs
