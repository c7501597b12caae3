"""`AdapterKeys`: which tensor of an adapter's file is A or B of which module of the model.

PEFT writes base_model.model.model.layers.0.self_attn.q_proj.lora_A.weight. Trainers and wrappers
leave other spellings of that name. A spelling is read where it is one to one, and what differs is
noted. Knows names; no shape and no tensor.
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
"""Parts that a wrapper adds to every name below it, by wrapper."""

TEXT_MODELS = {"model", "language_model", "text_model"}
"""Parts of the way to the text model in a multimodal one."""

PEFT_SPELLING = re.compile(r"(?P<module>.+)\.lora_(?P<side>[AB])(?:\.(?P<name>[^.]+))?\.weight")
MLX_SPELLING = re.compile(r"(?P<module>.+)\.lora_(?P<side>[ab])(?P<name>)")
MODULE = re.compile(r"(?P<head>.*?)\b(?P<tail>layers\.\d+\..+)")


def peft_key(module: str, side: str) -> str:
    """PEFT's name of A or B of a module of this model."""
    return f"{PEFT}{module}.lora_{side}.weight"


@dataclass
class AdapterKeys:
    """The A and B of a file."""

    in_file: dict[str, str] = field(default_factory=dict)
    """Keys in the file by PEFT's name of the tensor."""
    modules: dict[str, str] = field(default_factory=dict)
    """Modules of this model by keys in the file."""
    head: str = "model."
    """What stood before `layers.` in the model that was trained: the config's patterns are written
    for its names."""
    spelling: re.Pattern[str] = PEFT_SPELLING
    notes: tuple[str, ...] = ()
    """How the keys are read, where they are not spelled as PEFT does."""
    _before: str = f"{PEFT}model."
    _after: str = ""

    def trained(self, module: str) -> str:
        """The name that a module of this model had in the model that was trained."""
        return self.head + module.removeprefix("model.")

    def key(self, module: str, side: str) -> str:
        """The key of a tensor; of one that the file lacks, as its other keys are spelled."""
        if key := self.in_file.get(peft_key(module, side)):
            return key
        end = f"{side}{self._after}.weight" if self.spelling is PEFT_SPELLING else side.lower()
        return f"{self._before}{module.removeprefix('model.')}.lora_{end}"


def read_keys(
    keys: Iterable[str], path: Path, spelling: re.Pattern[str] = PEFT_SPELLING
) -> AdapterKeys:
    """Keys that are no A or B, or of no layer of a text model, are left out. Raises `AdapterError`
    where two keys mean one tensor, or where those of two adapters or two models are mixed."""
    found = AdapterKeys(spelling=spelling)
    notes: dict[str, None] = {}
    spellings: dict[tuple[str, str, str], str] = {}
    """One key of each outer name, trained model and adapter's name."""
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
                f"{path} has one tensor under two keys, {brief(other)} and {brief(key)}: take one "
                "of them out"
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
    """A model that was compiled before PEFT wrapped it had the wrapper's part in its names."""
    _, peft, inner = key.partition(PEFT)
    return f"_orig_mod.{head}" if peft and inner.startswith("_orig_mod.") else head
