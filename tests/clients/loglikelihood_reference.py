"""What transformers computes from the same weights: run by `.venv/bin/python`, which has torch.

`loglikelihood_reference.py DIRECTORY` reads JSON pairs [context ids, continuation ids] from stdin
and prints for each [log-likelihood of the continuation, whether it is the greedy one].
"""

import json
import sys
from pathlib import Path

import torch
from transformers import AutoModelForCausalLM


def main() -> None:
    directory = Path(sys.argv[1])
    files = {"gguf_file": "model.gguf"} if (directory / "model.gguf").exists() else {}
    model = AutoModelForCausalLM.from_pretrained(directory, dtype=torch.float32, **files).eval()
    results = []
    for context, continuation in json.load(sys.stdin):
        with torch.no_grad():
            logits = model(torch.tensor([context + continuation])).logits[0]
        scores = torch.log_softmax(logits[len(context) - 1 : -1].double(), dim=-1)
        chosen = torch.tensor(continuation)
        total = scores.gather(1, chosen[:, None]).sum().item()
        results.append([total, bool((scores.argmax(dim=-1) == chosen).all())])
    print(json.dumps(results))


main()
