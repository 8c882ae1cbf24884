"""What the kernel reads of a model: its constants, shapes and types, by the specification alone."""
