"""`ModelLoader`: from a checkpoint and a `ModelConfig` to a `Llama` on its device.

Fuses q, k, v and gate, up; orders heads pair by pair; picks each weight's format. Knows no file.
"""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import torch
from torch import Tensor

from ..config import Config
from ..errors import OperatorError
from ..model_files.checkpoint_tensors import EMBEDDING, HEAD
from ..model_files.model_config import ModelConfig
from .adapter import SITES, module_path, module_shapes
from .checkpoint import Checkpoint
from .compute_queue import ComputeQueue
from .cpu_kernels import multiplies_bfloat16, why_not_int4, why_not_packed
from .fixed_order import (
    MOST_ROWS,
    Padding,
    find_padding,
    sizes_agree,
    trial_inputs,
    trial_weight,
)
from .layers import (
    DenseLinear,
    FixedLinear,
    HelpedLinear,
    Int4Blocks,
    Int4Linear,
    Linear,
    LinearByRows,
    PackedLinear,
    PaddedLinear,
    Product,
    RMSNorm,
    SizedLinear,
    pair_heads,
)
from .llama import AdaptedLinear, DecoderLayer, Llama, Mlp, SelfAttention
from .parallel import GatheredHead, Ranks
from .shard import CUT_BY_INPUT

INT4_ROWS = {torch.bfloat16: 8, torch.float32: 12}
"""Tokens in a step up to which 4-bit weights are faster than packed ones of that type."""
SAMPLES = 512
"""Values of each weight that `ModelLoader.digest` hashes, at least, if it has as many."""
MEMORY_SHARE = 0.7
"""Share of free memory that weights may take on a CPU; KV and activations need the rest."""


@dataclass(frozen=True)
class Precision:
    """The types a model computes in.

    `weights` is the type of linear maps; on a CPU activations and KV are float32 whatever that is.
    4-bit weights are used as such in steps of at most `int4_rows` tokens (None: in all steps).
    """

    activations: torch.dtype
    weights: torch.dtype
    int4_rows: int | None = 0

    @property
    def is_by_rows(self) -> bool:
        """Whether a weight has two formats, chosen by the number of rows."""
        return bool(self.int4_rows)

    @property
    def name(self) -> str:
        """Names of the types, as the screen shows them."""
        many = str(self.weights).removeprefix("torch.")
        if self.int4_rows is None:
            return "int4"
        return f"int4 to {self.int4_rows} tokens, {many} above" if self.int4_rows else many


def choose_precision(
    config: Config, model_config: ModelConfig, device: torch.device, has_int4: bool, free: int
) -> Precision:
    """The types for `config.dtype` on this device, for a checkpoint with or without 4-bit weights
    and `free` bytes of memory.

    On a CPU "auto" means the fastest types close to float32: over 1000 tokens of text, 4-bit
    weights and bfloat16 differ from it by 0.0007 nats a token and choose the same best token for
    98.9 %. Raises `OperatorError` for types the device does not support or memory cannot hold.
    """
    if device.type == "cuda":
        if config.dtype == "int4":
            raise OperatorError("--dtype int4 is for the cpu", "choose bfloat16")
        dtype = getattr(torch, "bfloat16" if config.dtype == "auto" else config.dtype)
        return Precision(dtype, dtype)
    if config.dtype == "float16":
        raise OperatorError("--dtype float16 is for cuda", "choose float32 or bfloat16")
    if config.dtype == "int4" and not has_int4:
        raise OperatorError("--dtype int4 needs a GGUF with Q4_0 or Q4_1 tensors", "choose auto")
    if reason := why_not_int4() if has_int4 else "":
        if config.dtype == "int4":
            raise OperatorError(f"--dtype int4 is not available: {reason}", "choose auto")
        has_int4 = False
    wide, narrow, packed = (
        Precision(torch.float32, torch.float32),
        Precision(torch.float32, torch.bfloat16),
        Precision(torch.float32, torch.float32, None),
    )
    if config.dtype != "auto":
        choices = [{"float32": wide, "bfloat16": narrow, "int4": packed}[config.dtype]]
    elif has_int4 and config.deterministic:  # one format: the one that is faster for many rows
        choices = [narrow, packed] if multiplies_bfloat16() else [packed]
    elif has_int4:
        many = torch.bfloat16 if multiplies_bfloat16() else torch.float32
        choices = [Precision(torch.float32, many, INT4_ROWS[many]), packed]
    else:
        choices = [wide, narrow]
    for precision in choices:
        if (needed := weights_bytes(model_config, precision)) <= free * MEMORY_SHARE:
            return precision
    raise OperatorError(
        f"the weights take {needed / 2**30:.1f} GiB as {choices[-1].name}, "
        f"{free / 2**30:.1f} GiB are free",
        "choose a smaller model",
    )


def weights_bytes(model_config: ModelConfig, precision: Precision) -> int:
    """Approximate bytes of a model's weights in memory on a CPU."""
    layer = sum(rows * columns for rows, columns in module_shapes(model_config).values())
    table = model_config.vocab_size * model_config.hidden_size
    dense, packed = layer * model_config.num_layers * precision.weights.itemsize, 0
    if precision.int4_rows != 0:
        packed = layer * model_config.num_layers * 5 // 8  # with scale and middle of each group
    if precision.int4_rows is None:
        dense = 0
    head = table * precision.weights.itemsize
    return dense + packed + head + table * precision.activations.itemsize


class ModelLoader:
    """Builds one model, or one rank's part of it. `advance` is called once per layer, and once for
    embedding and head together. `model_config` is the whole model's."""

    def __init__(
        self,
        model_config: ModelConfig,
        checkpoint: Checkpoint,
        precision: Precision,
        queue: ComputeQueue,
        advance: Callable[[], object],
        ranks: Ranks | None = None,
        *,
        deterministic: bool = False,
    ) -> None:
        """`deterministic`: a row's results must not depend on the other rows of a product."""
        self._ranks, self._is_fixed = ranks or Ranks(), deterministic
        self._paddings: dict[str, Padding | None] = {}
        self._agree: dict[str, bool] = {}
        """By format and shape: whether a GPU's library gives a row the same bits."""
        self._samples: dict[str, bytes] = {}
        self._shard, self._whole = self._ranks.shard, model_config
        self._model_config = self._shard.model_config(model_config)
        self._checkpoint, self._precision = checkpoint, precision
        self._device, self._helpers, self._advance = queue.device, queue.helpers, advance
        self._threads = queue.threads if queue.device.type == "cpu" else 1
        self._counting, self._trying = threading.Lock(), threading.Lock()
        self.num_bytes = 0

    @property
    def differing(self) -> str:
        """After `load`: the first product in which a row's bits depend on the other rows, if they
        must not; "" if there is none."""
        return next((name for name, found in self._paddings.items() if found is None), "")

    @property
    def digest(self) -> str:
        """After `load`: a hash of a sample of every weight read, as hexadecimal."""
        whole = hashlib.sha256()
        for name, sample in sorted(self._samples.items()):
            whole.update(name.encode() + sample)
        return whole.hexdigest()

    def load(self) -> Llama:
        """Reads and lays out all weights. Raises `OperatorError` for a wrong or missing one."""
        table = self.table()
        head: Product
        head = part = self.head(table)
        if self._shard.size > 1:
            head = GatheredHead(part, self._model_config.vocab_size, self._ranks)
        embedding = table.to(self._device, self._precision.activations)
        self._count(embedding.nbytes + part.num_bytes)
        norm = self.norm()
        self._advance()
        layers = []
        for layer in self._layers():
            layers.append(layer)
            self._advance()
        return Llama(embedding, layers, norm, head)

    def _layers(self) -> Iterator[DecoderLayer]:
        """All layers, in order. On a CPU several threads lay out one layer each."""
        indices = range(self._model_config.num_layers)
        if self._threads == 1:
            yield from map(self.layer, indices)
            return
        # Each with one thread of torch's: they share no work, so none waits for another's core.
        with ThreadPoolExecutor(self._threads, "load", torch.set_num_threads, (1,)) as pool:
            yield from pool.map(torch.inference_mode()(self.layer), indices)

    def _count(self, num_bytes: int) -> None:
        with self._counting:
            self.num_bytes += num_bytes

    def table(self) -> Tensor:
        """The embedding as stored, [vocab_size, hidden_size]. If the two are tied and only the head
        is stored, the head."""
        name = EMBEDDING
        if self._model_config.tie_word_embeddings and not self._checkpoint.has(EMBEDDING):
            name = HEAD
        return self._tensor(name, self._table_shape)

    def head(self, table: Tensor) -> Linear:
        """The map from hidden states to this rank's logits: the checkpoint's own head, even if
        config.json ties it (as in transformers 5), else `table`, the embedding."""
        if not self._model_config.tie_word_embeddings or self._checkpoint.has(HEAD):
            table = self._tensor(HEAD, self._table_shape)
        return self._dense(GatheredHead.rows(table, self._shard) if self._shard.size > 1 else table)

    def norm(self) -> RMSNorm:
        """The norm before the head."""
        return self._norm("model.norm", self._model_config.hidden_size)

    def _tensor(self, name: str, shape: tuple[int, ...]) -> Tensor:
        tensor = self._checkpoint.tensor(name, shape)
        self._sample(name, tensor)
        return tensor

    def _sample(self, name: str, tensor: Tensor) -> None:
        """Remembers some of a weight's values for `digest`."""
        flat = tensor.reshape(-1)
        some = flat[:: max(1, len(flat) // SAMPLES)].cpu()
        self._samples[name] = some.double().numpy().tobytes()

    @property
    def _table_shape(self) -> tuple[int, int]:
        return self._model_config.vocab_size, self._model_config.hidden_size

    def layer(self, index: int) -> DecoderLayer:
        """Reads and lays out one layer."""
        model_config, prefix = self._model_config, f"model.layers.{index}"
        q_norm = k_norm = None
        if model_config.qk_norm:
            q_norm = self._norm(f"{prefix}.self_attn.q_norm", model_config.head_dim, paired=True)
            k_norm = self._norm(f"{prefix}.self_attn.k_norm", model_config.head_dim, paired=True)
        sites = {site: self._site(index, site) for site in SITES}
        return DecoderLayer(
            self._norm(f"{prefix}.input_layernorm", model_config.hidden_size),
            SelfAttention(model_config, index, sites["qkv"], sites["output"], q_norm, k_norm),
            self._norm(f"{prefix}.post_attention_layernorm", model_config.hidden_size),
            Mlp(sites["gate_up"], sites["down"]),
        )

    def _norm(self, name: str, size: int, *, paired: bool = False) -> RMSNorm:
        weight = self._tensor(f"{name}.weight", (size,))
        if paired:  # a norm over one head, so in the order of that head's outputs
            weight = pair_heads(weight, 1)
        weight = weight.to(self._device, self._precision.activations)
        self._count(weight.nbytes)
        return RMSNorm(weight, self._model_config.rms_norm_eps)

    def _site(self, layer: int, site: str) -> AdaptedLinear:
        """The modules that share an input as one map, their outputs side by side."""
        linear: Linear
        bias = self._bias(layer, site)
        blocks = self._blocks(layer, site) if self._precision.int4_rows != 0 else None
        if blocks is None:
            linear = self._dense(self._weight(layer, site), bias)
        elif self._precision.int4_rows is None:
            linear = self._packed(blocks, bias)
        else:
            many = self._dense(self._weight(layer, site), bias)
            linear = LinearByRows(self._packed(blocks, bias), many, self._precision.int4_rows)
        self._count(linear.num_bytes)
        is_partial = not set(SITES[site]).isdisjoint(CUT_BY_INPUT)
        return AdaptedLinear(linear, layer, site, self._ranks.reduce if is_partial else None)

    def _weight(self, layer: int, site: str) -> Tensor:
        """[out_features of all modules, in_features]"""
        shapes = module_shapes(self._whole)
        weights = []
        for module in SITES[site]:
            name = f"{module_path(layer, module)}.weight"
            weight = self._shard.weight(self._tensor(name, shapes[module]), module)
            weights.append(self._in_pairs(weight, module))
        return torch.cat(weights)

    def _bias(self, layer: int, site: str) -> Tensor | None:
        """[out_features of all modules], or None if the model has no bias there."""
        model_config = self._model_config
        has = {"qkv": model_config.attention_bias, "output": model_config.output_bias}.get(
            site, model_config.mlp_bias
        )
        if not has:
            return None
        shapes = module_shapes(self._whole)
        biases = []
        for module in SITES[site]:
            name = f"{module_path(layer, module)}.bias"
            whole = self._tensor(name, shapes[module][:1])
            bias = self._shard.bias(whole, module)
            if bias is None:
                return None
            biases.append(self._in_pairs(bias, module))
        return torch.cat(biases).to(self._device, self._precision.activations)

    def _blocks(self, layer: int, site: str) -> Int4Blocks | None:
        """The 4-bit blocks of `_weight`; None unless all its modules have them and every block is
        whole on one rank."""
        shapes = module_shapes(self._whole)
        parts = []
        for module in SITES[site]:
            name = f"{module_path(layer, module)}.weight"
            blocks = self._checkpoint.int4(name, shapes[module])
            if blocks is None:
                return None
            self._sample(name, blocks.q)
            if module in CUT_BY_INPUT and blocks.scale.shape[1] % self._shard.size:
                return None
            whole = (blocks.q, blocks.scale, blocks.middle)
            fields = [self._shard.weight(field, module) for field in whole]
            parts.append(Int4Blocks(*(self._in_pairs(field, module) for field in fields)))
        blocks = Int4Blocks.cat(parts)
        return blocks if Int4Linear.supports(blocks) else None

    def _in_pairs(self, rows: Tensor, module: str) -> Tensor:
        """`rows` with heads reordered pair by pair if they yield q or k; else unchanged."""
        heads = {"q_proj": self._model_config.num_heads, "k_proj": self._model_config.num_kv_heads}
        if module in heads and not self._checkpoint.paired_heads:
            return pair_heads(rows, heads[module])
        return rows

    def _dense(self, weight: Tensor, bias: Tensor | None = None) -> Linear:
        """The format in which this device multiplies many rows fastest."""
        if self._device.type != "cpu":
            return self._dense_on_gpu(weight.to(self._device, self._precision.weights), bias)
        return self._in_fixed_order(
            self._plain_dense(weight, bias),
            f"{self._precision.weights} {list(weight.shape)}",
            lambda: self._plain_dense(trial_weight(*weight.shape), None),
            weight.shape[1],
        )

    def _dense_on_gpu(self, weight: Tensor, bias: Tensor | None) -> Linear:
        linear = DenseLinear(weight, bias)
        if not self._is_fixed:
            return linear
        name = f"{weight.dtype} {list(weight.shape)}"
        if name not in self._agree:
            trial = DenseLinear(trial_weight(*weight.shape).to(weight))
            x = trial_inputs(MOST_ROWS, weight.shape[1]).to(weight)
            self._agree[name] = sizes_agree(trial, x)
        return SizedLinear(linear) if self._agree[name] else FixedLinear(weight, bias)

    def _packed(self, blocks: Int4Blocks, bias: Tensor | None) -> Linear:
        def trial() -> Linear:
            return self._plain_packed(Int4Blocks.of_whole_numbers(trial_weight(*shape)), None)

        shape = blocks.shape
        name = f"int4 {list(shape)}"
        return self._in_fixed_order(self._plain_packed(blocks, bias), name, trial, shape[1])

    def _plain_dense(self, weight: Tensor, bias: Tensor | None) -> Linear:
        weight = weight.to(self._precision.weights)
        if why_not_packed():
            return DenseLinear(weight, bias)
        return HelpedLinear(PackedLinear(weight, bias), weight.numel(), self._helpers)

    def _plain_packed(self, blocks: Int4Blocks, bias: Tensor | None) -> Linear:
        return HelpedLinear(Int4Linear(blocks, bias), blocks.q.numel(), self._helpers)

    def _in_fixed_order(
        self, linear: Linear, name: str, make_trial: Callable[[], Linear], in_features: int
    ) -> Linear:
        """`linear` with the padding with which a row's bits do not depend on other rows, if they
        must not. It is found once for each format and shape, by a product of a `trial_weight`."""
        if not self._is_fixed:
            return linear
        with self._trying:
            if name not in self._paddings:
                self._paddings[name] = find_padding(make_trial(), in_features)
        padding = self._paddings[name]
        return PaddedLinear(linear, padding) if padding and padding != Padding() else linear
