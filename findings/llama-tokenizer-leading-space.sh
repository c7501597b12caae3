#!/usr/bin/env bash
# transformers 5.23.0: LlamaTokenizer puts SentencePiece's leading space before a text only if the text does
# not begin with a space already; sentencepiece puts it there always. Same tokenizer.model, other ids.
# Guess: the two agree on every text, spaces at its start too. Seen:
#   ' the sea': sentencepiece ['▁', '▁the', '▁sea'], LlamaTokenizer ['▁the', '▁sea']
set -euo pipefail
folder=$(mktemp -d); trap 'rm -rf "$folder"' EXIT; cd "$folder"
python3 -m venv env
env/bin/pip install -q transformers==5.23.0 numpy==2.4.6 sentencepiece==0.2.3 protobuf==7.36.2
env/bin/python - <<'PYTHON'
import sentencepiece
from transformers import LlamaTokenizer

sentencepiece.SentencePieceTrainer.train(
    sentence_iterator=iter(["the sea is calm", "in the lamp", "see the sea"] * 30), vocab_size=300,
    model_prefix="tokenizer", model_type="bpe", byte_fallback=True, hard_vocab_limit=False, minloglevel=2,
    normalization_rule_name="identity", remove_extra_whitespaces=False,
)
theirs = sentencepiece.SentencePieceProcessor(model_file="tokenizer.model")
ours = LlamaTokenizer.from_pretrained(".")
same = {}
for text in ("the sea", " the sea"):
    pieces = theirs.encode(text, out_type=str), ours.tokenize(text)
    same[text] = pieces[0] == pieces[1]
    print(f"{text!r}: sentencepiece {pieces[0]}, LlamaTokenizer {pieces[1]}")
assert same == {"the sea": True, " the sea": False}
PYTHON
