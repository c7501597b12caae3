"""`PromptReader`: makes token ids of the prompts in a body, away from the event loop.

What cannot fit the model's length is refused by its size, before it is tokenised. Knows no route.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence

from starlette.requests import Request as HttpRequest

from ...text.fill_middle import MISSING, FillMiddle
from ..bodies.openai_bodies import ChatBody
from ..bodies.token_fields import Truncation
from ..chat.chat_prompt import chat_prompt
from ..http.bad_request import BadRequest, shortened
from ..http.request_limits import TEXT_BYTES, TEXT_BYTES_PER_TOKEN
from .gateway import Gateway
from .text_workers import TextWorkers

AT_ONCE = 2048
"""Characters of prompts that are tokenised on the event loop, within half a millisecond."""
CUT_TIMES = 8
"""A prompt that is cut to fit may have this many times the text that fits: all of it is
tokenised."""


class PromptReader:
    """Reads prompts for the model of `gateway`. Refusals are `BadRequest`s that name the field."""

    def __init__(self, gateway: Gateway) -> None:
        self._gateway = gateway
        self._workers = TextWorkers()

    def check_number(self, prompts: int, n: int) -> None:
        """Refuses a body of too many requests."""
        most = self._gateway.config.max_choices
        if prompts * n > most:
            raise BadRequest(
                f"{prompts} prompts with n {n} make {prompts * n} requests; a body may have {most} "
                "(see --max-choices)",
                param="prompt" if prompts > most else "n",
            )

    async def read(
        self,
        request: HttpRequest,
        prompts: Sequence[str] | Sequence[list[int]],
        field: str,
        adds: bool,
        *,
        suffix: str = "",
        truncation: Truncation | None = None,
        has_answer: bool = True,
    ) -> list[list[int]]:
        """The token ids of each prompt, which is a text or has them already. `adds`: the tokenizer
        adds its own special tokens. `suffix`: the text that comes after the answer. `has_answer`:
        a token is to fit beside the prompt."""
        texts = [prompt for prompt in prompts if isinstance(prompt, str)]
        found = [prompt for prompt in prompts if not isinstance(prompt, str)]
        if texts:
            times = 1 if truncation is None else CUT_TIMES
            for text in texts:
                self._check_bytes(text, field, times)
            self._check_bytes(suffix, "suffix")
            encode = functools.partial(self._encode, texts, adds, self._fill_middle(suffix), suffix)
            length = sum(map(len, texts)) + len(suffix)
            found = (
                encode()
                if length <= AT_ONCE
                else await self._workers.run(length, _client(request), encode)
            )
        elif suffix:
            raise BadRequest("suffix needs prompts that are texts", param="suffix")
        if truncation is not None:
            found = [truncation.cut(ids) for ids in found]
        for ids in found:
            self._check_prompt(ids, field, has_answer)
        return found

    def _encode(
        self, texts: Sequence[str], adds: bool, fill: FillMiddle | None, suffix: str
    ) -> list[list[int]]:
        if fill is not None:
            return [fill.encode(text, suffix, adds) for text in texts]
        return [self._gateway.tokenizer.encode(text, adds) for text in texts]

    def _fill_middle(self, suffix: str) -> FillMiddle | None:
        """How the model fills in the text before `suffix`; None without one."""
        if not suffix:
            return None
        fill = FillMiddle.of(self._gateway.tokenizer)
        if fill is None:
            raise BadRequest(MISSING, param="suffix")
        return fill

    async def read_chat(
        self,
        request: HttpRequest,
        body: ChatBody,
        adapter: str | None,
        truncation: Truncation | None = None,
    ) -> list[int]:
        """The token ids of a conversation with `adapter`."""
        gateway = self._gateway
        if len(body.messages) > gateway.max_model_len:
            raise BadRequest(
                f"messages has {len(body.messages)} entries; the model's length is "
                f"{gateway.max_model_len} tokens",
                param="messages",
            )
        length = sum(map(_text_length, body.messages))
        most = self._most_bytes()
        if length > most:
            raise self._too_long(length, "messages")
        render = functools.partial(
            chat_prompt,
            gateway.tokenizer,
            body.messages,
            documents=body.documents,
            template_kwargs=body.chat_template_kwargs,
            add_generation_prompt=body.add_generation_prompt,
            continue_final_message=body.continue_final_message,
            add_special_tokens=body.add_special_tokens or False,
            chat_template=gateway.adapter_chat(adapter).template,
            most_characters=most,
        )
        length += sum(map(_text_length, body.documents or ()))
        ids = await self._workers.run(length, _client(request), render)
        if truncation is not None:
            ids = truncation.cut(ids)
        self._check_prompt(ids, "messages")
        return ids

    # -- checks

    def _most_bytes(self) -> int:
        """Bytes of text beyond which no prompt can fit the model's length."""
        tokens, longest = self._gateway.max_model_len, self._gateway.tokenizer.longest_token
        if longest is None:
            return max(TEXT_BYTES, TEXT_BYTES_PER_TOKEN * tokens)
        return longest * tokens

    def _check_bytes(self, text: str, field: str, times: int = 1) -> None:
        """Refuses a text of more than `times` what the model holds."""
        most = times * self._most_bytes()
        if 4 * len(text) > most and ((length := len(text.encode(errors="surrogatepass"))) > most):
            raise self._too_long(length, field, times)

    def _too_long(self, length: int, field: str, times: int = 1) -> BadRequest:
        most, longest = self._most_bytes(), self._gateway.max_model_len
        cut = f"; a prompt that is cut may have {times} times as much" if times > 1 else ""
        return BadRequest(
            f"{field} has {length} bytes of text; the model's length, {longest} tokens, holds "
            f"{most} at most{cut}",
            param=field,
        )

    def _check_prompt(self, ids: Sequence[int], field: str, has_answer: bool = True) -> None:
        longest = self._gateway.max_model_len
        if not ids:
            raise BadRequest("the prompt is empty", param=field)
        if len(ids) > longest - has_answer:
            raise BadRequest(
                f"prompt of {len(ids)} tokens with an answer exceeds {longest}, the longest that "
                "the model holds",
                param=field,
            )
        self.check_ids(ids, field)

    def check_ids(self, ids: Sequence[int], field: str) -> None:
        """Refuses a token without an embedding: tokenizers may have more tokens than the model."""
        size = self._gateway.vocab_size
        if not ids or (min(ids) >= 0 and max(ids) < size):
            return
        wrong = next(token_id for token_id in ids if not 0 <= token_id < size)
        text = self._gateway.tokenizer.token_text(wrong) if 0 <= wrong < 1 << 31 else ""
        name = f" ({shortened(text)!r})" if text else ""
        raise BadRequest(
            f"{field}: token id {wrong}{name} is not in [0, {size}), the model's vocabulary",
            param=field,
        )


def _client(request: HttpRequest) -> str:
    return request.client.host if request.client else ""


def _text_length(value: object) -> int:
    """Characters of all strings in a JSON value."""
    if isinstance(value, str):
        return len(value)
    if isinstance(value, dict):
        return sum(map(_text_length, value.values()))
    return sum(map(_text_length, value)) if isinstance(value, list) else 0
