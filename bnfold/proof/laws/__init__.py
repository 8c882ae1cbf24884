"""What each operator does with maps: laws, with exactly the conditions under which they hold."""
