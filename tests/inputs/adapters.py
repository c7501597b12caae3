"""Adapters as peft, TRL and mlx-lm save them, for the model `chat-base` or a base of their own."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

from making import Reference, byte_level, made, save, tiny

SEVEN = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
BASE = "chat-base"


def load(base: Path) -> Any:
    import torch
    from transformers import AutoModelForCausalLM

    return AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32)


def stir(model: Any, std: float = 0.08) -> Any:
    """Moves every trainable parameter, as training would."""
    import torch

    torch.manual_seed(1)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad and parameter.is_floating_point():
                parameter.add_(torch.randn_like(parameter) * std)
    return model


def lora(**fields: Any) -> Any:
    from peft import LoraConfig

    given = {
        "task_type": "CAUSAL_LM",
        "r": 8,
        "lora_alpha": 16,
        "target_modules": ["q_proj", "v_proj"],
    }
    return LoraConfig(**(given | fields))


def trained(base: Path, config: Any) -> Any:
    from peft import get_peft_model

    return stir(get_peft_model(load(base), config))


def saved(config: Callable[[], Any], **options: Any) -> Callable[[Path, Path], None]:
    def make(base: Path, out: Path) -> None:
        trained(base, config()).save_pretrained(out, **options)

    return make


def plain_names(model: Any, out: Path, rename: Callable[[str], str]) -> Reference:
    """The same tensors as an adapter with PEFT's plain names, which PEFT loads; of other names it
    loads none and only warns."""
    from peft import get_peft_model_state_dict
    from safetensors.torch import save_file

    clean = out.with_name(out.name + "-clean")
    model.peft_config["default"].save_pretrained(clean)
    tensors = get_peft_model_state_dict(model)
    save_file({rename(n): t for n, t in tensors.items()}, clean / "adapter_model.safetensors")
    return Reference(adapter=clean)


# -- LoRA in its variants

LORA: dict[str, tuple[dict[str, Any], str | None]] = {
    "lora-plain": ({}, None),
    "lora-all-linear": ({"target_modules": "all-linear", "r": 4, "lora_alpha": 7}, None),
    "lora-regex": ({"target_modules": r".*\.[02]\.mlp\.(up|down)_proj"}, None),
    "lora-excluded": ({"target_modules": SEVEN, "exclude_modules": r".*\.1\..*"}, None),
    "lora-layers": (
        {"target_modules": SEVEN, "layers_to_transform": [0, 2], "layers_pattern": "layers"},
        None,
    ),
    "lora-patterns-rslora": (
        {
            "target_modules": SEVEN,
            "use_rslora": True,
            "rank_pattern": {
                "q_proj": 3,
                r"^model\.layers\.1\.mlp\.up_proj": 12,
                "1.self_attn.v_proj": 16,
            },
            "alpha_pattern": {"down_proj": 5, r"layers\.[01]\.self_attn\.k_proj": 40},
        },
        None,
    ),
    "lora-bias-all": ({"bias": "all"}, None),
    "lora-dora": ({"use_dora": True}, "DoRA|use_dora"),
    "lora-bias-term": ({"lora_bias": True}, "lora_bias"),
    "lora-head-saved": ({"modules_to_save": ["lm_head"]}, "modules_to_save"),
    "lora-embedding-saved": ({"modules_to_save": ["embed_tokens"]}, "modules_to_save"),
    "lora-norms-saved": ({"modules_to_save": ["norm"]}, "modules_to_save"),
    "lora-embedding-target": (
        {"target_modules": ["embed_tokens", "q_proj"]},
        "embed_tokens|embedding",
    ),
    "lora-head-target": ({"target_modules": ["lm_head", "q_proj"]}, "lm_head"),
    "lora-pissa": ({"init_lora_weights": "pissa", "target_modules": SEVEN}, "PiSSA|pissa"),
    "lora-pissa-niter": ({"init_lora_weights": "pissa_niter_4"}, "PiSSA|pissa"),
    "lora-olora": ({"init_lora_weights": "olora"}, "OLoRA|olora"),
    "lora-gaussian": ({"init_lora_weights": "gaussian", "lora_dropout": 0.1}, None),
    "lora-orthogonal": ({"init_lora_weights": "orthogonal"}, None),
    "lora-trainable-tokens": ({"trainable_token_indices": [5, 300]}, "trainable_token"),
    "lora-layer-replication": ({"layer_replication": [[0, 2], [1, 3]]}, "layer_replication"),
    "lora-target-parameters": (
        {"target_modules": [], "target_parameters": ["mlp.up_proj.weight"]},
        "target_parameters",
    ),
    "lora-alora": ({"alora_invocation_tokens": [1, 60]}, "alora|aLoRA"),
    "lora-fan-in": (
        {"fan_in_fan_out": False, "megatron_config": None, "inference_mode": True},
        None,
    ),
}
for name, (fields, refused) in LORA.items():
    made(name, "peft", base=BASE, refused=refused)(saved(lambda fields=fields: lora(**fields)))


@made("lora-bias-on-biased-base", "peft", base="qwen2-window-unused", refused="bias")
def _(base: Path, out: Path) -> None:
    """`bias="lora_only"` where q, k and v do have biases: the file carries them."""
    trained(base, lora(bias="lora_only")).save_pretrained(out)


@made("lora-on-tied-base", "peft", base="llama-tied")
def _(base: Path, out: Path) -> None:
    trained(base, lora(target_modules=SEVEN, r=16)).save_pretrained(out)


@made("lora-head-of-tied-base", "peft", base="llama-tied", refused="modules_to_save")
def _(base: Path, out: Path) -> None:
    fields = {"modules_to_save": ["lm_head"], "ensure_weight_tying": True}
    trained(base, lora(**fields)).save_pretrained(out)


@made("lora-with-embeddings", "peft", base="added-tokens-resized", refused="embed")
def _(base: Path, out: Path) -> None:
    """`save_embedding_layers=True`: the base's embeddings lie in the adapter's file."""
    trained(base, lora()).save_pretrained(out, save_embedding_layers=True)


@made("lora-bf16", "peft", base=BASE)
def _(base: Path, out: Path) -> None:
    import torch

    trained(base, lora()).to(torch.bfloat16).save_pretrained(out)


@made("lora-pickle", "peft", base=BASE, refused=r"adapter_model\.bin|pickle")
def _(base: Path, out: Path) -> None:
    """`safe_serialization=False`, as PEFT saved before safetensors."""
    model = trained(base, lora())
    try:
        model.save_pretrained(out, safe_serialization=False)
    finally:
        if not (out / "adapter_model.bin").exists():
            import torch
            from peft import get_peft_model_state_dict

            model.peft_config["default"].save_pretrained(out)
            torch.save(get_peft_model_state_dict(model), out / "adapter_model.bin")
            (out / "adapter_model.safetensors").unlink(missing_ok=True)


@made("lora-two-in-a-folder", "peft", base=BASE, refused=r"second|subfolder|adapter_config")
def _(base: Path, out: Path) -> None:
    """Two named adapters saved together: PEFT lays each in a subfolder, none at the top."""
    model = trained(base, lora())
    model.add_adapter("second", lora(r=4))
    stir(model).save_pretrained(out, selected_adapters=["second"])


@made("lora-named-saved", "peft", base=BASE, file="second")
def _(base: Path, out: Path) -> None:
    """The subfolder itself."""
    model = trained(base, lora(r=2))
    model.add_adapter("second", lora(r=4, target_modules=SEVEN))
    model.set_adapter("second")
    stir(model).save_pretrained(out, selected_adapters=["second"])
    for file in (out / "second").iterdir():
        shutil.copy(file, out)


def weighted(kind: str) -> Callable[[Path, Path], None]:
    def make(base: Path, out: Path) -> None:
        model = trained(base, lora(r=8, use_rslora=kind == "svd"))
        model.add_adapter("b", lora(r=8 if kind != "cat" else 4, lora_alpha=5))
        model.set_adapter("b")
        stir(model, 0.1)
        model.add_weighted_adapter(
            ["default", "b"],
            [0.7, 0.5],
            "both",
            combination_type=kind,
            **({"density": 0.5} if kind == "ties" else {}),
        )
        model.save_pretrained(out, selected_adapters=["both"])
        for file in (out / "both").iterdir():
            shutil.copy(file, out)

    return make


for kind in ("linear", "cat", "svd", "ties"):
    made(f"lora-weighted-{kind}", "peft", base=BASE)(weighted(kind))


@made("lora-pissa-converted", "peft", base=BASE)
def _(base: Path, out: Path) -> None:
    """PiSSA turned into a plain adapter by `path_initial_model_for_weight_conversion`."""
    from peft import get_peft_model

    start = out.with_name(out.name + "-start")
    model = get_peft_model(load(base), lora(init_lora_weights="pissa"))
    model.peft_config["default"].init_lora_weights = True
    model.save_pretrained(start)
    model.peft_config["default"].init_lora_weights = "pissa"
    stir(model).save_pretrained(out, path_initial_model_for_weight_conversion=str(start))


@made("lora-eva", "peft", base=BASE)
def _(base: Path, out: Path) -> None:
    """EVA: ranks redistributed by data, written as rank_pattern."""
    import torch
    from peft import EvaConfig, get_peft_model, initialize_lora_eva_weights

    config = lora(init_lora_weights="eva", eva_config=EvaConfig(rho=2.0), target_modules=SEVEN)
    model = get_peft_model(load(base), config)
    torch.manual_seed(0)
    ids = torch.randint(4, 400, (4, 4, 24))
    data = [{"input_ids": batch, "attention_mask": torch.ones_like(batch)} for batch in ids]
    initialize_lora_eva_weights(model, data)
    stir(model).save_pretrained(out)


@made("lora-compiled", "peft", "torch", base=BASE)
def _(base: Path, out: Path) -> Reference:
    """`torch.compile(base)` before get_peft_model: `_orig_mod` in every name."""
    import torch
    from peft import get_peft_model

    model = stir(get_peft_model(torch.compile(load(base)), lora()))
    model.save_pretrained(out)
    return plain_names(model, out, lambda name: name.replace("._orig_mod", ""))


@made(
    "lora-state-dict-dump",
    "peft",
    "torch",
    base=BASE,
    refused=r"base_layer|lora_A\.default|state_dict",
)
def _(base: Path, out: Path) -> Reference:
    """`save_file(model.state_dict())`: the whole model, `.default.` in the adapter's names."""
    from safetensors.torch import save_file

    model = trained(base, lora())
    model.peft_config["default"].save_pretrained(out)
    save_file(model.state_dict(), out / "adapter_model.safetensors")
    return plain_names(model, out, str)


@made("lora-fsdp-style-dump", "peft", "torch", base=BASE)
def _(base: Path, out: Path) -> Reference:
    """Trainable parameters alone, by `named_parameters()`: `.default.` in the names."""
    from safetensors.torch import save_file

    model = trained(base, lora())
    model.peft_config["default"].save_pretrained(out)
    tensors = {n: p.detach().clone() for n, p in model.named_parameters() if p.requires_grad}
    save_file(tensors, out / "adapter_model.safetensors")
    return plain_names(model, out, str)


# -- other methods of peft, each refused by its own name


def other(name: str, kind: str, refused: str, **fields: Any) -> None:
    def make(base: Path, out: Path) -> None:
        import peft

        given = {"task_type": "CAUSAL_LM"} | fields
        trained(base, getattr(peft, kind)(**given)).save_pretrained(out)

    made(name, "peft", base=BASE, refused=refused)(make)


QV = {"target_modules": ["q_proj", "v_proj"]}
other(
    "ia3",
    "IA3Config",
    "IA3",
    target_modules=["k_proj", "down_proj"],
    feedforward_modules=["down_proj"],
)
other("loha", "LoHaConfig", "LOHA", **QV)
other("lokr", "LoKrConfig", "LOKR", **QV)
other("vera", "VeraConfig", "VERA", target_modules=["q_proj"])
other("adalora", "AdaLoraConfig", "ADALORA", total_step=10, **QV)
other("oft", "OFTConfig", "OFT", oft_block_size=8, **QV)
other("boft", "BOFTConfig", "BOFT", boft_block_size=4, **QV)
other("hra", "HRAConfig", "HRA", **QV)
other("fourierft", "FourierFTConfig", "FOURIERFT", n_frequency=20, **QV)
other("ln-tuning", "LNTuningConfig", "LN_TUNING", target_modules=["input_layernorm"])
other("randlora", "RandLoraConfig", "RANDLORA", **QV)
other("shira", "ShiraConfig", "SHIRA", r=4, **QV)
other("miss", "MissConfig", "MISS", r=8, **QV)
other("road", "RoadConfig", "ROAD", group_size=16, **QV)
other("c3a", "C3AConfig", "C3A", block_size=16, **QV)
other("trainable-tokens", "TrainableTokensConfig", "TRAINABLE_TOKENS", token_indices=[4, 9])
other("prompt-tuning", "PromptTuningConfig", "PROMPT_TUNING", num_virtual_tokens=4)
other("prefix-tuning", "PrefixTuningConfig", "PREFIX_TUNING", num_virtual_tokens=4)


@made("lokr-saved-as-lora", "peft", base=BASE)
def _(base: Path, out: Path) -> None:
    """peft's `save_as_lora` of a LoKr adapter."""
    from peft import LoKrConfig, save_as_lora

    model = trained(base, LoKrConfig(task_type="CAUSAL_LM", r=4, **QV))
    save_as_lora(out, model, rank=16)


# -- trainers


@made("trl-sft", "trl", "peft", base=BASE)
def _(base: Path, out: Path) -> None:
    from sft import train

    train(base, out, lora(target_modules="all-linear"))


@made("trl-sft-assistant-only", "trl", "peft", base="qwen3-layer-types")
def _(base: Path, out: Path) -> None:
    """assistant_only_loss with TRL's own training template, saved beside the adapter."""
    import trl
    from sft import train

    template = Path(trl.__file__).parent / "chat_templates" / "qwen3_training.jinja"
    where = out.with_name(out.name + "-base")
    shutil.copytree(base, where)
    (where / "chat_template.jinja").write_text(template.read_text())
    train(where, out, lora(), assistant_only_loss=True)


@made("trl-dpo", "trl", "peft", base=BASE)
def _(base: Path, out: Path) -> None:
    from sft import train_dpo

    train_dpo(base, out, lora(r=4))


@made("seq-cls-adapter", "peft", base=BASE, refused="SEQ_CLS|modules_to_save|score")
def _(base: Path, out: Path) -> None:
    """A reward model's adapter: a classifier head in modules_to_save."""
    from peft import get_peft_model
    from transformers import AutoModelForSequenceClassification

    model = AutoModelForSequenceClassification.from_pretrained(base, num_labels=1)
    stir(get_peft_model(model, lora(task_type="SEQ_CLS"))).save_pretrained(out)


@made("adapter-of-other-base", "peft", base=BASE, refused="shape")
def _(base: Path, out: Path) -> None:
    """Trained on a wider model."""
    tokenizer = byte_level()
    wide = out.with_name(out.name + "-base")
    save(wide, tiny("llama", len(tokenizer), hidden_size=96), tokenizer)
    trained(wide, lora()).save_pretrained(out)


@made("mlx-lm-adapter", "mlx-lm", base=BASE)
def _(base: Path, out: Path) -> Reference:
    """mlx-lm's layers and its own writer of adapters.safetensors."""
    import mlx.core as mx
    from mlx.utils import tree_flatten
    from mlx_lm.tuner.utils import linear_to_lora_layers
    from mlx_lm.utils import load as mlx_load

    model, _ = mlx_load(str(base))
    model.freeze()
    parameters = {"rank": 8, "scale": 2.0, "dropout": 0.0}
    linear_to_lora_layers(model, 3, parameters)
    mx.random.seed(0)
    tensors = {
        n: v + 0.05 * mx.random.normal(v.shape)
        for n, v in tree_flatten(model.trainable_parameters())
    }
    out.mkdir()
    mx.save_safetensors(str(out / "adapters.safetensors"), tensors)
    config = {"fine_tune_type": "lora", "num_layers": 3, "lora_parameters": parameters}
    (out / "adapter_config.json").write_text(json.dumps(config, indent=4))

    import torch
    from safetensors.torch import save_file

    names = {"lora_a": "lora_A.weight", "lora_b": "lora_B.weight"}
    turned = {}
    for name, value in tensors.items():
        module, _, matrix = name.rpartition(".")
        turned[f"base_model.model.{module}.{names[matrix]}"] = torch.tensor(value.tolist()).T
    clean = out.with_name(out.name + "-clean")
    lora(target_modules=SEVEN).save_pretrained(clean)
    save_file({n: t.contiguous() for n, t in turned.items()}, clean / "adapter_model.safetensors")
    return Reference(adapter=clean)
