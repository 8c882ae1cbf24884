"""What becomes of constants: maps as numbers, the edits that apply them, their limits."""
