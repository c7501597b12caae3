"""`--ascii` replaces every sign that the console draws."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

import loraconsole.console
from loraconsole.console.text.ascii import plain

CONSOLE = Path(loraconsole.console.__file__).parent


def drawn(path: Path) -> Iterator[tuple[int, str]]:
    """The texts of a module, and their lines, without its docstrings."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    docs = {id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Expr)}
    for node in ast.walk(tree):
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in docs:
            yield node.lineno, node.value


@pytest.mark.parametrize("room", ["ui", "text", "state", "client"])
def test_every_sign_in_the_source_has_an_ascii_form(room: str) -> None:
    texts = [
        (path.name, number, text)
        for path in sorted((CONSOLE / room).rglob("*.py"))
        for number, text in drawn(path)
        if not text.isascii()
    ]
    unknown = {
        (sign, name, number)
        for name, number, text in texts
        for sign in text
        if not sign.isascii() and "?" in plain(sign)
    }
    assert not unknown


def test_the_spread_of_a_median_is_no_question() -> None:
    assert plain("LoRA tax +40 % ± 4 %") == "LoRA tax +40 % ~ 4 %"
    assert plain("☃") == "?"
