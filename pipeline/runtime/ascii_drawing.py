"""`ASCII_DRAWING`: borders, bars, marks and signs, each with its ASCII replacement."""

from __future__ import annotations

ASCII_DRAWING: dict[str, str] = {
    **dict.fromkeys("╭╮╰╯┌┐└┘├┤┬┴┼╪", "+"),
    **dict.fromkeys("─╌┄", "-"),
    **dict.fromkeys("━╸═", "="),
    **dict.fromkeys("│┃┆▏▎▍▌", "|"),
    **dict.fromkeys("█▇▉▊▋▆▅", "#"),
    **{"▓": "%", "▒": "=", "░": ".", "▚": "@", "▄": "_", "▃": "_", "▂": "_", "▁": "_", "≡": "="},
    **{"●": "*", "○": "o", "◌": "~", "◐": "c", "◆": "*", "◇": "o", "✓": "v", "✗": "x"},
    **{"▸": ">", "▶": ">", "◀": "<", "▲": "!", "△": "!", "▴": "^", "▾": "v", "▼": "v"},
    **{"…": "~", "⋯": "~", "·": ".", "—": "-", "\N{EN DASH}": "-", "⚑": "P", "⊕": "M", "Δ": "d"},
    **{
        "≥": ">",
        "≤": "<",
        "\N{MULTIPLICATION SIGN}": "x",
        "µ": "u",
        "→": ">",
        "←": "<",
        "↑": "^",
        "↓": "v",
        "±": "~",
        "‖": "=",
        "»": ">",
        "■": "#",
    },
    # Textual's: the palette's sign, bullets, the edges of tall borders.
    **{"🔎": "> ", "•": "*", "▪": "-", "⭑": "*", "‣": ">", "\N{HYPHEN BULLET}": "-"},
    **{"▔": "-", "▐": "#", "√": "V"},
    **{"↵": "<", "⇥": ">", "␣": "_", "\N{NO-BREAK SPACE}": " "},
}
