"""Settings, themes, keys, and the saved state of the screen."""
