"""Sums of branches that one convolution makes."""
