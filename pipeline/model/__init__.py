"""What computes: weights, layers, sampling. Knows no sockets and no requests."""
