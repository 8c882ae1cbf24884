"""Proposes steps for two files of which nobody has a proof. Nothing here is believed."""
