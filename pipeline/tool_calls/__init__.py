"""Tool calls and reasoning: how models write them, and how they are read from the text."""
