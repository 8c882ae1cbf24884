"""Writes corpus.md: what happens to every BatchNormalization of a folder of models.

python docs/corpus_table.py FOLDER
"""

from __future__ import annotations

import sys
from collections import Counter
from pathlib import Path

import onnx

import bnfold
from bnfold.folding.rules.affine_nodes import affine_map
from bnfold.folding.weights.draft import Draft
from bnfold.graph.index import BATCH_NORM, Index
from bnfold.options import Options

HEAD = """\
# What folds on a corpus of models

136 real and exported models (PyTorch's two exporters with and without their optimisers, fp16, QDQ,
training mode, tf2onnx, Paddle, Caffe2, vendors' test models). For each that holds a
BatchNormalization or a per-channel constant Mul, Add, Sub or Div: how many before and after, the
nodes, and why the rest stayed. Written by `docs/corpus_table.py`; the tests optimise and compare
every one of them.

"""

NOTES = """
## Why the rest stays

- **computed-at-run-time**: the weights or parameters are graph inputs (`noparams`, the backend
  tests).
- **rounding** in `qdq`: a BatchNormalization between the DequantizeLinear and the QuantizeLinear of
  activations, which a quantiser has put there because nobody had folded it before. Fold first.
- **overridable-input**: every weight is an input that callers may replace (`initasinput`, the face
  detector). `--freeze-initializers` folds all of them.
- **training-mode**: exported in training mode.
- **another-reader** in `preact`: a BatchNormalization behind a residual sum that is read again, and
  in front of another non-linear operator, with scales of both signs.
- In `convmixer` and MesoNet the shifts of some stay as Adds, as they stand behind a non-linear
  operator and in front of a padded convolution. `--allow-max` folds those of MesoNet altogether.
- **not-transparent** in `fp16conv-blockbn`: float32 BatchNormalizations behind Casts of values that
  are not float16 to begin with, which round.
- **no-linear-producer**: models of one BatchNormalization, with nothing to fold into.
"""


def affine_count(model: onnx.ModelProto) -> int:
    """How many constant Muls, Adds, Subs and Divs apply a map along one axis."""
    index = Index(model)
    draft = Draft(index, Options())
    nodes = [node for node in index.nodes() if node.op != BATCH_NORM]
    return sum(isinstance(affine_map(draft, node), tuple) for node in nodes)


def row(path: Path, name: str) -> str:
    """One line of the table, or nothing for a model that holds nothing to fold."""
    model = onnx.load(path)
    result = bnfold.fold(model)
    affine = affine_count(model)
    if not result.before.batch_norms and not affine:
        return ""
    kept = Counter(
        v.refusal.reason.code for v in result.kept if v.op == BATCH_NORM and v.refusal is not None
    )
    reasons = ", ".join(f"{code} {count}" for code, count in sorted(kept.items()))
    after = affine_count(result.model)
    return (
        f"| {name} | {result.before.batch_norms} → {result.after.batch_norms} | {affine} → {after} "
        f"| {result.before.nodes} → {result.after.nodes} | {reasons} |\n"
    )


def table(folder: Path) -> str:
    """The whole page."""
    paths = sorted(folder.rglob("*.onnx"))
    rows = [row(path, str(path.relative_to(folder))) for path in paths]
    lines = "".join(rows)
    head = (
        "| model | BatchNormalizations | affine constants | nodes | kept |\n|---|---|---|---|---|\n"
    )
    return HEAD + head + lines + NOTES


if __name__ == "__main__":
    Path(__file__).with_name("corpus.md").write_text(table(Path(sys.argv[1])))
