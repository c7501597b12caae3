"""Reads a GGUF file's description of its model: keys, tensors, tokenizer. Holds no weights."""
