"""Where maps stand in a model, in chains, and what becomes of one chain."""
