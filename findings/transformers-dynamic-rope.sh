#!/usr/bin/env bash
# transformers 5.23.0: with rope_type "dynamic", the answer to a prompt depends on the longest prompt that
# the same process has run before, unless the new one is shorter than max_position_embeddings.
# Guess: the base of the rotation follows from the length of the sequence at hand. Seen:
#   the same 40 tokens before and after a prompt of 100: logits differ by 2.72
set -euo pipefail
folder=$(mktemp -d); trap 'rm -rf "$folder"' EXIT; cd "$folder"
python3 -m venv env
env/bin/pip install -q torch==2.13.0 transformers==5.23.0 numpy==2.4.6
env/bin/python - <<'PYTHON'
import torch
from transformers import LlamaConfig, LlamaForCausalLM

torch.manual_seed(0)
rope = {"rope_type": "dynamic", "factor": 2.0, "rope_theta": 10000.0}
config = LlamaConfig(
    vocab_size=128, hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=4,
    num_key_value_heads=2, initializer_range=0.2, max_position_embeddings=32, rope_parameters=rope,
)
model = LlamaForCausalLM(config).eval()
with torch.no_grad():
    before = model(torch.arange(40)[None]).logits
    again = model(torch.arange(40)[None]).logits
    model(torch.arange(100)[None])
    after = model(torch.arange(40)[None]).logits
away = float((before - after).abs().max())
print(f"the same 40 tokens before and after a prompt of 100: logits differ by {away:.2f}")
assert torch.equal(before, again) and away > 0.1
PYTHON
