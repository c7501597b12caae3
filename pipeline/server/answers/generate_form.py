"""`GenerateForm` and `SglangForm`: what answers of the native routes have beside their text."""

from __future__ import annotations

import msgspec


class GenerateForm(msgspec.Struct, frozen=True, kw_only=True):
    """Of S-LoRA's, TGI's and LoRAX's routes. Part of an answer's `Format`, so that a restarted
    server still has it."""

    is_slora: bool = True
    in_list: bool = False
    """The whole answer is the one element of a list, as `POST /` has it."""
    with_details: bool = False
    prefix: str = ""
    """The prompt, if the answer repeats it."""
    seed: int | None = None
    """None for a greedy answer."""
    num_top: int = 0
    """TGI's top_n_tokens: most probable tokens that are listed for each."""
    num_alternatives: int = 0
    """LoRAX's return_k_alternatives: the same, in each token."""


class SglangForm(msgspec.Struct, frozen=True, kw_only=True):
    """Of SGLang's /generate. Part of an answer's `Format`."""

    is_batch: bool = False
    """The answer is a list, also of one."""
    ids: tuple[str, ...] = ()
    """An id for each choice; those that the client gave, or the server's."""
    with_logprobs: tuple[bool, ...] = ()
    """Of each choice."""
    num_top: tuple[int, ...] = ()
    """Of each choice, the most probable tokens that are listed for each."""
    with_text: bool = False
    """Each logprob has the text of its token."""
    starts: tuple[int | None, ...] = ()
    """Of each choice, the first token of the prompt whose logprob is listed; None: none are."""
