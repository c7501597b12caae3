"""`NoticeApp`: an app whose notifications are one line at a time, instead of Textual's toasts.

A toast covers what is below it: the buttons of a dialog, a quarter of 80x24. The footer shows the
newest notice (`console/ui/panels/footer.py`), and this app keeps them.
"""

from __future__ import annotations

from textual.notifications import Notification, Notifications, SeverityLevel

from ...terminal.terminal_app import TerminalApp


class NoticeApp(TerminalApp):
    """An app that keeps its notices for the footer to draw."""

    def __init__(self, ansi_color: bool | None = None) -> None:
        super().__init__(ansi_color=ansi_color)
        self._notices = Notifications()

    @property
    def notices(self) -> list[Notification]:
        """The notices that have not expired, the newest last."""
        return list(self._notices)

    def notify(
        self,
        message: str,
        *,
        title: str = "",
        severity: SeverityLevel = "information",
        timeout: float | None = None,
        markup: bool = False,
    ) -> None:
        """Shows a notice for `timeout` seconds, by default 5. Markup is shown as it is written."""
        seconds = self.NOTIFICATION_TIMEOUT if timeout is None else timeout
        self.show_notice(Notification(message, title, severity, seconds, markup=markup))

    def show_notice(self, notice: Notification) -> None:
        """Shows a notice, in place of an older one with the same text."""
        for known in self.notices:
            if known.message == notice.message:
                del self._notices[known]
        self._notices.add(notice)
        self.draw_notices()

    def withdraw_notice(self, notice: Notification) -> None:
        """Removes a notice whose cause is gone."""
        del self._notices[notice]
        self.draw_notices()

    def clear_notifications(self) -> None:
        """Removes all notices."""
        self._notices.clear()
        self.draw_notices()

    def draw_notices(self) -> None:
        """Draws the newest notice, or none."""
        raise NotImplementedError
