"""Moments of the tensors of folded models."""
