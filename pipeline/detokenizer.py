"""Process `detokenizer`: Tokens → TextDelta. Finds stop strings, holds half characters back.

Knows no scheduling: what it forgets in a crash the router tells it again from the first token,
and the character offset in each delta lets the server drop what it has already sent.
By hand: `python -m loraconsole.pipeline.detokenizer --run DIR`.
"""

from __future__ import annotations

import asyncio

from .config import Config
from .messages import (
    CloseStream,
    Introduce,
    OpenStream,
    ProcessState,
    Ready,
    StopFound,
    StreamToken,
    StreamTokens,
    TextDelta,
    TextDeltas,
    ToDetokenizer,
    TokenLogprob,
)
from .process import Process, run_process
from .tokenizer import TextStream, Tokenizer


class Detokenizer(Process):
    """One `OutputStream` a live request."""

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
                        self._push(tokens)
                case OpenStream() as request:
                    stream = OutputStream(request, self._tokenizer)
                    self._streams[request.request_id] = stream
                case CloseStream(request_id=request_id):
                    self._streams.pop(request_id, None)
                case Introduce():
                    self._streams.clear()
                    self._announce()

    def _announce(self) -> None:
        self.outbox("router").send(Ready(self.name, self.incarnation))

    def _push(self, tokens: tuple[StreamToken, ...]) -> None:
        """All the text of a step in one frame; tokens of streams already closed are ignored."""
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
    """The text of one request: released as soon as no stop string can begin in it."""

    def __init__(self, request: OpenStream, tokenizer: Tokenizer) -> None:
        self._request = request
        self._tokenizer = tokenizer
        self._text = TextStream(tokenizer)
        self._held = ""
        self._offset = 0
        self._num_tokens = 0

    def push(self, token: StreamToken) -> TextDelta | None:
        """The delta this token brings; None for one seen before (a replay overlapping)."""
        if token.index < self._num_tokens:
            return None
        self._num_tokens = token.index + 1
        finish_reason = token.finish_reason
        text = self._held
        if finish_reason != "stop":  # the token that says stop is no part of the text
            text += self._text.push(token.token_id)
        if finish_reason:
            text += self._text.flush()
        cut = self._find_stop(text)
        if cut is not None:
            text, self._held, finish_reason = text[:cut], "", "stop"
        elif finish_reason:
            self._held = ""
        else:
            keep = len(text) - self._possible_stop(text)
            text, self._held = text[:keep], text[keep:]
        delta = TextDelta(
            request_id=self._request.request_id,
            offset=self._offset,
            text=text,
            num_tokens=self._num_tokens,
            token_ids=(token.token_id,),
            logprobs=self._logprobs(token),
            finish_reason=finish_reason,
        )
        self._offset += len(text)
        return delta

    def _find_stop(self, text: str) -> int | None:
        """Where the first stop string begins, if one is complete."""
        found = [at for stop in self._request.stop if (at := text.find(stop)) >= 0]
        return min(found, default=None)

    def _possible_stop(self, text: str) -> int:
        """Length of the longest end of `text` that is the beginning of a stop string."""
        return max(
            (
                length
                for stop in self._request.stop
                for length in range(1, min(len(stop), len(text) + 1))
                if text.endswith(stop[:length])
            ),
            default=0,
        )

    def _logprobs(self, token: StreamToken) -> tuple[TokenLogprob, ...]:
        if not (self._request.logprobs and token.logprobs):
            return ()
        texts = [self._tokenizer.token_text(entry.token_id) for entry in token.logprobs]
        pairs = tuple((t, e.logprob) for t, e in zip(texts, token.logprobs, strict=True))
        return (TokenLogprob(pairs[0][0], pairs[0][1], pairs[1:]),)


if __name__ == "__main__":
    run_process(Detokenizer, __doc__)
