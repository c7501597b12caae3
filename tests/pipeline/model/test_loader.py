"""Weights from safetensors, GGUF and nothing at all; and what is said where they are wrong."""

import json
import shutil
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest
import torch
from driver import Driver, save_model, start_runner
from safetensors.torch import load_file, save_file
from tiny_gguf import tensors_of

from loraconsole.pipeline.errors import OperatorError
from loraconsole.pipeline.model import cpu_kernels
from loraconsole.pipeline.model.cpu_kernels import why_not_int4, why_not_packed
from loraconsole.pipeline.model.gguf_checkpoint import GgufCheckpoint
from loraconsole.pipeline.model.open_checkpoint import open_checkpoint

PROMPT = [11, 90, 3, 77, 54, 121, 8]


def logits_of(directory: Path, **settings: Any) -> torch.Tensor:
    """Of a prompt and three tokens after it."""
    driver = Driver(start_runner(directory, **settings)[0])
    driver.generate([number := driver.add(PROMPT)], 4)
    return torch.stack(driver.logits[number])


def write_gguf(
    directory: Path, kind: gguf.GGMLQuantizationType, architecture: str = "llama"
) -> None:
    """Replaces a checkpoint's safetensors by a model.gguf as llama.cpp converts it, with matrices
    in the given type."""
    config = json.loads((directory / "config.json").read_text())
    writer = gguf.GGUFWriter(directory / "model.gguf", architecture)
    writer.add_array("tokenizer.ggml.tokens", [f"token {i}" for i in range(config["vocab_size"])])
    writer.add_array("tokenizer.ggml.scores", [0.5] * config["vocab_size"])
    for name, data in tensors_of(directory, architecture).items():
        if data.ndim == 2:
            writer.add_tensor(name, gguf.quantize(data, kind), raw_dtype=kind)
        else:
            writer.add_tensor(name, data)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    (directory / "model.safetensors").unlink()


WIDE = {"hidden_size": 64, "intermediate_size": 96, "head_dim": 16, "num_attention_heads": 4}
"""Matrices whose rows are whole blocks of 32."""


@pytest.mark.slow
@pytest.mark.parametrize("family", ["llama", "qwen3"])
@pytest.mark.parametrize("kind", ["F32", "F16", "Q8_0", "Q4_0", "Q4_1", "Q5_1"])
def test_a_gguf_equals_the_weights_it_was_made_from(kind: str, family: str, tmp_path: Path) -> None:
    """Against transformers with the same, dequantised weights."""
    quantization = gguf.GGMLQuantizationType[kind]
    model = save_model(tmp_path, family, **WIDE)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim == 2:
                blocks = gguf.quantize(parameter.numpy(), quantization)
                parameter.copy_(torch.from_numpy(gguf.dequantize(blocks, quantization)))
    write_gguf(tmp_path, quantization, family)
    driver = Driver(start_runner(tmp_path)[0])
    number = driver.add(PROMPT)
    driver.generate([number], 4)
    ids = torch.tensor([PROMPT + driver.tokens[number][:-1]])
    with torch.no_grad():
        expected = model(ids).logits[0, len(PROMPT) - 1 :]
    found = torch.stack(driver.logits[number])
    torch.testing.assert_close(found, expected, rtol=1e-3, atol=1e-3)


@pytest.mark.slow
@pytest.mark.parametrize("dtype", ["int4", "auto", "bfloat16"])
@pytest.mark.parametrize("kind", ["Q4_0", "Q4_1"])
def test_narrow_types_stay_near_float32(kind: str, dtype: str, tmp_path: Path) -> None:
    save_model(tmp_path, "qwen2", initializer_range=0.05, **WIDE)
    write_gguf(tmp_path, gguf.GGMLQuantizationType[kind], "qwen2")
    wide, narrow = logits_of(tmp_path), logits_of(tmp_path, dtype=dtype)
    assert not torch.equal(wide, narrow)
    torch.testing.assert_close(narrow[0], wide[0], rtol=0.05, atol=0.05)


def test_tensors_may_be_spread_over_files(tmp_path: Path) -> None:
    save_model(tmp_path, "llama")
    whole = logits_of(tmp_path)
    tensors = load_file(tmp_path / "model.safetensors")
    (tmp_path / "model.safetensors").unlink()
    shards = {}
    for number, names in enumerate((sorted(tensors)[::2], sorted(tensors)[1::2])):
        file = f"model-{number}.safetensors"
        save_file({name: tensors[name] for name in names}, tmp_path / file)
        shards |= dict.fromkeys(names, file)
    assert torch.equal(logits_of(tmp_path), whole), "without an index"
    index = tmp_path / "model.safetensors.index.json"
    index.write_text(json.dumps({"weight_map": shards}))
    assert torch.equal(logits_of(tmp_path), whole), "with one"


def test_dummy_weights_need_only_a_config_and_are_always_the_same(tmp_path: Path) -> None:
    save_model(tmp_path, "llama")
    (tmp_path / "model.safetensors").unlink()
    with pytest.raises(OperatorError, match="holds no weights"):
        start_runner(tmp_path)
    first = logits_of(tmp_path, dummy=True)
    assert torch.equal(first, logits_of(tmp_path, dummy=True))
    assert first.std() > 0


def test_a_missing_or_misshapen_tensor_is_named_with_its_file_and_shapes(tmp_path: Path) -> None:
    save_model(tmp_path, "llama")
    path = tmp_path / "model.safetensors"
    # Copies: `load_file` may map the file that is written below.
    tensors = {name: tensor.clone() for name, tensor in load_file(path).items()}
    name = "model.layers.1.mlp.up_proj.weight"
    save_file({k: v for k, v in tensors.items() if k != name}, path)
    with pytest.raises(OperatorError, match=rf"{tmp_path}.*{name} is missing"):
        start_runner(tmp_path)
    save_file(tensors | {name: torch.zeros(80, 47)}, path)
    with pytest.raises(
        OperatorError,
        match=rf"model.safetensors: {name} has shape \[80, 47\].* needs \[80, 48\]",
    ):
        start_runner(tmp_path)
    path.write_bytes(path.read_bytes()[:1000])
    with pytest.raises(OperatorError, match=r"model\.safetensors is cut short: it has 1000"):
        start_runner(tmp_path)


def test_a_broken_gguf_is_told_apart_from_a_missing_tensor(tmp_path: Path) -> None:
    save_model(tmp_path, "llama", **WIDE)
    write_gguf(tmp_path, gguf.GGMLQuantizationType.Q4_1)
    path = tmp_path / "model.gguf"
    whole = path.read_bytes()
    path.write_bytes(whole[:200])
    with pytest.raises(OperatorError, match="is not a whole GGUF file"):
        start_runner(tmp_path)
    path.write_bytes(whole[: -len(whole) // 3])
    with pytest.raises(OperatorError, match="is cut off"):
        start_runner(tmp_path)
    path.write_bytes(b"GGML" + whole[4:])
    with pytest.raises(OperatorError, match="is not a whole GGUF file"):
        start_runner(tmp_path)
    path.write_bytes(whole)
    config = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps(config | {"num_hidden_layers": 4}))
    with pytest.raises(OperatorError, match=r"model.layers.3\.\S+ is missing"):
        start_runner(tmp_path)


@pytest.fixture
def tried_again() -> Iterator[None]:
    """What was found out of the installed torch holds for this test alone."""
    for why in (why_not_packed, why_not_int4):
        why.cache_clear()
    yield
    for why in (why_not_packed, why_not_int4):
        why.cache_clear()


@pytest.mark.parametrize("name", ["_reorder_linear_weight", "_linear_pointwise"])
@pytest.mark.usefixtures("tried_again")
def test_without_packed_weights_a_model_answers_the_same(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    save_model(tmp_path, "llama")
    packed = logits_of(tmp_path)
    why_not_packed.cache_clear()

    class Lacking:
        def __getattr__(self, wanted: str) -> object:
            if wanted == name:
                raise AttributeError(f"mkldnn has no {name}")
            return getattr(torch.ops.mkldnn, wanted)

    monkeypatch.setattr(cpu_kernels, "_onednn", Lacking)
    assert f"has no {name}" in why_not_packed()
    assert torch.allclose(logits_of(tmp_path), packed, atol=1e-4)


@pytest.mark.usefixtures("tried_again")
def test_without_4_bit_products_auto_takes_another_precision(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    save_model(
        tmp_path,
        "llama",
        hidden_size=64,
        intermediate_size=64,
        num_attention_heads=4,
        num_key_value_heads=2,
    )
    write_gguf(tmp_path, gguf.GGMLQuantizationType.Q4_0)
    (tmp_path / "model.safetensors").unlink(missing_ok=True)
    assert "int4" in start_runner(tmp_path, dtype="auto")[0].dtype
    why_not_int4.cache_clear()
    monkeypatch.delattr(torch, "_weight_int4pack_mm_for_cpu")
    assert "4-bit product" in why_not_int4()
    assert "int4" not in start_runner(tmp_path, dtype="auto")[0].dtype
    with pytest.raises(OperatorError, match="--dtype int4 is not available"):
        start_runner(tmp_path, dtype="int4")


def test_types_that_a_device_cannot_compute_are_refused(tmp_path: Path) -> None:
    save_model(tmp_path, "llama")
    for dtype in ("int4", "float16"):
        with pytest.raises(OperatorError, match=f"--dtype {dtype}"):
            start_runner(tmp_path, dtype=dtype)


# --- the real model -----------------------------------------------------------------------------


def test_the_table_of_the_default_model_is_read_in_a_moment(model_directory: str) -> None:
    started = time.process_time()
    checkpoint = open_checkpoint(Path(model_directory), dummy=False)
    assert time.process_time() - started < 1.0, "GGUFReader needs two seconds"
    assert isinstance(checkpoint, GgufCheckpoint)
    assert checkpoint.paired_heads and checkpoint.has_int4
    blocks = checkpoint.int4("model.layers.3.mlp.down_proj.weight", (576, 1536))
    assert blocks is not None
    weight = checkpoint.tensor("model.layers.3.mlp.down_proj.weight", (576, 1536))
    np.testing.assert_allclose(blocks.dequantize(), weight, atol=1e-5)


@pytest.mark.slow
def test_the_default_model_answers_as_transformers_does(
    model_directory: str, tmp_path: Path
) -> None:
    """Token for token, greedy, in float32, from the same GGUF."""
    from transformers import AutoModelForCausalLM

    shutil.copy(Path(model_directory) / "config.json", tmp_path)
    (tmp_path / "model.gguf").symlink_to(Path(model_directory) / "model.gguf")
    model = AutoModelForCausalLM.from_pretrained(
        tmp_path, gguf_file="model.gguf", dtype=torch.float32
    )
    runner, ready = start_runner(model_directory)
    assert ready.max_model_len == 2048
    driver = Driver(runner)
    generator = torch.Generator().manual_seed(3)
    prompts = [torch.randint(49152, (n,), generator=generator).tolist() for n in (3, 25, 60)]
    numbers = [driver.add(prompt) for prompt in prompts]
    driver.generate(numbers, 24, chunk=32)
    for number, prompt in zip(numbers, prompts, strict=True):
        ids = torch.tensor([prompt])
        answer = model.generate(
            ids,
            attention_mask=torch.ones_like(ids),
            max_new_tokens=24,
            do_sample=False,
            eos_token_id=None,
        )
        assert driver.tokens[number] == answer[0, len(prompt) :].tolist()
