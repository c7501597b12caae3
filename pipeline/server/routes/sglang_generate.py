"""SGLang's native /generate."""

from __future__ import annotations

import secrets
from typing import Any

from msgspec.structs import replace
from starlette.requests import Request as HttpRequest
from starlette.responses import Response

from ...runtime.clock import unix_time
from ..answers.answer_format import Format
from ..answers.event_stream import until_gone
from ..answers.generate_form import SglangForm
from ..bodies.body import convert_body
from ..bodies.sglang_body import SglangBody, SglangPrompt
from ..gateway.gateway import AskedChoice
from .answering import Answering, answer_id


class SglangGenerate:
    """Answers a body of SGLang."""

    def __init__(self, answering: Answering) -> None:
        self._answering, self._gateway = answering, answering.gateway

    async def generate(self, request: HttpRequest, raw: dict[str, Any]) -> Response:
        """The answer to a body, which is JSON as it came. Raises `BadRequest`."""
        body = convert_body(raw, SglangBody)
        asked = body.prompts()
        answering, prompts = self._answering, self._answering.prompts
        field = "input_ids" if body.text is None else "text"
        prompts.check_number(field, len(asked), max(each.sampling.n for each in asked))
        await answering.check_ready(request)
        choices: list[AskedChoice] = []
        ids: list[str] = []
        starts: list[int | None] = []
        for each in asked:
            prompts.check_ids(each.sampling.stop_token_ids or [], "sampling_params.stop_token_ids")
            adapter = await answering.find_adapter(request, body.model, _adapters(each))
            # Lists are token ids already.
            given: Any = [each.prompt]
            reading = prompts.read(request, given, field, adds=True)
            (prompt,) = await until_gone(request, reading)
            prompt_ids = tuple(prompt)
            wanted = each.sampling.wanted_grammar()
            grammar = await until_gone(request, answering.grammars.read(request, wanted))
            start = each.logprob_start if 0 <= each.logprob_start < len(prompt) else None
            bias = each.sampling.logit_bias or {}
            more = {
                "grammar": grammar,
                "logit_bias": answering.tokens.read_bias(bias, "sampling_params.logit_bias"),
                "prompt_logprobs": None if start is None else each.logprobs,
            }
            for choice in range(each.sampling.n):
                params = each.sampling.params(choice, each.logprobs, self._gateway.defaults)
                choices.append(AskedChoice(adapter, prompt_ids, replace(params, **more)))
                ids.append(each.request_id or secrets.token_hex(16))
                starts.append(start)
        if len(choices) > 1:  # the router refuses a single one itself
            self._gateway.check_room(len(choices))
        tops = [choice.params.logprobs for choice in choices]
        form = Format(
            kind="sglang",
            answer_id=answer_id(request, "gen-"),
            model=choices[0].adapter or self._gateway.config.model_name,
            created=int(unix_time()),
            is_streamed=body.stream,
            sglang=SglangForm(
                is_batch=body.is_batch or len(choices) > 1,
                ids=tuple(ids),
                with_logprobs=tuple(top is not None for top in tops),
                num_top=tuple(top or 0 for top in tops),
                starts=tuple(starts),
                with_text=body.return_text_in_logprobs,
            ),
        )
        return await answering.accept_choices(request, form, choices)


def _adapters(asked: SglangPrompt) -> dict[str, str]:
    return {"lora_path": asked.lora_path} if asked.lora_path else {}
