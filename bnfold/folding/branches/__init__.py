"""Parallel branches that are linear in one value and become a single convolution."""
