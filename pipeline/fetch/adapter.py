"""One-shot process: fetches an adapter from the hub and prints its directory.

Separate, since the hub's library blocks and takes half a second to import, for which no serving
process may wait. `python -m loraconsole.pipeline.fetch.adapter org/name[@revision]`.
"""

from __future__ import annotations

import sys

from ..errors import OperatorError
from .fetch import snapshot_of_hub
from .model_cache import FetchReport

WEIGHTS = [
    "adapter_config.json",
    "adapter_model.safetensors",
    "adapter_model-*.safetensors",
    "adapter_model.safetensors.index.json",
    "adapters.safetensors",
    "adapter_model.bin",
    "config.json",
]
CHAT = [
    "added_tokens.json",
    "chat_template.jinja",
    "chat_template.json",
    "generation_config.json",
    "tokenizer.json",
    "tokenizer_config.json",
]
WANTED = [*WEIGHTS, *CHAT]
"""Files to fetch. adapter_model.bin, which is never read, and config.json are among them so that a
pickle or a whole model is refused as such."""


def main() -> int:
    try:
        print(snapshot_of_hub(sys.argv[1], WANTED, FetchReport()))
    except OperatorError as error:
        print(error, file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
