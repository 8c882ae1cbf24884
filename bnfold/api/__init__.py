"""The functions that fold and verify: fold, inspect, optimize, verify.

Each takes plain arguments and returns a frozen result; the command line is a thin layer over them.
"""
