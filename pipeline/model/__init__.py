"""The model's computation: torch, no sockets. `runner/` drives it."""

import os

# OpenMP reads this when torch is loaded, so it is set before the first import of torch. By default
# the threads of a team spin between operations; if another process wants a core, each of the 200
# barriers of a decode step then waits for the OS scheduler: 1.6 s a step instead of 0.04. Sleeping
# at once (OMP_WAIT_POLICY=passive) costs a wake-up per barrier: 25 ms instead of 16 at one row.
os.environ.setdefault("GOMP_SPINCOUNT", "1000")

# On a CPU, torch and oneDNN each keep the code that they compile for a product's shape, 0.6 MiB for
# each new number of rows and each shape of weights: by default 1 024 of them, some 2 GiB after a
# day of prompts of all lengths. Compiling one again takes half a millisecond.
for _cache in ("LRU_CACHE_CAPACITY", "ONEDNN_PRIMITIVE_CACHE_CAPACITY"):
    os.environ.setdefault(_cache, "256")
