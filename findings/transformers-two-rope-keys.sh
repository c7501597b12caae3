#!/usr/bin/env bash
# transformers 5.23.0 saves rope_theta inside `rope_parameters`. A `rope_scaling` added to that folder, as
# the model cards of long-context models say, replaces the whole table: rope_theta falls to 10000.
# Guess: the scaling is added and rope_theta stays, as in a folder of transformers 4. Seen:
#   rope_scaling in a folder of transformers four: yarn, 1000000.0
#   rope_scaling in a folder of transformers five: yarn, 10000.0
set -euo pipefail
folder=$(mktemp -d); trap 'rm -rf "$folder"' EXIT; cd "$folder"
python3 -m venv env
env/bin/pip install -q transformers==5.23.0 numpy==2.4.6
env/bin/python - <<'PYTHON'
import json
from pathlib import Path
from transformers import AutoConfig, Qwen3Config

scaling = {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 32768}
theta = {"rope_type": "default", "rope_theta": 1000000.0}
Qwen3Config(max_position_embeddings=32768, rope_parameters=theta).save_pretrained("five")
saved = json.loads(Path("five/config.json").read_text())
assert saved["rope_parameters"] == theta and "rope_theta" not in saved
four = {key: value for key, value in saved.items() if key != "rope_parameters"} | {"rope_theta": 1000000.0}
found = {}
for name, fields in (("four", four), ("five", saved)):
    Path(name).mkdir(exist_ok=True)
    Path(name, "config.json").write_text(json.dumps(fields | {"rope_scaling": scaling}))
    found[name] = AutoConfig.from_pretrained(name).rope_parameters
    print(f"rope_scaling in a folder of transformers {name}: {found[name]['rope_type']}, {found[name]['rope_theta']}")
assert found["four"]["rope_theta"] == 1000000.0 and found["five"]["rope_theta"] == 10000.0
assert found["four"]["rope_type"] == found["five"]["rope_type"] == "yarn"
PYTHON
