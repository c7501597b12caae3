#!/usr/bin/env bash
# transformers 5.23.0 with gguf 0.19.0: the rope scaling of a llama GGUF file is dropped when it is loaded
# with gguf_file=. No error, no warning.
# Guess: the keys that llama.cpp writes and reads are taken over, or refused. Seen:
#   llama.rope.scaling.type linear, factor 4.0 -> {'rope_theta': 10000.0, 'rope_type': 'default'}
set -euo pipefail
folder=$(mktemp -d); trap 'rm -rf "$folder"' EXIT; cd "$folder"
python3 -m venv env
env/bin/pip install -q torch==2.13.0 transformers==5.23.0 numpy==2.4.6 gguf==0.19.0 accelerate==1.15.0
env/bin/python - <<'PYTHON'
import gguf
import numpy
from gguf import GGUFWriter
from transformers import AutoModelForCausalLM

writer = GGUFWriter("model.gguf", "llama")
writer.add_block_count(1)
writer.add_context_length(512)
writer.add_embedding_length(32)
writer.add_feed_forward_length(32)
writer.add_head_count(4)
writer.add_head_count_kv(4)
writer.add_layer_norm_rms_eps(1e-5)
writer.add_rope_freq_base(10000.0)
writer.add_rope_scaling_type(gguf.RopeScalingType.LINEAR)
writer.add_rope_scaling_factor(4.0)
names = ["token_embd", "output"] + [f"blk.0.{n}" for n in ("attn_q", "attn_k", "attn_v", "attn_output", "ffn_gate", "ffn_up", "ffn_down")]
for name in names:
    writer.add_tensor(f"{name}.weight", numpy.zeros((32, 32), numpy.float32))
for name in ("output_norm", "blk.0.attn_norm", "blk.0.ffn_norm"):
    writer.add_tensor(f"{name}.weight", numpy.ones(32, numpy.float32))
writer.add_vocab_size(32)
writer.write_header_to_file()
writer.write_kv_data_to_file()
writer.write_tensors_to_file()
writer.close()
model = AutoModelForCausalLM.from_pretrained(".", gguf_file="model.gguf")
print("llama.rope.scaling.type linear, factor 4.0 ->", model.config.rope_parameters)
assert model.config.rope_parameters["rope_type"] == "default"
PYTHON
