"""Text and token ids: tokenizers, chat templates, stop tokens and stop strings. Knows no socket."""
