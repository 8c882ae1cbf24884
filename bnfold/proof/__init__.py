"""The independent checker: what of two files can be told without running them.

Knows nothing of the engine that folds: it imports neither its rules nor its plans or edits, and
takes nothing on trust from what they wrote. What both share is how a file is read.
"""
