"""The version of bnfold, for whoever needs no more than that."""

__version__ = "0.1.0"
