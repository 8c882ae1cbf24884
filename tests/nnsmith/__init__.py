"""Graphs that NNSmith drew, stored without weights; `generate.py` says how."""
