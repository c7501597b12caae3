"""Settings, themes, keys, and what the screen remembers."""
