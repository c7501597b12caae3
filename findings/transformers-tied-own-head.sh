#!/usr/bin/env bash
# A folder with tie_word_embeddings true and a head of its own in the file: transformers 4.57.6 throws
# the head away and uses the embedding, 5.23.0 uses the head of the file.
# Guess: the flag decides in both, or both refuse. Seen:
#   the same folder in 5.23.0 and 4.57.6: logits differ by up to 7.6
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
        num_attention_heads=4, initializer_range=0.2, tie_word_embeddings=False,
    )
    LlamaForCausalLM(config).save_pretrained("folder")
    path = Path("folder/config.json")
    path.write_text(json.dumps(json.loads(path.read_text()) | {"tie_word_embeddings": True}))
model = AutoModelForCausalLM.from_pretrained("folder").eval()
with torch.no_grad():
    torch.save(model(torch.arange(60)[None]).logits, f"{major}.pt")
print(transformers.__version__, model.config.tie_word_embeddings)
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
print(f"the same folder in 5.23.0 and 4.57.6: logits differ by up to {away:.1f}")
assert away > 0.1
PYTHON
