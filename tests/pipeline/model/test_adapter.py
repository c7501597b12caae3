"""An adapter's files: what is read of good ones, and what is said of each broken one."""

from __future__ import annotations

import dataclasses
import hashlib
import os
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest
import torch
from broken import BROKEN, A, B, config_with, files_of, save_small_adapter, tensors_with
from driver import Driver, save_adapter, save_model, start_runner
from safetensors.torch import load_file, save_file
from torch import Tensor

from loraconsole.pipeline.adapter_files import peft_config, peft_refusals, tensor_file
from loraconsole.pipeline.messages import AdapterInfo
from loraconsole.pipeline.model.adapter import (
    AdapterError,
    measure_adapter,
    module_path,
    module_shapes,
    read_adapter,
)
from loraconsole.pipeline.model.adapter_store import AdapterStore
from loraconsole.pipeline.model.page_pool import PagePool
from loraconsole.pipeline.model_files.model_config import ModelConfig, read_model_config


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("model")
    save_model(directory, "qwen3", attention_bias=True)
    return directory


@pytest.fixture(scope="module")
def model_config(model: Path) -> ModelConfig:
    return read_model_config(model)


@pytest.fixture
def store(model_config: ModelConfig) -> AdapterStore:
    return AdapterStore(
        model_config, torch.float32, PagePool(model_config, 64, torch.float32, torch.device("cpu"))
    )


def refusal(directory: Path, model_config: ModelConfig, **options: Any) -> str:
    with pytest.raises(AdapterError) as caught:
        read_adapter("it", str(directory), model_config, torch.float32, **options)
    return str(caught.value)


# --- good ones ----------------------------------------------------------------------------------


def test_a_good_adapter_is_described(model: Path, tmp_path: Path) -> None:
    wide = save_adapter(tmp_path / "wide", model, r=12, target_modules=["v_proj", "q_proj"])
    patterned = save_adapter(tmp_path / "patterned", model, rank_pattern={"q_proj": 9})
    _, ready = start_runner(model, adapter=(f"wide={wide}", f"patterned={patterned}"))
    infos = {info.key: info for info in ready.adapters}
    assert infos["wide"].target_modules == ("q_proj", "v_proj")
    assert infos["wide"].rank == 12
    assert infos["patterned"].rank == 9
    config, weights = files_of(wide)
    assert infos["wide"].num_bytes == sum(tensor.nbytes for tensor in load_file(weights).values())
    both = config.read_bytes() + weights.read_bytes()
    assert infos["wide"].digest == hashlib.sha256(both).hexdigest()
    assert infos["patterned"].digest != infos["wide"].digest


@pytest.mark.parametrize("changes", [{}, {"r": 1}, {"r": 512}, {"rank_pattern": {"q_proj": 30}}])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_headers_tell_all_but_the_digest(
    changes: dict[str, Any],
    dtype: torch.dtype,
    model: Path,
    model_config: ModelConfig,
    tmp_path: Path,
) -> None:
    path = str(save_adapter(tmp_path / "it", model, **changes))
    measured = measure_adapter("it", path, model_config, dtype, base="a/b", roots=[str(tmp_path)])
    adapter = read_adapter("it", path, model_config, dtype, base="a/b", roots=[str(tmp_path)])
    assert measured.digest == "" and adapter.info.digest
    assert measured == msgspec.structs.replace(adapter.info, digest="")
    assert adapter.host.dtype == dtype and adapter.host.isfinite().all()
    assert adapter.padded_rank >= adapter.info.rank


def test_measuring_reads_no_weight(
    model: Path, model_config: ModelConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tensors_with({A: lambda a: a * torch.nan})(tmp_path / "it", model)
    measured = measure_adapter("it", str(tmp_path / "it"), model_config, torch.float32)
    assert measured.pages and not measured.reason
    monkeypatch.setattr(tensor_file.TensorFile, "tensors", None)
    assert measure_adapter("it", str(tmp_path / "it"), model_config, torch.float32) == measured


def test_no_layout_is_allocated_for_weights_that_are_refused(
    model: Path, model_config: ModelConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tensors_with({B: lambda b: b / 0})(tmp_path / "it", model)

    def refuse(*arguments: object, **options: object) -> Tensor:
        raise AssertionError("allocated")

    monkeypatch.setattr(torch, "zeros", refuse)
    assert "not finite" in refusal(tmp_path / "it", model_config)


@pytest.mark.parametrize("stored", [torch.float16, torch.bfloat16, torch.float64])
def test_weights_may_be_stored_in_any_float(
    stored: torch.dtype, model: Path, model_config: ModelConfig, tmp_path: Path
) -> None:
    """Of mixed widths, too, which leaves some tensors at odd addresses."""
    path = save_small_adapter(tmp_path / "it", model)
    _, weights = files_of(path)
    # Copies: `load_file` may map the file that is written below.
    tensors = {key: tensor.clone() for key, tensor in load_file(weights).items()}
    changed = {key: tensor.to(stored) for key, tensor in tensors.items() if "v_proj" in key}
    save_file({key: changed.get(key, tensor) for key, tensor in tensors.items()}, weights)
    host = read_adapter("it", str(path), model_config, torch.float32).host
    save_file(tensors | {key: tensor.float() for key, tensor in changed.items()}, weights)
    assert torch.equal(read_adapter("it", str(path), model_config, torch.float32).host, host)


def test_a_scale_that_is_zero_or_negative_is_a_scale(
    model: Path, model_config: ModelConfig, tmp_path: Path
) -> None:
    """As for PEFT: silly, but sound."""
    hosts = {}
    for alpha in (8, -8, 0):
        path = save_small_adapter(tmp_path / str(alpha), model, lora_alpha=alpha)
        adapter = read_adapter("it", str(path), model_config, torch.float32)
        part = adapter.parts[0]
        hosts[alpha] = adapter.host[:, part.b : part.b + part.rank * 96]
    assert torch.equal(hosts[8], -hosts[-8]) and not hosts[0].any() and hosts[8].any()


def test_a_weight_that_its_scale_lifts_out_of_half_precision_is_refused(
    model: Path, model_config: ModelConfig, tmp_path: Path
) -> None:
    path = save_small_adapter(tmp_path / "it", model, lora_alpha=4e6)
    assert read_adapter("it", str(path), model_config, torch.bfloat16).info.rank == 4
    with pytest.raises(AdapterError, match=r"its scale 1e\+06 makes too large for float16"):
        read_adapter("it", str(path), model_config, torch.float16)


OLD: dict[str, dict[str, Any]] = {
    "0.5": {
        "auto_mapping": None,
        "bias": "none",
        "fan_in_fan_out": False,
        "inference_mode": True,
        "init_lora_weights": True,
        "layers_pattern": None,
        "layers_to_transform": None,
        "lora_dropout": 0.1,
        "modules_to_save": None,
        "revision": None,
        "task_type": "CAUSAL_LM",
    },
    "0.2": {"merge_weights": False, "enable_lora": None, "lora_dropout": 0.05},
    "0.11": {
        "alpha_pattern": {},
        "rank_pattern": {},
        "loftq_config": {},
        "megatron_config": None,
        "megatron_core": "megatron.core",
        "use_dora": False,
        "use_rslora": False,
        "layer_replication": None,
    },
    "with an initialisation": {
        "init_lora_weights": "eva",
        "eva_config": {"rho": 2.0, "tau": 0.99},
        "corda_config": {"cache_file": "x"},
    },
    "of tomorrow, its news not used": {"use_wonder": False, "wonder_config": None, "wonders": []},
}


@pytest.mark.parametrize("version", OLD)
def test_configs_of_other_versions_are_read(
    version: str, model: Path, model_config: ModelConfig, tmp_path: Path
) -> None:
    config_with(**OLD[version])(tmp_path / "it", model)
    assert read_adapter("it", str(tmp_path / "it"), model_config, torch.float32).info.rank == 4


def test_every_field_that_peft_has_is_known() -> None:
    from peft import LoraConfig

    known = {
        *peft_refusals.UNSUPPORTED,
        *peft_refusals.HARMLESS,
        *peft_config.PeftConfig.__struct_fields__,
    }
    assert {field.name for field in dataclasses.fields(LoraConfig)} <= known


TARGETS: list[dict[str, Any]] = [
    {"target_modules": "all-linear"},
    {"target_modules": r".*\.[qk]_proj", "exclude_modules": r".*layers\.0\..*"},
    {"target_modules": ["proj", "q_proj", "layers.1.mlp.down_proj"]},
    {"target_modules": ["q_proj", "down_proj"], "layers_to_transform": 1},
    {"target_modules": ["q_proj", "down_proj"], "layers_to_transform": [0, 2]},
    {"target_modules": ["q_proj", "down_proj"], "layers_to_transform": []},
    {
        "target_modules": ["model.layers.2.self_attn.q_proj", "mlp.up_proj", "v_proj"],
        "layers_to_transform": [0],
    },
    {"target_modules": ["q_proj"], "layers_to_transform": [1], "layers_pattern": "layers"},
    {"target_modules": ["q_proj"], "layers_to_transform": [1], "layers_pattern": ["h", "layers"]},
    {"target_modules": ["q_proj"], "layers_to_transform": [1], "layers_pattern": ""},
    {"target_modules": ["q_proj"], "layers_to_transform": [1], "layers_pattern": "blocks"},
    {"target_modules": ["q_proj", "k_proj"], "exclude_modules": ["layers.1.self_attn.q_proj"]},
    {"target_modules": ["q_proj", "lm_head"], "exclude_modules": ["lm_head"]},
    {
        "target_modules": ["q_proj", "k_proj", "up_proj"],
        "rank_pattern": {"layers.1.self_attn.q_proj": 2, "q_proj": 3, "^model.*up_proj": 5},
        "alpha_pattern": {r"[qk]_proj": 3, "k_proj": 7, "up": 9},
    },
]


@pytest.mark.parametrize("changes", TARGETS, ids=str)
def test_names_and_patterns_mean_what_they_mean_to_peft(
    changes: dict[str, Any], model: Path, model_config: ModelConfig
) -> None:
    """Which modules are changed, of what rank and with what scale."""
    from peft import LoraConfig, get_peft_model
    from transformers import AutoConfig, AutoModelForCausalLM

    base = AutoModelForCausalLM.from_config(AutoConfig.from_pretrained(model))
    config = {"r": 4} | changes
    modules = [
        module_path(n, name)
        for n in range(model_config.num_layers)
        for name in module_shapes(model_config)
    ]
    ours = peft_config.parse_config(config, Path("it"))
    found = {name: (ours.rank(name), ours.scale(name)) for name in modules if ours.targets(name)}
    try:
        theirs = get_peft_model(base, LoraConfig(task_type="CAUSAL_LM", r=4, **changes))
    except ValueError:  # it changes nothing
        assert not found
        return
    assert found == {
        name.removeprefix("base_model.model."): (layer.r["default"], layer.scaling["default"])
        for name, layer in theirs.named_modules()
        if hasattr(layer, "lora_A")
    }


# --- where files lie ----------------------------------------------------------------------------


@pytest.fixture
def rooted(model: Path, tmp_path: Path) -> Iterator[tuple[Path, Path]]:
    """A root with an adapter in it, and an adapter beside it."""
    inside = save_small_adapter(tmp_path / "root" / "inside", model)
    yield inside, save_small_adapter(tmp_path / "root-of-another" / "outside", model)


def test_links_within_a_root_are_followed(
    rooted: tuple[Path, Path], model_config: ModelConfig
) -> None:
    """As in the hub's cache, where every file is one."""
    inside, _ = rooted
    root = inside.parent
    for file in files_of(inside):
        file.rename(root / f"blob-{file.name}")
        file.symlink_to(Path("..") / f"blob-{file.name}")
    (root / "again").symlink_to(inside)
    for roots in ([], [str(root)], [os.path.relpath(root)], ["/nowhere", f"{root}/"]):
        for path in (inside, root / "again"):
            assert (
                read_adapter("it", str(path), model_config, torch.float32, roots=roots).info.rank
                == 4
            )


@pytest.mark.parametrize("which", ["config", "weights", "directory", "dots", "link", "beside"])
def test_a_path_that_leaves_the_root_is_refused(
    which: str, rooted: tuple[Path, Path], model_config: ModelConfig
) -> None:
    inside, outside = rooted
    root = inside.parent
    path = {"directory": outside, "dots": inside / "../../root-of-another/outside"}.get(which)
    if which in ("config", "weights"):
        place = which == "weights"
        files_of(inside)[place].unlink()
        files_of(inside)[place].symlink_to(files_of(outside)[place])
    elif which == "link":
        path = root / "link"
        path.symlink_to(outside)
    elif which == "beside":
        path = Path(f"{root}-of-another/outside")
    assert read_adapter("it", str(path or inside), model_config, torch.float32).info.rank == 4
    said = refusal(path or inside, model_config, roots=[str(root)])
    assert said.endswith(f"lies outside --adapter-root {root}")
    assert str(outside) in said and str(path or inside) in said


def test_nothing_is_told_of_what_lies_outside(
    rooted: tuple[Path, Path], model_config: ModelConfig, tmp_path: Path
) -> None:
    """Neither whether it is there nor what it is."""
    inside, outside = rooted
    roots = [str(inside.parent)]
    there = refusal(outside, model_config, roots=roots)
    assert refusal(tmp_path / "nobody", model_config, roots=roots) == there.replace(
        str(outside), str(tmp_path / "nobody")
    )


@pytest.mark.parametrize("name", ["a\0b", "x" * 5000, "\ud800", ""])
def test_names_that_no_directory_can_have_are_refused(
    name: str, model_config: ModelConfig, tmp_path: Path
) -> None:
    for roots in ([], [str(tmp_path)]):
        assert "adapter" in refusal(Path(name), model_config, roots=roots)
        refusal(Path(name), model_config, roots=roots).encode()


def test_a_file_that_shrinks_while_it_is_read_is_refused(
    model: Path, model_config: ModelConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = save_small_adapter(tmp_path / "it", model)
    check = tensor_file.TensorFile.check_layout

    def check_then_shrink(file: tensor_file.TensorFile) -> None:
        check(file)
        os.truncate(file.path, file.path.stat().st_size - 100)

    monkeypatch.setattr(tensor_file.TensorFile, "check_layout", check_then_shrink)
    assert refusal(path, model_config).endswith("became shorter while it was read")


# --- for which model ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("trained_for", "base", "warns"),
    [
        ("org/Some-Model", "some-model", False),
        ("/home/me/Some-Model/", "org/some-model", False),
        ("org/some-model", "other/some-model@v1.2", False),
        ("org/some-model", "", False),
        (None, "org/some-model", False),
        ("org/some-model", "org/other-model", True),
        ("org/some-model", "/models/other/", True),
    ],
)
def test_an_adapter_of_another_model_of_that_shape_is_read_with_a_warning(
    trained_for: str | None,
    base: str,
    warns: bool,
    model: Path,
    model_config: ModelConfig,
    tmp_path: Path,
) -> None:
    path = save_small_adapter(tmp_path / "it", model, base_model_name_or_path=trained_for)
    info = read_adapter("it", str(path), model_config, torch.float32, base=base).info
    words = f"trained for {trained_for}, served on {base}: same shapes, perhaps not the same "
    assert info.warning == (f"{words}weights" if warns else "")


def test_a_refusal_for_shape_names_both_models(
    model: Path, model_config: ModelConfig, tmp_path: Path
) -> None:
    path = save_small_adapter(tmp_path / "it", model, base_model_name_or_path="org/some-model")
    smaller = msgspec.structs.replace(model_config, hidden_size=24)
    assert refusal(path, smaller, base="org/another").endswith(
        "adapter_model.safetensors: base_model.model.model.layers.0.self_attn.q_proj.lora_A.weight "
        "has shape [4, 48], the model and adapter_config.json need [4, 24]; it was trained for "
        "org/some-model, this is org/another"
    )
    shallow = msgspec.structs.replace(model_config, num_layers=2)
    assert refusal(path, shallow, base="another").endswith(
        "is no module that can be adapted in this model; it was trained for org/some-model, this "
        "is another"
    )
    assert refusal(path, smaller, base="org/some-model").endswith("need [4, 24]")


# --- broken ones --------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def said() -> dict[str, str]:
    """What was said of each broken adapter, its own path left out."""
    return {}


@pytest.mark.processes
@pytest.mark.parametrize("name", BROKEN)
@pytest.mark.timeout(20)  # a fifo would wait for ever
def test_a_broken_adapter_is_refused_with_words_of_its_own(
    name: str, model: Path, store: AdapterStore, tmp_path: Path, said: dict[str, str]
) -> None:
    path = tmp_path / "broken"
    BROKEN[name].make(path, model)
    info = store.read("broken", str(path))
    assert info == AdapterInfo("broken", str(path), 0, (), 0, 0, "", info.reason)
    assert re.search(BROKEN[name].reason, info.reason), info.reason
    assert info.reason.startswith(str(path)), "it names the file"
    assert len(info.reason) < len(str(path)) + 600 and info.reason.isprintable()
    assert store.nbytes == 0 and "broken" not in store
    words = info.reason.replace(str(path), "")
    assert said.setdefault(words, name) == name


def test_there_are_many_ways_to_be_broken() -> None:
    assert len(BROKEN) >= 60


def test_a_broken_adapter_beside_a_good_one(model: Path, tmp_path: Path) -> None:
    BROKEN["NaN"].make(tmp_path / "broken", model)
    good = save_small_adapter(tmp_path / "good", model)
    runner, ready = start_runner(model, adapter=(f"broken={tmp_path}/broken", f"good={good}"))
    assert [bool(info.reason) for info in ready.adapters] == [True, False]
    assert [info.pages > 0 for info in ready.adapters] == [False, True]
    driver = Driver(runner)
    driver.generate([driver.add([1, 2], adapter="good")], 3)
    driver.add([1], adapter="broken")
    with pytest.raises(ValueError, match="not placed"):
        driver.launch({1: 1})


@pytest.mark.processes
def test_a_hostile_pattern_does_not_run_here(
    model: Path, model_config: ModelConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It has a second in a process of its own; plain names need none."""
    runs = []
    run = subprocess.run

    def count(*arguments: Any, **options: Any) -> Any:
        runs.append(arguments)
        return run(*arguments, **options)

    monkeypatch.setattr(subprocess, "run", count)
    good = save_small_adapter(tmp_path / "good", model, rank_pattern={r"^model\.layers.0.q": 4})
    read_adapter("it", str(good), model_config, torch.float32)
    assert not runs
    config_with(exclude_modules="(.*)*.*.*x")(tmp_path / "bad", model)
    assert "takes too long to match" in refusal(tmp_path / "bad", model_config)
    assert len(runs) == 1
