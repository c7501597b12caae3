"""What the machine gives a process, and its limits: memory, descriptors. Knows no message."""
