"""What a supervisor hands over to the next one: lock, listening socket, record of the ring. Knows
no message loop."""
