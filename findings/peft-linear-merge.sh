#!/usr/bin/env bash
# peft 0.21.2: add_weighted_adapter with combination_type="linear" does not give the weighted sum of
# two adapters. It sums the A and the B matrices with the roots of the weights, and the product of
# the sums has cross terms; "cat" gives the sum exactly, at the ranks' sum.
# Guess: linear is w1 * B1 A1 + w2 * B2 A2. Seen (distance to that, relative):
#   linear 0.98 rank 4, svd 0.49 rank 4, cat 0.00 rank 8
set -euo pipefail
folder=$(mktemp -d); trap 'rm -rf "$folder"' EXIT; cd "$folder"
python3 -m venv env
env/bin/pip install -q torch==2.13.0 transformers==5.23.0 peft==0.21.2 numpy==2.4.6
env/bin/python - <<'PYTHON'
import torch
from peft import LoraConfig, get_peft_model
from transformers import LlamaConfig, LlamaForCausalLM

torch.manual_seed(0)
SIZES = dict(vocab_size=64, hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=4)
config = dict(r=4, lora_alpha=4, target_modules=["q_proj"], init_lora_weights=False)
model = get_peft_model(LlamaForCausalLM(LlamaConfig(**SIZES)), LoraConfig(**config))
model.add_adapter("b", LoraConfig(**config))
layer = model.base_model.model.model.layers[0].self_attn.q_proj
sum_of_two = 0.5 * layer.get_delta_weight("default") + 0.5 * layer.get_delta_weight("b")
found = {}
for kind in ("linear", "svd", "cat"):
    model.add_weighted_adapter(["default", "b"], [0.5, 0.5], kind, combination_type=kind)
    away = (layer.get_delta_weight(kind) - sum_of_two).norm() / sum_of_two.norm()
    found[kind] = float(away)
    print(f"{kind} {found[kind]:.2f} rank {model.peft_config[kind].r}")
assert found["linear"] > 0.5 and found["cat"] < 1e-5
PYTHON
