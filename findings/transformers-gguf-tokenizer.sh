#!/usr/bin/env bash
# transformers 5.23.0 with gguf 0.19.0: `tokenizer.ggml.pre`, which names how a text is cut before the
# merges, is not read: every byte-level vocabulary of a llama file gets one and the same cut.
# Guess: "smollm" cuts every digit apart, as in llama.cpp and in SmolLM's own tokenizer. Seen:
#   pre smollm: 12 -> ['12']; pre llama-bpe: 12 -> ['12']
set -euo pipefail
folder=$(mktemp -d); trap 'rm -rf "$folder"' EXIT; cd "$folder"
python3 -m venv env
env/bin/pip install -q torch==2.13.0 transformers==5.23.0 numpy==2.4.6 gguf==0.19.0
env/bin/python - <<'PYTHON'
from gguf import GGUFWriter
from tokenizers.pre_tokenizers import ByteLevel
from transformers import AutoTokenizer

pieces = [*sorted(ByteLevel.alphabet()), "12", "<s>"]
found = {}
for pre in ("smollm", "llama-bpe"):
    writer = GGUFWriter(f"{pre}.gguf", "llama")
    writer.add_block_count(1)
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre(pre)
    writer.add_token_list(pieces)
    writer.add_token_types([1] * (len(pieces) - 1) + [3])
    writer.add_token_merges(["1 2"])
    writer.add_bos_token_id(len(pieces) - 1)
    writer.add_eos_token_id(len(pieces) - 1)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    tokenizer = AutoTokenizer.from_pretrained(".", gguf_file=f"{pre}.gguf")
    found[pre] = tokenizer.tokenize("12")
print("; ".join(f"pre {pre}: 12 -> {tokens}" for pre, tokens in found.items()))
assert found["smollm"] == found["llama-bpe"] == ["12"]
PYTHON
