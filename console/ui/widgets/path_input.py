"""`PathInput`: an input that completes paths of this machine; tab inserts, a list shows the choice.

`paths_like` finds the paths; the `:` line uses it too. A pipeline reached over ssh has other files.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from functools import lru_cache
from typing import Any, ClassVar, NamedTuple

from textual import events
from textual.binding import Binding, BindingType
from textual.widgets import Input

from .candidates import Candidate, CandidateList
from .filter_input import LineInput

MOST_PATHS = 500
"""Paths offered for one beginning."""
ADAPTER_FILE = "adapter_config.json"
"""The file that makes a directory a PEFT adapter."""


class PathKind(NamedTuple):
    """What an input completes: directories always, since paths lead through them; files too unless
    `only_directories`, of these suffixes if any are given."""

    only_directories: bool = False
    suffixes: tuple[str, ...] = ()

    def takes(self, entry: os.DirEntry[str]) -> bool:
        """Whether a file may be chosen."""
        if self.only_directories:
            return False
        return not self.suffixes or entry.name.endswith(self.suffixes)


DIRECTORIES = PathKind(only_directories=True)
ANY_FILE = PathKind()


def paths_like(begin: str, kind: PathKind = ANY_FILE) -> list[Candidate]:
    """Paths that start with `begin`, in order, directories with a slash at the end; those that
    differ in case if no other does. Hidden ones only if `begin` asks for them. `~` is kept."""
    head, slash, start = begin.rpartition("/")
    if begin == "~":
        head, slash, start = "~", "/", ""
    directory = os.path.expanduser(head) or ("/" if slash else ".")
    try:
        stamp = os.stat(directory).st_mtime_ns
        entries = _entries(directory, stamp)
    except OSError:
        return []
    near = [entry for entry in entries if entry.name.startswith(start)]
    if not near:
        near = [entry for entry in entries if entry.name.lower().startswith(start.lower())]
    if not start.startswith("."):
        near = [entry for entry in near if not entry.name.startswith(".")]
    return list(_candidates(head + slash, near, kind))


@lru_cache(maxsize=4)
def _entries(directory: str, stamp: int) -> Sequence[os.DirEntry[str]]:
    """The entries of a directory by name; `stamp` is its modification time."""
    with os.scandir(directory) as found:
        return sorted(found, key=lambda entry: entry.name)


def _candidates(
    head: str, entries: Sequence[os.DirEntry[str]], kind: PathKind
) -> Iterator[Candidate]:
    left = MOST_PATHS
    for entry in entries:
        try:
            is_directory = entry.is_dir()
        except OSError:  # a link in a circle
            continue
        if is_directory:
            is_adapter = os.path.exists(os.path.join(entry.path, ADAPTER_FILE))
            yield Candidate(f"{head}{entry.name}/", "adapter" if is_adapter else "")
        elif kind.takes(entry):
            yield Candidate(head + entry.name)
        else:
            continue
        left -= 1
        if not left:
            return


def _shared(words: Sequence[str]) -> str:
    """The longest text that all words start with."""
    first, last = min(words), max(words)
    number = next((at for at, letter in enumerate(first) if last[at] != letter), len(first))
    return first[:number]


class PathInput(LineInput):
    """An input for a path. `tab` or `down` inserts what all completions share, then one after the
    other; with nothing to complete they go to the next field. `candidates` is the list, which the
    form shows below the input."""

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("tab,down", "complete(1)", "Complete", show=False, id="path-complete"),
        Binding("shift+tab,up", "complete(-1)", "Back", show=False, id="path-complete-back"),
    ]
    _stem: str | None = None
    """The text when a cycle through the completions began."""
    _inserted: str | None = None
    """The text that the cycle inserted last."""

    def __init__(
        self,
        value: str = "",
        *,
        kind: PathKind = ANY_FILE,
        takes_many: bool = False,
        placeholder: str = "",
        id: str | None = None,
    ) -> None:
        """With `takes_many`, several paths with spaces between them: the last one is completed."""
        self._kind, self._takes_many = kind, takes_many
        self.candidates = CandidateList()
        super().__init__(value=value, placeholder=placeholder, compact=True, id=id)
        self.cursor_blink = False  # a blinking cursor would cost CPU

    def _split(self, text: str) -> tuple[str, str]:
        """The text before the path that is completed, and that path."""
        if not self._takes_many:
            return "", text
        head, blank, last = text.rpartition(" ")
        return head + blank, last

    def _paths(self, text: str) -> list[Candidate]:
        """Completions of the last path of `text`, without the ones that add nothing."""
        _, path = self._split(text)
        if not path:
            return []
        return [each for each in paths_like(path, self._kind) if each.word != path]

    def watch_value(self, value: str) -> None:
        """Lists the completions of a text that was typed; one that was inserted keeps its list."""
        if value == self._inserted or not self.has_focus:
            return
        self._stem = self._inserted = None
        self.candidates.list_candidates(self._paths(value))

    def on_blur(self, event: events.Blur) -> None:
        self._stem = self._inserted = None
        self.candidates.list_candidates(())

    def action_complete(self, step: int) -> None:
        """Inserts a completion, or moves the focus if there is none."""
        if self._stem is None:
            found = self._paths(self.value)
            if not found:
                move: Any = self.screen.focus_next if step > 0 else self.screen.focus_previous
                move()
                return
            head, path = self._split(self.value)
            shared = _shared([each.word for each in found])
            if len(found) == 1 or (step > 0 and len(shared) > len(path)):
                self.value = head + (found[0].word if len(found) == 1 else shared)
                self.cursor_position = len(self.value)
                return
            self._stem = self.value
            self.candidates.list_candidates(found)
        listed = self.candidates
        begin = listed.chosen if listed.chosen >= 0 else (-1 if step > 0 else 0)
        listed.list_candidates(listed.found, (begin + step) % len(listed.found))
        head, _ = self._split(self._stem)
        self._inserted = head + listed.found[listed.chosen].word  # before the watcher compares it
        self.value = self._inserted
        self.cursor_position = len(self.value)

    def on_input_submitted(self, event: Input.Submitted) -> None:
        self.candidates.list_candidates(())
