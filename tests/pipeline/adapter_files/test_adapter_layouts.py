"""Adapters as trainers leave them: each layout that is read answers as PEFT does."""

from __future__ import annotations

import codecs
import copy
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from driver import SMALL, Driver, save_model, start_runner
from safetensors.torch import load_file, save_file
from torch import Tensor

from loraconsole.pipeline.messages import AdapterInfo
from loraconsole.pipeline.model.adapter import AdapterError, measure_adapter, read_pairs
from loraconsole.pipeline.model_files.model_config import read_model_config
from loraconsole.pipeline.runner.runner import ModelRunner

PROMPT = [*range(3, 20)]
TARGETS = ["q_proj", "v_proj", "down_proj"]


class Bench:
    """A base model of transformers, and the runner that serves it."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.base = save_model(directory, "llama", num_hidden_layers=2)
        self.model_config = read_model_config(directory)
        self.runner: ModelRunner
        self.runner, _ = start_runner(directory, max_total_tokens=16 * 2000)
        self._count = 0

    def train(self, base: Any | None = None, seed: int = 1, **config: Any) -> Any:
        """A random PEFT model over a copy of `base`, which is this one's by default."""
        from peft import LoraConfig, get_peft_model

        given = {"r": 4, "lora_alpha": 8, "target_modules": TARGETS, "task_type": "CAUSAL_LM"}
        base = copy.deepcopy(self.base) if base is None else base
        model = get_peft_model(base, LoraConfig(**(given | config)))
        return randomized(model, seed)

    def served(self, path: Path, count: int = 3) -> tuple[AdapterInfo, Tensor, list[int]]:
        """Of the adapter, the logits of `count` tokens behind `PROMPT`, and those tokens."""
        self._count += 1
        key = f"it@{self._count}"
        info = self.runner.adapters.read(key, str(path))
        assert not info.reason
        self.runner.adapters.place(key, [*range(1000, 1000 + info.pages)]).result()
        driver = Driver(self.runner)
        number = driver.add(PROMPT, adapter=key)
        driver.generate([number], count)
        logits, tokens = torch.stack(driver.logits[number]), driver.tokens[number]
        self.runner.reset()
        self.runner.adapters.drop(key)
        return info, logits, tokens

    def equals(self, path: Path, model: Any) -> AdapterInfo:
        """That what is served of the adapter's files is what the PEFT model computes."""
        info, found, tokens = self.served(path)
        ids = torch.tensor([PROMPT + tokens[:-1]])
        with torch.no_grad():
            expected = model.eval()(input_ids=ids, use_cache=False).logits[0, len(PROMPT) - 1 :]
            alone = self.base(ids, use_cache=False).logits[0, len(PROMPT) - 1 :]
        torch.testing.assert_close(found, expected, rtol=1e-3, atol=1e-3)
        assert (alone - expected).abs().max() > 0.05
        return info


def randomized(model: Any, seed: int = 1) -> Any:
    torch.manual_seed(seed)
    for layer in model.modules():
        if hasattr(layer, "lora_B"):
            for name in layer.lora_B:
                layer.lora_A[name].weight.data += 0.05 * torch.randn_like(layer.lora_A[name].weight)
                layer.lora_B[name].weight.data += 0.2 * torch.randn_like(layer.lora_B[name].weight)
    return model


@pytest.fixture(scope="module")
def bench(tmp_path_factory: pytest.TempPathFactory) -> Bench:
    return Bench(tmp_path_factory.mktemp("model"))


@pytest.fixture(scope="module")
def trained(bench: Bench) -> Any:
    return bench.train()


@pytest.fixture
def saved(trained: Any, tmp_path: Path) -> Path:
    trained.save_pretrained(tmp_path / "saved")
    return tmp_path / "saved"


def rename(path: Path, change: Callable[[str], str]) -> None:
    file = path / "adapter_model.safetensors"
    save_file({change(key): tensor for key, tensor in load_file(file).items()}, file)


def lora_only(state: dict[str, Tensor]) -> dict[str, Tensor]:
    return {key: tensor.contiguous() for key, tensor in state.items() if "lora_" in key}


def refusal(bench: Bench, path: Path) -> str:
    with pytest.raises(AdapterError) as caught:
        measure_adapter("it", str(path), bench.model_config, torch.float32)
    return str(caught.value)


# --- keys ---------------------------------------------------------------------------------------

PREFIX = "base_model.model."
PREFIXES: dict[str, tuple[Callable[[str], str], str]] = {
    "compiled": (lambda k: f"_orig_mod.{k}", "without _orig_mod. (torch.compile)"),
    "compiled inside": (
        lambda k: k.replace(PREFIX, f"{PREFIX}_orig_mod."),
        "without _orig_mod. (torch.compile)",
    ),
    "a state_dict": (
        lambda k: k.replace(".weight", ".default.weight"),
        "without the adapter's name default",
    ),
    "another name": (
        lambda k: k.replace(".weight", ".my_adapter.weight"),
        "without the adapter's name my_adapter",
    ),
    "no prefix": (lambda k: k.removeprefix(PREFIX), "as if base_model.model. stood before them"),
    "multimodal": (
        lambda k: k.replace("model.model.layers", "model.model.language_model.layers"),
        "with model. for model.language_model.",
    ),
    "multimodal, older": (
        lambda k: k.replace("model.model.layers", "model.language_model.model.layers"),
        "with model. for language_model.model.",
    ),
    "DDP": (lambda k: f"module.{k}", "without module. (DDP)"),
    "FSDP": (
        lambda k: k.replace("layers.0.", "layers.0._fsdp_wrapped_module.").replace(
            "_proj.lora", "_proj._fsdp_wrapped_module.lora"
        ),
        "without _fsdp_wrapped_module. (FSDP)",
    ),
    "checkpointed": (
        lambda k: k.replace("layers.1.", "layers.1._checkpoint_wrapped_module."),
        "without _checkpoint_wrapped_module. (activation checkpointing)",
    ),
    "in another module": (lambda k: f"pretrained_model.{k}", "without pretrained_model."),
}


@pytest.mark.parametrize("name", PREFIXES)
def test_a_prefix_is_taken_off_and_said(name: str, bench: Bench, trained: Any, saved: Path) -> None:
    change, said = PREFIXES[name]
    rename(saved, change)
    info = bench.equals(saved, trained)
    assert info.warning.split("; ")[-1] == f"its keys are read {said}"
    measured = measure_adapter("", str(saved), bench.model_config, torch.float32)
    assert measured.warning.endswith(said), "a plan says it too"


@pytest.mark.parametrize("wrapper", [torch.compile, torch.nn.DataParallel])
def test_what_wrappers_make_of_a_state_dict_is_read(
    wrapper: Callable[[Any], Any], bench: Bench, trained: Any, saved: Path
) -> None:
    tensors = lora_only(wrapper(trained).state_dict())
    assert not any(key in load_file(saved / "adapter_model.safetensors") for key in tensors)
    save_file(tensors, saved / "adapter_model.safetensors")
    bench.equals(saved, trained)


@pytest.mark.processes
def test_a_model_without_its_head_gives_keys_without_model(bench: Bench, tmp_path: Path) -> None:
    """PEFT over AutoModel, as for embeddings."""
    inner = copy.deepcopy(bench.base)
    model = bench.train(inner.model, task_type="FEATURE_EXTRACTION", target_modules=r".*\.q_proj")
    model.save_pretrained(tmp_path)
    keys = load_file(tmp_path / "adapter_model.safetensors")
    assert all(key.startswith("base_model.model.layers.") for key in keys)
    assert "with model. before layers." in bench.equals(tmp_path, inner).warning


TEXT_TARGETS = [
    r"^model\.language_model(?=\.).*\.(q_proj|v_proj|down_proj)$",
    ["q_proj", "up_proj"],
    r".*language_model\.layers\.1\..*(q_proj|gate_proj)",
]


@pytest.mark.processes
@pytest.mark.parametrize("targets", TEXT_TARGETS, ids=str)
def test_patterns_mean_the_names_of_the_multimodal_model_that_was_trained(
    targets: str | list[str], bench: Bench, tmp_path: Path
) -> None:
    from transformers import CLIPVisionConfig, LlavaConfig, LlavaForConditionalGeneration

    vision = CLIPVisionConfig(
        hidden_size=16,
        intermediate_size=16,
        num_hidden_layers=1,
        num_attention_heads=2,
        image_size=8,
        patch_size=4,
    )
    config = LlavaConfig(text_config=bench.base.config, vision_config=vision, image_token_index=1)
    wrapper = LlavaForConditionalGeneration(config).float().eval()
    wrapper.model.language_model.load_state_dict(bench.base.model.state_dict())
    wrapper.lm_head.load_state_dict(bench.base.lm_head.state_dict())
    both = {"target_modules": targets, "exclude_modules": r".*vision_tower.*"}
    model = bench.train(wrapper, rank_pattern={"model.language_model.layers.1.*q_proj": 2}, **both)
    model.save_pretrained(tmp_path)
    keys = load_file(tmp_path / "adapter_model.safetensors")
    assert all(key.startswith("base_model.model.model.language_model.layers.") for key in keys)
    assert "with model. for model.language_model." in bench.equals(tmp_path, model).warning


def test_two_spellings_of_one_tensor_are_refused(bench: Bench, saved: Path) -> None:
    file = saved / "adapter_model.safetensors"
    tensors = load_file(file)
    key = next(iter(tensors))
    save_file(tensors | {f"_orig_mod.{key}": tensors[key] * 2}, file)
    said = refusal(bench, saved)
    assert "one tensor under two keys" in said and f"_orig_mod.{key}" in said


def test_two_adapters_in_a_file_are_refused(bench: Bench, saved: Path) -> None:
    names = iter(["one", "two"] * 100)
    rename(saved, lambda k: k.replace(".weight", f".{next(names)}.weight"))
    said = refusal(bench, saved)
    assert "mixes keys of two adapters" in said and "selected_adapters=[name]" in said


def test_a_tower_that_is_not_served_is_named(bench: Bench, saved: Path) -> None:
    rename(saved, lambda k: k.replace("model.model.layers", "model.vision_tower.encoder.layers"))
    said = refusal(bench, saved)
    assert "base_model.model.model.layers.0.self_attn.q_proj.lora_A.weight is missing" in said
    assert "it has base_model.model.vision_tower.encoder.layers.0." in said


def test_a_missing_tensor_is_named_as_the_others_are(bench: Bench, saved: Path) -> None:
    rename(saved, lambda k: f"_orig_mod.{k}")
    file = saved / "adapter_model.safetensors"
    tensors = load_file(file)
    gone = "_orig_mod.base_model.model.model.layers.1.self_attn.v_proj.lora_B.weight"
    del tensors[gone]
    save_file(tensors, file)
    assert f"{gone} is missing; its shape would be [32, 4]" in refusal(bench, saved)


def test_a_state_dict_of_everything_is_refused_by_name(
    bench: Bench, trained: Any, saved: Path
) -> None:
    tensors = {k: t.clone() for k, t in trained.state_dict().items()}
    save_file(tensors, saved / "adapter_model.safetensors")
    assert "not supported yet" in refusal(bench, saved) or "state_dict" in refusal(bench, saved)
    kept = {k: t for k, t in tensors.items() if "lora_" in k or "base_layer" in k}
    save_file(kept, saved / "adapter_model.safetensors")
    assert "is a weight of the base model: the file is a full state_dict" in refusal(bench, saved)


# --- biases, starts -----------------------------------------------------------------------------


@pytest.mark.parametrize("bias", ["all", "lora_only"])
def test_trained_biases_of_a_model_without_any_are_none(
    bias: str, bench: Bench, tmp_path: Path
) -> None:
    model = bench.train(bias=bias)
    model.save_pretrained(tmp_path)
    assert json.loads((tmp_path / "adapter_config.json").read_text())["bias"] == bias
    bench.equals(tmp_path, model)


@pytest.mark.parametrize("bias", ["all", "lora_only"])
def test_trained_biases_are_refused_by_name(bias: str, tmp_path: Path) -> None:
    base = save_model(tmp_path / "model", "qwen2")
    bench = Bench.__new__(Bench)
    bench.model_config = read_model_config(tmp_path / "model")
    bench.train(base, bias=bias).save_pretrained(tmp_path / "it")
    said = refusal(bench, tmp_path / "it")
    assert "bias is a trained bias, which is not supported; merge it into its base" in said


def test_what_is_set_to_nothing_is_accepted(bench: Bench, trained: Any, saved: Path) -> None:
    file = saved / "adapter_config.json"
    nothing = {"modules_to_save": [], "lora_bias": False, "trainable_token_indices": None}
    file.write_text(json.dumps(json.loads(file.read_text()) | nothing))
    bench.equals(saved, trained)


STARTS = ["pissa", "pissa_niter_4", "olora", "corda"]


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("use_rslora", [False, True])
@pytest.mark.parametrize("start", STARTS)
def test_what_starts_from_a_changed_base_is_served_once_it_is_converted(
    start: str, use_rslora: bool, bench: Bench, tmp_path: Path
) -> None:
    from peft import LoraConfig, get_peft_model
    from peft.tuners.lora.config import CordaConfig
    from peft.tuners.lora.corda import preprocess_corda

    base = copy.deepcopy(bench.base)
    config = LoraConfig(
        r=4,
        lora_alpha=8,
        target_modules=TARGETS,
        init_lora_weights=start,
        use_rslora=use_rslora,
        corda_config=CordaConfig() if start == "corda" else None,
        task_type="CAUSAL_LM",
    )
    if start == "corda":
        preprocess_corda(base, config, run_model=lambda: base(torch.tensor([PROMPT])))
    model = get_peft_model(base, config)
    model.save_pretrained(tmp_path / "start")
    randomized(model)
    model.save_pretrained(tmp_path / "as-saved")
    said = refusal(bench, tmp_path / "as-saved")
    assert f"init_lora_weights '{start}' is not supported: convert it with PEFT: " in said
    assert "save_pretrained(path, path_initial_model_for_weight_conversion=start)" in said
    with torch.no_grad():
        expected = model.eval()(torch.tensor([PROMPT])).logits[0, -1]
    model.save_pretrained(
        tmp_path / "converted", path_initial_model_for_weight_conversion=str(tmp_path / "start")
    )
    info, found, _ = bench.served(tmp_path / "converted", count=1)
    assert info.rank == 8
    torch.testing.assert_close(found[0], expected, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("start", ["gaussian", "orthogonal", "mica", False])
def test_starts_that_leave_the_base_as_it_is_are_served(
    start: str | bool, bench: Bench, tmp_path: Path
) -> None:
    model = bench.train(init_lora_weights=start)
    model.save_pretrained(tmp_path)
    bench.equals(tmp_path, model)


# --- files --------------------------------------------------------------------------------------


def split(path: Path, count: int, with_index: bool = True) -> None:
    """Into shards, as large checkpoints are saved."""
    file = path / "adapter_model.safetensors"
    tensors = load_file(file)
    file.unlink()
    names = [f"adapter_model-{n:05}-of-{count:05}.safetensors" for n in range(1, count + 1)]
    owner = {key: names[n % count] for n, key in enumerate(sorted(tensors))}
    for name in names:
        save_file({key: tensors[key] for key in owner if owner[key] == name}, path / name)
    if with_index:
        index = {"metadata": {"total_size": 1}, "weight_map": owner}
        (path / "adapter_model.safetensors.index.json").write_text(json.dumps(index))


@pytest.mark.parametrize("with_index", [True, False])
def test_shards_are_one_adapter(with_index: bool, bench: Bench, trained: Any, saved: Path) -> None:
    split(saved, 3, with_index)
    digest = bench.equals(saved, trained).digest
    shard = saved / "adapter_model-00002-of-00003.safetensors"
    save_file({key: tensor * 2 for key, tensor in load_file(shard).items()}, shard)
    assert bench.served(saved)[0].digest not in ("", digest)
    shard.unlink()
    assert f"lacks {shard.name} of 3 shards" in refusal(bench, saved)


def test_a_tensor_in_two_shards_is_refused(bench: Bench, saved: Path) -> None:
    split(saved, 2, with_index=False)
    one, two = sorted(saved.glob("adapter_model-*"))
    save_file(load_file(one) | load_file(two), two)
    assert f"which {one.name} has too" in refusal(bench, saved)


@pytest.mark.parametrize("name", ["../adapter_model.safetensors", "/etc/passwd", "model.bin"])
def test_an_index_names_files_beside_it_alone(name: str, bench: Bench, saved: Path) -> None:
    split(saved, 2)
    index = saved / "adapter_model.safetensors.index.json"
    index.write_text(json.dumps({"weight_map": {"a": name}}))
    assert f"{name} is not a safetensors file beside it" in refusal(bench, saved)


@pytest.mark.parametrize(
    ("mark", "encoding"),
    [
        (codecs.BOM_UTF8, "utf-8"),
        (codecs.BOM_UTF16_LE, "utf-16-le"),
        (codecs.BOM_UTF16_BE, "utf-16-be"),
    ],
)
def test_a_config_with_a_byte_order_mark_is_read(
    mark: bytes, encoding: str, bench: Bench, trained: Any, saved: Path
) -> None:
    file = saved / "adapter_config.json"
    file.write_bytes(mark + file.read_text().encode(encoding))
    bench.equals(saved, trained)


# --- mlx-lm -------------------------------------------------------------------------------------


def as_mlx(path: Path, **changes: Any) -> Path:
    """A PEFT adapter as mlx-lm writes one."""
    tensors = load_file(path / "adapter_model.safetensors")
    changed = {
        key.removeprefix(PREFIX)
        .replace(".lora_A.weight", ".lora_a")
        .replace(".lora_B.weight", ".lora_b"): tensor.t().contiguous()
        for key, tensor in tensors.items()
    }
    mlx = path.parent / "mlx"
    mlx.mkdir()
    save_file(changed, mlx / "adapters.safetensors")
    config = {
        "fine_tune_type": "lora",
        "lora_parameters": {"rank": 4, "scale": 2.0, "dropout": 0.0},
        "model": "mlx-community/some-model-4bit",
        "num_layers": 2,
        "optimizer": "adam",
    } | changes
    (mlx / "adapter_config.json").write_text(json.dumps(config))
    return mlx


def test_an_adapter_of_mlx_lm_is_read(bench: Bench, trained: Any, saved: Path) -> None:
    mlx = as_mlx(saved)
    info = bench.equals(mlx, trained)
    assert info.rank == 4 and info.target_modules == ("q_proj", "v_proj", "down_proj")
    assert "trained for mlx-community/some-model-4bit" in info.warning


def test_a_verification_adds_what_the_files_have(bench: Bench, saved: Path) -> None:
    """Whatever their layout: the other side of a comparison is read from the files too."""
    expected = read_pairs(str(saved), bench.model_config)
    assert len(expected) == 2 * len(TARGETS)
    mlx = as_mlx(saved)
    rename(saved, PREFIXES["multimodal"][0])
    for path in (saved, mlx):
        pairs = read_pairs(str(path), bench.model_config)
        assert pairs.keys() == expected.keys()
        for module, (a, b, scale) in pairs.items():
            assert torch.equal(a, expected[module].a) and torch.equal(b, expected[module].b)
            assert scale == expected[module].scale == 2.0


MLX = {
    "dora": ({"fine_tune_type": "dora"}, "mlx-lm's fine_tune_type dora is not supported: merge"),
    "full": ({"fine_tune_type": "full"}, "trains the whole model, not an adapter"),
    "no scale": ({"lora_parameters": {"rank": 4, "alpha": 8}}, "missing required field `scale`"),
    "rank": ({"lora_parameters": {"rank": 5, "scale": 2}}, "lora_a has shape [48, 4], the model"),
    "old": ({"fine_tune_type": None, "lora_parameters": None}, "fine_tune_type None"),
}


@pytest.mark.parametrize("name", MLX)
def test_what_is_not_read_of_mlx_lm_is_said(name: str, bench: Bench, saved: Path) -> None:
    changes, said = MLX[name]
    assert said in refusal(bench, as_mlx(saved, **changes))


def test_a_missing_tensor_of_mlx_lm_is_named_as_it_names_it(bench: Bench, saved: Path) -> None:
    mlx = as_mlx(saved)
    file = mlx / "adapters.safetensors"
    tensors = load_file(file)
    del tensors["model.layers.0.self_attn.q_proj.lora_b"]
    save_file(tensors, file)
    said = refusal(bench, mlx)
    assert "model.layers.0.self_attn.q_proj.lora_b is missing; its shape would be [4, 96]" in said
    assert "in mlx-lm's layout" in said


def test_an_mlx_adapter_of_the_head_is_refused(bench: Bench, saved: Path) -> None:
    mlx = as_mlx(saved)
    file = mlx / "adapters.safetensors"
    head = {"lm_head.lora_a": torch.zeros(48, 4), "lm_head.lora_b": torch.zeros(4, 160)}
    save_file(load_file(file) | head, file)
    assert "lm_head.lora_a: embeddings and lm_head are not supported yet" in refusal(bench, mlx)


def test_the_model_has_the_shapes_that_the_words_name() -> None:
    assert (SMALL["hidden_size"], SMALL["num_key_value_heads"] * SMALL["head_dim"]) == (48, 32)
