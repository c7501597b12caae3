"""The inputs and dialogs of Prompt."""
