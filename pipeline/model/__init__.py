"""What computes: torch, no sockets. `runner/` drives it."""

import os

# Read by OpenMP when torch is loaded, so it stands before the first import of it. By default the
# threads of a team spin between operations; where anything else wants a core, each of the 200
# meetings of a decode step then waits for the scheduler: 1.6 s a step instead of 0.04. Sleeping at
# once (OMP_WAIT_POLICY=passive) costs a wake-up at each meeting: 25 ms instead of 16 at one row.
os.environ.setdefault("GOMP_SPINCOUNT", "1000")
