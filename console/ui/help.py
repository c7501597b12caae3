"""`HelpDialog`: every key that works in the focused pane, from the active bindings, and the terms
of the screen. The terms are those of docs/glossary.md, for those who have not read it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from textual.binding import ActiveBinding

from ..settings.keymap import GENERAL, declared_by, group_of
from ..state.board import Board
from ..text import units
from ..text.lines import TextLine, TextSpan, line
from .widgets.dialogs import LiveDialog

TERM_CELLS = 18
"""Width of the column of keys, and of terms."""
_TTFT = ("TTFT", "time to first token: from a request's arrival to its first token")
_KV = ("KV pages", "device memory of keys and values; a page holds 16 tokens of a request")
_SYNC = ("sync wait", "time the host waits until the device has finished a step")
_TAX = ("LoRA tax", "extra device time of decode steps with adapters; median ± spread of n")
_NOISE = ("— noise", "no value: it is not above its spread")
_LIMIT = ("limit", "what kept waiting requests out of a step: pages, rows, prompt, adapter")
TERMS: Mapping[str, Sequence[tuple[str, str]]] = {
    "Overview": (
        _TAX,
        _NOISE,
        _LIMIT,
        _TTFT,
        ("inter-token", "time between two tokens of one answer"),
        _SYNC,
        _KV,
        ("prefill, decode", "computing a prompt; computing one new token per request"),
    ),
    "Batch": (
        ("prefill, decode", "computing a prompt; computing one new token per request"),
        ("waiting", "not admitted yet; the row shows the reason"),
        ("policy", "the rule that orders waiting requests; :scheduler changes it"),
        _KV,
    ),
    "Latency": (
        ("host, launch", "work of Python before a step; starting the device's kernels"),
        ("busy, copy", "the device computes; results are copied to the host"),
        _SYNC,
        _TAX,
        _NOISE,
        _LIMIT,
        ("reads", "bytes per second that decode steps read, and their share of peak copy"),
        ("peak copy", "copy bandwidth of the device's memory, measured at the start"),
        ("sync point", "a place where the host waits for the device"),
        ("span", "a named stretch of time in one process; r records them"),
    ),
    "Adapters": (
        ("device, tokens", "its share of the steps' device time and of all tokens, last minute"),
        ("TTFT, wait", "arrival to first token and to admission, last 10 minutes"),
        ("KV, LoRA pages", "pages of its running requests and of its weights"),
        ("rank", "inner dimension of the adapter's matrices: its size and cost"),
        ("on device", "its weights are in pages of the pool, so a step can use them"),
        ("pool hit", "a request that found its adapter on the device"),
        ("pinned", "never evicted from the pool"),
        ("merged", "added to a copy of the weights, for steps of this adapter alone"),
        ("generation", "version under one name; a reload makes the next"),
    ),
    "Prompt": (
        ("temp", "temperature: 0 always takes the likeliest token"),
        ("top p, top k", "choose among the likeliest tokens: by their sum, by their number"),
        ("seed", "the same seed and prompt give the same answer"),
        ("logprobs", "logarithm of each token's probability"),
    ),
    "Bench": (
        ("TTFT, ITL", "time to first token; inter-token latency"),
        ("open loop", "requests arrive at a rate, however long answers take"),
        ("concurrency", "requests in flight; each answer starts the next"),
        ("burstiness", "variation of arrivals; 1 is Poisson"),
        ("SLO", "limit of the TTFT, for SLO attainment"),
        ("baseline", "the run that others are compared with"),
    ),
    "Logs": (("follow", "the newest line stays in view"),),
    "Processes": (
        ("heartbeat", "message of a process, twice a second: its state, CPU, memory"),
        ("loop lag", "how late the process's event loop runs"),
        ("refused", "messages of a wrong type, dropped at the socket"),
        ("drain", "running requests finish, new ones get 503"),
        ("BACKOFF", "the pause before a process that died is started again"),
    ),
    "Alerts": (
        ("firing", "true now"),
        ("acknowledged", "true now, but seen: it no longer counts in the tab"),
        ("cleared", "no longer true; kept for four hours"),
    ),
    "Settings": (("origin", "where a value comes from: default, file and line, flag"),),
}
"""By screen: the terms that it shows, each in one line."""


class HelpDialog(LiveDialog):
    """Keys of the focused pane first, then the screen's terms, then general keys; keys of a user's
    key map are marked."""

    def __init__(
        self, screen: str, bindings: Mapping[str, ActiveBinding], remapped: Mapping[str, str]
    ) -> None:
        """`screen` is the name of the screen whose terms are explained."""
        super().__init__("keys and terms", self._lines)
        self._screen_name = screen
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
        own: list[TextLine] = []
        general: list[TextLine] = []
        for name, actions in groups.items():
            part = general if name in GENERAL else own
            part.append(line((name, "title")))
            part += [self._row(keys, active, width) for keys, active in actions.values()]
            part.append(TextLine())
        found = [*own, *self._terms(width), *general]
        found.append(line((":", "key"), (" runs any of these by the name on the right", "dim")))
        return found

    def _terms(self, width: int) -> list[TextLine]:
        """The screen's terms, one in a line or, in a narrow dialog, in several."""
        found = [line(("terms on this screen", "title"))]
        for term, meaning in TERMS.get(self._screen_name, ()):
            head = units.fit(term, TERM_CELLS, right=True)
            for part in units.wrap(meaning, max(8, width - TERM_CELLS - 2)):
                found.append(line((head, "key"), ("  ", "text"), (part, "dim")))
                head = " " * TERM_CELLS
        return [*found, TextLine()]

    def _row(self, keys: Sequence[str], active: ActiveBinding, width: int) -> TextLine:
        binding = active.binding
        shown = units.fit(" ".join(dict.fromkeys(keys)), TERM_CELLS, right=True)
        what = active.tooltip if active.tooltip != binding.description else ""
        mark: TextSpan = ("* ", "good") if binding.id in self._remapped else ("  ", "text")
        text = f"{binding.description}  {what}" if what else binding.description
        id = binding.id or ""
        room = max(8, width - TERM_CELLS - 2 - len(id) - 1)
        fitted = units.fit(text, room)
        title, rest = fitted[: len(binding.description)], fitted[len(binding.description) :]
        return line((shown, "key"), mark, (title, "text"), (rest, "dim"), (f" {id}", "dim"))
