"""The kernel: judges a proof, by `laws`, `numbers` and `reading`."""
