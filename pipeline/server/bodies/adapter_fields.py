"""The fields that name an adapter, of all routes that answer with text."""

from __future__ import annotations

from .field_table import Table, harmless, honoured, refused

ADAPTER: Table = {
    "adapter_id": honoured(
        "LoRAX: name or path of a registered adapter; `model` may not name another"
    ),
    "adapter_source": honoured(
        "LoRAX: `local` or `hub`, which are the same here: a request loads nothing"
    ),
    "merged_adapters": refused("one request uses one adapter", None),
    "api_token": harmless("LoRAX: for the download of an adapter; a request loads nothing"),
}

LORA_PATH: Table = {
    "lora_path": honoured("SGLang: the same as `adapter_id`, one name for all prompts"),
}
