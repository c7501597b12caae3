"""`KeyQueue`: holds keys that are typed before the form or line they are meant for is open.

On a slow link several keys arrive at once: `l` and the path for the form that it opens. A key is
finished when the messages it caused have reached the app and the screen that it opened has its
focus. Later keys wait for that. Knows no panel and no dialog.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Awaitable, Callable
from typing import TypeAlias

from textual import events
from textual.app import App
from textual.message import Message
from textual.timer import Timer
from textual.widget import Widget

CLOSE_SECONDS = 0.5
"""A key within this time after another one may be meant for the screen that the other opens."""
LONGEST_SECONDS = 3.0
"""Longest wait of a key; then the focused widget gets it: a dead keyboard would be worse."""

Typed: TypeAlias = events.Key | events.Paste


class KeyFollower(Message):
    """Bubbles from the focused widget up to the app, like the messages that a key caused, and so
    arrives after them."""

    def __init__(self, begin: Widget, rounds: int) -> None:
        super().__init__()
        self.begin, self.rounds = begin, rounds


class KeyQueue:
    """`holds` queues a key or lets it pass; `arrived` releases the queued keys."""

    def __init__(self, app: App[str], obey: Callable[[Typed], Awaitable[None]]) -> None:
        self._app, self._obey = app, obey
        self._waiting: deque[Typed] = deque()
        self._given: Widget | None = None
        """The widget that got the last key; None if that key was text input."""
        self._given_at = 0.0
        self._is_following = False
        self._limit: Timer | None = None

    def holds(self, event: Typed) -> bool:
        """Whether the key was queued, to be handled later."""
        if not self._is_following:
            begin, age_s = self._given, time.monotonic() - self._given_at
            if begin is None or age_s > CLOSE_SECONDS or not self._follow(begin, 1):
                self._note(event)
                return False
            self._limit = self._app.set_timer(LONGEST_SECONDS, self._release)
        self._waiting.append(event)
        return True

    async def arrived(self, follower: KeyFollower) -> None:
        """Sends the follower once more, or handles the queued keys. One round is for the action of
        the key's binding, one for the message that it sends, and one for each widget that has got
        the focus since."""
        if not self._is_following:
            return  # timed out: the keys were released
        focus = self._app.focused or self._app.screen
        if follower.rounds and self._follow(follower.begin, follower.rounds - 1):
            return
        if focus is follower.begin or not self._follow(focus, 0):
            await self._release()

    def _follow(self, begin: Widget, rounds: int) -> bool:
        """Sends a follower; False if the widget is being removed."""
        self._is_following = begin.post_message(KeyFollower(begin, rounds))
        return self._is_following

    def _note(self, event: Typed) -> None:
        focused = self._app.focused
        is_text = isinstance(event, events.Paste) or (
            focused is not None and focused.check_consume_key(event.key, event.character)
        )
        self._given = None if is_text else focused or self._app.screen
        self._given_at = time.monotonic()

    async def _release(self) -> None:
        """Handles the queued keys; each may make the ones after it wait again."""
        self._is_following = False
        if self._limit is not None:
            self._limit.stop()
        self._given = None  # so that the first of them does not wait again
        waiting, self._waiting = self._waiting, deque()
        for event in waiting:
            await self._obey(event)
