"""`PagePool`: the one tensor that holds the KV of every sequence and the weights of every resident
adapter, in pages valid in every layer (S-LoRA's unified paging).

Knows where a token's keys and values lie, not whose they are: page ids come from the router.
"""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from ..config import Config
from ..errors import OperatorError
from ..model_files.model_config import ModelConfig

PAGE_SIZE = 16
"""Tokens a page."""
CPU_SHARE = 0.25
"""The pool's share of the memory free after the weights, on a machine that others use too."""
CUDA_SHARE = 0.85
"""The pool's share of the memory free after the weights; the rest is for activations."""
MOST_SEQUENCES = 8
"""Sequences of full length at which a CPU's pool that is sized from free memory stops."""

Ints = npt.NDArray[np.int64]


class PagePool:
    """`pages[layer]` is one layer's pool, [num_pages, 2, num_kv_heads, PAGE_SIZE, head_dim].

    A page's 16 tokens lie head by head, keys before values. Zeros at birth, and on the CPU not
    backed by memory before they are written.
    """

    def __init__(
        self, model_config: ModelConfig, num_pages: int, dtype: torch.dtype, device: torch.device
    ) -> None:
        self.num_pages = num_pages
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
            # numpy's zeros are the kernel's: untouched pages cost nothing. torch would write them.
            bits = {2: np.int16, 4: np.int32}[dtype.itemsize]
            self.pages = torch.from_numpy(np.zeros(shape, dtype=bits)).view(dtype)
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
        if content.is_cuda:  # copied 16 bytes at a time: nearly twice as fast as bfloat16 by itself
            rows, content = rows.view(torch.complex128), content.view(torch.complex128)
        rows.index_copy_(1, pages, content)

    def take(self, pages: Tensor) -> Tensor:
        """What `put` filled: a copy, [num_layers, len(pages) page_elements]."""
        rows = self.pages.view(len(self.pages), self.num_pages, -1)
        return rows.index_select(1, pages).flatten(1)

    def clean(self, pages: Tensor) -> None:
        """Zeros pages before a sequence that does not fill them at once gets them: what another
        left there is masked, but a NaN would survive the mask."""
        self.pages.index_fill_(1, pages, 0)

    def write_index(self, pages: Ints, positions: Ints) -> Ints:
        """For `write_pages`: the page of each token and its position in its sequence, both
        [num_tokens] -> [num_tokens 2 num_kv_heads]."""
        first = pages * (2 * self.heads * PAGE_SIZE) + positions % PAGE_SIZE
        return (first[:, None] + self._first_rows).reshape(-1)

    def gather_index(self, table: Ints) -> Ints:
        """For `gather_pages`: table [num_rows, pages_a_row] -> [2 num_rows heads pages_a_row]."""
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
    """Pages for `config.max_total_tokens`, or as many as `free` bytes of memory well allow.

    From free memory the pool takes a share that leaves the machine usable; more, up to half, only
    where one sequence of full length needs it. Raises `OperatorError` where the memory is missing.
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
            "free some, or choose a smaller model",
        )
    return num_pages if device.type == "cuda" else min(num_pages, MOST_SEQUENCES * one)


def pages_for(num_tokens: int) -> int:
    """Pages that hold this many tokens."""
    return -(-num_tokens // PAGE_SIZE)


def free_bytes(device: torch.device) -> int:
    """Memory that can be taken without harm: the GPU's free memory, or what the kernel calls
    available, within the limit of our control group."""
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0]
    available = os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    meminfo = Path("/proc/meminfo")
    if meminfo.exists():
        fields = dict(line.split(":", 1) for line in meminfo.read_text().splitlines())
        available = int(fields["MemAvailable"].split()[0]) * 1024
    limit, used = Path("/sys/fs/cgroup/memory.max"), Path("/sys/fs/cgroup/memory.current")
    if limit.exists() and used.exists() and (text := limit.read_text().strip()) != "max":
        # Pages of files count as used there, though the kernel gives them up when asked.
        files = _inactive_file_bytes()
        available = min(available, int(text) - int(used.read_text()) + files)
    return max(available, 0)


def _inactive_file_bytes() -> int:
    try:
        lines = Path("/sys/fs/cgroup/memory.stat").read_text().splitlines()
    except OSError:
        return 0
    return next((int(line.split()[1]) for line in lines if line.startswith("inactive_file ")), 0)
