"""Looks for what was folded between two files: trusted by nobody, the kernel judges."""
