"""The process that starts the others and keeps them alive, and its records."""
