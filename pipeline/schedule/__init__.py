"""The scheduler, its policies and the page pool. Pure: no torch, no sockets."""
