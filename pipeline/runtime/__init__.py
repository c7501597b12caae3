"""Parts that all processes of the ring share: sockets, spans, progress. Knows no request."""
