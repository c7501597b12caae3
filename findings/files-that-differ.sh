#!/usr/bin/env bash
# peft 0.21.2, safetensors 0.8.0: the same adapter saved twice has other bytes: the modules of
# adapter_config.json are a set, and the metadata of a safetensors header is a hash map.
# Guess: the same object saved twice gives the same files, so that a digest names an adapter. Seen:
#   2 runs: 2 different adapter_config.json
#   64 saves: 2 different safetensors files from the same tensors and metadata
set -euo pipefail
folder=$(mktemp -d); trap 'rm -rf "$folder"' EXIT; cd "$folder"
python3 -m venv env
env/bin/pip install -q torch==2.13.0 transformers==5.23.0 numpy==2.4.6 peft==0.21.2 safetensors==0.8.0
env/bin/python - <<'PYTHON'
import hashlib
import os
import subprocess
import sys
import numpy
from safetensors.numpy import save

CODE = """
from pathlib import Path
from peft import LoraConfig
LoraConfig(target_modules=["q_proj", "k_proj", "v_proj", "o_proj"]).save_pretrained(".")
print(Path("adapter_config.json").read_text())
"""
runs = set()
for seed in ("1", "2"):
    environment = {**os.environ, "PYTHONHASHSEED": seed}
    runs.add(subprocess.check_output([sys.executable, "-c", CODE], env=environment))
tensors = {"a": numpy.zeros(2)}
saves = {hashlib.sha256(save(tensors, {"format": "pt", "base": "b"})).digest() for _ in range(64)}
print(f"2 runs: {len(runs)} different adapter_config.json")
print(f"64 saves: {len(saves)} different safetensors files from the same tensors and metadata")
assert len(runs) > 1 and len(saves) > 1
PYTHON
