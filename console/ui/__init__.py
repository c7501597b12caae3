"""The Textual app: screens, tables, dialogs, actions."""
