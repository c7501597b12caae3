"""What decides who runs next. Pure: no torch, no sockets."""
