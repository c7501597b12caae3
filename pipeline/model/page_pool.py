"""`PagePool`: the one tensor that holds the KV of every sequence and the weights of every resident
adapter, in pages valid in every layer (S-LoRA's unified paging).

Knows where a token's keys and values are, not who owns them: page ids come from the router.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from ..config import Config
from ..errors import OperatorError
from ..machine.memory import available_bytes
from ..model_files.model_config import ModelConfig
from .pool_memory import PoolMemory

PAGE_SIZE = 16
"""Tokens per page."""
CPU_SHARE = 0.25
"""The pool's share of the memory free after the weights, on a machine shared with other work."""
CUDA_SHARE = 0.85
"""The pool's share of the memory free after the weights; the rest is for activations."""
MOST_SEQUENCES = 8
"""Upper limit of a CPU pool sized from free memory, in sequences of full length."""

Ints = npt.NDArray[np.int64]


class PagePool:
    """`pages[layer]` is one layer's pool, [num_pages, 2, num_kv_heads, PAGE_SIZE, head_dim].

    A page stores its 16 tokens head by head, keys before values. Initially zero; on the CPU pages
    take no memory until they are written.
    """

    def __init__(
        self,
        model_config: ModelConfig,
        num_pages: int,
        dtype: torch.dtype,
        device: torch.device,
        memory: PoolMemory | None = None,
    ) -> None:
        """`memory`: what a CPU's pages are in, of their size; None: memory of this process."""
        self.num_pages, self.memory = num_pages, memory
        self.heads = model_config.num_kv_heads
        shape = (
            model_config.num_layers,
            num_pages,
            2,
            self.heads,
            PAGE_SIZE,
            model_config.head_dim,
        )
        self.pages: Tensor
        if device.type == "cpu":
            # numpy's zeros are the OS's zero pages, free until written. torch would write them.
            bits = {2: np.int16, 4: np.int32}[dtype.itemsize]
            if memory is None:
                array = np.zeros(shape, dtype=bits)
            else:
                array = np.frombuffer(memory.mapped, dtype=bits).reshape(shape)
            self.pages = torch.from_numpy(array).view(dtype)
        else:
            self.pages = torch.zeros(shape, dtype=dtype, device=device)
        sides_and_heads = np.arange(2 * self.heads, dtype=np.int64)
        self._first_rows = sides_and_heads * PAGE_SIZE
        self._blocks = sides_and_heads.reshape(2, 1, self.heads, 1)

    @property
    def nbytes(self) -> int:
        return self.pages.nbytes

    def put(self, pages: Tensor, content: Tensor) -> None:
        """Fills pages of every layer. content [num_layers, len(pages) page_elements]."""
        rows = self.pages.view(len(self.pages), self.num_pages, -1)
        content = content.view(len(rows), len(pages), -1)
        if content.is_cuda:  # copying 16 bytes at a time is nearly twice as fast as as bfloat16
            rows, content = rows.view(torch.complex128), content.view(torch.complex128)
        rows.index_copy_(1, pages, content)

    def take(self, pages: Tensor) -> Tensor:
        """A copy of the contents of pages, [num_layers, len(pages) page_elements]."""
        rows = self.pages.view(len(self.pages), self.num_pages, -1)
        return rows.index_select(1, pages).flatten(1)

    def clean(self, pages: Tensor) -> None:
        """Zeros pages that a sequence receives but does not fill at once. Old contents are masked,
        but a NaN would survive the mask."""
        self.pages.index_fill_(1, pages, 0)

    def write_index(self, pages: Ints, positions: Ints) -> Ints:
        """The index for `write_pages`, from each token's page and its position in its sequence,
        both [num_tokens] -> [num_tokens 2 num_kv_heads]."""
        first = pages * (2 * self.heads * PAGE_SIZE) + positions % PAGE_SIZE
        return (first[:, None] + self._first_rows).reshape(-1)

    def gather_index(self, table: Ints) -> Ints:
        """The index for `gather_pages`, from page tables [num_rows, pages_a_row]
        -> [2 num_rows heads pages_a_row]."""
        return (table[None, :, None, :] * (2 * self.heads) + self._blocks).reshape(-1)


def page_elements(model_config: ModelConfig) -> int:
    """Numbers in one page of one layer."""
    return 2 * PAGE_SIZE * model_config.num_kv_heads * model_config.head_dim


def page_bytes(model_config: ModelConfig, dtype: torch.dtype) -> int:
    """Bytes of one page in all layers."""
    return model_config.num_layers * page_elements(model_config) * dtype.itemsize


def choose_num_pages(
    config: Config,
    model_config: ModelConfig,
    max_model_len: int,
    dtype: torch.dtype,
    device: torch.device,
    free: int,
) -> int:
    """Pages for `config.max_total_tokens`, or if that is 0, sized from `free` bytes of memory.

    The pool takes a share of free memory that leaves the machine usable. It takes more, up to half,
    only if one sequence of full length needs it. Raises `OperatorError` if memory is short.
    """
    each = page_bytes(model_config, dtype)
    if config.max_total_tokens:
        num_pages = pages_for(config.max_total_tokens)
        if num_pages * each > free:
            raise OperatorError(
                f"--max-total-tokens {config.max_total_tokens} needs "
                f"{num_pages * each / 2**30:.1f} GiB, {free / 2**30:.1f} GiB are free",
                f"at most {free // each * PAGE_SIZE} tokens fit",
            )
        return num_pages
    one = pages_for(max_model_len)
    share = CUDA_SHARE if device.type == "cuda" else CPU_SHARE
    num_pages = int(free * share) // each
    if num_pages < one:
        num_pages = min(one, int(free * max(share, 0.5)) // each)
    if num_pages < 1:
        raise OperatorError(
            f"no memory for the KV of a single page ({each / 2**20:.0f} MiB)",
            "free some, raise a limit (of the container, ulimit -v), or choose a smaller model",
        )
    return num_pages if device.type == "cuda" else min(num_pages, MOST_SEQUENCES * one)


def pages_for(num_tokens: int) -> int:
    """Pages that hold this many tokens."""
    return -(-num_tokens // PAGE_SIZE)


def free_bytes(device: torch.device) -> int:
    """Memory that can be allocated safely: the GPU's free memory, or what Linux reports as
    available, within the limits of our cgroups and of this process."""
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0]
    return available_bytes()
