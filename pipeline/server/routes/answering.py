"""`Answering`: what all routes have in common that answer with generated text."""

from __future__ import annotations

import functools
import secrets
from collections.abc import Callable, Mapping

from msgspec.structs import replace
from starlette.requests import Request as HttpRequest
from starlette.responses import Response

from ...messages import SamplingParams
from ..answers.answer_format import Format
from ..answers.event_id import check_answer_id
from ..answers.event_stream import REQUEST_ID, answer_response, until_gone
from ..bodies.openai_bodies import DEFAULT_CHAT_TOKENS, ChatBody, SamplingBody
from ..chat.answer_plan import PLAIN, AnswerPlan
from ..gateway.gateway import AskedChoice, Gateway
from ..gateway.grammar_reader import GrammarReader
from ..gateway.prompt_reader import PromptReader
from ..gateway.token_params import TokenParams
from ..http.access import owner_of
from ..http.bad_request import BadRequest


class Answering:
    """From a checked body to the answer of the ring."""

    def __init__(self, gateway: Gateway) -> None:
        self.gateway = gateway
        self.prompts = PromptReader(gateway)
        self.grammars = GrammarReader(gateway, self.prompts.workers)
        self.tokens = TokenParams(gateway, self.prompts)

    def model_named(self, model: str, others: Mapping[str, str]) -> str:
        """The model of a request as its client named it; the base model's id if it did not."""
        return model or next(iter(others.values()), self.gateway.config.model_name)

    async def check_ready(self, request: HttpRequest) -> None:
        """Raises `BadRequest` (503) if the pipeline cannot take a request, nor will in a moment."""
        await self._await_ring(request)
        if reason := self.gateway.broken():
            raise BadRequest(reason, status=503)

    async def find_adapter(
        self, request: HttpRequest, model: str, others: Mapping[str, str]
    ) -> str | None:
        """The adapter that a body names, once its files are read; None is the base. Raises
        `BadRequest` if the fields contradict each other, or name none that is registered."""
        adapter = self.gateway.find_adapter(model, others)
        await until_gone(request, self.gateway.await_adapter(adapter))
        self.gateway.check_registered(adapter, model, others)
        return adapter

    async def answer_chat(self, request: HttpRequest, body: ChatBody, form: Format) -> Response:
        """The answer to a chat."""
        body.check()
        await self.check_ready(request)
        adapter = await self.find_adapter(request, body.model, body.adapters())
        self.prompts.check_number(form.prompt_field, 1, body.n)
        defaults, longest = self.gateway.defaults, self.gateway.max_model_len
        default = defaults.max_new_tokens or DEFAULT_CHAT_TOKENS
        most = body.max_completion_tokens or body.max_tokens
        truncation = body.truncation(longest, most or default)
        reading = self.prompts.read_chat(request, body, adapter, truncation)
        chat = await until_gone(request, reading)
        prompt, plan = chat.token_ids, chat.plan
        choice_params = functools.partial(
            body.params,
            most or min(default, max(1, longest - len(prompt))),
            (body.top_logprobs or 0) if body.logprobs else None,
            defaults=defaults,
        )

        def params(choice: int) -> SamplingParams:
            shown = plan.shown_special_ids
            return replace(choice_params(choice), shown_special_ids=shown)

        form = replace(
            form,
            reading=plan.reading_of(body.wanted_grammar()),
            is_function_call=chat.tools is not None and chat.tools.is_old,
            is_named_call=chat.tools is not None and chat.tools.is_named,
        )
        return await self.answer(request, body, form, adapter, [prompt], params, plan)

    async def answer(
        self,
        request: HttpRequest,
        body: SamplingBody,
        form: Format,
        adapter: str | None,
        prompts: list[list[int]],
        params: Callable[[int], SamplingParams],
        plan: AnswerPlan = PLAIN,
    ) -> Response:
        """The answer, streamed or whole: n choices of each prompt, each its own request. `params`
        makes the parameters of choice i."""
        number = body.num_candidates
        if (count := len(prompts) * number) > 1:  # the router refuses a single one itself
            self.gateway.check_room(count)
        choices = self.tokens.complete([params(choice) for choice in range(number)], body)
        reading = self.grammars.read(request, plan.whole_grammar(body.wanted_grammar()))
        grammar = await until_gone(request, reading)
        choices = [replace(each, grammar=grammar) for each in choices]
        return await self.accept(request, form, adapter, prompts, choices)

    async def accept(
        self,
        request: HttpRequest,
        form: Format,
        adapter: str | None,
        prompts: list[list[int]],
        params: list[SamplingParams],
    ) -> Response:
        """The answer to requests, each of one prompt with one set of parameters."""
        asked = [
            AskedChoice(adapter, prompt, each) for prompt in map(tuple, prompts) for each in params
        ]
        return await self.accept_choices(request, form, asked)

    async def accept_choices(
        self, request: HttpRequest, form: Format, asked: list[AskedChoice]
    ) -> Response:
        """The answer to these choices."""
        gateway = self.gateway
        await self._await_ring(request)
        adapter = asked[0].adapter
        fingerprint = gateway.pipeline.fingerprint(adapter)
        if fingerprint is None:
            fingerprint = await until_gone(request, gateway.await_fingerprint(adapter))
        form = replace(form, fingerprint=fingerprint)
        answer = gateway.open_answer(form, owner_of(request), asked)
        sending = gateway.send_requests(answer)
        return await answer_response(request, gateway.answers, answer, sending)

    async def _await_ring(self, request: HttpRequest) -> None:
        """Waits while a death in the ring is mended; not long, and not for a client that left."""
        if self.gateway.broken():
            await until_gone(request, self.gateway.await_ring())


def answer_id(request: HttpRequest, prefix: str) -> str:
    """The id that the client chose for its answer, or a new one with this prefix."""
    given = request.headers.get(REQUEST_ID)
    return f"{prefix}{secrets.token_hex(12)}" if given is None else check_answer_id(given)
