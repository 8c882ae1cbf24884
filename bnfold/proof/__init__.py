"""Whether a fold is right, from the two files.

`kernel`, with `laws`, `numbers` and `reading`, checks a proof and is all that one has to trust;
begin at `kernel/judge.py`. It knows nothing of the engine that folds, nor of ONNX's own inference
and reference implementation. `search` looks for an explanation where there is no proof.
"""
