"""`KeyQueue`: keys that are typed before the form or line they are meant for is there.

On a slow line several keys arrive in one write: `l` and the path that goes into the form it opens.
A key has done its work when the messages it caused have gone up to the app and the screen that it
opened has its focus. The keys behind it wait for that. Knows no panel and no dialog.
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
"""A key that comes within this time after another one may be meant for what that opens."""
LONGEST_SECONDS = 3.0
"""After this wait a key is obeyed wherever the focus is: a dead keyboard would be worse."""

Typed: TypeAlias = events.Key | events.Paste


class KeyFollower(Message):
    """Goes from the widget that had the focus up to the app, as the messages that a key caused, and
    so arrives behind them."""

    def __init__(self, begin: Widget, rounds: int) -> None:
        super().__init__()
        self.begin, self.rounds = begin, rounds


class KeyQueue:
    """`holds` says whether a key waits; `arrived` releases those that do."""

    def __init__(self, app: App[str], obey: Callable[[Typed], Awaitable[None]]) -> None:
        self._app, self._obey = app, obey
        self._waiting: deque[Typed] = deque()
        self._given: Widget | None = None
        """The widget that got the last key, unless it was a letter in a text."""
        self._given_at = 0.0
        self._is_following = False
        self._limit: Timer | None = None

    def holds(self, event: Typed) -> bool:
        """True if the key is obeyed later."""
        if not self._is_following:
            begin, age_s = self._given, time.monotonic() - self._given_at
            if begin is None or age_s > CLOSE_SECONDS or not self._follow(begin, 1):
                self._note(event)
                return False
            self._limit = self._app.set_timer(LONGEST_SECONDS, self._release)
        self._waiting.append(event)
        return True

    async def arrived(self, follower: KeyFollower) -> None:
        """Sends the follower once more, or obeys the keys that wait. One round is for what the
        key's binding does, one for the message that this sends, and one for each widget that has
        got the focus since."""
        if not self._is_following:
            return  # it took too long
        focus = self._app.focused or self._app.screen
        if follower.rounds and self._follow(follower.begin, follower.rounds - 1):
            return
        if focus is follower.begin or not self._follow(focus, 0):
            await self._release()

    def _follow(self, begin: Widget, rounds: int) -> bool:
        """Sends a follower; False where the widget is being removed."""
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
        """Obeys the keys that wait, up to the next that others have to wait for."""
        self._is_following = False
        if self._limit is not None:
            self._limit.stop()
        self._given = None  # the first of them waits no more
        waiting, self._waiting = self._waiting, deque()
        for event in waiting:
            await self._obey(event)
