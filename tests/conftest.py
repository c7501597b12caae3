"""What every test relies on: the installed name `loraconsole`, never the folders beside us."""

import os
import sys
from pathlib import Path

ROOT = str(Path(__file__).resolve().parent.parent)
# pytest puts the root on the path, where `console` and `kernels` would be importable by their
# folder names and mean something else than for a user.
sys.path[:] = [entry for entry in sys.path if os.path.abspath(entry or ".") != ROOT]
