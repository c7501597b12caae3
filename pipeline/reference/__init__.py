"""Compares our answers with those of transformers and peft, which read the same files."""
