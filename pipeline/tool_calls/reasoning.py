"""How models mark their reasoning, which comes before the answer proper."""

from __future__ import annotations

import functools
from collections.abc import Mapping

import msgspec

from .text_source import Steps, TextSource


class ReasoningFormat(msgspec.Struct, frozen=True):
    """The marks around the reasoning."""

    opening: str
    closing: str
    is_always_open: bool = False
    """Whether answers begin inside it even if the prompt does not end with the opening mark."""

    def is_open_after(self, prompt: str) -> bool:
        """Whether the answer to this rendered prompt begins inside the reasoning."""
        return self.is_always_open or prompt.rstrip().endswith(self.opening)

    def read(self, source: TextSource, is_open: bool) -> Steps[None]:
        """Yields the reasoning at the beginning of an answer, if there is any."""
        if not is_open:
            source.start_record()
            yield from source.read_space()
        marked = yield from source.accept(self.opening)
        if not is_open:
            space = source.end_record()
            if not marked:
                source.put_back(space)
                return
        yield from source.read_space()
        if (yield from source.read_before((self.closing,), "reasoning")):
            source.take(len(self.closing))
            yield from source.read_space()


REASONING_FORMATS: Mapping[str, ReasoningFormat] = {
    "think": ReasoningFormat("<think>", "</think>"),
    "deepseek_r1": ReasoningFormat("<think>", "</think>", is_always_open=True),
    "mistral": ReasoningFormat("[THINK]", "[/THINK]"),
}
"""By the name that `--reasoning-format` takes."""


@functools.lru_cache(maxsize=64)
def find_reasoning_format(template: str) -> str:
    """The name of the format that a chat template's text shows; "" if it shows none."""
    for name in ("think", "mistral"):
        if REASONING_FORMATS[name].closing in template:
            return name
    return ""
