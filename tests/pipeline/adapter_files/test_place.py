"""What is said of a path that holds no adapter of PEFT: what it is, and what to do."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from broken import save_small_adapter
from driver import save_model
from safetensors.torch import save_file

from loraconsole.pipeline.model.adapter import AdapterError, measure_adapter
from loraconsole.pipeline.model_files.model_config import ModelConfig, read_model_config

ONE = {"x": torch.zeros(2)}


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("model")
    save_model(directory, "llama")
    return directory


@pytest.fixture(scope="module")
def model_config(model: Path) -> ModelConfig:
    return read_model_config(model)


def refusal(path: Path, model_config: ModelConfig, **options: Any) -> str:
    with pytest.raises(AdapterError) as caught:
        measure_adapter("it", str(path), model_config, torch.float32, **options)
    said = str(caught.value)
    assert said.startswith(str(path)) and len(said) < len(str(path)) * 3 + 400
    return said


def gguf(path: Path) -> None:
    path.write_bytes(b"GGUF" + bytes(28))


def foreign(path: Path) -> None:
    save_file({"lora_unet_down_blocks_0.lora_down.weight": torch.zeros(4, 8)}, path)


def pickle(path: Path) -> None:
    torch.save({}, path)


def weights(path: Path) -> None:
    save_file(ONE, path)


def folder(path: Path) -> None:
    path.mkdir()


def text(path: Path) -> None:
    path.write_text("{}")


HOLDS: dict[str, tuple[dict[str, Callable[[Path], None]], str]] = {
    "nothing": ({}, "has no adapter_config.json; it is empty; an adapter is a directory with"),
    "notes": ({"notes.txt": text}, "it holds notes.txt; an adapter is a directory with"),
    "a GGUF adapter": (
        {"my-lora.gguf": gguf},
        "it holds my-lora.gguf: a GGUF adapter (llama.cpp's), which is not read: give the PEFT",
    ),
    "a whole model": (
        {"config.json": text, "model-00001-of-00002.safetensors": weights},
        "it holds config.json, model-00001-of-00002.safetensors: a whole model, not an adapter: "
        "serve it with --model",
    ),
    "a model as a pickle": ({"pytorch_model.bin": pickle}, "a whole model, not an adapter"),
    "weights alone": (
        {"adapter_model.safetensors": weights},
        "has no adapter_config.json, which has the rank and the scale of its weights: copy it",
    ),
    "a pickle alone": ({"adapter_model.bin": pickle}, "which has the rank and the scale"),
    "mlx weights alone": (
        {"adapters.safetensors": weights, "0000100_adapters.safetensors": weights},
        "it holds adapters.safetensors, of mlx-lm: copy that training's adapter_config.json",
    ),
    "an old mlx": ({"adapters.npz": text}, "an adapter of an old mlx-lm, which is not read"),
    "torchtune": ({"adapter_0.pt": pickle}, "adapter_0.pt: torchtune's own adapter, whose names"),
    "torchtune's tensors": ({"adapter_12.safetensors": weights}, "torchtune's own adapter"),
    "diffusers": (
        {"pytorch_lora_weights.safetensors": weights},
        "a diffusers LoRA, for an image model",
    ),
    "kohya": (
        {"my_style.safetensors": foreign},
        "my_style.safetensors is a LoRA for an image model (kohya's or diffusers')",
    ),
    "litgpt": ({"lit_model.pth.lora": pickle}, "litgpt's own adapter: merge it"),
    "a trainer's state": (
        {"global_step100": folder, "zero_to_fp32.py": text},
        "it holds global_step100: a trainer's state in shards: save the adapter from it",
    ),
}


@pytest.mark.parametrize("name", HOLDS)
@pytest.mark.parametrize("is_rooted", [False, True])
def test_a_directory_is_named_by_what_it_holds(
    name: str, is_rooted: bool, model_config: ModelConfig, tmp_path: Path
) -> None:
    files, said = HOLDS[name]
    place = tmp_path / "it"
    place.mkdir()
    for file, make in files.items():
        make(place / file)
    roots = [str(tmp_path)] if is_rooted else []
    assert said in refusal(place, model_config, roots=roots)


FILES: dict[str, tuple[Callable[[Path], None], str]] = {
    "lora.gguf": (gguf, "is a GGUF adapter (llama.cpp's), which is not read"),
    "a-file-with-another-name": (gguf, "is a GGUF adapter"),
    "adapter_model.safetensors": (weights, "is a file: give its directory, "),
    "adapter_config.json": (text, "is a file: give its directory, "),
    "adapter_model-00001-of-00002.safetensors": (weights, "give its directory, "),
    "adapters.safetensors": (weights, "give its directory, "),
    "model.safetensors": (weights, "is a file of a whole model, not an adapter"),
    "style.safetensors": (foreign, "is a LoRA for an image model"),
    "pytorch_lora_weights.safetensors": (weights, "is a diffusers LoRA"),
    "adapter_3.pt": (pickle, "is torchtune's own adapter"),
    "notes.txt": (text, "is a file: an adapter is a directory with adapter_config.json"),
}


@pytest.mark.parametrize("name", FILES)
def test_a_file_is_named_by_what_it_is(
    name: str, model_config: ModelConfig, tmp_path: Path
) -> None:
    make, said = FILES[name]
    make(tmp_path / name)
    assert said in refusal(tmp_path / name, model_config)


def test_the_newest_checkpoint_below_is_named(
    model: Path, model_config: ModelConfig, tmp_path: Path
) -> None:
    for step in (50, 1000, 200):
        save_small_adapter(tmp_path / "out" / f"checkpoint-{step}", model)
    text(tmp_path / "out" / "config.json")
    said = refusal(tmp_path / "out", model_config)
    assert f"give {tmp_path / 'out' / 'checkpoint-1000'}" in said
    assert "also checkpoint-50, checkpoint-200" in said
    above = refusal(tmp_path, model_config)
    assert f"give {tmp_path / 'out' / 'checkpoint-1000'}" in above


def test_an_adapter_that_peft_saved_by_its_name_is_found(
    model: Path, model_config: ModelConfig, tmp_path: Path
) -> None:
    save_small_adapter(tmp_path / "out" / "my_adapter", model)
    assert "an adapter lies in my_adapter below it" in refusal(tmp_path / "out", model_config)


def test_a_config_without_its_weights_says_what_is_there(
    model: Path, model_config: ModelConfig, tmp_path: Path
) -> None:
    path = save_small_adapter(tmp_path / "it", model)
    (path / "adapter_model.safetensors").rename(path / "adapter_0.safetensors")
    said = refusal(path, model_config)
    assert "has no adapter_model.safetensors; it holds adapter_0.safetensors: torchtune's" in said


def test_a_place_that_is_not_there_is_said(model_config: ModelConfig, tmp_path: Path) -> None:
    said = refusal(tmp_path / "gone", model_config)
    assert said.startswith(f"{tmp_path / 'gone'}: No such file or directory; an adapter is a dir")


def test_nothing_is_said_of_what_a_root_does_not_hold(
    model_config: ModelConfig, tmp_path: Path
) -> None:
    (tmp_path / "root").mkdir()
    (tmp_path / "secret").mkdir()
    gguf(tmp_path / "secret" / "it.gguf")
    said = refusal(tmp_path / "secret", model_config, roots=[str(tmp_path / "root")])
    assert "gguf" not in said and "lies outside --adapter-root" in said
    (tmp_path / "root" / "link.safetensors").symlink_to(tmp_path / "secret" / "it.gguf")
    said = refusal(tmp_path / "root", model_config, roots=[str(tmp_path / "root")])
    assert "GGUF" not in said


def test_a_crowded_directory_is_named_briefly(model_config: ModelConfig, tmp_path: Path) -> None:
    for number in range(3000):
        (tmp_path / f"file-{number:04}").touch()
    assert "and 1996 more" in refusal(tmp_path, model_config)


TYPES = ["IA3", "LOHA", "LOKR", "VERA", "FOURIERFT", "PREFIX_TUNING", "ADALORA", "OFT", "BOFT"]


@pytest.mark.parametrize("kind", [*TYPES, "HRA", "XLORA", "OF_TOMORROW", "lora", "", None, 7])
def test_another_type_of_peft_is_refused_by_its_name(
    kind: Any, model: Path, model_config: ModelConfig, tmp_path: Path
) -> None:
    """Though most have no field `r`."""
    path = save_small_adapter(tmp_path / "it", model)
    (path / "adapter_config.json").write_text(json.dumps({"peft_type": kind}))
    assert f"peft_type {kind} is not supported, only LORA is" in refusal(path, model_config)


def test_every_type_that_peft_writes_is_refused_by_its_name(
    model_config: ModelConfig, tmp_path: Path
) -> None:
    """Each config as PEFT itself writes it."""
    from peft import PEFT_TYPE_TO_CONFIG_MAPPING

    weights(tmp_path / "adapter_model.safetensors")
    tried = 0
    for kind, make in PEFT_TYPE_TO_CONFIG_MAPPING.items():
        if kind.value == "LORA":
            continue
        try:
            make().save_pretrained(tmp_path)
        except (TypeError, ValueError, ImportError):  # some want more than their defaults
            continue
        said = refusal(tmp_path, model_config)
        assert f"peft_type {kind.value} is not supported" in said
        tried += 1
    assert tried > 20
