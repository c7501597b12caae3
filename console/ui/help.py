"""`HelpDialog`: every key that works in the focused pane, from the active bindings."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from textual.binding import ActiveBinding

from ..settings.keymap import GROUPS, declared_by, group_of
from ..state.board import Board
from ..text import units
from ..text.lines import TextLine, TextSpan, line
from .widgets.dialogs import LiveDialog


class HelpDialog(LiveDialog):
    """Keys of the focused pane first, then general ones; keys of a user's key map are marked."""

    def __init__(self, bindings: Mapping[str, ActiveBinding], remapped: Mapping[str, str]) -> None:
        super().__init__("keys", self._lines)
        self._keys = bindings
        self._remapped = remapped

    def _lines(self, board: Board, width: int) -> Sequence[TextLine]:
        groups: dict[str, dict[str, tuple[list[str], ActiveBinding]]] = {}
        for active in self._keys.values():
            binding = active.binding
            if binding.system or not binding.description:
                continue
            if self.painted_app.refuses(binding.id):
                continue
            owner = declared_by(type(active.node), binding.action)
            group = groups.setdefault(group_of(owner), {})
            keys, _ = group.setdefault(binding.action, ([], active))
            keys.append(self.app.get_key_display(binding))
        found: list[TextLine] = []
        last = list(GROUPS.values())
        for name, actions in sorted(groups.items(), key=lambda g: g[0] in last):
            found.append(line((name, "title")))
            found += [self._row(keys, active, width) for keys, active in actions.values()]
            found.append(TextLine())
        found.append(
            line((":", "key"), (" takes every one of these by its name at the right", "dim"))
        )
        return found

    def _row(self, keys: Sequence[str], active: ActiveBinding, width: int) -> TextLine:
        binding = active.binding
        shown = units.fit(" ".join(dict.fromkeys(keys)), 18, right=True)
        what = active.tooltip if active.tooltip != binding.description else ""
        mark: TextSpan = ("* ", "good") if binding.id in self._remapped else ("  ", "text")
        text = f"{binding.description}  {what}" if what else binding.description
        id = binding.id or ""
        room = max(8, width - 18 - 2 - len(id) - 1)
        fitted = units.fit(text, room)
        title, rest = fitted[: len(binding.description)], fitted[len(binding.description) :]
        return line((shown, "key"), mark, (title, "text"), (rest, "dim"), (f" {id}", "dim"))
