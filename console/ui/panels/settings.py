"""Settings: their values and origins, and the mistakes in the file."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import ClassVar

from textual.app import ComposeResult

from ...settings.settings import Chosen, SettingRow, settings_path
from ...settings.toml_document import Problem, tidy
from ...state.board import Board
from ...text import units
from ...text.lines import TextLine, TextSpan, line
from ..widgets.column import Column, text_column
from ..widgets.pane import Pane, Panel, field
from ..widgets.table import TablePane


def _shown(value: object) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    return f"{value:g}" if isinstance(value, float) else f"{value}"


def _value(row: SettingRow, board: Board, width: int) -> Sequence[TextSpan]:
    is_default = row.origin == "default"
    return ((_shown(row.value), "text" if is_default else "key"),)


class SettingTable(TablePane[SettingRow]):
    """One row per setting; values other than the default are highlighted, with their origin."""

    TITLE = "settings"
    columns = (
        text_column("setting", 24, lambda r: r.name),
        Column("value", 12, _value, value=lambda r: _shown(r.value)),
        text_column(
            "from", 16, lambda r: r.origin, lambda r: "dim" if r.origin == "default" else "info"
        ),
        text_column("what it is", 20, lambda r: r.help, "dim", sorts=False, grows=True),
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
        return action != "open" and super().check_action(action, parameters)


class FilePane(Pane):
    """The selected setting, the settings file, and its mistakes."""

    TITLE = "file"

    def __init__(self, table: SettingTable) -> None:
        super().__init__(id="file")
        self._table = table

    def caption(self, board: Board) -> Sequence[TextSpan]:
        number = len(self.painted_app.complaints)
        if number:
            return ((f"{number} mistake{'s' if number > 1 else ''}", "warn"),)
        return (("nothing wrong", "good"),)

    def draw_lines(self, board: Board, width: int, height: int) -> Sequence[TextLine]:
        found = [line(("△ ", "warn"), (text, "warn")) for text in self._problems(width)]
        path = settings_path()
        if row := self._table.selected:
            table, _, key = row.name.rpartition(".")
            where = f" under [{table}]" if table else ""
            found += [
                line(*field(key), (row.help, "text")),
                line(*field("allowed"), (row.allowed, "text")),
                line(*field("as shipped"), (_shown(row.default) or units.NOTHING, "text")),
                line(*field("written"), (f"{key} = …{where}", "text")),
            ]
        found.append(line(*field("path"), (tidy(str(path)), "text")))
        hint = "changes apply as soon as the file is saved"
        if not path.exists():
            hint = "no such file yet; loraconsole settings --example prints one"
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
