"""Markdown as lines: each kind of block and of words, in any width."""

from unicodedata import category

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from loraconsole.console.text import markdown
from loraconsole.console.text.lines import length


def said(text: str, width: int = 40) -> list[str]:
    return ["".join(part for part, _ in row.spans).rstrip() for row in markdown.lines(text, width)]


@pytest.mark.parametrize(
    ("text", "lines"),
    [
        ("one\ntwo\n\nthree", ["one", "two", "", "three"]),
        ("# Head\ntext", ["Head", "════", "", "text"]),
        ("## Head", ["Head", "────"]),
        ("### Head", ["Head"]),
        ("* one\n* two\n  1. in\n     it", ["• one", "• two", "  1. in", "     it"]),
        ("9. nine\n\n10. ten", ["9.  nine", "", "10. ten"]),
        ("> said\n> * so", ["▌ said", "▌", "▌ • so"]),
        ("a\n\n---\n\nb", ["a", "", "─" * 40, "", "b"]),
        ("```\nx = 1\n\n  y\n```", ["▏ x = 1", "▏", "▏   y"]),
        ("    indented", ["▏ indented"]),
        ("|a|long|\n|-:|-|\n|1|x|\n|22|y|", [" a  long", "──  ────", " 1  x", "22  y"]),
        ("[name](http://x/y) <http://z>", ["name (http://x/y) http://z"]),
        ("![a picture](p.png)", ["a picture (p.png)"]),
        ("<b>as it is</b>", ["<b>as it is</b>"]),
        ("<div>\nblock\n</div>", ["<div>", "block", "</div>"]),
        ("```python\nnever closed", ["▏ never closed"]),
        ("a \x1b[2J\x1b]0;title\x07b\x9b1mc", ["a b1mc"]),
        ("", []),
    ],
)
def test_a_text_is_set_as_it_was_meant(text: str, lines: list[str]) -> None:
    assert said(text) == lines


def test_words_have_the_inks_of_what_they_are() -> None:
    text = "so **strong *both*** and *weak* `code` ~~gone~~"
    (row,) = markdown.lines(text, 80)
    assert dict(row.spans) == {
        **{"so ": "text", "strong both": "title", " and ": "text", "weak": "emphasis"},
        **{" ": "text", "code": "info", "gone": "dim"},
    }


def test_code_is_coloured_where_its_language_is_known() -> None:
    code = "def f(x):  # why\n    return 'a' + 1\n"
    inks = {
        part: ink for row in markdown.lines(f"```python\n{code}```", 80) for part, ink in row[0]
    }
    assert (inks["def"], inks["f"], inks["# why"], inks["'a'"]) == ("key", "info", "dim", "good")
    for language in ("", "no-such-language"):
        rows = markdown.lines(f"```{language}\n{code}```", 80)
        assert [row.spans[1:] for row in rows] == [((line, "text"),) for line in code.splitlines()]


def test_what_is_long_is_cut_and_nothing_of_it_lost() -> None:
    assert said("```\n" + "0123456789" * 3 + "\n```", 14) == [
        *("▏ 012345678901", "▏ 234567890123", "▏ 456789")
    ]
    words = said("* " + "word " * 9, 14)
    assert words == ["• word word", *["  word word"] * 3, "  word"]
    table = said("|name|what it is|\n|-|-|\n|a|" + "word " * 6 + "|", 16)
    assert table[2:] == ["a     word word", *["      word word"] * 2]


PIECES = (
    *(
        "# ",
        "* ",
        "1. ",
        "> ",
        "```",
        "```sql\n",
        "|",
        "|-|-|\n",
        "**",
        "*",
        "`",
        "~~",
        "[",
        "](x)",
    ),
    *(
        "\n",
        "\n\n",
        "    ",
        " ",
        "word",
        "日本語",
        "👩‍👩‍👧",
        "<b>",
        "&amp;",
        "&#27;[2J",
        "\\",
        "---\n",
        "\x1b[2J",
        "\t",
    ),
)


@settings(deadline=None)
@given(st.lists(st.sampled_from(PIECES), max_size=60), st.integers(1, 90))
def test_any_text_fits_and_commands_nothing(pieces: list[str], width: int) -> None:
    for row in markdown.lines("".join(pieces), width):
        assert not any(category(letter) == "Cc" for text, _ in row.spans for letter in text), row
        assert width < 40 or length(row.spans) <= width, row
