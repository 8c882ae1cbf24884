"""A model as the proof sees it: its nodes, its affine nodes, its linear operators."""
