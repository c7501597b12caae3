"""What each process of the ring is made of: sockets, spans, progress. Knows no request."""
