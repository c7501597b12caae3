#!/usr/bin/env bash
# peft 0.21.2: save_pretrained(path_initial_model_for_weight_conversion=start) turns a trained PiSSA adapter
# into a plain one, and writes into `start`: its adapter_config.json says init_lora_weights true afterwards,
# and the same files load as another model.
# Guess: `start` is read only. Seen:
#   start before: init_lora_weights pissa, largest difference of a logit to the base 0.00
#   start after: init_lora_weights True, largest difference of a logit to the base 8.10
set -euo pipefail
folder=$(mktemp -d); trap 'rm -rf "$folder"' EXIT; cd "$folder"
python3 -m venv env
env/bin/pip install -q torch==2.13.0 transformers==5.23.0 peft==0.21.2 numpy==2.4.6
env/bin/python - <<'PYTHON'
import json
from pathlib import Path
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from transformers import LlamaConfig, LlamaForCausalLM

SIZES = dict(vocab_size=128, hidden_size=64, intermediate_size=64, num_hidden_layers=2, num_attention_heads=4)
START = Path.cwd() / "start"


def base():
    torch.manual_seed(0)
    return LlamaForCausalLM(LlamaConfig(**SIZES, initializer_range=0.2)).eval()


@torch.no_grad()
def logits(model):
    return model(torch.arange(60)[None]).logits


def look():
    """What start/adapter_config.json says, and how far its adapter is from the base."""
    init = json.loads((START / "adapter_config.json").read_text())["init_lora_weights"]
    return init, float((logits(PeftModel.from_pretrained(base(), START)) - logits(base())).abs().max())


model = get_peft_model(base(), LoraConfig(r=4, lora_alpha=4, target_modules=["q_proj"], init_lora_weights="pissa"))
model.save_pretrained(START)
before = look()
with torch.no_grad():
    for name, parameter in model.named_parameters():
        if "lora_" in name:
            parameter.add_(torch.randn_like(parameter) * 0.05)
trained = logits(model)
model.save_pretrained("plain", path_initial_model_for_weight_conversion=str(START))
after = look()
right = float((logits(PeftModel.from_pretrained(base(), "plain")) - trained).abs().max())
for word, (init, away) in (("before", before), ("after", after)):
    print(f"start {word}: init_lora_weights {init}, largest difference of a logit to the base {away:.2f}")
print(f"the converted adapter is right: largest difference to the trained one {right:.2f}")
assert before[0] == "pissa" and before[1] < 1e-2 and right < 1e-2
assert after[0] is True and after[1] > 0.1
PYTHON
