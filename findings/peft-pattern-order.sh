#!/usr/bin/env bash
# peft 0.21.2: of two alpha_pattern keys that fit a module, the first in the dict wins; the dict is
# saved with its keys sorted, so that another one may win when the adapter is loaded.
# Guess: the more specific key wins, before and after. Seen:
#   trained with {'q_proj': 4, 'layers.1.self_attn.q_proj': 32}: scale of layer 1 is 0.5
#   loaded from {'layers.1.self_attn.q_proj': 32, 'q_proj': 4}: scale of layer 1 is 4.0
# No warning: shapes do not tell. With rank_pattern the load fails instead, with a size mismatch.
set -euo pipefail
folder=$(mktemp -d); trap 'rm -rf "$folder"' EXIT; cd "$folder"
python3 -m venv env
env/bin/pip install -q torch==2.13.0 transformers==5.23.0 peft==0.21.2 numpy==2.4.6
env/bin/python - <<'PYTHON'
import json
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from transformers import LlamaConfig, LlamaForCausalLM

SIZES = dict(vocab_size=64, hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=4)


def base():
    torch.manual_seed(0)
    return LlamaForCausalLM(LlamaConfig(**SIZES)).eval()


def scale(model):
    return model.base_model.model.model.layers[1].self_attn.q_proj.scaling["default"]


pattern = {"q_proj": 4, "layers.1.self_attn.q_proj": 32}
config = LoraConfig(r=8, target_modules=["q_proj"], alpha_pattern=pattern, init_lora_weights=False)
trained = get_peft_model(base(), config)
trained.save_pretrained("adapter")
saved = json.load(open("adapter/adapter_config.json"))["alpha_pattern"]
loaded = PeftModel.from_pretrained(base(), "adapter")
print(f"trained with {pattern}: scale of layer 1 is {scale(trained)}")
print(f"loaded from {saved}: scale of layer 1 is {scale(loaded)}")
assert (scale(trained), scale(loaded)) == (0.5, 4.0)
PYTHON
