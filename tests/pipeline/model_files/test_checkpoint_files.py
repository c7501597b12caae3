"""Which files are a model's weights and what their tensors must be, beside transformers where it
answers, and the name of what is wrong where it is refused."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from driver import Driver, save_model, start_runner
from reference_logits import expected_logits, load_reference, prompts_of
from safetensors.torch import load_file, save_file

from loraconsole.pipeline.errors import OperatorError
from loraconsole.pipeline.model_files.checkpoint_files import find_checkpoint
from loraconsole.pipeline.model_files.findings import notes, require_good
from loraconsole.pipeline.model_files.inspection import inspect_directory

SINGLE, INDEX = "model.safetensors", "model.safetensors.index.json"
Tensors = dict[str, torch.Tensor]


def edit_config(directory: Path, **keys: Any) -> None:
    path = directory / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | keys))


def edit_tensors(directory: Path, change: Callable[[Tensors], Tensors]) -> None:
    save_file(change(load_file(directory / SINGLE)), directory / SINGLE, {"format": "pt"})


def shard(directory: Path, *files: str, index: bool = True) -> None:
    """Spreads the tensors over these files."""
    tensors = load_file(directory / SINGLE)
    (directory / SINGLE).unlink()
    names = sorted(tensors)
    shards = {}
    for number, file in enumerate(files):
        part = names[number :: len(files)]
        (directory / file).parent.mkdir(exist_ok=True)
        save_file({name: tensors[name] for name in part}, directory / file, {"format": "pt"})
        shards |= dict.fromkeys(part, file)
    if index:
        (directory / INDEX).write_text(json.dumps({"metadata": {}, "weight_map": shards}))


def assert_as_transformers(directory: Path) -> list[str]:
    """Equal logits of a few tokens; what is noted of the directory."""
    driver = Driver(start_runner(directory)[0])
    (prompt,) = prompts_of((40,))
    driver.generate([number := driver.add(prompt)], 4)
    expected = expected_logits(load_reference(directory), prompt, driver.tokens[number])
    torch.testing.assert_close(torch.stack(driver.logits[number]), expected, rtol=1e-4, atol=1e-4)
    return notes(inspect_directory(directory))


def assert_refused(directory: Path, *words: str) -> None:
    """With these words by a look at the directory and by loading it."""
    with pytest.raises(OperatorError) as loaded:
        start_runner(directory)
    with pytest.raises(OperatorError) as looked:
        require_good(inspect_directory(directory), directory)
    for word in words:
        assert word in str(loaded.value) and word in str(looked.value)


# --- which files


def test_the_whole_file_wins_over_strays_and_a_stale_index_which_are_noted(tmp_path: Path) -> None:
    save_model(tmp_path, "llama")
    tensors = load_file(tmp_path / SINGLE)
    save_file({n: t + 1 for n, t in tensors.items()}, tmp_path / "zz_ema.safetensors")
    (tmp_path / INDEX).write_text(json.dumps({"weight_map": {"x": "gone.safetensors"}}))
    (tmp_path / "model.gguf").write_bytes(b"GGUF")
    (tmp_path / "pytorch_model.bin").write_bytes(b"pickle")
    (tmp_path / "adapter_config.json").write_text("{}")
    said = "\n".join(notes(inspect_directory(tmp_path)))
    for word in (
        f"{INDEX}: is stale",
        "zz_ema.safetensors",
        "model.gguf",
        "adapter is not applied",
    ):
        assert word in said
    (tmp_path / "adapter_config.json").unlink()  # transformers would look for the adapter's base
    assert_as_transformers(tmp_path)
    (tmp_path / INDEX).write_text('{"metadata": {}}')
    assert "is stale" in "\n".join(notes(inspect_directory(tmp_path)))


def test_an_index_is_followed_into_folders_and_past_a_wrong_assignment(tmp_path: Path) -> None:
    save_model(tmp_path, "qwen3")
    shard(tmp_path, "model-00001-of-00002.safetensors", "parts/model-00002-of-00002.safetensors")
    assert assert_as_transformers(tmp_path) == []
    index = json.loads((tmp_path / INDEX).read_text())
    names = [*index["weight_map"]]
    first, second = names[0], names[-1]
    files = index["weight_map"][first], index["weight_map"][second]
    index["weight_map"] |= {first: files[1], second: files[0]}
    (tmp_path / INDEX).write_text(json.dumps(index))
    assert_as_transformers(tmp_path)


@pytest.mark.parametrize(
    ("index", "words"),
    [
        ("{", "is not an index"),
        ("[]", "is not an index"),
        ('{"metadata": {}}', "it has no weight_map"),
        ('{"weight_map": {}}', "names no files"),
        ('{"weight_map": {"a": 3}}', "names no files"),
        ('{"weight_map": {"a": "../other.safetensors"}}', "is outside"),
        ('{"weight_map": {"a": "gone-1.safetensors", "b": "gone-2.safetensors"}}', "gone-1"),
        ('{"weight_map": {"a": "part.safetensors"}}', "which part.safetensors does not hold"),
    ],
)
def test_an_index_that_leads_nowhere_is_refused_by_name(
    index: str, words: str, tmp_path: Path
) -> None:
    save_model(tmp_path, "llama")
    (tmp_path / SINGLE).rename(tmp_path / "part.safetensors")
    (tmp_path / INDEX).write_text(index)
    with pytest.raises(OperatorError, match=words) as raised:
        find_checkpoint(tmp_path)
    assert INDEX in str(raised.value)


def test_files_of_other_names_are_taken_only_where_they_cannot_be_mistaken(tmp_path: Path) -> None:
    save_model(tmp_path, "llama")
    (tmp_path / SINGLE).rename(tmp_path / "weights.safetensors")
    save_file({"lora_A": torch.zeros(1)}, tmp_path / "adapter_model.safetensors")
    assert "the weights are weights.safetensors" in notes(inspect_directory(tmp_path))[0]
    start_runner(tmp_path)
    tensors = load_file(tmp_path / "weights.safetensors")
    save_file(tensors, tmp_path / "weights.fp16.safetensors")
    assert_refused(tmp_path, "ambiguous", "weights.fp16.safetensors")


@pytest.mark.parametrize(
    ("file", "words"),
    [
        ("pytorch_model.bin", "pickles"),
        ("consolidated.00.pth", "pickles"),
        ("consolidated.safetensors", "Mistral's own format"),
        ("adapter_model.safetensors", "holds no weights"),
        ("other-Q4_0.gguf", "give a GGUF by its path"),
        ("README.md", "--dummy"),
    ],
)
def test_a_directory_without_weights_says_what_it_has_instead(
    file: str, words: str, tmp_path: Path
) -> None:
    save_model(tmp_path, "llama")
    (tmp_path / SINGLE).rename(tmp_path / file)
    with pytest.raises(OperatorError) as raised:
        find_checkpoint(tmp_path)
    assert words in str(raised.value)


def test_files_that_are_not_whole_are_named_each_in_its_way(tmp_path: Path) -> None:
    save_model(tmp_path, "llama")
    path = tmp_path / SINGLE
    whole = path.read_bytes()
    for content, words in (
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n", "Git LFS pointer"),
        (whole[:-1], f"is cut short: it has {len(whole) - 1} bytes of {len(whole)}"),
        (whole[:500], "is cut short"),
        (b"", "is not a safetensors file"),
        (b"\x04\0\0\0\0\0\0\0nope", "is not a safetensors file"),
        (b"PK\x03\x04 a zip of pickles", "is not a safetensors file"),
    ):
        path.write_bytes(content)
        assert_refused(tmp_path, words)


# --- which tensors


def test_a_tied_models_own_head_is_used_and_noted(tmp_path: Path) -> None:
    save_model(tmp_path, "llama")
    edit_config(tmp_path, tie_word_embeddings=True)
    assert "the file's head is used" in assert_as_transformers(tmp_path)[0]
    edit_tensors(tmp_path, lambda t: t | {"lm_head.weight": t["model.embed_tokens.weight"].clone()})
    assert assert_as_transformers(tmp_path) == []
    edit_tensors(tmp_path, lambda t: {n: v for n, v in t.items() if "embed" not in n})
    assert assert_as_transformers(tmp_path) == []


def test_a_model_saved_without_its_prefix_is_read_as_transformers_reads_it(tmp_path: Path) -> None:
    save_model(tmp_path, "qwen2", tie_word_embeddings=True)
    edit_tensors(tmp_path, lambda t: {n.removeprefix("model."): v for n, v in t.items()})
    assert assert_as_transformers(tmp_path) == []
    edit_config(tmp_path, tie_word_embeddings=False)
    assert_refused(tmp_path, "lm_head.weight is missing")


def test_buffers_and_heads_that_change_nothing_are_let_be(tmp_path: Path) -> None:
    save_model(tmp_path, "llama")
    edit_tensors(
        tmp_path,
        lambda t: (
            t
            | {
                "model.layers.0.self_attn.rotary_emb.inv_freq": torch.ones(8),
                "model.rotary_emb.inv_freq": torch.ones(8),
                "v_head.summary.weight": torch.ones(1, 48),
            }
        ),
    )
    assert assert_as_transformers(tmp_path) == []


@pytest.mark.parametrize("dtype", [torch.float64, torch.float16, torch.bfloat16])
def test_plain_types_are_weights(dtype: torch.dtype, tmp_path: Path) -> None:
    save_model(tmp_path, "llama")
    edit_tensors(tmp_path, lambda t: {n: v.to(dtype) for n, v in t.items()})
    start_runner(tmp_path)


PROJ = "model.layers.1.mlp.up_proj"
WRONG: dict[str, tuple[Callable[[Tensors], Tensors], str]] = {
    "int8": (lambda t: t | {f"{PROJ}.weight": t[f"{PROJ}.weight"].to(torch.int8)}, "I8 codes"),
    "float8": (
        lambda t: t | {f"{PROJ}.weight": t[f"{PROJ}.weight"].to(torch.float8_e4m3fn)},
        "F8_E4M3 codes",
    ),
    "SCB": (lambda t: t | {f"{PROJ}.SCB": torch.ones(80)}, "bitsandbytes"),
    "weight_scale": (lambda t: t | {f"{PROJ}.weight_scale": torch.ones(80)}, "fp8"),
    "weight_scale_inv": (lambda t: t | {f"{PROJ}.weight_scale_inv": torch.ones(1, 1)}, "fp8"),
    "qweight": (
        lambda t: (
            {n: v for n, v in t.items() if PROJ not in n}
            | {f"{PROJ}.qweight": torch.zeros(4, 4, dtype=torch.int32)}
        ),
        "gptq",
    ),
    "mlx": (lambda t: t | {f"{PROJ}.biases": torch.ones(80, 1)}, "mlx"),
    "adapter": (lambda t: t | {f"{PROJ}.lora_A.default.weight": torch.ones(4, 48)}, "an adapter"),
    "layers": (
        lambda t: t | {"model.layers.3.mlp.up_proj.weight": torch.ones(80, 48)},
        "a layer beyond the 3",
    ),
    "bias": (lambda t: t | {f"{PROJ}.bias": torch.ones(80)}, "is a bias"),
    "norm": (lambda t: t | {"model.layers.0.self_attn.q_norm.weight": torch.ones(16)}, "is a norm"),
    "prefix": (
        lambda t: {f"language_model.{n}": v for n, v in t.items()},
        "the prefix 'language_model.'",
    ),
    "compiled": (lambda t: {f"_orig_mod.{n}": v for n, v in t.items()}, "the prefix '_orig_mod.'"),
    "unheard of": (lambda t: t | {"model.gate.weight": torch.ones(3)}, "is not used here"),
}


@pytest.mark.parametrize("name", WRONG)
def test_tensors_that_would_change_the_answer_are_refused_by_name(
    name: str, tmp_path: Path
) -> None:
    save_model(tmp_path, "llama")
    change, words = WRONG[name]
    edit_tensors(tmp_path, change)
    assert_refused(tmp_path, words)


def test_codes_are_named_by_a_file_beside_them(tmp_path: Path) -> None:
    save_model(tmp_path, "llama")
    edit_tensors(tmp_path, WRONG["float8"][0])
    quantization = {"quant_algo": "FP8", "kv_cache_quant_algo": None}
    (tmp_path / "hf_quant_config.json").write_text(
        json.dumps({"producer": {"name": "modelopt"}, "quantization": quantization})
    )
    with pytest.raises(OperatorError, match=r"modelopt \(quant_algo FP8\)"):
        require_good(inspect_directory(tmp_path), tmp_path)


def test_mistral_with_kinds_of_layers_is_read_as_transformers_reads_it(tmp_path: Path) -> None:
    save_model(tmp_path, "mistral", sliding_window=21)
    kinds = ["full_attention", "sliding_attention", "full_attention"]
    edit_config(tmp_path, layer_types=kinds)
    assert load_reference(tmp_path).config.model_type == "ministral"
    assert_as_transformers(tmp_path)


def test_quanto_is_named_by_its_map_and_by_its_tensors(tmp_path: Path) -> None:
    save_model(tmp_path, "llama")

    def freeze(tensors: Tensors) -> Tensors:
        for name in [name for name in tensors if "q_proj" in name]:
            weight = tensors.pop(name)
            tensors[f"{name}._data"] = weight.to(torch.int8)
            tensors[f"{name}._scale"] = weight.abs().amax(1, keepdim=True)
            tensors[name.replace("weight", "input_scale")] = torch.ones(())
        return tensors

    edit_tensors(tmp_path, freeze)
    assert_refused(tmp_path, "quantised by quanto")
    (tmp_path / "quanto_qmap.json").write_text("{}")
    with pytest.raises(OperatorError, match=r"quantised by quanto \(quanto_qmap.json\)"):
        require_good(inspect_directory(tmp_path), tmp_path)
