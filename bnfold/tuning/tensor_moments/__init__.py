"""What folding is about to forget: the moments of the tensors of a folded model."""
