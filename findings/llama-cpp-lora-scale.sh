#!/usr/bin/env bash
# llama.cpp's convert_lora_to_gguf.py (in llama-cpp-python 0.3.36) writes one alpha for an adapter:
# use_rslora is dropped. llama.cpp scales by alpha / r.
# Guess: what does not fit one alpha is folded into the matrices, or refused (as DoRA is). Seen:
#   scale in PEFT 5.66 (rsLoRA), in llama.cpp 2.00
set -euo pipefail
folder=$(mktemp -d); trap 'rm -rf "$folder"' EXIT; cd "$folder"
python3 -m venv env
env/bin/pip install -q torch==2.13.0 transformers==5.23.0 numpy==2.4.6 peft==0.21.2 sentencepiece==0.2.3 protobuf==7.36.2
env/bin/pip download -q --no-deps --no-binary llama-cpp-python llama-cpp-python==0.3.36
tar xzf llama_cpp_python-*.tar.gz --wildcards '*/vendor/llama.cpp/*.py'
mv llama_cpp_python-*/vendor/llama.cpp llama.cpp
env/bin/python - <<'PYTHON'
import json
import subprocess
import sys
from peft import LoraConfig, get_peft_model
from transformers import LlamaConfig, LlamaForCausalLM

sizes = dict(vocab_size=64, hidden_size=32, intermediate_size=64, num_hidden_layers=1, num_attention_heads=4)
base = LlamaForCausalLM(LlamaConfig(**sizes))
base.save_pretrained("base")
config = LoraConfig(r=8, lora_alpha=16, use_rslora=True, target_modules=["q_proj"], init_lora_weights=False)
model = get_peft_model(base, config)
model.save_pretrained("adapter")
subprocess.run(
    [sys.executable, "llama.cpp/convert_lora_to_gguf.py", "adapter", "--base", "base", "--outfile", "out.gguf"],
    check=True,
)
sys.path.insert(0, "llama.cpp/gguf-py")
from gguf import GGUFReader

reader = GGUFReader("out.gguf")
alpha = reader.fields["adapter.lora.alpha"].contents()
rank = min(int(size) for size in reader.tensors[0].shape)
right = model.base_model.model.model.layers[0].self_attn.q_proj.scaling["default"]
print(f"scale in PEFT {right:.2f} (rsLoRA), in llama.cpp {alpha / rank:.2f}")
assert abs(right - 5.657) < 0.01 and alpha / rank == 2.0
PYTHON
