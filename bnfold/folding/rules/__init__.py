"""What each operator can do with a map that comes to it: take it, pass it on, or refuse it."""
