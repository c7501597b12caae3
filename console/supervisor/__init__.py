"""The process that starts the others and restarts them, its lock, logs and history."""
