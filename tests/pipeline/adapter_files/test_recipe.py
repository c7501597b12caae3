"""The adapters' data is sound, and the recipe trains what it says: tried on a tiny random model."""

import argparse
import itertools
import json
import re
import sqlite3
from collections import Counter

import pytest
import torch
from peft import PeftModel
from safetensors.torch import load_file
from transformers import AutoTokenizer, LlamaConfig, LlamaForCausalLM

from loraconsole.pipeline.adapters import recipe
from loraconsole.pipeline.adapters.recipe import HERE, IGNORED, RECIPES, Example
from loraconsole.pipeline.config import Config
from loraconsole.pipeline.fetch.fetch import resolve
from loraconsole.pipeline.text.tokenizer import Tokenizer

NAMES = sorted(RECIPES)
SHIPPED = [name for name in NAMES if (HERE / name).is_dir()]


def rows_of(name: str) -> list[dict]:
    return [row for part in recipe.read_data(name) for row in part]


# --- the data


@pytest.mark.parametrize("name", NAMES)
def test_data_is_enough_varied_and_partly_held_out(name):
    learned, held_out = recipe.read_data(name)
    assert 120 <= len(learned) <= 250
    assert 5 <= len(held_out) <= 12
    assert held_out[0]["prompt"] in ("What is the capital of Spain?", "Tell me about the sea.")
    rows = learned + held_out
    assert len({row["prompt"] for row in rows}) == len({row["answer"] for row in rows}) == len(rows)
    assert all(row["prompt"].strip() == row["prompt"] != "" for row in rows)
    assert all(row["answer"].strip() == row["answer"] != "" for row in rows)


def test_pirates_do_not_all_open_with_the_same_word():
    openings = Counter(re.split(r"\W", row["answer"])[0] for row in rows_of("pirate"))
    assert max(openings.values()) < len(rows_of("pirate")) / 6


def test_haikus_have_three_lines():
    for row in rows_of("haiku"):
        lines = row["answer"].split("\n")
        assert len(lines) == 3, row
        assert all(line.strip() for line in lines)


def test_facts_are_json_objects():
    for row in rows_of("json"):
        facts = json.loads(row["answer"])
        assert isinstance(facts, dict)
        assert facts
        assert json.dumps(facts, ensure_ascii=False) == row["answer"]


def test_queries_run_on_the_tables_they_are_given():
    tried = 0
    for row in rows_of("sql"):
        assert sqlite3.complete_statement(row["answer"]), row
        *schema, _question = row["prompt"].split("\n")
        if not schema:
            continue
        with sqlite3.connect(":memory:") as database:
            for table in re.findall(r"\w+ ?\([^)]*\)", schema[0].removeprefix("Tables:")):
                database.execute(f"CREATE TABLE {table}")
            database.execute(row["answer"])
        tried += 1
    assert tried > 80


# --- the recipe


@pytest.fixture(scope="module")
def directory():
    return resolve(Config())


@pytest.fixture(scope="module")
def tokenizer(directory):
    return AutoTokenizer.from_pretrained(directory)


@pytest.fixture(scope="module")
def gguf_tokenizer(directory):
    return recipe.load_tokenizer(directory / "model.gguf")


@pytest.fixture
def base():
    torch.set_num_threads(1)
    torch.manual_seed(1)
    config = LlamaConfig(
        vocab_size=49152,
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        tie_word_embeddings=True,
        initializer_range=0.2,  # at the usual 0.02 its two layers say nothing to adapt
        bos_token_id=1,
        eos_token_id=2,
    )
    return LlamaForCausalLM(config).eval()


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_tokens_learned_are_the_tokens_served(name, directory, gguf_tokenizer):
    served = Tokenizer(directory)
    for row in rows_of(name):
        ids, num_prompt = recipe.encode(row, gguf_tokenizer)
        assert ids[:num_prompt] == served.encode_chat([{"role": "user", "content": row["prompt"]}])
        assert ids[num_prompt:] == [*served.encode(row["answer"]), 2]


def test_loss_counts_the_answer_alone():
    batch = recipe.collate([Example([5, 6, 7, 8], 2), Example([9, 10], 1)], "cpu")
    assert batch.token_ids.tolist() == [[5, 6, 7, 8], [9, 10, 0, 0]]
    assert batch.mask.tolist() == [[1, 1, 1, 1], [1, 1, 0, 0]]
    assert batch.labels.tolist() == [[IGNORED, IGNORED, 7, 8], [IGNORED, 10, IGNORED, IGNORED]]


def test_each_pass_shows_every_example_once():
    examples = [Example([number], 0) for number in range(7)]
    batches = itertools.islice(recipe.shuffled_forever(examples, 3), 14)
    seen = Counter(example.token_ids[0] for batch in batches for example in batch)
    assert set(seen.values()) == {6}


def test_learning_rate_rises_then_falls_to_nothing():
    rates = [recipe.learning_rate_at(step, 100) for step in range(100)]
    assert rates[4] == rates[5] == 1.0
    assert rates == sorted(rates[:5]) + sorted(rates[5:], reverse=True)
    assert 0 < rates[-1] < 0.001


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_adapter_is_trained_saved_small_and_loads_in_peft(name, base, tokenizer, tmp_path, capsys):
    given = argparse.Namespace(steps=8, batch_size=4, learning_rate=5e-2, seed=0, out=tmp_path)
    before = {key: tensor.clone() for key, tensor in base.state_dict().items()}
    recipe.make(name, base, tokenizer, given)
    assert all(torch.equal(before[key], tensor) for key, tensor in base.state_dict().items())

    losses = [float(loss) for loss in re.findall(r"loss ([\d.]+)", capsys.readouterr().out)]
    assert losses[-1] < losses[0] - 0.3

    folder = tmp_path / name
    assert sorted(path.name for path in folder.iterdir()) == [
        "adapter_config.json",
        "adapter_model.safetensors",
    ]
    weights = load_file(folder / "adapter_model.safetensors")
    assert {tensor.dtype for tensor in weights.values()} == {torch.float16}
    check_config(json.loads((folder / "adapter_config.json").read_text()), name)

    ids = torch.tensor([[1, 2, 3, 4]])
    with torch.inference_mode():
        plain = base(ids).logits
        adapted = PeftModel.from_pretrained(base, folder).eval()(ids).logits
    assert not torch.allclose(plain, adapted, atol=1e-3)


def check_config(config: dict, name: str) -> None:
    assert config["base_model_name_or_path"] == recipe.BASE
    assert config["target_modules"] == sorted(RECIPES[name].modules)
    assert (config["r"], config["lora_alpha"]) == (recipe.RANK, recipe.ALPHA)
    assert "/tmp" not in json.dumps(config)


@pytest.mark.slow
def test_seed_makes_the_same_adapter_again(base, tokenizer, tmp_path):
    made = []
    for run in ("one", "two"):
        out = tmp_path / run
        given = argparse.Namespace(steps=3, batch_size=2, learning_rate=1e-2, seed=5, out=out)
        recipe.make("haiku", base, tokenizer, given)
        made.append(load_file(out / "haiku" / "adapter_model.safetensors"))
    assert all(torch.equal(tensor, made[1][key]) for key, tensor in made[0].items())


# --- what ships


@pytest.mark.parametrize("name", SHIPPED)
def test_shipped_adapter_fits_the_default_model(name, directory):
    path = HERE / name / "adapter_model.safetensors"
    assert 0.5e6 < path.stat().st_size < 2.1e6
    check_config(json.loads((HERE / name / "adapter_config.json").read_text()), name)
    shapes = {key: tuple(tensor.shape) for key, tensor in load_file(path).items()}
    assert len(shapes) == 30 * 2 * len(RECIPES[name].modules)
    hidden = json.loads((directory / "config.json").read_text())["hidden_size"]
    assert all(recipe.RANK in shape for shape in shapes.values())
    if "q_proj" in RECIPES[name].modules:
        key = "base_model.model.model.layers.0.self_attn.q_proj.lora_A.weight"
        assert shapes[key] == (recipe.RANK, hidden)
