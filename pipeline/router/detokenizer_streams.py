"""`DetokenizerStreams`: the token streams that the detokenizer turns into text. A restarted
detokenizer gets them again."""

from __future__ import annotations

from collections.abc import Iterable

import msgspec

from ..messages import (
    CloseStream,
    OpenStream,
    PromptScored,
    Request,
    StreamToken,
    StreamTokens,
)
from ..schedule.sequence import Sequence
from .effects import Effects


class DetokenizerStreams:
    """Streams of live requests are made from the scheduler's sequences. Streams of ended requests
    are kept here until the server has all their text."""

    def __init__(self, effects: Effects) -> None:
        self._effects = effects
        self._ended: dict[str, tuple[Sequence, str | None]] = {}
        """Sequences and finish reasons, by request."""

    def open_stream(self, request: Request) -> None:
        self._effects.send(
            "detokenizer",
            OpenStream(
                request_id=request.request_id,
                stop=request.params.stop,
                logprobs=request.params.logprobs is not None,
                skip_special_tokens=request.params.skip_special_tokens,
                include_stop_str_in_output=request.params.include_stop_str_in_output,
                min_tokens=request.params.min_tokens,
                shown_special_ids=request.params.shown_special_ids,
            ),
        )

    def close_stream(self, request_id: str) -> None:
        """Closes the stream of a request that ends without its full answer."""
        self._effects.send("detokenizer", CloseStream(request_id))

    def keep_ended(self, sequence: Sequence, finish_reason: str | None) -> None:
        """Keeps an ended request. `finish_reason` None: a stop string, which the detokenizer finds
        again."""
        self._ended[sequence.request.request_id] = (sequence, finish_reason)

    def is_kept(self, request_id: str) -> bool:
        """Whether it has ended, and the server does not have all its text yet."""
        return request_id in self._ended

    def forget_ended(self, request_id: str) -> None:
        """Drops an ended request: the server has all its text, or no client wants it any more."""
        self._ended.pop(request_id, None)

    def send_all_again(self, live: Iterable[Sequence]) -> int:
        """Sends every stream from its first token, after a restart. Returns their number."""
        streams: list[tuple[Sequence, str | None]] = [(sequence, None) for sequence in live]
        streams += self._ended.values()
        for sequence, finish_reason in streams:
            self.send_again(sequence, finish_reason)
        return len(streams)

    def send_again(self, sequence: Sequence, finish_reason: str | None = None) -> None:
        """Sends a stream from its first token. `finish_reason` is set if the last token ends it."""
        request = sequence.request
        self.open_stream(request)
        for piece in sequence.prompt_logprobs:
            self._effects.send("detokenizer", PromptScored(request.request_id, piece))
        outputs = sequence.token_ids[sequence.num_prompt :]
        has_bare_end = sequence.has_bare_end or not outputs
        logprobs = sequence.logprobs or [()] * len(outputs)
        tokens = [
            StreamToken(request.request_id, index, token_id, values)
            for index, (token_id, values) in enumerate(zip(outputs, logprobs, strict=True))
        ]
        if finish_reason and has_bare_end:
            tokens.append(sequence.bare_end(finish_reason))
        elif finish_reason:
            tokens[-1] = msgspec.structs.replace(tokens[-1], finish_reason=finish_reason)
        if tokens:
            self._effects.send("detokenizer", StreamTokens(tuple(tokens)))
