#!/usr/bin/env bash
# torch 2.13.0 on a CPU with AVX-512: a product with a prepacked weight (torch.ops.mkldnn._linear_pointwise, as torch's
# compiler emits it) is compiled for each number of rows. Two caches, ideep's (LRU_CACHE_CAPACITY) and oneDNN's own
# (ONEDNN_PRIMITIVE_CACHE_CAPACITY), keep 1 024 each, and the sizes do not depend on the weight: half a megabyte for a
# product of 64 by 64. A server that meets prompts of every length grows by some 2 GiB; bounding one of the two caches
# alone leaves most of it.
# Guess: a product of 64 by 64 leaves nothing behind but its result. Seen, MiB after 1 200 numbers of rows:
#   as installed 582, one cache of 128 (oneDNN's) 483, both 97
set -euo pipefail
folder=$(mktemp -d); trap 'rm -rf "$folder"' EXIT; cd "$folder"
python3 -m venv env
env/bin/pip install -q torch==2.13.0 numpy==2.4.6
cat > grow.py <<'PYTHON'
import torch

torch.set_num_threads(1)
weight = torch.ops.mkldnn._reorder_linear_weight(torch.randn(64, 64), 64)

def resident_mib():
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * 4096 >> 20

def product(rows):
    torch.ops.mkldnn._linear_pointwise.default(torch.randn(rows, 64), weight, None, "none", [], "")

product(1)
before = resident_mib()
for rows in range(2, 1200):
    product(rows)
print(resident_mib() - before)
PYTHON
usual=$(env/bin/python grow.py)
one=$(ONEDNN_PRIMITIVE_CACHE_CAPACITY=128 env/bin/python grow.py)
both=$(LRU_CACHE_CAPACITY=128 ONEDNN_PRIMITIVE_CACHE_CAPACITY=128 env/bin/python grow.py)
echo "as installed $usual, one cache of 128 (oneDNN's) $one, both $both"
[ "$usual" -gt 400 ] && [ "$one" -gt $((2 * both)) ] && [ "$both" -lt 250 ]
