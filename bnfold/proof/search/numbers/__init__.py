"""How a value of one file relates to that of another."""
