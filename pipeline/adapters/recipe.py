"""Trains the shipped adapters again, or others from your own data.

    python -m loraconsole.pipeline.adapters.recipe [NAME ...] [--steps N] [--device D] [--out DIR]

Needs transformers and peft (the `dev` extra). `data/NAME.jsonl` holds one example per line:
`prompt`, `answer`, and `held_out` for evaluation examples. With `--gguf` this file runs without the
rest of the package, so that it can be copied to a machine with a GPU and little else.
"""

from __future__ import annotations

import argparse
import json
import math
import random
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import torch
from peft import LoraConfig, PeftModel, get_peft_model
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedTokenizerBase

HERE = Path(__file__).parent
BASE = "HuggingFaceTB/SmolLM2-135M-Instruct"
RANK = 8
ALPHA = 16
DROPOUT = 0.05
IGNORED = -100
"""The label of a token that the loss ignores."""


class Recipe(NamedTuple):
    """An adapter's modules and training steps. `steps` is where the held-out loss of a run of 300
    was lowest: the small styles (haiku, pirate) overfit early."""

    modules: tuple[str, ...]
    steps: int


# Each adapter changes different modules, so that a batch of all of them exercises the server.
RECIPES = {
    "pirate": Recipe(("q_proj", "v_proj"), 90),
    "sql": Recipe(("q_proj", "k_proj", "v_proj", "o_proj"), 60),
    "json": Recipe(("q_proj", "v_proj", "down_proj"), 150),
    "haiku": Recipe(("o_proj", "up_proj"), 60),
}


class Example(NamedTuple):
    """A conversation of one turn as token ids, and how many of these are the prompt."""

    token_ids: list[int]
    num_prompt: int


class ExampleBatch(NamedTuple):
    """Examples padded to one length; `labels` is IGNORED on prompts and padding."""

    token_ids: torch.Tensor  # [num_examples, length]
    mask: torch.Tensor  # [num_examples, length]
    labels: torch.Tensor  # [num_examples, length]


def read_data(name: str) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """The examples of `data/NAME.jsonl`: for training, and held out."""
    text = (HERE / "data" / f"{name}.jsonl").read_text(encoding="utf-8")
    rows = [json.loads(line) for line in text.splitlines()]
    held_out = [row for row in rows if row.get("held_out")]
    return [row for row in rows if not row.get("held_out")], held_out


# --- the base model -----------------------------------------------------------------------------


def load_base(gguf: Path, device: str) -> Any:
    """The model in float32, dequantised from the GGUF that is served."""
    model: Any = AutoModelForCausalLM.from_pretrained(
        gguf.parent, gguf_file=gguf.name, dtype=torch.float32
    )
    return model.to(device)


def load_tokenizer(gguf: Path) -> PreTrainedTokenizerBase:
    """The tokenizer of the GGUF. If a config.json is beside the file, transformers ignores the
    file's chat template and end-of-turn token, so they are read from it here."""
    from gguf import GGUFReader

    reader = GGUFReader(gguf)

    def field(name: str, *index: int) -> Any:
        found = reader.get_field(name)
        if found is None:
            raise SystemExit(f"{gguf} has no {name}")
        return found.contents(*index)

    tokenizer = AutoTokenizer.from_pretrained(gguf.parent, gguf_file=gguf.name)
    tokenizer.chat_template = field("tokenizer.chat_template")
    tokenizer.eos_token = field("tokenizer.ggml.tokens", field("tokenizer.ggml.eos_token_id"))
    return tokenizer


def find_gguf() -> Path:
    """The embedded default's GGUF, fetched if it is missing."""
    from ..config import Config
    from ..fetch.fetch import resolve

    return resolve(Config()) / "model.gguf"


# --- examples as tensors ------------------------------------------------------------------------


def encode(row: dict[str, Any], tokenizer: PreTrainedTokenizerBase) -> Example:
    """prompt ids + answer ids + end of turn, as the chat template lays them out."""
    prompt = encode_prompt(row["prompt"], tokenizer)
    answer = tokenizer.encode(row["answer"], add_special_tokens=False)
    assert isinstance(tokenizer.eos_token_id, int)
    return Example([*prompt, *answer, tokenizer.eos_token_id], len(prompt))


def encode_prompt(prompt: str, tokenizer: PreTrainedTokenizerBase) -> list[int]:
    text = tokenizer.apply_chat_template(
        [{"role": "user", "content": prompt}], tokenize=False, add_generation_prompt=True
    )
    return list(tokenizer.encode(text, add_special_tokens=False))


def collate(examples: list[Example], device: str) -> ExampleBatch:
    """Pads on the right, which a causal model never sees."""
    length = max(len(example.token_ids) for example in examples)
    token_ids = torch.zeros(len(examples), length, dtype=torch.long)
    mask = torch.zeros_like(token_ids)
    labels = torch.full_like(token_ids, IGNORED)
    for row, (ids, num_prompt) in enumerate(examples):
        token_ids[row, : len(ids)] = torch.tensor(ids)
        mask[row, : len(ids)] = 1
        labels[row, num_prompt : len(ids)] = torch.tensor(ids[num_prompt:])
    return ExampleBatch(token_ids.to(device), mask.to(device), labels.to(device))


def shuffled_forever(examples: list[Example], batch_size: int) -> Iterator[list[Example]]:
    """Endless batches of complete passes over the examples, each pass in a new order."""
    waiting: list[Example] = []
    while True:
        while len(waiting) < batch_size:
            waiting += random.sample(examples, len(examples))
        yield waiting[:batch_size]
        del waiting[:batch_size]


# --- training -----------------------------------------------------------------------------------


def loss_of(model: PeftModel, batch: ExampleBatch) -> torch.Tensor:
    """Mean cross-entropy of the answers' tokens, in nats."""
    output = model(input_ids=batch.token_ids, attention_mask=batch.mask, labels=batch.labels)
    assert isinstance(output.loss, torch.Tensor)
    return output.loss


def learning_rate_at(step: int, steps: int) -> float:
    """Share of the peak rate: a linear rise over the first twentieth, then a half cosine."""
    rise = max(1, steps // 20)
    if step < rise:
        return (step + 1) / rise
    return 0.5 * (1 + math.cos(math.pi * (step - rise) / max(1, steps - rise)))


def train(
    model: PeftModel,
    examples: list[Example],
    held_out: list[Example],
    steps: int,
    batch_size: int,
    learning_rate: float,
) -> None:
    """AdamW on the adapter's weights; prints both losses about ten times."""
    device = str(model.device)
    weights = [weight for weight in model.parameters() if weight.requires_grad]
    optimizer = torch.optim.AdamW(weights, lr=learning_rate, weight_decay=0.01)
    batches = shuffled_forever(examples, batch_size)
    unseen = collate(held_out, device)
    started = time.monotonic()
    for step in range(steps):
        for group in optimizer.param_groups:
            group["lr"] = learning_rate * learning_rate_at(step, steps)
        model.train()
        loss = loss_of(model, collate(next(batches), device))
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(weights, 1.0)
        optimizer.step()
        if (step + 1) % max(1, steps // 10) == 0 or step == 0:
            model.eval()
            with torch.inference_mode():
                unseen_loss = loss_of(model, unseen).item()
            print(
                f"  step {step + 1:4}: loss {loss.item():.3f}, held out {unseen_loss:.3f}, "
                f"{time.monotonic() - started:.0f} s",
                flush=True,
            )
    model.eval()


def generate_answer(model: PeftModel, tokenizer: PreTrainedTokenizerBase, prompt: str) -> str:
    """The greedy answer, at most 64 tokens."""
    ids = torch.tensor([encode_prompt(prompt, tokenizer)], device=model.device)
    output = model.generate(  # type: ignore[no-untyped-call]  # peft leaves it untyped
        input_ids=ids,
        attention_mask=torch.ones_like(ids),
        max_new_tokens=64,
        do_sample=False,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.eos_token_id,
    )
    text = tokenizer.decode(output[0, ids.shape[1] :], skip_special_tokens=True)
    assert isinstance(text, str)
    return text


def save(model: PeftModel, folder: Path) -> None:
    """PEFT's two files: float16 weights, and a configuration that names the base on the hub."""
    model.save_pretrained(str(folder), save_embedding_layers=False)
    (folder / "README.md").unlink(missing_ok=True)
    weights = folder / "adapter_model.safetensors"
    halves = {name: tensor.half() for name, tensor in load_file(weights).items()}
    save_file(halves, weights, metadata={"format": "pt"})
    path = folder / "adapter_config.json"
    config = json.loads(path.read_text())
    config["base_model_name_or_path"] = BASE
    config["target_modules"] = sorted(config["target_modules"])  # from a set, in any order
    path.write_text(json.dumps(config, indent=2, sort_keys=True) + "\n")


def make(
    name: str, base: Any, tokenizer: PreTrainedTokenizerBase, given: argparse.Namespace
) -> None:
    """Trains one adapter, prints answers of the base and of the adapter, and saves it."""
    random.seed(given.seed)
    torch.manual_seed(given.seed)
    rows, held_out = read_data(name)
    recipe = RECIPES[name]
    config = LoraConfig(
        r=RANK,
        lora_alpha=ALPHA,
        lora_dropout=DROPOUT,
        target_modules=list(recipe.modules),
        task_type="CAUSAL_LM",
    )
    model = get_peft_model(base, config)
    assert isinstance(model, PeftModel)
    print(f"{name}: {len(rows)} examples, {', '.join(recipe.modules)}", flush=True)
    train(
        model,
        [encode(row, tokenizer) for row in rows],
        [encode(row, tokenizer) for row in held_out],
        given.steps or recipe.steps,
        given.batch_size,
        given.learning_rate,
    )
    for row in held_out[:3]:
        with model.disable_adapter():
            before = generate_answer(model, tokenizer, row["prompt"])
        print(f"  > {row['prompt']}\n    base: {before}")
        print(f"    {name}: {generate_answer(model, tokenizer, row['prompt'])}", flush=True)
    save(model, given.out / name)
    model.unload()  # gives the base back as it was, for the next adapter


def main() -> None:
    parser = argparse.ArgumentParser(description="train the shipped adapters")
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"any of {', '.join(RECIPES)}")
    parser.add_argument("--steps", type=int, help="training steps, instead of each recipe's")
    parser.add_argument("--batch-size", type=int, default=16)
    parser.add_argument("--learning-rate", type=float, default=1e-3)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--device", choices=("auto", "cpu", "cuda"), default="auto")
    parser.add_argument("--gguf", type=Path, help="the base model's file; by default it is fetched")
    parser.add_argument(
        "--out", type=Path, default=HERE, help="parent of the adapters' directories"
    )
    given = parser.parse_args()
    if unknown := set(given.names) - set(RECIPES):
        parser.error(f"no such adapter: {', '.join(sorted(unknown))}")
    if given.device == "auto":
        given.device = "cuda" if torch.cuda.is_available() else "cpu"
    gguf = given.gguf or find_gguf()
    base, tokenizer = load_base(gguf, given.device), load_tokenizer(gguf)
    for name in given.names or RECIPES:
        make(name, base, tokenizer, given)


if __name__ == "__main__":
    main()
