"""What quantisation asks of a folded model."""
