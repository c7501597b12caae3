"""The serving pipeline: server, router, workers and detokenizer, which meet in messages alone."""
