#!/usr/bin/env bash
# transformers 5.23.0 saves rope settings as `rope_parameters`; 4.57.6 loads that folder and does not
# know the key: rope_theta is 10000 and no scaling is applied. No error, no warning.
# Guess: the older one refuses or warns, or the newer one writes the old keys too. Seen:
#   5.23.0 {'rope_theta': 1000000.0, 'rope_type': 'default'}; 4.57.6 10000.0
#   logits differ by up to 7.7
set -euo pipefail
folder=$(mktemp -d); trap 'rm -rf "$folder"' EXIT; cd "$folder"
python3 -m venv env
env/bin/pip install -q torch==2.13.0 numpy==2.4.6
cat > model.py <<'PYTHON'
import json
from pathlib import Path
import torch
import transformers
from transformers import AutoModelForCausalLM, LlamaConfig, LlamaForCausalLM

major = transformers.__version__[0]
if major == "5":
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=128, hidden_size=64, intermediate_size=64, num_hidden_layers=2,
        num_attention_heads=4, initializer_range=0.2,
        rope_parameters={"rope_type": "default", "rope_theta": 1e6},
    )
    LlamaForCausalLM(config).save_pretrained("folder")
model = AutoModelForCausalLM.from_pretrained("folder").eval()
with torch.no_grad():
    torch.save(model(torch.arange(60)[None]).logits, f"{major}.pt")
print(transformers.__version__, getattr(model.config, "rope_theta", None) or model.config.rope_parameters)
PYTHON
for version in 5.23.0 4.57.6; do
    hub=$([ $version = 4.57.6 ] && echo "tokenizers==0.22.2 huggingface_hub==0.36.0" || true)
    env/bin/pip install -q transformers==$version $hub
    env/bin/python model.py
done
env/bin/python - <<'PYTHON'
import torch
a, b = torch.load("5.pt"), torch.load("4.pt")
away = float((a - b).abs().max())
print(f"logits differ by up to {away:.1f}")
assert away > 0.1
PYTHON
