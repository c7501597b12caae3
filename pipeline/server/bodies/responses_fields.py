"""Every field of OpenAI's /v1/responses: honoured, harmless or refused by name."""

from __future__ import annotations

from collections.abc import Mapping

from .adapter_fields import ADAPTER, LORA_PATH
from .field_table import Field, Table, harmless, honoured, only, refused

RESPONSES: Table = {
    "input": honoured("a text, or a list of items: messages, function calls and their outputs"),
    "instructions": honoured("a system message before the conversation, for this response only"),
    "previous_response_id": honoured("goes on from a response that was kept"),
    "store": honoured("false: the response is not kept"),
    "model": honoured("the base model, an adapter, or `base:adapter`; absent: the base model"),
    **ADAPTER,
    **LORA_PATH,
    "max_output_tokens": honoured("as `max_tokens` of a chat"),
    "temperature": honoured("0 to 100; 0 takes the most probable token"),
    "top_p": honoured("above 0, to 1"),
    "top_k": honoured("vLLM: 0 or -1: off"),
    "min_p": honoured("0 to 1"),
    "presence_penalty": honoured("-2 to 2"),
    "frequency_penalty": honoured("-2 to 2"),
    "repetition_penalty": honoured("vLLM: above 0, to 10; over prompt and answer"),
    "seed": honoured("vLLM: 64 bits; -1 counts as absent"),
    "stop": honoured("vLLM: a string or up to 16, of 4 096 characters in all"),
    "ignore_eos": honoured("vLLM: the model's own end tokens do not end the answer"),
    "chat_template_kwargs": honoured("vLLM: variables of the chat template"),
    "text": honoured("its fields are below"),
    "tools": honoured("of type function; as in a chat"),
    "tool_choice": honoured("as in a chat, and `allowed_tools`"),
    "parallel_tool_calls": honoured("as in a chat"),
    "reasoning": honoured("its fields are below"),
    "include": honoured("`message.output_text.logprobs`; those of other tools add nothing"),
    "top_logprobs": honoured("0 to 20"),
    "metadata": honoured("up to 16 texts, repeated in the response"),
    "user": honoured("repeated in the response"),
    "safety_identifier": honoured("repeated in the response"),
    "prompt_cache_key": honoured("repeated in the response; no prompt is cached"),
    "stream": honoured("server-sent events"),
    "background": honoured("the response goes on without a client; needs `store`"),
    "stream_options": harmless("no event is padded"),
    "service_tier": harmless("there is only one"),
    "prompt_cache_retention": harmless("no prompt is cached"),
    "prompt_cache_options": harmless("no prompt is cached"),
    "max_tool_calls": harmless("for tools that a server calls itself"),
    "request_id": harmless("ids are the server's, or the X-Request-Id header's"),
    "conversation": refused("use previous_response_id"),
    "context_management": refused("send what the model is to read"),
    "prompt": refused("send its text in input"),
    "truncation": refused("leave out old items", "disabled"),
    "moderation": refused("nothing is moderated"),
    "messages": refused("POST /v1/chat/completions takes them"),
    "max_tokens": refused("its name here is max_output_tokens"),
    "response_format": refused("its name here is text.format"),
    "priority": refused("the operator sets the order of admission (/v1/scheduler)", 0),
}

TOOL: Table = {
    "type": honoured("`function`"),
    "name": honoured("as in a chat"),
    "description": honoured("a text for the model"),
    "parameters": honoured("a JSON schema"),
    "strict": honoured("whether a call follows its schema"),
    "cache_control": harmless("no prompt is cached"),
    "defer_loading": harmless("the model gets all tools at once"),
    "output_schema": harmless("the client calls the tool"),
    "allowed_callers": only(["direct"], "the client calls every tool"),
    "async": refused("the client calls every tool"),
}

NAMED_CHOICE: Table = {
    "type": honoured("`function`"),
    "name": honoured("of one of the tools"),
}

ALLOWED_CHOICE: Table = {
    "type": honoured("`allowed_tools`"),
    "mode": honoured("`auto` or `required`"),
    "tools": honoured("tools of which the names count"),
}

REPEATED: Table = {
    "id": harmless("clients repeat it from an answer"),
    "status": harmless("clients repeat it from an answer"),
    "created_by": harmless("clients repeat it from an answer"),
    "caller": harmless("the client calls every tool"),
    "namespace": harmless("tools have none"),
}
"""Fields of every item of `input`."""

ITEMS: Mapping[str, Table] = {
    "message": {
        **REPEATED,
        "type": honoured("`message`, or absent"),
        "role": honoured("`user`, `assistant`, `system` or `developer`"),
        "content": honoured("a text or a list of parts"),
        "phase": harmless("clients repeat it from an answer"),
    },
    "reasoning": {
        **REPEATED,
        "type": honoured("`reasoning`"),
        "content": honoured("a list of parts"),
        "summary": honoured("without content: a list of parts"),
        "encrypted_content": harmless("it cannot be read here"),
    },
    "function_call": {
        **REPEATED,
        "type": honoured("`function_call`"),
        "call_id": honoured("of the call"),
        "name": honoured("of the function"),
        "arguments": honoured("JSON as text"),
        "parsed_arguments": harmless("openai's client repeats the arguments"),
        "async": harmless("the client calls every tool"),
    },
    "function_call_output": {
        **REPEATED,
        "type": honoured("`function_call_output`"),
        "call_id": honoured("of the call"),
        "output": honoured("a text or a list of parts"),
        "name": harmless("the call has it"),
    },
    "item_reference": {
        "type": honoured("`item_reference`"),
        "id": honoured("of an item of a response that was kept"),
    },
}
"""Items of `input`, by type."""

PART: Table = {
    "type": honoured("`input_text`, `output_text`, `refusal` and the like"),
    "text": honoured("the text"),
    "refusal": honoured("the text of a refusal"),
    "annotations": harmless("clients repeat it from an answer"),
    "logprobs": harmless("clients repeat it from an answer"),
    "parsed": harmless("openai's client repeats the text"),
    "cache_control": harmless("no prompt is cached"),
    "prompt_cache_breakpoint": harmless("no prompt is cached"),
    "id": harmless("clients repeat it from an answer"),
    "index": harmless("clients repeat it from an answer"),
}
"""A part of an item's content."""

RESPONSES_TEXT: Table = {
    "format": honoured("`text`, `json_object` or `json_schema`; as `response_format` of a chat"),
    "verbosity": Field("refused", "ask for it in a message", ("medium",)),
}

RESPONSES_REASONING: Table = {
    "effort": honoured("as `reasoning_effort` of a chat"),
    "summary": harmless("reasoning is answered in full"),
    "generate_summary": harmless("reasoning is answered in full"),
    "context": harmless("the reasoning in input is given to the chat template"),
    "mode": only("standard", "reasoning is the model's own"),
}
