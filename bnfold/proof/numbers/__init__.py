"""Exact numbers, and whether a constant is the nearest one to its formula."""
