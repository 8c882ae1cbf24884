"""What quantisers want of a model."""
