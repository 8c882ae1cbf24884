"""The command line: a file for each command, each one library call long."""
