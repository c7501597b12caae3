"""Between the HTTP handlers and the ring."""
