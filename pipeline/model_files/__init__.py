"""Reads a model's files: config.json, tables of tensors, sampling defaults. Holds no tensor."""
