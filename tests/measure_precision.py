"""Compares a device's answers with those of the CPU in float32, for the real model and its adapters
in one batch: greedy tokens in float32, and logits in bfloat16 as long as the previous tokens are
equal.

    python tests/measure_precision.py MODEL_DIRECTORY --device cuda

Exits with 1 if float32 tokens differ.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import NamedTuple

import torch
from driver import Driver, start_runner
from torch import Tensor

from loraconsole.pipeline.config import shipped_adapters
from loraconsole.pipeline.text.tokenizer import Tokenizer

PAGES = 400
PROMPTS = (
    "What is the capital of Spain?",
    "Tell me about the sea.",
    "How many customers ordered more than five books last year?",
    "Maria Lopez, 34, moved from Lima to Oslo in May 2019 to work as a nurse.",
    "Why is the sky blue?",
    "Explain how bread rises.",
)


class Answer(NamedTuple):
    tokens: list[int]
    logits: Tensor
    """[tokens, vocab_size]"""


def answers(given: argparse.Namespace, prompts: list[list[int]], **settings: str) -> list[Answer]:
    """The answers of the base and every adapter to each prompt."""
    runner, _ = start_runner(
        given.directory, adapter=shipped_adapters(), max_total_tokens=32768, threads=0, **settings
    )
    driver = Driver(runner, PAGES)
    names = [None, *(entry.partition("=")[0] for entry in shipped_adapters())]
    numbers = [driver.add(ids, adapter=name) for ids in prompts for name in names]
    driver.generate(numbers, given.tokens)
    return [Answer(driver.tokens[n], torch.stack(driver.logits[n]).float()) for n in numbers]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("directory", type=Path)
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cuda")
    parser.add_argument("--tokens", type=int, default=48)
    given = parser.parse_args()
    tokenizer = Tokenizer(given.directory)
    prompts = [tokenizer.encode_chat([{"role": "user", "content": text}]) for text in PROMPTS]
    truth = answers(given, prompts, device="cpu", dtype="float32")
    same = answers(given, prompts, device=given.device, dtype="float32")
    differ = sum(a.tokens != b.tokens for a, b in zip(truth, same, strict=True))
    gap = max((a.logits - b.logits).abs().max().item() for a, b in zip(truth, same, strict=True))
    print(
        json.dumps(
            {
                "dtype": "float32",
                "answers": len(truth),
                "answers that differ": differ,
                "largest logit difference": round(gap, 5),
            }
        )
    )
    positions, agree, gaps, divergences = 0, 0, [], []
    for exact, rough in zip(
        truth, answers(given, prompts, device=given.device, dtype="bfloat16"), strict=True
    ):
        for index, (a, b) in enumerate(zip(exact.logits, rough.logits, strict=True)):
            positions += 1
            p, q = a.log_softmax(-1), b.log_softmax(-1)
            divergences.append((p.exp() * (p - q)).sum().item())
            gaps.append((a - b).abs().max().item())
            agree += exact.tokens[index] == rough.tokens[index]
            if exact.tokens[index] != rough.tokens[index]:
                break
    ordered = sorted(gaps)
    print(
        json.dumps(
            {
                "dtype": "bfloat16",
                "positions": positions,
                "same token": round(agree / positions, 4),
                "mean KL": round(sum(divergences) / positions, 6),
                "largest KL": round(max(divergences), 5),
                "logit difference p50": round(ordered[positions // 2], 4),
                "logit difference largest": round(ordered[-1], 4),
            }
        )
    )
    raise SystemExit(1 if differ else 0)


if __name__ == "__main__":
    main()
