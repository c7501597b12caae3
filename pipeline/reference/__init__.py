"""The comparison with transformers and peft, which read the same files by themselves."""
