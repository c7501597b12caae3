"""Markdown as lines of a pane.

markdown-it-py parses it (CommonMark, tables, strikethrough), Pygments colours code in styles of the
theme. Textual's own widget makes a widget per paragraph: 60 ms and 4 MiB for two answers.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from functools import cache
from typing import Any

from markdown_it import MarkdownIt
from markdown_it.tree import SyntaxTreeNode
from rich.cells import chop_cells

from . import units
from .lines import TextLine, TextSpan, broken, crop, length, line, rows_of, wrapped

LEAST = 8
"""Fewest cells of the innermost of nested blocks."""
_TOKENS = {
    **dict.fromkeys(("Keyword", "Operator.Word", "Name.Tag"), "key"),
    **dict.fromkeys(("Name.Function", "Name.Class", "Name.Builtin", "Name.Decorator"), "info"),
    **dict.fromkeys(("Literal.String", "Generic.Inserted"), "good"),
    **dict.fromkeys(("Name.Attribute", "Literal.Number"), "warn"),
    **{"Comment": "dim", "Generic.Deleted": "bad", "Error": "bad"},
}
"""The style of a Pygments token type and of its subtypes."""


def lines(text: str, width: int) -> list[TextLine]:
    """`text` as lines of at most `width` cells. Every line break is kept: models break lines of
    verses and lists without the two spaces that Markdown requires."""
    clean = "\n".join(units.clean(row) for row in text.split("\n"))
    tree = SyntaxTreeNode(_parser().parse(clean))
    return list(_blocks(tree.children, max(LEAST, width)))


@cache
def _parser() -> MarkdownIt:
    return MarkdownIt("commonmark").enable(["table", "strikethrough"])


def _blocks(nodes: Sequence[SyntaxTreeNode], width: int) -> Iterator[TextLine]:
    """Blocks below each other, with a blank line between them except in a tight list."""
    for index, node in enumerate(nodes):
        if index and not (node.hidden or nodes[index - 1].hidden):
            yield TextLine()
        yield from _block(node, width)


def _block(node: SyntaxTreeNode, width: int) -> Iterator[TextLine]:
    match node.type:
        case "heading":
            found = wrapped(_inline(node, "title"), width)
            yield from found
            if node.tag in ("h1", "h2"):
                rule = max((length(row.spans) for row in found), default=0)
                yield line((("═" if node.tag == "h1" else "─") * rule, "dim"))
        case "paragraph":
            yield from wrapped(_inline(node, "text"), width)
        case "fence" | "code_block":
            yield from _code(node, width)
        case "bullet_list" | "ordered_list":
            yield from _list(node, width)
        case "blockquote":
            bar = ("▌ ", "dim")
            yield from _beside(_blocks(node.children, max(LEAST, width - 2)), bar, bar)
        case "hr":
            yield line(("─" * width, "dim"))
        case "table":
            yield from _table(node, width)
        case _:  # HTML: as it was written
            yield from wrapped([(node.content.rstrip(), "dim")], width)


def _list(node: SyntaxTreeNode, width: int) -> Iterator[TextLine]:
    first = int(node.attrs.get("start", 1)) if node.type == "ordered_list" else None
    last = len(node.children) - 1
    margin = 2 if first is None else len(f"{first + last}. ")
    is_tight = all(child.hidden for item in node.children for child in item.children[:1])
    for index, item in enumerate(node.children):
        mark = "•" if first is None else f"{first + index}."
        inside = (
            _blocks(item.children, max(LEAST, width - margin)) if item.children else [TextLine()]
        )
        yield from _beside(inside, (f"{mark:<{margin}}", "key"), (" " * margin, "text"))
        if index < last and not is_tight:
            yield TextLine()


def _beside(inside: Iterable[TextLine], first: TextSpan, rest: TextSpan) -> Iterator[TextLine]:
    """Prefixes the first line with `first` and the others with `rest`."""
    for index, row in enumerate(inside):
        yield TextLine((rest if index else first, *row.spans))


def _code(node: SyntaxTreeNode, width: int) -> Iterator[TextLine]:
    """Code lines unchanged, broken at the pane's edge."""
    language = node.info.split(maxsplit=1)[0] if node.info.strip() else ""
    for row in rows_of(_coloured(node.content.rstrip("\n"), language)):
        parts = chop_cells("".join(text for text, _ in row), max(LEAST, width - 2)) or [""]
        yield from _beside(broken(row, parts), ("▏ ", "dim"), ("▏ ", "dim"))


def _coloured(code: str, language: str) -> Iterator[TextSpan]:
    """Code in the styles of its tokens; in one style if Pygments does not know the language."""
    from pygments.lexers import get_lexer_by_name  # 2 MiB: only if there is code
    from pygments.util import ClassNotFound

    try:
        lexer = get_lexer_by_name(language, stripnl=False, ensurenl=False)
    except ClassNotFound:
        yield (code, "text")
        return
    for kind, text in lexer.get_tokens(code):
        yield (text, _style(kind))


@cache
def _style(kind: Any) -> str:
    names = list(kind)
    while names:
        if style := _TOKENS.get(".".join(names)):
            return style
        names.pop()
    return "text"


def _table(node: SyntaxTreeNode, width: int) -> Iterator[TextLine]:
    """A table with columns as wide as their text; the widest shrink if there is no room."""
    rows = [row.children for part in node.children for row in part.children]
    cells = [
        [tuple(_inline(cell, "text" if y else "title")) for cell in row]
        for y, row in enumerate(rows)
    ]
    widths = [max(map(length, column), default=0) for column in zip(*cells, strict=True)]
    room = max(1, width - 2 * (len(widths) - 1))
    while sum(widths) > room and max(widths) > 1:
        widths[widths.index(max(widths))] -= 1
    for y, row in enumerate(cells):
        columns = [wrapped(cell, size) for cell, size in zip(row, widths, strict=True)]
        for at in range(max(map(len, columns))):
            spans: list[TextSpan] = []
            for size, column, cell in zip(widths, columns, rows[y], strict=True):
                shown = column[at].spans if at < len(column) else ()
                blank = (" " * (size - length(shown)), "text")
                is_right = "right" in str(cell.attrs.get("style", ""))
                spans += [*((blank, *shown) if is_right else (*shown, blank)), ("  ", "text")]
            yield TextLine(crop(spans[:-1], width))
        if not y:
            yield line(("  ".join("─" * size for size in widths), "dim"))


def _inline(node: SyntaxTreeNode, style: str) -> Iterator[TextSpan]:
    """The spans within a block; a line break is a "\\n"."""
    for child in node.children:
        match child.type:
            case "inline":
                yield from _inline(child, style)
            case "text" | "html_inline":
                yield (child.content, style)
            case "softbreak" | "hardbreak":
                yield ("\n", style)
            case "code_inline":
                yield (child.content, "info")
            case "strong":
                yield from _inline(child, "title")
            case "em":
                yield from _inline(child, "emphasis" if style == "text" else style)
            case "s":
                yield from _inline(child, "dim")
            case "link":
                inside = list(_inline(child, "info"))
                yield from inside
                target = str(child.attrs.get("href", ""))
                if target != "".join(text for text, _ in inside):
                    yield (f" ({target})", "dim")
            case "image":
                yield (f"{child.content} ({child.attrs.get('src', '')})", "dim")
            case _:
                yield (child.content, style)
