"""What became of a run, as a report: its content, its files and what CI services show."""
