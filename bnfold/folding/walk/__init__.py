"""The table of rules, and the walk of a map by them."""
