#!/usr/bin/env bash
# transformers 5.23.0: a tokenizer saved in a folder whose config.json says model_type qwen2 comes back
# as Qwen2Tokenizer, with Qwen's pre-tokenizer instead of the one in tokenizer.json; the class named in
# tokenizer_config.json is not asked.
# Guess: save_pretrained and AutoTokenizer.from_pretrained are a round trip. Seen:
#   model_type None: TokenizersBackend ['12']
#   model_type qwen2: Qwen2Tokenizer ['1', '2']
set -euo pipefail
folder=$(mktemp -d); trap 'rm -rf "$folder"' EXIT; cd "$folder"
python3 -m venv env
env/bin/pip install -q transformers==5.23.0 numpy==2.4.6
env/bin/python - <<'PYTHON'
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import AutoTokenizer, PreTrainedTokenizerFast, Qwen2Config

alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
vocab = {letter: number for number, letter in enumerate([*alphabet, "12", "</s>"])}
backend = Tokenizer(models.BPE(vocab, [("1", "2")]))
backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
backend.decoder = decoders.ByteLevel()
saved = PreTrainedTokenizerFast(tokenizer_object=backend, eos_token="</s>")
saved.save_pretrained("folder")
loaded = {}
for family in (None, "qwen2"):
    if family:
        Qwen2Config(vocab_size=len(vocab)).save_pretrained("folder")
    loaded[family] = AutoTokenizer.from_pretrained("folder")
    print(f"model_type {family}: {type(loaded[family]).__name__}", loaded[family].tokenize("12"))
assert saved.tokenize("12") == loaded[None].tokenize("12") == ["12"]
assert loaded["qwen2"].tokenize("12") == ["1", "2"]
PYTHON
