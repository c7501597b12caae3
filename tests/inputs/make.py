"""Makes the inputs of one list with the tools of this environment.

`python make.py LIST FOLDER [PATTERN]`: a folder and a NAME.json for each input of the module LIST
whose name matches: what made it, what is expected of it, and what transformers answers. An input
that its tool cannot make here is in the list too, with the reason. Run by measure_inputs.py.
"""

from __future__ import annotations

import importlib
import json
import logging
import os
import re
import shutil
import sys
import traceback
import warnings
from pathlib import Path
from typing import Any

from making import INPUTS, Input


def last_line(error: BaseException) -> str:
    lines = str(error).strip().splitlines() or [""]
    return f"{type(error).__name__}: {lines[0]}"[:300]


def make(made: Input, folder: Path) -> dict[str, Any]:
    """What NAME.json holds."""
    from reference import reference

    out = folder / made.name
    entry: dict[str, Any] = {
        "name": made.name,
        "path": str(out / made.file),
        "base": made.base,
        "refused": made.refused,
        "asked": made.asked,
    }
    for beside in ("", "-start", "-base", "-hf", "-run", "-sp", "-peft", "-whole", "-clean"):
        shutil.rmtree(folder / f"{made.name}{beside}", ignore_errors=True)
    try:
        entry["made_by"] = made.versions()
        base = folder / made.base if made.base else None
        given = made.make(base, out) if base else made.make(out)
    except Exception as error:
        traceback.print_exc()
        return entry | {"not_made": last_line(error)}
    try:
        entry["reference"] = reference(base, given, out) if base else reference(out, given)
    except Exception as error:
        traceback.print_exc()
        entry |= {"reference": None, "why_none": last_line(error)}
    return entry


def main() -> None:
    names, folder = sys.argv[1], Path(sys.argv[2])
    pattern = re.compile(sys.argv[3] if len(sys.argv) > 3 else ".")
    os.environ |= {"HF_HUB_OFFLINE": "1", "TRANSFORMERS_VERBOSITY": "error"}
    warnings.filterwarnings("ignore")
    logging.disable(logging.WARNING)
    importlib.import_module(names)
    for made in list(INPUTS.values()):
        if not pattern.search(made.name):
            continue
        entry = make(made, folder)
        (folder / f"{made.name}.json").write_text(json.dumps(entry))
        print(made.name, entry.get("not_made") or entry.get("why_none") or "made", flush=True)


if __name__ == "__main__":
    main()
