#!/usr/bin/env bash
# transformers 5.23.0: in a folder of model_type mistral with a tokenizer.model and no tokenizer.json,
# AutoTokenizer builds a tokenizer without SentencePiece's leading space; LlamaTokenizer, which
# tokenizer_config.json names, and sentencepiece itself put it there.
# Guess: AutoTokenizer is the class that tokenizer_config.json names. Seen:
#   sentencepiece ['▁the', '▁sea'], LlamaTokenizer ['▁the', '▁sea']
#   AutoTokenizer (TokenizersBackend) ['t', 'he', '▁sea']
set -euo pipefail
folder=$(mktemp -d); trap 'rm -rf "$folder"' EXIT; cd "$folder"
python3 -m venv env
env/bin/pip install -q transformers==5.23.0 numpy==2.4.6 sentencepiece==0.2.3 protobuf==7.36.2
env/bin/python - <<'PYTHON'
import json
import sentencepiece
from transformers import AutoTokenizer, LlamaTokenizer, MistralConfig

sentencepiece.SentencePieceTrainer.train(
    sentence_iterator=iter(["the sea is calm", "in the lamp", "see the sea"] * 30), vocab_size=300,
    model_prefix="tokenizer", model_type="bpe", byte_fallback=True, hard_vocab_limit=False, minloglevel=2,
)
MistralConfig(vocab_size=300).save_pretrained(".")
with open("tokenizer_config.json", "w") as file:
    json.dump({"tokenizer_class": "LlamaTokenizer", "legacy": False}, file)
theirs = sentencepiece.SentencePieceProcessor(model_file="tokenizer.model").encode("the sea", out_type=str)
named = LlamaTokenizer.from_pretrained(".").tokenize("the sea")
auto = AutoTokenizer.from_pretrained(".")
print(f"sentencepiece {theirs}, LlamaTokenizer {named}")
print(f"AutoTokenizer ({type(auto).__name__}) {auto.tokenize('the sea')}")
assert theirs == named != auto.tokenize("the sea")
PYTHON
