"""Process `detokenizer`: Tokens → TextDelta. Finds stop strings, holds half characters back.

Knows no scheduling. After a crash the router sends all tokens again from the first, and the
character offset in each delta lets the server drop text that it has already sent.
By hand: `python -m loraconsole.pipeline.detokenizer --run DIR`.
"""

from __future__ import annotations

import asyncio

from .config import Config
from .messages import (
    NO_TOKEN,
    CloseStream,
    Introduce,
    OpenStream,
    ProcessState,
    PromptScored,
    Ready,
    StopFound,
    StreamToken,
    StreamTokens,
    TextDelta,
    TextDeltas,
    ToDetokenizer,
    TokenLogprob,
)
from .runtime.process import Process, run_process
from .text.stop_search import StopSearch
from .text.token_words import TokenWords
from .text.tokenizer import TextStream, Tokenizer

TOKENS_AT_ONCE = 256
"""Tokens whose text is made before the event loop goes on: as many as a step has."""


class Detokenizer(Process):
    """Holds an `OutputStream` for each live request."""

    accepts = ToDetokenizer

    def __init__(self, config: Config, rank: int = 0) -> None:
        super().__init__(config, "detokenizer")
        self._streams: dict[str, OutputStream] = {}

    # -- startup, main loop, shutdown

    async def startup(self) -> None:
        self.set_state(ProcessState.STARTING, "reading the tokenizer")
        self._tokenizer = await asyncio.to_thread(Tokenizer, self.run / "model")
        self._announce()
        self.set_state(ProcessState.READY)

    async def main(self) -> None:
        while True:
            match await self.receive():
                case StreamTokens(tokens=tokens):
                    with self.spans.span("detokenize", tokens=len(tokens)):
                        for at in range(0, len(tokens), TOKENS_AT_ONCE):
                            if at:  # all tokens of a long answer, sent again after a restart
                                await asyncio.sleep(0)
                            self._push(tokens[at : at + TOKENS_AT_ONCE])
                case OpenStream() as request:
                    stream = OutputStream(request, self._tokenizer)
                    self._streams[request.request_id] = stream
                case PromptScored() as scored:
                    if scored.request_id in self._streams:
                        self.outbox("server").send(scored)
                case CloseStream(request_id=request_id):
                    self._streams.pop(request_id, None)
                case Introduce():
                    self._streams.clear()
                    self._announce()

    def _announce(self) -> None:
        self.outbox("router").send(Ready(self.name, self.incarnation))

    def _push(self, tokens: tuple[StreamToken, ...]) -> None:
        """Sends all the text of these tokens in one frame; tokens of closed streams are ignored."""
        deltas = []
        for token in tokens:
            stream = self._streams.get(token.request_id)
            if stream is None:
                continue
            delta = stream.push(token)
            if delta is None:
                continue
            deltas.append(delta)
            if delta.finish_reason:
                del self._streams[token.request_id]
                if token.finish_reason is None:
                    self.outbox("router").send(StopFound(token.request_id))
        if deltas:
            self.outbox("server").send(TextDeltas(tuple(deltas)))


class OutputStream:
    """The text of one request, released as soon as no stop string can begin in it."""

    def __init__(self, request: OpenStream, tokenizer: Tokenizer) -> None:
        self._request = request
        self._tokenizer = tokenizer
        shown = frozenset(request.shown_special_ids)
        self._text = TextStream(tokenizer, request.skip_special_tokens, shown)
        self._words = TokenWords(tokenizer, request.skip_special_tokens, shown)
        marked = [stop for stop in request.stop if self._is_hidden(stop)]
        self._search = StopSearch(
            [stop for stop in request.stop if stop not in marked],
            marked,
            include=request.include_stop_str_in_output,
        )
        self._seeks_hidden = bool(marked)
        self._has_begun = False
        """Whether a token of the text has come."""
        self._offset = 0
        self._num_tokens = 0

    def _is_hidden(self, stop: str) -> bool:
        """Whether this stop string contains a special token, so shown text never contains it."""
        if not self._request.skip_special_tokens:
            return False
        return any(map(self._words.is_left_out, self._tokenizer.encode(stop, False)))

    def push(self, token: StreamToken) -> TextDelta | None:
        """The delta of this token; None for a token seen before (sent again after a restart), and
        for one of an earlier router that is ahead of those sent again."""
        if token.index != self._num_tokens:
            return None
        if token.token_id == NO_TOKEN:
            return self._bare_end(token)
        self._num_tokens = token.index + 1
        finish_reason = token.finish_reason
        logprobs = self._logprobs(token)
        # The stop token is not part of the text, unless the request asks for it.
        may_end = self._num_tokens > self._request.min_tokens
        if finish_reason != "stop" or self._request.include_stop_str_in_output:
            self._search.add(self._text.push(token.token_id), may_end=may_end)
            is_left_out = self._words.is_left_out(token.token_id)
            self._has_begun = self._has_begun or not is_left_out
        if self._seeks_hidden and self._words.is_left_out(token.token_id):
            hidden = self._tokenizer.decode((token.token_id,), skip_special_tokens=False)
            self._search.add(hidden, is_shown=False, may_end=may_end)
        if finish_reason:
            self._search.add(self._text.flush(), may_end=may_end)
        text, stop = self._search.release(final=finish_reason is not None)
        stopped_by = token.token_id if stop is None and finish_reason == "stop" else stop
        delta = TextDelta(
            request_id=self._request.request_id,
            offset=self._offset,
            text=text,
            num_tokens=self._num_tokens,
            token_ids=(token.token_id,),
            logprobs=logprobs,
            finish_reason=finish_reason if stop is None else "stop",
            stopped_by=stopped_by,
        )
        self._offset += len(text)
        return delta

    def _bare_end(self, token: StreamToken) -> TextDelta:
        """The delta of an end without a token: the text that was held back."""
        self._search.add(self._text.flush(), may_end=self._num_tokens > self._request.min_tokens)
        text, stop = self._search.release(final=True)
        self._offset += len(text)
        return TextDelta(
            request_id=self._request.request_id,
            offset=self._offset - len(text),
            text=text,
            num_tokens=self._num_tokens,
            token_ids=(),
            finish_reason=token.finish_reason if stop is None else "stop",
            stopped_by=stop,
        )

    def _logprobs(self, token: StreamToken) -> tuple[TokenLogprob, ...]:
        """The token's logprobs. Called before its text is added, so its offset is the end of the
        text so far."""
        if not (self._request.logprobs and token.logprobs):
            return ()
        chosen, *top = (
            self._words.entry(entry.token_id, entry.logprob, is_first=not self._has_begun)
            for entry in token.logprobs
        )
        return (TokenLogprob(chosen, tuple(top), self._offset + self._search.held),)


if __name__ == "__main__":
    run_process(Detokenizer, __doc__)
