"""The kernel: all that one has to trust."""
