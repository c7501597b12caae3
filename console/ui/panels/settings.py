"""Settings: their values and origins, and the mistakes in the file."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import Horizontal
from textual.suggester import SuggestFromList
from textual.widget import Widget
from textual.widgets import Input, Static

from ....pipeline.errors import OperatorError
from ...settings.settings import Chosen, SettingRow, settings_path, theme_names
from ...settings.toml_document import Problem, tidy
from ...state.board import Board
from ...text import units
from ...text.lines import TextLine, TextSpan, line
from ..widgets.column import Column, text_column
from ..widgets.filter_input import LineInput
from ..widgets.pane import Pane, Panel, field, wrapped_field
from ..widgets.table import TablePane


def _shown(value: object) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    return f"{value:g}" if isinstance(value, float) else f"{value}"


def _value(row: SettingRow, board: Board, width: int) -> Sequence[TextSpan]:
    is_default = row.origin == "default"
    return ((_shown(row.value), "text" if is_default else "key"),)


class SettingTable(TablePane[SettingRow]):
    """One row per setting; values other than the default are highlighted, with their origin. Enter
    edits the value of a row in the file; of a switch or an enumeration it takes the next one."""

    TITLE = "settings"
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("enter", "edit", "Edit", id="setting-edit", tooltip="change the value in the file"),
        Binding(
            "backspace",
            "default",
            "Default",
            id="setting-default",
            tooltip="remove it from the file",
        ),
    ]
    columns = (
        text_column("setting", 24, lambda r: r.name),
        Column("value", 12, _value, value=lambda r: _shown(r.value)),
        text_column(
            "origin", 16, lambda r: r.origin, lambda r: "dim" if r.origin == "default" else "info"
        ),
        text_column("description", 20, lambda r: r.help, "dim", sorts=False, grows=True),
    )

    @property
    def chosen(self) -> Chosen:
        return self.painted_app.chosen

    def rows(self, board: Board) -> Sequence[SettingRow]:
        return self.chosen.table

    def row_key(self, row: SettingRow) -> str:
        return row.name

    def filter_text(self, row: SettingRow, board: Board) -> str:
        return f"{row.name} {_shown(row.value)} {row.origin} {row.help}"

    def extracts(self, row: SettingRow) -> Mapping[str, str]:
        return {"value": _shown(row.value)}

    def check_action(self, action: str, parameters: tuple[object, ...]) -> bool | None:
        """Disables `open`: the pane below shows the selected setting."""
        return action not in ("open", "mark", "mark_all") and super().check_action(
            action, parameters
        )

    async def action_edit(self) -> None:
        """Writes the next value of few; for others opens a field over the value."""
        from ...settings.setting_file import choices_of

        row = self.selected
        if row is None:
            return
        if choices := choices_of(row.name):
            self.write(row, choices[(choices.index(row.value) + 1) % len(choices)])
            return
        panel = next(node for node in self.ancestors if isinstance(node, Panel))
        edited = SettingLine(self, row)
        await panel.mount(edited)
        self.screen.set_focus(edited.given)  # at once: the next key is meant for it

    def action_default(self) -> None:
        if (row := self.selected) is not None:
            self.write(row, None)

    def write(self, row: SettingRow, value: Any) -> str:
        """Writes a value into the settings file, None for the default, and applies it. Returns why
        that failed, "" if it did not."""
        from ...settings.setting_file import write_setting

        app = self.painted_app
        try:
            path = write_setting(row.name, value)
        except OperatorError as error:
            self.notify(error.hint, title=error.what, severity="error", markup=False)
            return str(error)
        app.reload_settings()
        self.paint()
        self.post_message(self.Moved())
        origin = app.chosen.origins.get(row.name, "default")
        if value is not None and not origin.startswith(path.name):
            self.notify(f"{origin} overrides it in this console", title=f"{row.name} saved")
        return ""

    def value_place(self) -> tuple[int, int, int]:
        """Where the value of the selected row is: cells and rows from the table's upper left, and
        the cells up to its right edge."""
        left = 2
        for column, width in self._drawn_columns:
            if column.title == "value":
                break
            left += width + 1
        return left, 2 + self._index() - self._offset, max(1, self.size.width - left - 2)


class SettingInput(LineInput):
    """The field over a setting's value."""

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("enter", "submit", "Save", id="setting-write"),
        Binding("escape", "leave", "Leave", key_display="esc", id="setting-leave"),
    ]

    def __init__(self, table: SettingTable, row: SettingRow) -> None:
        names = theme_names() if row.name == "theme" else ()
        super().__init__(
            value=_shown(row.value),
            compact=True,
            suggester=SuggestFromList(names) if names else None,
        )
        self.cursor_blink = False  # a blinking cursor would cost CPU
        self._table = table

    def on_blur(self) -> None:
        """Closes the field."""
        if isinstance(self.parent, Widget):
            self.parent.remove()

    def action_leave(self) -> None:
        self._table.focus(scroll_visible=False)


class SettingLine(Horizontal):
    """A setting being edited, over its row: the field, then the values allowed or the refusal."""

    def __init__(self, table: SettingTable, row: SettingRow) -> None:
        super().__init__()
        self._table, self._row = table, row
        self.given = SettingInput(table, row)
        self._beside = Static(row.allowed, markup=False)

    def compose(self) -> ComposeResult:
        yield self.given
        yield self._beside

    def on_mount(self) -> None:
        left, top, width = self._table.value_place()
        self.styles.offset = (left, top)
        self.styles.width = width

    def on_input_changed(self, event: Input.Changed) -> None:
        event.stop()
        self._say("")

    def on_input_submitted(self, event: Input.Submitted) -> None:
        from ...settings.setting_file import parse_setting

        event.stop()
        try:
            why = self._table.write(self._row, parse_setting(self._row.name, event.value))
        except ValueError as error:
            why = str(error)
        self._say(why)
        if not why:
            self.given.action_leave()

    def _say(self, refusal: str) -> None:
        """Shows a refusal beside the field; the values allowed for ""."""
        self._beside.update(refusal or self._row.allowed)
        self.set_class(bool(refusal), "-wrong")


class FilePane(Pane):
    """The selected setting, the settings file, and its mistakes."""

    TITLE = "file"

    def __init__(self, table: SettingTable) -> None:
        super().__init__(id="file")
        self._table = self.belongs_to = table

    def caption(self, board: Board) -> Sequence[TextSpan]:
        number = len(self.painted_app.complaints)
        if number:
            return ((units.count_noun(number, "error"), "warn"),)
        return (("no errors", "good"),)

    def draw_lines(self, board: Board, width: int, height: int) -> Sequence[TextLine]:
        found = [line(("△ ", "warn"), (text, "warn")) for text in self._problems(width)]
        path = settings_path()
        if row := self._table.selected:
            table, _, key = row.name.rpartition(".")
            where = f" under [{table}]" if table else ""
            found += [
                *wrapped_field(key, row.help, "text", width),
                *wrapped_field("allowed", row.allowed, "text", width),
                line(*field("default"), (_shown(row.default) or units.NOTHING, "text")),
                line(*field("written"), (f"{key} = …{where}", "text")),
            ]
        found.append(line(*field("path"), (tidy(str(path)), "text")))
        hint = "changes apply when the file is saved"
        if not path.exists():
            hint = "no such file yet; it is made when a setting is changed"
        found.append(line(*field(""), (hint, "dim")))
        return found

    def _problems(self, width: int) -> list[str]:
        problems: Sequence[Problem] = self.painted_app.complaints
        return [part for p in problems for part in units.wrap(str(p), max(8, width - 2))]


class SettingsPanel(Panel):
    """The table of settings, and the file below."""

    NAME: ClassVar[str] = "Settings"

    def compose(self) -> ComposeResult:
        table = SettingTable()
        yield table
        yield FilePane(table)

    def on_table_pane_moved(self) -> None:
        self.query_one(FilePane).paint()
