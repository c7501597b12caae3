"""Every field of the routes that tokenise: honoured, harmless or refused by name."""

from __future__ import annotations

from .adapter_fields import ADAPTER, LORA_PATH
from .field_table import Table, harmless, honoured, refused
from .request_fields import CHAT

MODEL: Table = {
    "model": honoured("the base model, an adapter, or `base:adapter`; absent: the base model"),
    **ADAPTER,
    **LORA_PATH,
}

TOKENIZE: Table = {
    "prompt": honoured("a text, or SGLang's list of texts"),
    "messages": honoured("in place of `prompt`: as in a chat"),
    **MODEL,
    "add_special_tokens": honoured("whether the tokenizer adds its own; absent: not to a chat"),
    "return_token_strs": honoured("vLLM: `token_strs`, as the vocabulary has them"),
    "add_generation_prompt": CHAT["add_generation_prompt"],
    "continue_final_message": CHAT["continue_final_message"],
    "chat_template_kwargs": CHAT["chat_template_kwargs"],
    "documents": CHAT["documents"],
    "chat_template": CHAT["chat_template"],
    "tools": honoured("given to the chat template, as in a chat"),
    "media_io_kwargs": harmless("for images, sound and video; only text is accepted"),
    "mm_processor_kwargs": harmless("for images, sound and video; only text is accepted"),
    "inputs": refused("its name here is prompt"),
    "text": refused("its name here is prompt"),
}

DETOKENIZE: Table = {
    "tokens": honoured("token ids, or SGLang's list of them"),
    **MODEL,
    "skip_special_tokens": honoured(
        "true leaves special tokens out of `prompt` and `text`; absent: of `text` alone"
    ),
}
