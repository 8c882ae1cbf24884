"""Comparing two models by running them, and what the comparison has found."""
