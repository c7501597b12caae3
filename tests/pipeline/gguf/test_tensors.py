"""The tensors of a GGUF, in one file or in parts: used, or refused by name."""

from pathlib import Path

import gguf
import numpy as np
import numpy.testing  # numpy 2.0 starts a process for it
import pytest
import torch
from driver import start_runner
from tiny_gguf import assert_as_transformers, serve, write_gguf

from loraconsole.pipeline.errors import OperatorError
from loraconsole.pipeline.gguf.header import read_header
from loraconsole.pipeline.model.gguf_checkpoint import GgufCheckpoint

Q = gguf.GGMLQuantizationType


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


VECTOR = np.ones(16, np.float32)


@pytest.mark.parametrize(
    ("architecture", "tensors", "words"),
    [
        ("llama", {"blk.0.attn_q_norm.weight": VECTOR}, "attn_q_norm.weight: nothing in a llama"),
        ("llama", {"blk.0.ffn_gate_inp.weight": VECTOR}, "mixtures of experts"),
        ("llama", {"blk.0.ffn_up_exps.weight": VECTOR}, "mixtures of experts"),
        ("llama", {"blk.0.attn_qkv.weight": VECTOR}, "share one tensor"),
        ("llama", {"blk.0.attn_norm.bias": VECTOR}, "blk.0.attn_norm.bias: nothing"),
        ("llama", {"blk.0.attn_q.lora_a": VECTOR}, "it is an adapter"),
        ("llama", {"token_embd.scale": VECTOR[:1]}, "token_embd.scale: nothing"),
        ("llama", {"output.scale": VECTOR[:1], "output.weight": None}, "and no output.weight"),
        ("llama", {"rope_factors_long.weight": VECTOR}, "longrope"),
        ("llama", {"rope_freqs.weight": VECTOR[:7]}, "has no 8 factors"),
        ("llama", {"position_embd.weight": VECTOR}, "position_embd.weight: nothing"),
        ("llama", {"blk.0.attn_q.bias": np.ones(64, np.float32)}, "blk.1.attn_q.bias is missing"),
        ("llama", {"blk.2.attn_norm.weight": np.ones(64, np.float32)}, "is missing, which other"),
        ("llama", {"blk.1.ffn_up.weight": None}, "blk.1.ffn_up.weight is missing"),
        ("llama", {"output_norm.weight": None}, "output_norm.weight is missing"),
        ("qwen2", {"output.bias": np.ones(270, np.float32)}, "output.bias: nothing in a qwen2"),
        ("qwen2", {"blk.0.ffn_up.bias": np.ones(96, np.float32)}, "ffn_up.bias: nothing"),
        ("qwen3", {f"blk.{i}.attn_q_norm.weight": None for i in (0, 1)}, "attn_q_norm.weight is m"),
        ("llama", {"blk.0.attn_norm.weight": np.ones(64)}, "of type F64, which cannot be read"),
    ],
)
def test_a_tensor_that_nothing_uses_or_that_is_missing_is_named(
    tmp_path, architecture, tensors, words
):
    path = tmp_path / "m.gguf"
    write_gguf(path, architecture, tensors=tensors)
    with pytest.raises(OperatorError, match=words):
        serve(path)


def test_biases_of_a_llama_are_used(tmp_path):
    path = tmp_path / "m.gguf"
    model = write_gguf(path, attention_bias=True, mlp_bias=True)
    assert_as_transformers(serve(path), model)


def test_a_head_of_its_own_and_a_tied_one_are_used(tmp_path):
    for tied in (False, True):
        path = tmp_path / f"{tied}.gguf"
        model = write_gguf(path, tie_word_embeddings=tied)
        assert ("output.weight" in read_header(path).tensors) is not tied
        assert_as_transformers(serve(path), model)


@pytest.mark.parametrize("kind", ["F32", "Q4_0", "Q4_1", "Q8_0"])
def test_scales_beside_a_weight_multiply_it(tmp_path, kind):
    """As NVFP4 files have them; the input's scale changes nothing."""
    scales = {f"blk.0.{module}": 0.5 + i / 4 for i, module in enumerate(("attn_q", "ffn_down"))}
    scales["output"] = 0.75
    tensors = {f"{name}.scale": np.array([s], np.float32) for name, s in scales.items()}
    tensors["blk.1.attn_k.input_scale"] = np.array([7.0], np.float32)
    path, plain = tmp_path / "m.gguf", tmp_path / "plain.gguf"
    write_gguf(path, kind=Q[kind], tensors=tensors)
    write_gguf(plain, kind=Q[kind])
    found, expected = GgufCheckpoint(path), GgufCheckpoint(plain)
    for name, shape, scale in (
        ("model.layers.0.self_attn.q_proj", (64, 64), 0.5),
        ("model.layers.0.mlp.down_proj", (64, 96), 0.75),
        ("model.layers.1.self_attn.k_proj", (32, 64), 1.0),
        ("lm_head", (270, 64), 0.75),
    ):
        weight = expected.tensor(f"{name}.weight", shape)
        torch.testing.assert_close(found.tensor(f"{name}.weight", shape), weight * scale)
        if (blocks := found.int4(f"{name}.weight", shape)) is not None:
            torch.testing.assert_close(blocks.dequantize(), weight * scale, rtol=1e-3, atol=1e-3)
    serve(path)


@pytest.mark.parametrize("kind", [kind.name for kind in Q])
def test_every_type_is_read_as_the_gguf_package_dequantises_it_or_named(tmp_path, kind):
    """Of random bytes, since the package can write few of the types that it reads."""
    block, num_bytes = gguf.GGML_QUANT_SIZES[Q[kind]]
    width = max(64, block)
    generator = np.random.default_rng(0)
    data = generator.integers(0, 256, (96, width // block * num_bytes), np.uint8)
    path = tmp_path / "m.gguf"
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_tensor("blk.0.ffn_up.weight", data, raw_dtype=Q[kind])
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    name = "model.layers.0.mlp.up_proj.weight"
    if kind in ("F32", "F16"):
        data = data.view({"F32": np.float32, "F16": np.float16}[kind])
    with np.errstate(all="ignore"):
        try:
            expected = gguf.dequantize(data, Q[kind])
        except NotImplementedError:
            with pytest.raises(OperatorError, match=f"is of type {kind}, which cannot be read"):
                GgufCheckpoint(path)
            return
        found = GgufCheckpoint(path).tensor(name, (96, width)).numpy()
    np.testing.assert_array_equal(found, expected)


@pytest.mark.parametrize(("number", "name"), [(31, "Q4_0_4_4"), (4, "Q4_2"), (137, "137")])
def test_a_type_that_is_not_known_is_named_before_the_weights_are_read(tmp_path, number, name):
    path = tmp_path / "m.gguf"
    write_gguf(path)
    content = path.read_bytes()
    at = content.index(b"blk.1.ffn_up.weight") + len("blk.1.ffn_up.weight") + 4 + 2 * 8
    path.write_bytes(content[:at] + number.to_bytes(4, "little") + content[at + 4 :])
    with pytest.raises(OperatorError, match=f"ffn_up.weight is of type {name}, which cannot be"):
        serve(path)


def test_a_file_that_is_cut_off_is_refused_at_the_header(tmp_path):
    path = tmp_path / "m.gguf"
    write_gguf(path)
    path.write_bytes(path.read_bytes()[:-1000])
    with pytest.raises(OperatorError, match="is cut off"):
        serve(path)


def test_numbers_made_up_in_a_header_are_no_allocation(tmp_path):
    path = tmp_path / "m.gguf"
    write_gguf(path)
    whole = path.read_bytes()
    for at in (8, 16, 24):  # tensors, keys, the length of the first key
        path.write_bytes(whole[:at] + (2**60).to_bytes(8, "little") + whole[at + 8 :])
        with pytest.raises(OperatorError, match="is not a whole GGUF file"):
            serve(path)
    swapped = whole[:4] + whole[4:8][::-1] + whole[8:]
    path.write_bytes(swapped)
    with pytest.raises(OperatorError, match="it is big-endian"):
        serve(path)


# --- parts


def parts_of(tmp_path: Path) -> list[Path]:
    write_gguf(tmp_path / "m.gguf", tensors_a_part=8)
    return sorted(tmp_path.glob("m-0*.gguf"))


def test_a_model_in_parts_is_served_from_any_of_them(tmp_path):
    whole = tmp_path / "whole" / "m.gguf"
    whole.parent.mkdir()
    model = write_gguf(whole)
    parts = parts_of(tmp_path)
    assert len(parts) == 3
    directories = {serve(path) for path in parts}
    assert len(directories) == 1
    assert_as_transformers(directories.pop(), model)


def test_parts_that_are_links_into_a_hubs_cache_are_served(tmp_path):
    parts = parts_of(tmp_path)
    (tmp_path / "snapshot").mkdir()
    for number, part in enumerate(parts):
        (tmp_path / f"blob-{number}").write_bytes(part.read_bytes())
        (tmp_path / "snapshot" / part.name).symlink_to(tmp_path / f"blob-{number}")
        part.unlink()
    directory = serve(tmp_path / "snapshot" / parts[1].name)
    start_runner(directory)


def test_a_missing_part_is_named(tmp_path):
    first, second, third = parts_of(tmp_path)
    content = third.read_bytes()
    third.unlink()
    with pytest.raises(OperatorError, match=f"2 of 3 parts are there; missing: .*{third.name}"):
        serve(second)
    third.write_bytes(content)
    first.unlink()
    with pytest.raises(OperatorError, match=f"is part 3 of 3; the first, {first.name}, is missing"):
        serve(third)


def test_parts_that_do_not_belong_together_are_refused(tmp_path):
    first, second, third = parts_of(tmp_path)
    content = second.read_bytes()
    second.write_bytes(third.read_bytes())
    with pytest.raises(OperatorError, match=r"split\.no and split\.count are 2 and 3, not 1"):
        serve(first)
    second.write_bytes(content)
    other = tmp_path / "other.gguf"
    other.write_bytes(third.read_bytes())
    with pytest.raises(OperatorError, match="it is part 3 of 3"):
        serve(other)


def test_a_first_part_with_every_tensor_needs_no_other(tmp_path):
    path = tmp_path / "m-00001-of-00002.gguf"
    keys = {"split.count": 2, "split.no": 0, "split.tensors.count": 21}
    model = write_gguf(path, keys=keys)
    assert_as_transformers(serve(path), model)
    write_gguf(path, keys=keys | {"split.tensors.count": 22})
    with pytest.raises(OperatorError, match=r"missing: .*m-00002-of-00002\.gguf"):
        serve(path)
