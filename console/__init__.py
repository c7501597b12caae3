"""The terminal side: command line, supervisor and the Textual app. Never imports torch."""
