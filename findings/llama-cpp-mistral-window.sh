#!/usr/bin/env bash
# llama.cpp's convert_hf_to_gguf.py (in llama-cpp-python 0.3.36): Mistral's sliding_window is not
# written. A Mistral of GGUF attends to everything before it; no error, no warning.
# Guess: it becomes llama.attention.sliding_window, as for other families, or is refused. Seen:
#   config.json: sliding_window 8; keys of the file about it: []
set -euo pipefail
folder=$(mktemp -d); trap 'rm -rf "$folder"' EXIT; cd "$folder"
python3 -m venv env
env/bin/pip install -q torch==2.13.0 transformers==5.23.0 numpy==2.4.6 sentencepiece==0.2.3 protobuf==7.36.2
env/bin/pip download -q --no-deps --no-binary llama-cpp-python llama-cpp-python==0.3.36
tar xzf llama_cpp_python-*.tar.gz --wildcards '*/vendor/llama.cpp/*.py'
mv llama_cpp_python-*/vendor/llama.cpp llama.cpp
env/bin/python - <<'PYTHON'
import subprocess
import sys
import sentencepiece
from transformers import MistralConfig, MistralForCausalLM

sentencepiece.SentencePieceTrainer.train(
    sentence_iterator=iter(["the sea is calm", "the lamp burns"] * 30), model_prefix="tokenizer",
    vocab_size=300, model_type="bpe", byte_fallback=True, hard_vocab_limit=False, minloglevel=2,
)
sizes = dict(vocab_size=300, hidden_size=32, intermediate_size=64, num_hidden_layers=1)
heads = dict(num_attention_heads=4, num_key_value_heads=4, sliding_window=8)
MistralForCausalLM(MistralConfig(**sizes, **heads)).save_pretrained(".")
subprocess.run(
    [sys.executable, "llama.cpp/convert_hf_to_gguf.py", ".", "--outfile", "out.gguf"], check=True
)
sys.path.insert(0, "llama.cpp/gguf-py")
from gguf import GGUFReader

keys = [key for key in GGUFReader("out.gguf").fields if "window" in key]
print(f"config.json: sliding_window 8; keys of the file about it: {keys}")
assert not keys
PYTHON
