"""vLLM's and SGLang's routes from text to tokens and back, and what the tokenizer is."""

from __future__ import annotations

from typing import Any

from starlette.requests import Request as HttpRequest
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from ..answers.event_stream import until_gone
from ..bodies.body import decode_body
from ..bodies.tokenize_body import DetokenizeBody, TokenizeBody
from ..http.body_reader import BodyReader
from .answering import Answering
from .route_guard import RouteGuard


class TokenRoutes:
    """POST /tokenize and /detokenize, also under /v1, and GET /tokenizer_info."""

    def __init__(self, answering: Answering, bodies: BodyReader) -> None:
        self._answering, self._gateway, self._bodies = answering, answering.gateway, bodies

    def routes(self, guard: RouteGuard) -> list[Route]:
        handlers = {"/tokenize": self.tokenize, "/detokenize": self.detokenize}
        return [
            Route("/tokenizer_info", guard.user(self.tokenizer_info)),
            *(
                Route(prefix + path, guard.user(handler), methods=["POST"])
                for prefix in ("", "/v1")
                for path, handler in handlers.items()
            ),
        ]

    async def tokenizer_info(self, request: HttpRequest) -> Response:
        """vLLM's: tokenizer_config.json, its special tokens as texts, and the chat template."""
        tokenizer = self._gateway.tokenizer
        found = {"tokenizer_class": "PreTrainedTokenizerFast", **tokenizer.config}
        found |= tokenizer.special_tokens
        template = tokenizer.chat_template
        found["chat_template"] = template and template.sources.get("default")
        return JSONResponse(found)

    async def tokenize(self, request: HttpRequest) -> Response:
        body = decode_body(await self._bodies.read(request), TokenizeBody)
        body.check()
        prompts = self._answering.prompts
        adapter = await self._answering.find_adapter(request, body.model, body.adapters())
        if body.messages is not None:
            reading = prompts.tokenize_chat(request, body.chat(), adapter)
            found = [(await until_gone(request, reading)).token_ids]
        else:
            texts = body.prompt if isinstance(body.prompt, list) else [body.prompt or ""]
            adds = body.add_special_tokens is not False
            found = await until_gone(request, prompts.tokenize(request, texts, "prompt", adds))
        answer: dict[str, Any] = {"max_model_len": self._gateway.max_model_len}
        is_batch = isinstance(body.prompt, list)
        answer["tokens"] = found if is_batch else found[0]
        answer["count"] = [len(ids) for ids in found] if is_batch else len(found[0])
        answer["token_strs"] = None
        if body.return_token_strs:
            name = self._gateway.tokenizer.token_name
            names = [[name(token_id) for token_id in ids] for ids in found]
            answer["token_strs"] = names if is_batch else names[0]
        return JSONResponse(answer)

    async def detokenize(self, request: HttpRequest) -> Response:
        """The text as `prompt`, vLLM's name, and as `text`, SGLang's, which leaves out special
        tokens."""
        body = decode_body(await self._bodies.read(request), DetokenizeBody)
        await self._answering.find_adapter(request, body.model, body.adapters())
        lists = body.lists()
        for ids in lists:
            self._answering.prompts.check_ids(ids, "tokens")
        decode, skips = self._gateway.tokenizer.decode, body.skip_special_tokens
        answer: dict[str, Any] = {}
        for field, default in (("prompt", False), ("text", True)):
            skip = default if skips is None else skips
            texts = [decode(ids, skip_special_tokens=skip) for ids in lists]
            answer[field] = texts if body.is_batch else texts[0]
        return JSONResponse(answer)
