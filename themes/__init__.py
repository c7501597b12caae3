"""Theme files (`*.toml`), data only: drop one in and it is in the palette."""
