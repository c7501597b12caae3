"""Logits that transformers computes from the same files, to compare ours with."""

from pathlib import Path
from typing import Any

import torch


def prompts_of(lengths: tuple[int, ...], vocab_size: int = 160) -> list[list[int]]:
    generator = torch.Generator().manual_seed(7)
    return [torch.randint(vocab_size, (n,), generator=generator).tolist() for n in lengths]


def expected_logits(model: Any, prompt: list[int], tokens: list[int]) -> torch.Tensor:
    """transformers' logits of the prompt's last token and of each token after it."""
    ids = torch.tensor([prompt + tokens[:-1]])
    with torch.no_grad():
        logits: torch.Tensor = model(ids, use_cache=False).logits[0, len(prompt) - 1 :]
    return logits


def load_reference(directory: Path) -> Any:
    from transformers import AutoModelForCausalLM

    return AutoModelForCausalLM.from_pretrained(directory, attn_implementation="eager").eval()
