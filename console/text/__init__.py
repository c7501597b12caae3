"""Text for a terminal: units, ASCII, Markdown, plots. Knows no widget."""
