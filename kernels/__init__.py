"""Tensors in, tensors out. Imports nothing of ours."""
