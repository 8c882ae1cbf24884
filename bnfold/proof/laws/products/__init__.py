"""The laws of linear operators, whose weights take maps."""
