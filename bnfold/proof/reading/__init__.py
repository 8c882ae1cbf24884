"""What the kernel reads of a model: constants, shapes and types, by the specification alone."""
