"""Model files: reading them with tensors left on disk, and writing them whole or not at all."""
