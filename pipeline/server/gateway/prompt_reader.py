"""`PromptReader`: makes token ids of the prompts in a body, away from the event loop.

What cannot fit the model's length is refused by its size, before it is tokenised. Knows no route.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import Any, NamedTuple

from starlette.requests import Request as HttpRequest

from ...text.chat_template import ChatTemplate, TooMuchText
from ..bodies.openai_bodies import ChatBody
from ..bodies.tool_fields import ChatTools
from ..chat.answer_plan import AnswerPlan, find_formats, plan_answer
from ..chat.chat_prompt import chat_prompt
from ..chat.thinking_variables import thinking_variables
from ..http.bad_request import BadRequest, shortened, too_long
from ..http.request_limits import TEXT_BYTES, TEXT_BYTES_PER_TOKEN
from .gateway import Gateway
from .text_workers import TextWorkers

AT_ONCE = 2048
"""Characters of prompts that are tokenised on the event loop, within half a millisecond."""


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
    ) -> list[list[int]]:
        """The token ids of each prompt, which is a text or has them already. `adds`: the tokenizer
        adds its own special tokens."""
        found = await self.tokenize(request, prompts, field, adds)
        for ids in found:
            self._check_prompt(ids, field)
        return found

    async def tokenize(
        self,
        request: HttpRequest,
        prompts: Sequence[str] | Sequence[list[int]],
        field: str,
        adds: bool,
    ) -> list[list[int]]:
        """As `read`, also of prompts that are too long for an answer."""
        texts = [prompt for prompt in prompts if isinstance(prompt, str)]
        found = [prompt for prompt in prompts if not isinstance(prompt, str)]
        if texts:
            for text in texts:
                self._check_bytes(text, field)
            encode = functools.partial(self._encode, texts, adds)
            length = sum(map(len, texts))
            found = (
                encode()
                if length <= AT_ONCE
                else await self.workers.run(length, _client(request), encode)
            )
        return found

    def _encode(self, texts: Sequence[str], adds: bool) -> list[list[int]]:
        return [self._gateway.tokenizer.encode(text, adds) for text in texts]

    async def read_chat(
        self, request: HttpRequest, body: ChatBody, adapter: str | None
    ) -> ReadChat:
        """A conversation with `adapter`, with room for an answer."""
        found = await self.tokenize_chat(request, body, adapter)
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
        template = self._own_template(body) or gateway.adapter_chat(adapter).template
        read = functools.partial(self._read_chat, body, tools, template)
        length = _text_length([body.messages, given, body.documents or []])
        try:
            return await self.workers.run(length, _client(request), read)
        except TooMuchText as error:
            raise too_long(gateway.max_model_len, str(error), "messages") from error

    def _own_template(self, body: ChatBody) -> ChatTemplate | None:
        """The request's template. Raises `BadRequest` if it may not bring one."""
        if not body.chat_template:
            return None
        if not self._gateway.config.trust_request_chat_template:
            raise BadRequest(
                "chat_template is not taken from requests: the operator can allow it with "
                "--trust-request-chat-template",
                param="chat_template",
            )
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

    def _check_bytes(self, text: str, field: str) -> None:
        if 4 * len(text) > self._most_bytes() and (
            (length := len(text.encode(errors="surrogatepass"))) > self._most_bytes()
        ):
            raise self._too_much_text(length, field)

    def _too_much_text(self, length: int, field: str) -> BadRequest:
        most, longest = self._most_bytes(), self._gateway.max_model_len
        reason = f"{field} has {length} bytes of text, and these hold {most} at most"
        return too_long(longest, reason, field)

    def _check_prompt(self, ids: Sequence[int], field: str) -> None:
        longest = self._gateway.max_model_len
        if not ids:
            raise BadRequest("the prompt is empty", param=field)
        if len(ids) >= longest:
            reason = f"a prompt of {len(ids)} tokens leaves no room for an answer"
            raise too_long(longest, reason, field)
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
