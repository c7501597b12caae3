"""Quantised checkpoints by the tools that write them: torchao, compressed-tensors, bitsandbytes, …

Each is refused by its method's name until it is computed.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

from making import CORPUS, byte_level, made, save, tiny

WIDE = {"hidden_size": 256, "intermediate_size": 512, "head_dim": 64}


def start(out: Path, family: str = "llama", **fields: Any) -> Path:
    tokenizer = byte_level()
    where = out.with_name(out.name + "-start")
    save(where, tiny(family, len(tokenizer), **(WIDE | fields)), tokenizer)
    return where


def through_transformers(config: Callable[[], Any], **fields: Any) -> Callable[[Path], None]:
    """from_pretrained with a quantization_config, then save_pretrained."""

    def make(out: Path) -> None:
        import torch
        from transformers import AutoModelForCausalLM, AutoTokenizer

        where = start(out, **fields)
        model = AutoModelForCausalLM.from_pretrained(
            where, dtype=torch.bfloat16, quantization_config=config(), device_map="cpu"
        )
        save(out, model, AutoTokenizer.from_pretrained(where))

    return make


def torchao(kind: str, **options: Any) -> Callable[[], Any]:
    def config() -> Any:
        import torchao.quantization as ao
        from transformers import TorchAoConfig

        return TorchAoConfig(getattr(ao, kind)(**options))

    return config


made("torchao-int8", "torchao", refused="torchao")(
    through_transformers(torchao("Int8WeightOnlyConfig", version=2))
)
made("torchao-int8-dynamic", "torchao", refused="torchao")(
    through_transformers(torchao("Int8DynamicActivationInt8WeightConfig", version=2))
)
made("torchao-float8", "torchao", refused="torchao")(
    through_transformers(torchao("Float8WeightOnlyConfig"))
)
made("torchao-intx", "torchao", refused="torchao")(
    through_transformers(torchao("IntxWeightOnlyConfig"))
)


def bitsandbytes(**options: Any) -> Callable[[], Any]:
    def config() -> Any:
        from transformers import BitsAndBytesConfig

        return BitsAndBytesConfig(**options)

    return config


BNB = "(?i)bitsandbytes"
made("bnb-int8", "bitsandbytes", refused=BNB)(through_transformers(bitsandbytes(load_in_8bit=True)))
made("bnb-nf4", "bitsandbytes", refused=BNB)(
    through_transformers(bitsandbytes(load_in_4bit=True, bnb_4bit_quant_type="nf4"))
)
made("bnb-fp4-double", "bitsandbytes", refused=BNB)(
    through_transformers(
        bitsandbytes(load_in_4bit=True, bnb_4bit_use_double_quant=True), family="qwen3"
    )
)


@made("hqq", "hqq", refused=r"(?i)hqq|qmodel\.pt|safetensors")
def _(out: Path) -> None:
    """hqq's own `save_quantized`: a pickle named qmodel.pt beside config.json."""
    import torch
    from hqq.core.quantize import BaseQuantizeConfig
    from hqq.models.hf.base import AutoHQQHFModel
    from transformers import AutoModelForCausalLM, AutoTokenizer

    where = start(out)
    model = AutoModelForCausalLM.from_pretrained(where, dtype=torch.float32)
    config = BaseQuantizeConfig(nbits=4, group_size=64)
    AutoHQQHFModel.quantize_model(model, config, compute_dtype=torch.float32, device="cpu")
    AutoHQQHFModel.save_quantized(model, str(out))
    AutoTokenizer.from_pretrained(where).save_pretrained(out)


@made("quanto-safetensors", "optimum-quanto", refused="(?i)quant")
def _(out: Path) -> None:
    """optimum-quanto's `quantize`, its state dict and its quantization map."""
    import json

    from optimum.quanto import freeze, qint8, quantization_map, quantize
    from safetensors.torch import save_file
    from transformers import AutoModelForCausalLM, AutoTokenizer

    where = start(out)
    model = AutoModelForCausalLM.from_pretrained(where)
    quantize(model, weights=qint8, exclude="lm_head")
    freeze(model)
    model.config.save_pretrained(out)
    AutoTokenizer.from_pretrained(where).save_pretrained(out)
    save_file(model.state_dict(), out / "model.safetensors")
    (out / "quanto_qmap.json").write_text(json.dumps(quantization_map(model)))


def compressed(scheme: str, **fields: Any) -> Callable[[Path], None]:
    """compressed-tensors' own `apply_quantization_config` and ModelCompressor, with scales from the
    weights: what llmcompressor's oneshot does without data."""

    def make(out: Path) -> None:
        import torch
        from compressed_tensors.compressors import ModelCompressor
        from compressed_tensors.quantization import (
            QuantizationConfig,
            QuantizationStatus,
            apply_quantization_config,
            preset_name_to_scheme,
        )
        from compressed_tensors.quantization.utils import calculate_qparams
        from transformers import AutoModelForCausalLM, AutoTokenizer

        where = start(out, **fields)
        model = AutoModelForCausalLM.from_pretrained(where, dtype=torch.bfloat16)
        group = preset_name_to_scheme(scheme, ["Linear"])
        config = QuantizationConfig(config_groups={"group_0": group}, ignore=["lm_head"])
        apply_quantization_config(model, config)
        for module in model.modules():
            if hasattr(module, "weight_scale"):
                weight, arguments = module.weight.data, module.quantization_scheme.weights
                if arguments.group_size and arguments.group_size > 0:
                    weight = weight.unflatten(-1, (-1, arguments.group_size))
                    low, high = weight.amin(-1), weight.amax(-1)
                elif str(getattr(arguments.strategy, "value", arguments.strategy)) == "tensor":
                    low, high = weight.amin().reshape(1), weight.amax().reshape(1)
                else:
                    low, high = weight.amin(-1, keepdim=True), weight.amax(-1, keepdim=True)
                scale, _ = calculate_qparams(low, high, arguments)
                module.weight_scale.data.copy_(scale.reshape(module.weight_scale.shape))
                module.quantization_status = QuantizationStatus.FROZEN
        compressor = ModelCompressor.from_pretrained_model(model)
        compressor.compress_model(model)
        model.save_pretrained(out)
        compressor.update_config(str(out))
        AutoTokenizer.from_pretrained(where).save_pretrained(out)

    return make


for scheme in ("W8A8", "W4A16", "FP8", "FP8_DYNAMIC", "W8A16", "NVFP4A16"):
    made(
        f"compressed-tensors-{scheme.lower()}", "compressed-tensors", refused="compressed-tensors"
    )(compressed(scheme))


def auto_round(form: str) -> Callable[[Path], None]:
    """auto-round, which runs on a CPU, exporting in another tool's format."""

    def make(out: Path) -> None:
        import torch
        from auto_round import AutoRound
        from transformers import AutoModelForCausalLM, AutoTokenizer

        where = start(out)
        tokenizer = AutoTokenizer.from_pretrained(where)
        model = AutoModelForCausalLM.from_pretrained(where)
        rows = tokenizer("".join(CORPUS), return_tensors="pt").input_ids[0].split(64)[:8]
        rounder = AutoRound(
            model,
            tokenizer,
            scheme="W4A16",
            iters=0,
            group_size=32,
            device_map="cpu",
            dataset=[{"input_ids": row[None], "attention_mask": torch.ones(1, 64)} for row in rows],
            seqlen=64,
            nsamples=8,
        )
        inner = out.with_name(out.name + "-run")
        rounder.quantize_and_save(str(inner), format=form)
        shutil.copytree(next(inner.glob("*/config.json")).parent, out)

    return make


for form, word in {"auto_gptq": "gptq", "auto_awq": "awq", "auto_round": "auto-round"}.items():
    made(f"autoround-{word}", "auto-round", refused=f"(?i){word}")(auto_round(form))


@made("mlx-4bit", "mlx-lm", refused="(?i)mlx|quantization")
def _(out: Path) -> None:
    """mlx_lm.convert with quantisation: `quantization` in config.json, packed uint32."""
    from mlx_lm import convert

    convert(str(start(out)), mlx_path=str(out), quantize=True, q_bits=4, q_group_size=64)


@made("mlx-unquantised", "mlx-lm")
def _(out: Path) -> None:
    from mlx_lm import convert

    convert(str(start(out)), mlx_path=str(out), dtype="bfloat16")
