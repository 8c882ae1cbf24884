"""Looking behind an activation that has flattened its output.

On inputs that mean nothing to a model, a Sigmoid or Softmax at its end may give numbers that are
all rounding. What it reads still tells whether two models are equal.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from onnx import ModelProto

from bnfold import model_file
from bnfold.child.rounding import expose

SATURATING = frozenset({"Clip", "HardSigmoid", "LogSoftmax", "Sigmoid", "Softmax", "Tanh"})


def behind(request: dict[str, Any], folder: Path) -> dict[str, Any] | None:
    """The request with both models also giving what their saturating last operators read.

    None where there is no such operator, or the two do not read values of one name.
    """
    files = [model_file.read(Path(request[which])) for which in ("original", "folded")]
    found = [_flattened(file.model) for file in files]
    common = {name: source for name, source in found[0].items() if found[1].get(name) == source}
    if not common or any(file.is_large for file in files):
        return None
    changed: dict[str, Any] = {**request, "flattened": sorted(common)}
    for which, file in zip(("original", "folded"), files, strict=True):
        expose(file.model, set(common.values()))
        changed[which] = str(model_file.write(file, folder / f"{which}_behind.onnx"))
    return changed


def _flattened(model: ModelProto) -> dict[str, str]:
    """Outputs of the graph that a saturating operator makes, and what it makes them from."""
    makers = {name: node for node in model.graph.node for name in node.output}
    found = {}
    for value in model.graph.output:
        node = makers.get(value.name)
        if node is not None and node.op_type in SATURATING and node.input[0] in makers:
            found[value.name] = node.input[0]
    return found
