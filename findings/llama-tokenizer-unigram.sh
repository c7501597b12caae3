#!/usr/bin/env bash
# transformers 5.23.0: LlamaTokenizer reads a tokenizer.model of type Unigram as if it were BPE: merges
# are made up from the scores, and the ids differ from sentencepiece's. No error, no warning.
# Guess: a Unigram model is computed as one, or refused. Seen:
#   sentencepiece and LlamaTokenizer (BPE) agree on 0 of 3 texts
set -euo pipefail
folder=$(mktemp -d); trap 'rm -rf "$folder"' EXIT; cd "$folder"
python3 -m venv env
env/bin/pip install -q torch==2.13.0 transformers==5.23.0 numpy==2.4.6 sentencepiece==0.2.3 protobuf==7.36.2
env/bin/python - <<'PYTHON'
import sentencepiece
from transformers import AutoTokenizer

TEXTS = ["The old lighthouse keeper wrote in his book", "the sea is calm tonight", "Hello, how are you?"]
sentencepiece.SentencePieceTrainer.train(
    sentence_iterator=iter(TEXTS * 30), model_prefix="tokenizer", model_type="unigram", vocab_size=320,
    byte_fallback=True, hard_vocab_limit=False, minloglevel=2,
)
with open("tokenizer_config.json", "w") as file:
    file.write('{"tokenizer_class": "LlamaTokenizer"}')
theirs = sentencepiece.SentencePieceProcessor(model_file="tokenizer.model")
ours = AutoTokenizer.from_pretrained(".")
kind = type(ours.backend_tokenizer.model).__name__
same = [theirs.encode(text) == ours.encode(text, add_special_tokens=False) for text in TEXTS]
print(f"sentencepiece and LlamaTokenizer ({kind}) agree on {sum(same)} of {len(TEXTS)} texts")
assert kind == "BPE" and not all(same)
PYTHON
