"""Serve many LoRA adapters over one base model, from a terminal console."""

__version__ = "0.1.0"
