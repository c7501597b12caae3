"""Every field of Anthropic's /v1/messages: honoured, harmless or refused by name."""

from __future__ import annotations

from .adapter_fields import ADAPTER, LORA_PATH
from .field_table import Table, harmless, honoured, only, refused

COUNT_TOKENS: Table = {
    "messages": honoured("text, tool_use, tool_result and thinking blocks"),
    "system": honoured("a text or text blocks"),
    "model": honoured("the base model, an adapter, or `base:adapter`; absent: the base model"),
    **ADAPTER,
    **LORA_PATH,
    "tools": honoured("tools with an `input_schema`, which the client calls"),
    "tool_choice": honoured("`auto`, `any`, `tool` or `none`; with `disable_parallel_tool_use`"),
    "thinking": honoured(
        "`enabled` and `disabled` as a chat's enable_thinking; `adaptive` is the model's own way; "
        "`max_tokens` bounds the thinking too"
    ),
    "chat_template_kwargs": honoured("variables of the chat template"),
    "cache_control": harmless("no prompt is cached"),
    "container": refused("tools that a server calls itself are not supported"),
    "mcp_servers": refused("tools that a server calls itself are not supported"),
    "context_management": refused("send what the model is to read"),
    "output_config": harmless("it adds no tokens to the prompt"),
    "output_format": harmless("it adds no tokens to the prompt"),
    "speed": harmless("there is only one"),
    "betas": harmless("what a beta adds is refused by its own field"),
}

TOOL: Table = {
    "type": honoured("`custom`"),
    "name": honoured("as in a chat"),
    "description": honoured("a text for the model"),
    "input_schema": honoured("a JSON schema"),
    "strict": honoured("whether a call follows its schema"),
    "cache_control": harmless("no prompt is cached"),
    "defer_loading": harmless("the model gets all tools at once"),
    "eager_input_streaming": harmless("arguments come as the model writes them"),
    "allowed_callers": only(["direct"], "the client calls every tool"),
    "input_examples": refused("put them into description"),
}

TOOL_CHOICE: Table = {
    "type": honoured("`auto`, `any`, `tool` or `none`"),
    "name": honoured("with `tool`"),
    "disable_parallel_tool_use": honoured("true: one call at most"),
}

THINKING: Table = {
    "type": honoured("`enabled`, `adaptive` or `disabled`"),
    "budget_tokens": harmless("`max_tokens` bounds the thinking too"),
    "display": honoured("`omitted`: the thinking is left out of the answer"),
}

OUTPUT_CONFIG: Table = {
    "format": honoured("as `response_format` of a chat"),
    "effort": honoured("as `reasoning_effort` of a chat"),
    "task_budget": refused("use max_tokens"),
}

JSON_OUTPUT: Table = {
    "type": honoured("`json_schema`"),
    "schema": honoured("a JSON schema"),
    "name": harmless("names the schema"),
}

MESSAGES: Table = {
    **COUNT_TOKENS,
    "max_tokens": honoured("at least 1; absent: as in a chat"),
    "stop_sequences": honoured("up to 16, of 4 096 characters in all"),
    "stream": honoured("server-sent events"),
    "temperature": honoured("0 to 100; 0 takes the most probable token"),
    "top_p": honoured("above 0, to 1"),
    "top_k": honoured("0 or -1: off"),
    "seed": honoured("64 bits; -1 counts as absent"),
    "output_config": honoured("`format` as `response_format` of a chat, `effort` as its effort"),
    "output_format": honoured("the older name of `output_config.format`"),
    "metadata": harmless("names the client's user"),
    "service_tier": harmless("there is only one"),
    "inference_geo": harmless("there is one server"),
    "diagnostics": harmless("no prompt is cached"),
    "user_profile_id": harmless("names the client's user"),
    "workspace_id": harmless("names the client's workspace"),
    "stop": refused("its name here is stop_sequences"),
    "n": refused("one answer is given", 1),
}
