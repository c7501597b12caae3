#!/usr/bin/env bash
# safetensors 0.8.0: save_model keeps one name of a tied pair, and it is the head's: the file of a tied
# language model has lm_head.weight and no embedding.
# Guess: model.embed_tokens.weight stays, as save_pretrained and accelerate keep it. Seen:
#   ['lm_head.weight', 'model.norm.weight'] {'model.embed_tokens.weight': 'lm_head.weight'}
set -euo pipefail
folder=$(mktemp -d); trap 'rm -rf "$folder"' EXIT; cd "$folder"
python3 -m venv env
env/bin/pip install -q torch==2.13.0 transformers==5.23.0 numpy==2.4.6 safetensors==0.8.0
env/bin/python - <<'PYTHON'
from safetensors import safe_open
from safetensors.torch import save_model
from transformers import LlamaConfig, LlamaForCausalLM

sizes = dict(vocab_size=64, hidden_size=32, intermediate_size=64, num_hidden_layers=1, num_attention_heads=4)
model = LlamaForCausalLM(LlamaConfig(**sizes, tie_word_embeddings=True))
save_model(model, "model.safetensors")
with safe_open("model.safetensors", "pt") as file:
    names = [name for name in file.keys() if "layers" not in name]
    print(names, file.metadata())
assert "lm_head.weight" in names and "model.embed_tokens.weight" not in names
PYTHON
