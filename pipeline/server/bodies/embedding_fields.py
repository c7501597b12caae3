"""Every field of OpenAI's /v1/embeddings: honoured, harmless or refused by name."""

from __future__ import annotations

from .adapter_fields import ADAPTER, LORA_PATH
from .field_table import Table, harmless, honoured, refused

EMBEDDINGS: Table = {
    "input": honoured("a text, token ids, or a list of either"),
    "model": honoured("the base model, an adapter, or `base:adapter`; absent: the base model"),
    **ADAPTER,
    **LORA_PATH,
    "encoding_format": honoured("`float`, or `base64`: little-endian float32"),
    "dimensions": honoured("only the model's own number"),
    "pooling": honoured("`last` or `mean`; absent: --pooling"),
    "normalize": honoured("vLLM: false leaves the vector as long as it is; absent: length 1"),
    "use_activation": honoured("vLLM's newer name of `normalize`"),
    "truncate_prompt_tokens": honoured("vLLM: the last tokens of each input, as many"),
    "add_special_tokens": honoured("vLLM: whether the tokenizer adds its own, such as a BOS"),
    "user": harmless("names the client's user"),
    "request_id": harmless("ids are the server's, or the X-Request-Id header's"),
    "priority": refused("the operator sets the order of admission (/v1/scheduler)", 0),
    "messages": refused("send the text in input"),
    "truncation_side": refused("the end of an input is kept", "left"),
    "embed_dtype": refused("encoding_format base64 is float32", "float32"),
    "endianness": refused("base64 is little-endian", "little", "native"),
    "cache_salt": harmless("no prompt is cached"),
    "rid": harmless("ids are the server's"),
}
