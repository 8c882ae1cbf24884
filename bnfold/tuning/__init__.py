"""Before and after training: freeze, assign, stats and recalibrate."""
