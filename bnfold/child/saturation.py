"""Looking behind an activation that has flattened its output.

On inputs that mean nothing to a model, a Sigmoid or Softmax at its end may give numbers that are
all rounding. What it reads still tells whether two models are equal.
"""

from __future__ import annotations

from onnx import ModelProto

SATURATING = frozenset({"Clip", "HardSigmoid", "LogSoftmax", "Sigmoid", "Softmax", "Tanh"})


def behind(original: ModelProto, folded: ModelProto) -> dict[str, str]:
    """The outputs that the last operator of both models flattens, and what it makes them from."""
    theirs = _flattened(folded)
    return {
        name: source for name, source in _flattened(original).items() if theirs.get(name) == source
    }


def _flattened(model: ModelProto) -> dict[str, str]:
    """Outputs of the graph that a saturating operator makes, and what it makes them from."""
    makers = {name: node for node in model.graph.node for name in node.output}
    found = {}
    for value in model.graph.output:
        node = makers.get(value.name)
        if node is not None and node.op_type in SATURATING and node.input[0] in makers:
            found[value.name] = node.input[0]
    return found
