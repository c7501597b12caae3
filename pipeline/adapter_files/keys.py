"""`AdapterKeys`: maps the tensors of an adapter's file to A and B of the model's modules.

PEFT writes base_model.model.model.layers.0.self_attn.q_proj.lora_A.weight. Trainers and wrappers
leave other spellings of that name. A spelling is accepted if it is one to one, with a note of the
difference. Knows names; no shape and no tensor.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

from ..runtime.guarded_file import AdapterError, brief

PEFT = "base_model.model."

WRAPPERS = {
    "_orig_mod": "torch.compile",
    "module": "DDP",
    "_fsdp_wrapped_module": "FSDP",
    "_fpw_module": "FSDP",
    "_checkpoint_wrapped_module": "activation checkpointing",
    "_forward_module": "Lightning",
    "_module": "Opacus",
}
"""Name parts that wrappers add to every name below them, to the wrapper."""

TEXT_MODELS = {"model", "language_model", "text_model"}
"""Name parts on the path to the text model in a multimodal one."""

PEFT_SPELLING = re.compile(r"(?P<module>.+)\.lora_(?P<side>[AB])(?:\.(?P<name>[^.]+))?\.weight")
MLX_SPELLING = re.compile(r"(?P<module>.+)\.lora_(?P<side>[ab])(?P<name>)")
MODULE = re.compile(r"(?P<head>.*?)\b(?P<tail>layers\.\d+\..+)")


def peft_key(module: str, side: str) -> str:
    """PEFT's key for A or B of a module of this model."""
    return f"{PEFT}{module}.lora_{side}.weight"


@dataclass
class AdapterKeys:
    """The keys of A and B in a file."""

    in_file: dict[str, str] = field(default_factory=dict)
    """Keys in the file, by PEFT's key."""
    modules: dict[str, str] = field(default_factory=dict)
    """Modules of this model, by key in the file."""
    head: str = "model."
    """The prefix before `layers.` in the trained model, whose names the config's patterns match."""
    spelling: re.Pattern[str] = PEFT_SPELLING
    notes: tuple[str, ...] = ()
    """How the keys differ from PEFT's spelling."""
    _before: str = f"{PEFT}model."
    _after: str = ""

    def trained(self, module: str) -> str:
        """The name that a module of this model had in the model that was trained."""
        return self.head + module.removeprefix("model.")

    def key(self, module: str, side: str) -> str:
        """The key of a tensor; if the file lacks it, in the spelling of its other keys."""
        if key := self.in_file.get(peft_key(module, side)):
            return key
        end = f"{side}{self._after}.weight" if self.spelling is PEFT_SPELLING else side.lower()
        return f"{self._before}{module.removeprefix('model.')}.lora_{end}"


def read_keys(
    keys: Iterable[str], path: Path, spelling: re.Pattern[str] = PEFT_SPELLING
) -> AdapterKeys:
    """Reads the keys of A and B in a text model's layers; others are left out. Raises
    `AdapterError` if two keys mean one tensor, or if two adapters or models are mixed."""
    found = AdapterKeys(spelling=spelling)
    notes: dict[str, None] = {}
    spellings: dict[tuple[str, str, str], str] = {}
    """One key for each (outer name, trained model's prefix, adapter's name)."""
    for key in keys:
        parts = [part for part in key.split(".") if part not in WRAPPERS]
        match = spelling.fullmatch(".".join(parts))
        if match is None:
            continue
        outer, peft, inner = match["module"].rpartition(PEFT)
        place = MODULE.fullmatch(inner)
        if place is None or not set(place["head"].split(".")) <= {*TEXT_MODELS, ""}:
            continue
        head, name = place["head"], match["name"] or ""
        module, side = "model." + place["tail"], match["side"].upper()
        tensor = peft_key(module, side)
        if other := found.in_file.get(tensor):
            raise AdapterError(
                f"{path} has one tensor under two keys, {brief(other)} and {brief(key)}: remove "
                "one of them"
            )
        if not found.in_file:
            found._before = key[: key.index("layers.")]
            found._after = f".{name}" if name else ""
            found.head = _trained_head(key, head)
        found.in_file[tensor], found.modules[key] = key, module
        spellings.setdefault((outer, head, name), key)
        for part in key.split("."):
            if part in WRAPPERS:
                notes[f"without {part}. ({WRAPPERS[part]})"] = None
        if outer:
            notes[f"without {brief(outer)}"] = None
        if not peft and spelling is PEFT_SPELLING:
            notes[f"as if {PEFT} stood before them"] = None
        if head != "model.":
            notes[f"with model. for {head}" if head else "with model. before layers."] = None
        if name:
            notes[f"without the adapter's name {brief(name)}"] = None
    if len(spellings) > 1:
        one, other = [*spellings.values()][:2]
        raise AdapterError(
            f"{path} mixes keys of two adapters or two models, {brief(one)} and {brief(other)}: "
            "save each adapter alone, with PEFT's save_pretrained(path, selected_adapters=[name])"
        )
    found.notes = tuple(notes)
    return found


def _trained_head(key: str, head: str) -> str:
    """The prefix before `layers.` when the adapter was trained: with `_orig_mod.` if the model was
    compiled before PEFT wrapped it."""
    _, peft, inner = key.partition(PEFT)
    return f"_orig_mod.{head}" if peft and inner.startswith("_orig_mod.") else head
