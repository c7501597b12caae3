"""Every family and format that is served, beside transformers and peft: `doctor MODEL --against
transformers`, with two processes for all models; and that what is read otherwise is found."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest
import torch
from driver import save_model
from ring import Ring
from safetensors.torch import load_file, save_file
from tiny_gguf import NAMES
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

from loraconsole.console.cli import against
from loraconsole.console.commands.inspect import DoctorCommand
from loraconsole.pipeline.config import Config
from loraconsole.pipeline.errors import OperatorError
from loraconsole.pipeline.fetch.fetch import resolve
from loraconsole.pipeline.reference.reference import (
    LineClient,
    Prepared,
    ReferenceComparison,
    ReferenceQuestion,
    SideBySide,
)

pytestmark = pytest.mark.processes

SPECIAL = ("<|endoftext|>", "<|im_start|>", "<|im_end|>", "<pad>")
CHATML = (
    "{% for m in messages %}<|im_start|>{{ m['role'] }}\n{{ m['content'] | trim }}<|im_end|>\n"
    "{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
SHAPES: dict[str, Any] = {
    "vocab_size": 300,
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 16,
    "max_position_embeddings": 512,
    "bos_token_id": 0,
    "eos_token_id": 2,
    "tie_word_embeddings": False,
}
YARN = {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 128}
LLAMA3 = {
    "rope_type": "llama3",
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 64,
}
CASES: dict[str, tuple[str, dict[str, Any]]] = {
    "llama": ("llama", {"attention_bias": True, "mlp_bias": True}),
    "llama3-tied": (
        "llama",
        {"tie_word_embeddings": True, "rope_parameters": LLAMA3 | {"rope_theta": 500.0}},
    ),
    "llama-linear": (
        "llama",
        {"rope_parameters": {"rope_type": "linear", "factor": 2.0, "rope_theta": 1000.0}},
    ),
    "llama-dynamic": (
        "llama",
        {
            "max_position_embeddings": 256,
            "rope_parameters": {"rope_type": "dynamic", "factor": 4.0, "rope_theta": 1000.0},
        },
    ),
    "mistral-window": ("mistral", {"sliding_window": 48, "head_dim": 24}),
    "qwen2-window": (
        "qwen2",
        {
            "tie_word_embeddings": True,
            "use_sliding_window": True,
            "sliding_window": 40,
            "max_window_layers": 1,
        },
    ),
    "qwen3-yarn": (
        "qwen3",
        {"attention_bias": True, "rope_parameters": YARN | {"rope_theta": 1000.0}},
    ),
}
LORAS: dict[str, dict[str, Any]] = {
    "plain": {"target_modules": ["q_proj", "v_proj"], "lora_alpha": 16},
    "all-linear": {"target_modules": "all-linear"},
    "rslora": {"target_modules": ["o_proj", "up_proj"], "use_rslora": True, "r": 12},
    "patterns": {
        "target_modules": ["k_proj", "down_proj", "gate_proj"],
        "rank_pattern": {"layers.1.mlp.down_proj": 3, "k_proj": 7},
        "alpha_pattern": {"gate_proj": 24},
    },
}


# --- real files ---------------------------------------------------------------------------------


def save_tokenizer(directory: Path) -> None:
    """A trained byte-level BPE with a chat template, as transformers reads it for the family."""
    from transformers import AutoTokenizer, PreTrainedTokenizerFast

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=SHAPES["vocab_size"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        special_tokens=[*SPECIAL],
        show_progress=False,
    )
    tokenizer.train_from_iterator(
        ["The ship was 12 miles from Oslo. Hello, how are you today?", "What is the sea?"] * 20,
        trainer,
    )
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, bos_token=SPECIAL[0], eos_token=SPECIAL[2], pad_token=SPECIAL[3]
    )
    fast.chat_template = CHATML
    fast.save_pretrained(directory)
    # Of some families transformers makes a tokenizer by their class, whatever the file says.
    AutoTokenizer.from_pretrained(directory).save_pretrained(directory)


def save_case(directory: Path, family: str, **changes: Any) -> Any:
    model = save_model(directory, family, **(SHAPES | changes))
    save_tokenizer(directory)
    return model


def save_lora(base: Any, directory: Path, seed: int, **config: Any) -> Path:
    from peft import LoraConfig, get_peft_model

    torch.manual_seed(seed)
    model = get_peft_model(base, LoraConfig(task_type="CAUSAL_LM", **config))
    for layer in model.modules():
        if hasattr(layer, "lora_B"):
            torch.nn.init.normal_(layer.lora_B["default"].weight, std=0.1)
    model.save_pretrained(directory, save_embedding_layers=False)
    model.unload()
    return directory


def write_gguf(
    path: Path, checkpoint: Path, kind: gguf.GGMLQuantizationType, rope_factor: float = 0.0
) -> Path:
    """A checkpoint with its tokenizer, as llama.cpp's converter writes it; rope scaled linearly
    where a factor is given."""
    config = json.loads((checkpoint / "config.json").read_text())
    family = config["model_type"]
    heads = {"q_proj": config["num_attention_heads"], "k_proj": config["num_key_value_heads"]}
    writer = gguf.GGUFWriter(path, family)
    writer.add_name("tiny")
    writer.add_context_length(config["max_position_embeddings"])
    writer.add_embedding_length(config["hidden_size"])
    writer.add_block_count(config["num_hidden_layers"])
    writer.add_feed_forward_length(config["intermediate_size"])
    writer.add_head_count(heads["q_proj"])
    writer.add_head_count_kv(heads["k_proj"])
    writer.add_key_length(config["head_dim"])
    writer.add_value_length(config["head_dim"])
    writer.add_rope_dimension_count(config["head_dim"])
    writer.add_layer_norm_rms_eps(config["rms_norm_eps"])
    writer.add_rope_freq_base(config["rope_parameters"]["rope_theta"])
    if rope_factor:
        writer.add_rope_scaling_type(gguf.RopeScalingType.LINEAR)
        writer.add_rope_scaling_factor(rope_factor)
    model = json.loads((checkpoint / "tokenizer.json").read_text())["model"]
    tokens = sorted(model["vocab"], key=model["vocab"].__getitem__)
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("gpt-2")
    writer.add_token_list(tokens)
    writer.add_token_types([3 if token in SPECIAL else 1 for token in tokens])
    writer.add_token_merges([" ".join(pair) for pair in model["merges"]])
    writer.add_bos_token_id(0)
    writer.add_eos_token_id(2)
    writer.add_chat_template(CHATML)
    for name, tensor in load_file(checkpoint / "model.safetensors").items():
        module, _, suffix = name.rpartition(".")
        layer, _, rest = module.removeprefix("model.layers.").partition(".")
        target = f"blk.{layer}.{NAMES[rest]}" if rest in NAMES else NAMES[module]
        last = rest.rpartition(".")[2]
        if family == "llama" and last in heads:
            halves = tensor.reshape(heads[last], 2, -1, *tensor.shape[1:])
            tensor = halves.swapaxes(1, 2).reshape(tensor.shape)
        data: np.ndarray = tensor.numpy()
        if data.ndim == 2:
            writer.add_tensor(f"{target}.{suffix}", gguf.quantize(data, kind), raw_dtype=kind)
        else:
            writer.add_tensor(f"{target}.{suffix}", data)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


@pytest.fixture(scope="module")
def beside() -> Iterator[SideBySide]:
    with SideBySide() as beside:
        yield beside


@pytest.fixture(scope="module")
def llama(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """With the adapters of `LORAS` in directories of their names, beside the model."""
    root = tmp_path_factory.mktemp("llama")
    base = save_case(root / "model", "llama")
    for seed, (name, config) in enumerate(LORAS.items()):
        save_lora(base, root / name, seed, **config)
    return root / "model"


def compare(beside: SideBySide, model: Path, *names: str, **more: Any) -> ReferenceComparison:
    """`model` with adapters that lie beside it."""
    adapters = tuple((name, str(model.parent / name)) for name in names)
    question = ReferenceQuestion(model=str(model), adapters=adapters, tokens=8)
    return beside.compare_engine(question, resolve(Config(model=str(model))), **more)


def wrong(found: ReferenceComparison) -> dict[tuple[str, str | None], str]:
    return {(row.prompt, row.adapter): row.reason for row in found.rows if not row.is_right}


# --- what is right ------------------------------------------------------------------------------


@pytest.mark.parametrize("case", CASES)
def test_a_family_answers_as_transformers_does(
    case: str, beside: SideBySide, tmp_path: Path
) -> None:
    family, changes = CASES[case]
    save_case(tmp_path, family, **changes)
    found = compare(beside, tmp_path)
    assert not wrong(found)
    assert [row.prompt for row in found.rows] == [
        *("text", "unicode", "special", "chat", "system chat", "long")
    ]
    for row in found.rows:
        assert row.tokens == 8 and row.range > 1 and 0 < row.largest < 1e-4 * row.range
    assert found.notes == ()
    window = changes.get("sliding_window", 0)
    original = changes.get("rope_parameters", {}).get("original_max_position_embeddings", 0)
    assert found.rows[-1].prompt_tokens > max(window, original)


def test_adapters_answer_as_peft_does(beside: SideBySide, llama: Path) -> None:
    found = compare(beside, llama, *LORAS)
    assert not wrong(found)
    assert "peft" in found.by
    assert {row.adapter for row in found.rows} == {None, *LORAS}
    assert len({row.range for row in found.rows if row.prompt == "chat"}) == 5, "all answer alike"


@pytest.mark.parametrize("has_tokenizer", [False, True])
def test_an_adapters_own_template_writes_its_chats(
    has_tokenizer: bool, beside: SideBySide, llama: Path, tmp_path: Path
) -> None:
    """Trainers save the template alone, or all files of the tokenizer."""
    shutil.copytree(llama.parent / "plain", tmp_path / "plain")
    (tmp_path / "plain" / "chat_template.jinja").write_text(CHATML + "~")
    if has_tokenizer:
        for name in ("tokenizer.json", "tokenizer_config.json"):
            shutil.copy(llama / name, tmp_path / "plain")
    question = ReferenceQuestion(
        model=str(llama), adapters=(("plain", str(tmp_path / "plain")),), tokens=4
    )
    found = beside.compare_engine(question, llama)
    assert not wrong(found)
    chats = {row.adapter: row.prompt_tokens for row in found.rows if row.prompt == "chat"}
    assert chats["plain"] == chats[None] + 1
    adapters = (("plain", str(llama.parent / "plain")),)
    other = beside.compare_engine(
        question, llama, reference=ReferenceQuestion(model=str(llama), adapters=adapters)
    )
    assert {*wrong(other)} == {("chat", "plain"), ("system chat", "plain")}


@pytest.mark.parametrize("family", ["llama", "qwen2", "qwen3"])
@pytest.mark.parametrize("kind", ["F32", "Q8_0"])
def test_a_gguf_answers_as_transformers_reads_it(
    family: str,
    kind: str,
    beside: SideBySide,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    # transformers reads no head size from a GGUF of qwen3: it is 128, as of the real ones.
    save_case(tmp_path / "checkpoint", family, head_dim=128 if family == "qwen3" else 16)
    quantization = gguf.GGMLQuantizationType[kind]
    path = write_gguf(tmp_path / "tiny.gguf", tmp_path / "checkpoint", quantization)
    found = compare(beside, path)
    assert not wrong(found) and found.notes == ()


def test_what_transformers_does_not_read_of_a_gguf_is_said(
    beside: SideBySide, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The reference is wrong here: it computes as though rope were not scaled."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    save_case(tmp_path / "checkpoint", "llama")
    path = write_gguf(
        tmp_path / "tiny.gguf", tmp_path / "checkpoint", gguf.GGMLQuantizationType.F32, 4.0
    )
    found = compare(beside, path)
    assert "long" in {prompt for prompt, _ in wrong(found)}
    assert any("llama.rope.scaling.factor" in note for note in found.notes)


def test_a_type_that_rounds_is_held_against_bounds_of_its_own(
    beside: SideBySide, llama: Path
) -> None:
    found = compare(beside, llama, "plain", dtype="bfloat16")
    assert not wrong(found)
    assert all(row.unit == "logprobs" for row in found.rows)
    assert max(row.largest for row in found.rows) > 1e-3


# --- what is not --------------------------------------------------------------------------------


def edit(path: Path, change: Callable[[dict[str, Any]], object]) -> None:
    content = json.loads(path.read_text())
    change(content)
    path.write_text(json.dumps(content))


def other_theta(model: Path) -> None:
    edit(model / "config.json", lambda c: c["rope_parameters"].update(rope_theta=9000.0))


def other_eps(model: Path) -> None:
    edit(model / "config.json", lambda c: c.update(rms_norm_eps=2e-5))


def one_weight(model: Path) -> None:
    path = model / "model.safetensors"
    tensors = load_file(path)
    tensors["model.layers.1.mlp.down_proj.weight"][0, 0] += 0.05
    save_file(tensors, path, {"format": "pt"})


def no_merge(model: Path) -> None:
    edit(model / "tokenizer.json", lambda c: c["model"]["merges"].pop(0))


def other_template(model: Path) -> None:
    (model / "chat_template.jinja").write_text(CHATML.replace(" | trim", ""))


def of_other_copy(
    beside: SideBySide, llama: Path, root: Path, change: Callable[[Path], None], dtype: Any
) -> dict[str, str]:
    """Prompts that are wrong, and why, where transformers reads a changed copy: as though we
    misread the model."""
    shutil.copytree(llama, root / "other")
    change(root / "other")
    reference = ReferenceQuestion(model=str(root / "other"))
    found = compare(beside, llama, reference=reference, dtype=dtype)
    return {prompt: reason for (prompt, _), reason in wrong(found).items()}


@pytest.mark.parametrize("change", [other_theta, other_eps, one_weight, no_merge])
def test_what_the_reference_reads_otherwise_is_found(
    change: Callable[[Path], None], beside: SideBySide, llama: Path, tmp_path: Path
) -> None:
    reasons = of_other_copy(beside, llama, tmp_path, change, "float32")
    assert {"text", "long"} <= {*reasons}
    is_of_ids = ["prompt" in reason for reason in reasons.values()]
    assert all(is_of_ids) if change is no_merge else not any(is_of_ids)


def test_another_template_is_found_in_chats_alone(
    beside: SideBySide, llama: Path, tmp_path: Path
) -> None:
    reasons = of_other_copy(beside, llama, tmp_path, other_template, "float32")
    assert {*reasons} == {"chat"} and "prompt" in reasons["chat"]


def test_what_rounding_does_not_explain_is_found_in_bfloat16(
    beside: SideBySide, llama: Path, tmp_path: Path
) -> None:
    reasons = of_other_copy(beside, llama, tmp_path, other_theta, "bfloat16")
    assert "long" in reasons


def test_an_adapter_that_is_read_otherwise_is_found_and_the_base_stays_right(
    beside: SideBySide, llama: Path, tmp_path: Path
) -> None:
    shutil.copytree(llama.parent / "plain", tmp_path / "other")
    edit(tmp_path / "other" / "adapter_config.json", lambda c: c.update(lora_alpha=16.5))
    adapters = (("plain", str(tmp_path / "other")), ("rslora", str(llama.parent / "rslora")))
    reference = ReferenceQuestion(model=str(llama), adapters=adapters)
    found = compare(beside, llama, "plain", "rslora", reference=reference)
    assert {adapter for _, adapter in wrong(found)} == {"plain"}


def test_weights_that_overflow_are_never_right(
    beside: SideBySide, llama: Path, tmp_path: Path
) -> None:
    """Both sides compute the same zeros then."""
    shutil.copytree(llama.parent, tmp_path / "all")
    path = tmp_path / "all" / "plain" / "adapter_model.safetensors"
    save_file({key: tensor * 1e15 for key, tensor in load_file(path).items()}, path)
    found = compare(beside, tmp_path / "all" / "model", "plain")
    reasons = wrong(found)
    assert {adapter for _, adapter in reasons} == {"plain"} and len(reasons) == 6
    assert all("alike" in reason or "not finite" in reason for reason in reasons.values())


# --- what cannot be compared --------------------------------------------------------------------


def test_a_refused_adapter_and_one_that_peft_does_not_read_are_named(
    beside: SideBySide, llama: Path, tmp_path: Path
) -> None:
    shutil.copytree(llama.parent, tmp_path / "all")
    root = tmp_path / "all"
    edit(root / "plain" / "adapter_config.json", lambda c: c.update(use_dora=True))
    question = ReferenceQuestion(
        model=str(root / "model"), adapters=(("plain", str(root / "plain")),)
    )
    shutil.copytree(root / "rslora", tmp_path / "broken")
    (tmp_path / "broken" / "adapter_model.safetensors").unlink()
    reference = ReferenceQuestion(
        model=question.model, adapters=(*question.adapters, ("rslora", str(tmp_path / "broken")))
    )
    found = compare(beside, root / "model", "plain", "rslora", reference=reference)
    reasons = wrong(found)
    assert {adapter for _, adapter in reasons} == {"plain", "rslora"}
    assert reasons["text", "plain"].startswith("refused: ") and "dora" in reasons["text", "plain"]
    assert "peft cannot read it" in reasons["text", "rslora"]


def test_a_chat_that_both_refuse_is_right(beside: SideBySide, llama: Path, tmp_path: Path) -> None:
    shutil.copytree(llama, tmp_path / "model")
    refusal = "{{ raise_exception('no system messages') }}"
    template = "{% if messages[0]['role'] == 'system' %}" + refusal + "{% endif %}" + CHATML
    (tmp_path / "model" / "chat_template.jinja").write_text(template)
    found = compare(beside, tmp_path / "model")
    assert not wrong(found)
    (row,) = [row for row in found.rows if row.prompt == "system chat"]
    assert "both refuse it" in row.reason and "no system messages" in row.reason


def test_a_model_that_memory_cannot_hold_says_what_it_needs(
    beside: SideBySide, llama: Path, tmp_path: Path
) -> None:
    shutil.copytree(llama, tmp_path / "model")
    sizes = {"hidden_size": 1 << 17, "intermediate_size": 1 << 19, "num_hidden_layers": 8}
    edit(tmp_path / "model" / "config.json", lambda c: c.update(sizes))
    reference = ReferenceQuestion(model=str(tmp_path / "model"))
    with pytest.raises(OperatorError, match=r"takes \d{4,}\.\d GiB in float32, but .* are free"):
        compare(beside, llama, reference=reference)


def test_what_transformers_would_make_at_random_is_no_reference(
    beside: SideBySide, llama: Path, tmp_path: Path
) -> None:
    shutil.copytree(llama, tmp_path / "model")
    path = tmp_path / "model" / "model.safetensors"
    tensors = load_file(path)
    del tensors["model.layers.1.mlp.up_proj.weight"]
    save_file(tensors, path, {"format": "pt"})
    reference = ReferenceQuestion(model=str(tmp_path / "model"))
    with pytest.raises(
        OperatorError, match=r"does not find model\.layers\.1\.mlp\.up_proj\.weight"
    ):
        compare(beside, llama, reference=reference)


@pytest.mark.parametrize("library", ["transformers", "peft"])
def test_a_library_that_is_absent_is_named_with_how_to_install_it(
    library: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    words = f"raise ModuleNotFoundError(\"No module named '{library}'\")"
    (tmp_path / f"{library}.py").write_text(words)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    with LineClient("transformers_reference") as reference:
        question = ReferenceQuestion(model=str(tmp_path), adapters=(("a", str(tmp_path)),))
        with pytest.raises(OperatorError, match=f"{library} cannot be imported") as caught:
            reference.ask(question, Prepared)
    assert caught.value.hint.startswith(f"pip install '{library}>=")


# --- the commands -------------------------------------------------------------------------------


def test_a_running_pipeline_is_verified_over_http(llama: Path, tmp_path: Path) -> None:
    adapters = [f"--adapter={name}={llama.parent / name}" for name in ("patterns", "rslora")]
    options = ("--model", str(llama), *adapters, "--dtype", "float32", "--device", "cpu")
    with Ring(tmp_path / "r", *options, "--max-total-tokens", "8192") as ring:
        command = ("adapters", "verify", "patterns", "--against", "transformers", "--tokens", "6")
        done = ring.cli(*command, "--json")
        found = json.loads(done.stdout)
        assert found["is_right"] and found["dtype"] == "float32"
        rows = {(row["prompt"], row["adapter"]): row for row in found["rows"]}
        assert len(rows) == 12 and {adapter for _, adapter in rows} == {None, "patterns"}
        assert all(row["tokens"] == row["equal_tokens"] == 6 for row in rows.values())
        assert all(row["unit"] == "logprobs" and row["largest"] < 1e-4 for row in rows.values())
        # The files are no longer those that are served.
        edit(llama.parent / "patterns" / "adapter_config.json", lambda c: c.update(lora_alpha=9))
        done = ring.cli(*command, check=False)
        assert done.returncode == 1
        assert "6 of 12 answers DIFFER from transformers" in done.stdout


def test_doctor_prints_a_row_for_each_answer_and_a_verdict(
    beside: SideBySide, llama: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    found = compare(beside, llama, "rslora")
    assert against.print_comparison(found, False) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[:3] for line in lines[1:3]] == [
        ["ok", "base", *t] for t in (["text"], ["unicode"])
    ]
    assert len(lines) == 14 and "answers as transformers" in lines[-1]


def test_an_adapter_that_is_refused_is_said_once_and_is_no_difference(
    beside: SideBySide, llama: Path, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    shutil.copytree(llama.parent / "rslora", tmp_path / "dora")
    edit(tmp_path / "dora" / "adapter_config.json", lambda c: c.update(use_dora=True))
    question = ReferenceQuestion(
        model=str(llama), adapters=(("dora", str(tmp_path / "dora")),), tokens=4
    )
    found = beside.compare_engine(question, llama)
    assert against.print_comparison(found, False) == 1
    said = capsys.readouterr().out
    assert said.count("use_dora") == 1 and "dora: refused: " in said
    assert "DIFFER" not in said and "6 of 12 answers REFUSED, the others as transfo" in said


def test_libraries_that_are_not_installed_are_named_before_any_work(
    llama: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    command = DoctorCommand(adapter=("a=b",), against="transformers")
    with pytest.raises(OperatorError, match="transformers peft") as caught:
        against.compare_model(str(llama), command)
    assert "pip install 'transformers>=5' 'peft>=0.18'" in caught.value.hint
