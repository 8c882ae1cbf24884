"""The engine: which maps can be folded, where they go, and the edits that put them there."""
