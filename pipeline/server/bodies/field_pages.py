"""The tables of fields as they stand in docs/http.md.

`python -m loraconsole.pipeline.server.bodies.field_pages` prints them.
"""

from __future__ import annotations

from collections.abc import Mapping

from .anthropic_fields import COUNT_TOKENS, MESSAGES
from .embedding_fields import EMBEDDINGS
from .field_table import Table, page_of
from .grammar_fields import JSON_SCHEMA, RESPONSE_FORMAT, STRUCTURED_OUTPUTS
from .request_fields import (
    ADAPTER_BODY,
    CHAT,
    COMPLETION,
    GENERATE,
    LOAD,
    PARAMETERS,
    PLAN,
    PROFILER,
    SCHEDULER,
    STREAM_OPTIONS,
    UNLOAD,
)
from .responses_fields import RESPONSES, RESPONSES_REASONING, RESPONSES_TEXT
from .sglang_fields import SGLANG, SGLANG_SAMPLING
from .tokenize_fields import DETOKENIZE, TOKENIZE

PAGES: Mapping[str, Table] = {
    "POST /v1/chat/completions": CHAT,
    "POST /v1/completions": COMPLETION,
    "stream_options": STREAM_OPTIONS,
    "response_format": RESPONSE_FORMAT,
    "json_schema": JSON_SCHEMA,
    "structured_outputs": STRUCTURED_OUTPUTS,
    "POST /v1/responses": RESPONSES,
    "text of /v1/responses": RESPONSES_TEXT,
    "reasoning of /v1/responses": RESPONSES_REASONING,
    "POST /v1/messages": MESSAGES,
    "POST /v1/messages/count_tokens": COUNT_TOKENS,
    "POST /v1/embeddings": EMBEDDINGS,
    "POST /tokenize": TOKENIZE,
    "POST /detokenize": DETOKENIZE,
    "POST /generate, /generate_stream, /": GENERATE,
    "parameters": PARAMETERS,
    "POST /generate of SGLang": SGLANG,
    "sampling_params": SGLANG_SAMPLING,
    "POST /v1/load_lora_adapter, /load_lora_adapter": LOAD,
    "POST /v1/unload_lora_adapter, /unload_lora_adapter": UNLOAD,
    "POST /v1/adapters": ADAPTER_BODY,
    "POST /v1/adapters/plan": PLAN,
    "PUT /v1/scheduler": SCHEDULER,
    "POST /profiler/start": PROFILER,
}
"""Tables of docs/http.md, by heading."""


if __name__ == "__main__":
    for heading, fields in PAGES.items():
        print(f"### {heading}\n\n{page_of(fields)}\n")
