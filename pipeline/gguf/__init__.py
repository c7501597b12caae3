"""What a GGUF file says of its model: keys, tensors, tokenizer. Holds no weight."""
