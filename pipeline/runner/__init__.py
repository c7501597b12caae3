"""Runs a model's steps: loading, warm-up, launches, adapters, times. `runner.ModelRunner` is the
public API."""

from .. import model  # noqa: F401  # sets OpenMP's environment before torch is loaded
