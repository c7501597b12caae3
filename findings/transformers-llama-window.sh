#!/usr/bin/env bash
# transformers 5.23.0: a llama folder with sliding_window in config.json: attention ignores it, the cache
# does not. A forward pass sees all tokens, decoding with the cache sees the last 8.
# Guess: the key holds in both, or in neither, so that use_cache changes the speed alone. Seen:
#   llama: 0.00; llama, window 8: 7.24; mistral, window 8: 0.00
set -euo pipefail
folder=$(mktemp -d); trap 'rm -rf "$folder"' EXIT; cd "$folder"
python3 -m venv env
env/bin/pip install -q torch==2.13.0 transformers==5.23.0 numpy==2.4.6
env/bin/python - <<'PYTHON'
import torch
from transformers import AutoConfig, AutoModelForCausalLM

IDS = torch.arange(40)[None]


@torch.no_grad()
def away(family, **fields):
    """Largest difference of a logit between one pass and token by token with the cache."""
    torch.manual_seed(0)
    config = AutoConfig.for_model(
        family, vocab_size=128, hidden_size=64, intermediate_size=64, num_hidden_layers=2,
        num_attention_heads=4, num_key_value_heads=2, initializer_range=0.2, **fields,
    )
    AutoModelForCausalLM.from_config(config).save_pretrained(family)
    model = AutoModelForCausalLM.from_pretrained(family).eval()
    whole = model(IDS, use_cache=False).logits
    cache, steps = None, []
    for token in IDS.split(1, dim=1):
        output = model(token, past_key_values=cache, use_cache=True)
        cache = output.past_key_values
        steps.append(output.logits)
    return float((whole - torch.cat(steps, dim=1)).abs().max())


found = {
    "llama": away("llama"),
    "llama, window 8": away("llama", sliding_window=8),
    "mistral, window 8": away("mistral", sliding_window=8),
}
print("; ".join(f"{name}: {value:.2f}" for name, value in found.items()))
assert max(found["llama"], found["mistral, window 8"]) < 1e-3 and found["llama, window 8"] > 0.1
PYTHON
