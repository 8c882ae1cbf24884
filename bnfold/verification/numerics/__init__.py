"""How far two results may be apart: rounding, noise, float64 and the scale of errors."""
