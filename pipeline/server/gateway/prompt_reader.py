"""`PromptReader`: makes token ids of the prompts in a body, away from the event loop.

What cannot fit the model's length is refused by its size, before it is tokenised. Knows no route.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import Any, NamedTuple

from starlette.requests import Request as HttpRequest

from ...text.chat_template import ChatTemplate, TooMuchText
from ...text.fill_middle import MISSING, FillMiddle
from ..bodies.openai_bodies import ChatBody
from ..bodies.token_fields import Truncation
from ..bodies.tool_fields import ChatTools
from ..chat.answer_plan import AnswerPlan, find_formats, plan_answer
from ..chat.chat_prompt import chat_prompt
from ..chat.thinking_variables import thinking_variables
from ..http.bad_request import BadRequest, shortened, too_long
from ..http.request_limits import TEXT_BYTES, TEXT_BYTES_PER_TOKEN
from .gateway import Gateway
from .text_workers import TextWorkers

MOST_TEMPLATE = 256 * 1024
"""Most characters of a request's chat template."""
AT_ONCE = 2048
"""Characters of prompts that are tokenised on the event loop, within half a millisecond."""
CUT_TIMES = 8
"""A prompt that is cut to fit may have this many times the text that fits: all of it is
tokenised."""


class ReadChat(NamedTuple):
    """A chat, ready for the model, and how its answer is to be read."""

    token_ids: list[int]
    plan: AnswerPlan
    tools: ChatTools | None


class PromptReader:
    """Reads prompts for the model of `gateway`. Refusals are `BadRequest`s that name the field."""

    def __init__(self, gateway: Gateway) -> None:
        self._gateway = gateway
        self.workers = TextWorkers()

    def check_number(self, field: str, prompts: int, n: int = 1, least: int = 0) -> None:
        """Refuses a body of too many requests: of more than `least` and than --max-choices. `field`
        has the prompts, each of which has `n` choices."""
        most = max(least, self._gateway.config.max_choices)
        if prompts * n > most:
            made = [f"{field} has {prompts} prompts"] if prompts > 1 else []
            made += [f"n is {n}"] if n > 1 else []
            raise BadRequest(
                f"{' and '.join(made)}; a body may have {most} requests (see --max-choices)",
                param=field if prompts > most else "n",
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
        times = 1 if truncation is None else CUT_TIMES
        found = await self.tokenize(request, prompts, field, adds, suffix=suffix, times=times)
        if truncation is not None:
            found = [truncation.cut(ids) for ids in found]
        for ids in found:
            self._check_prompt(ids, field, has_answer)
        return found

    async def tokenize(
        self,
        request: HttpRequest,
        prompts: Sequence[str] | Sequence[list[int]],
        field: str,
        adds: bool,
        *,
        suffix: str = "",
        times: int = 1,
    ) -> list[list[int]]:
        """As `read`, also of prompts that are too long for an answer: of `times` the text that the
        model holds."""
        texts = [prompt for prompt in prompts if isinstance(prompt, str)]
        found = [prompt for prompt in prompts if not isinstance(prompt, str)]
        if texts:
            for text in texts:
                self._check_bytes(text, field, times)
            self._check_bytes(suffix, "suffix")
            encode = functools.partial(self._encode, texts, adds, self._fill_middle(suffix), suffix)
            length = sum(map(len, texts)) + len(suffix)
            found = (
                encode()
                if length <= AT_ONCE
                else await self.workers.run(length, _client(request), encode)
            )
        elif suffix:
            raise BadRequest("suffix needs prompts that are texts", param="suffix")
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
    ) -> ReadChat:
        """A conversation with `adapter`, with room for an answer."""
        found = await self.tokenize_chat(request, body, adapter)
        if truncation is not None:
            found = found._replace(token_ids=truncation.cut(found.token_ids))
        self._check_prompt(found.token_ids, "messages")
        return found

    async def tokenize_chat(
        self, request: HttpRequest, body: ChatBody, adapter: str | None
    ) -> ReadChat:
        """As `read_chat`, also of a conversation that is too long for an answer."""
        gateway = self._gateway
        if len(body.messages) > gateway.max_model_len:
            reason = f"messages has {len(body.messages)} entries"
            raise too_long(gateway.max_model_len, reason, "messages")
        tools = body.chat_tools()
        given = list(tools.given) if tools else []
        for field, value in (("messages", body.messages), ("tools", given)):
            if (length := _text_length(value)) > self._most_bytes():
                raise self._too_much_text(length, field)
        self._check_own_template(body)
        read = functools.partial(
            self._read_chat, body, tools, gateway.adapter_chat(adapter).template
        )
        length = _text_length([body.messages, given, body.documents or []])
        try:
            return await self.workers.run(length, _client(request), read)
        except TooMuchText as error:
            raise too_long(gateway.max_model_len, str(error), "messages") from error

    def _check_own_template(self, body: ChatBody) -> None:
        """Raises `BadRequest` if the request brings a template and may not."""
        if body.chat_template is None:
            return
        if not self._gateway.config.trust_request_chat_template:
            raise BadRequest(
                "chat_template is not taken from requests: the operator can allow it with "
                "--trust-request-chat-template",
                param="chat_template",
            )
        if len(body.chat_template) > MOST_TEMPLATE:
            raise BadRequest(
                f"chat_template has {len(body.chat_template)} characters; at most {MOST_TEMPLATE}",
                param="chat_template",
            )

    def _own_template(self, body: ChatBody) -> ChatTemplate | None:
        """The request's template. Raises `BadRequest` if it does not compile."""
        if body.chat_template is None:
            return None
        variables = self._gateway.tokenizer.special_tokens
        template = ChatTemplate({"default": body.chat_template}, variables, "the request")
        if template.fault:
            raise BadRequest(f"chat_template: {template.fault}", param="chat_template")
        return template

    def _read_chat(
        self, body: ChatBody, tools: ChatTools | None, chat_template: ChatTemplate | None
    ) -> ReadChat:
        gateway = self._gateway
        config, tokenizer = gateway.config, gateway.tokenizer
        chat_template = self._own_template(body) or chat_template
        template = chat_template or tokenizer.chat_template
        formats = find_formats(template, config.tool_format, config.reasoning_format)
        variables: dict[str, Any] = {}
        if template is not None:
            can_reason = bool(formats.reasoning)
            variables = thinking_variables(template, body.chat_thinking(), can_reason=can_reason)
        prompt = chat_prompt(
            tokenizer,
            body.messages,
            tools=tools.given if tools else None,
            documents=body.documents,
            template_kwargs={**variables, **(body.chat_template_kwargs or {})},
            add_generation_prompt=body.add_generation_prompt,
            continue_final_message=body.continue_final_message,
            add_special_tokens=body.add_special_tokens or False,
            chat_template=chat_template,
            most_characters=self._most_bytes(),
        )
        plan = plan_answer(
            tokenizer,
            prompt.text,
            tools,
            formats,
            separates_reasoning=body.separate_reasoning,
            hides_reasoning=not body.include_reasoning,
        )
        return ReadChat(prompt.token_ids, plan, tools)

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
            raise self._too_much_text(length, field, times)

    def _too_much_text(self, length: int, field: str, times: int = 1) -> BadRequest:
        most, longest = times * self._most_bytes(), self._gateway.max_model_len
        cut = f", {times} times over, if the prompt is cut" if times > 1 else ""
        reason = f"{field} has {length} bytes of text; at most {most} can fit{cut}"
        return too_long(longest, reason, field)

    def _check_prompt(self, ids: Sequence[int], field: str, has_answer: bool = True) -> None:
        longest = self._gateway.max_model_len
        if not ids:
            raise BadRequest("the prompt is empty", param=field)
        if len(ids) > longest - has_answer:
            rest = "leave no room for an answer" if has_answer else "are too many"
            raise too_long(longest, f"its {len(ids)} tokens {rest}", field)
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
