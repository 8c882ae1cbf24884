"""Which maps a constant of the folded model has taken."""
