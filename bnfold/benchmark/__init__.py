"""How fast two models run and load, side by side."""
