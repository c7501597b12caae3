#!/usr/bin/env bash
# mlx-lm 0.32.2 against transformers 5.23.0: Mistral's sliding_window is not applied: each token
# attends to everything before it. No error, no warning.
# Guess: the window of config.json holds, as in transformers. Seen:
#   mistral without window 0.00, with a window of 8 over 60 tokens 7.94
set -euo pipefail
folder=$(mktemp -d); trap 'rm -rf "$folder"' EXIT; cd "$folder"
python3 -m venv env
env/bin/pip install -q torch==2.13.0 transformers==5.23.0 numpy==2.4.6 mlx-lm==0.32.2 mlx==0.32.4 mlx-cpu==0.32.4
env/bin/python - <<'PYTHON'
from pathlib import Path
import mlx.core as mx
import numpy
import torch
from mlx_lm.utils import load_model
from transformers import AutoConfig, AutoModelForCausalLM

ids = torch.arange(60)[None]


def away(family, **fields):
    """Largest difference of a logit between transformers and mlx-lm."""
    torch.manual_seed(0)
    config = AutoConfig.for_model(
        family, vocab_size=128, hidden_size=64, intermediate_size=64, num_hidden_layers=2, head_dim=16,
        num_attention_heads=4, num_key_value_heads=2, initializer_range=0.2, **fields,
    )
    model = AutoModelForCausalLM.from_config(config).float().eval()
    model.save_pretrained(family)
    with torch.no_grad():
        right = model(ids).logits.numpy()
    other, _ = load_model(Path(family))
    return float(abs(numpy.array(other(mx.array(ids.numpy()))) - right).max())


found = away("mistral", sliding_window=None), away("mistral", sliding_window=8)
print(f"mistral without window {found[0]:.2f}, with a window of 8 over 60 tokens {found[1]:.2f}")
assert found[0] < 1e-3 and found[1] > 0.1
PYTHON
