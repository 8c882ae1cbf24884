"""Linear operators, whose weights take maps."""
