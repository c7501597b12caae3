"""Text of a terminal: units, ASCII, Markdown, plots. Knows no widget."""
