"""The command line: commands by theme, each one library call long."""
