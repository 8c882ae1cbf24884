"""Many models in one call, and the gate that a CI step passes or fails."""
