"""Ranks and types of computed values, from ONNX's own shape inference, run when first asked.

What a file says of its intermediate values (value_info) is not believed: a stale entry would move
the channel axis. Local functions are left out of the inference, because a few hundred bytes of
nested functions can keep it busy for ever; what they return is unknown.
"""

from __future__ import annotations

import math

import onnx
from onnx import GraphProto, ModelProto, TensorProto, TypeProto

from bnfold.graph import Scope, bodies

_LARGE = 1024  # elements; no shape operand has as many


class Inferred:
    """What shape inference knows of a model's values, by scope and name."""

    def __init__(self, model: ModelProto) -> None:
        self._model = model
        self._inferred: list[dict[str, TypeProto.Tensor]] | None = None

    def rank(self, scope: Scope, name: str) -> int | None:
        """The number of axes of `name`, read in `scope`; None where it cannot be inferred."""
        found = self._type(scope, name)
        return len(found.shape.dim) if found is not None and found.HasField("shape") else None

    def element_type(self, scope: Scope, name: str) -> int | None:
        """The ONNX element type of `name`, read in `scope`; None where it cannot be inferred."""
        found = self._type(scope, name)
        return found.elem_type if found is not None and found.elem_type else None

    def _type(self, scope: Scope, name: str) -> TypeProto.Tensor | None:
        if self._inferred is None:
            self._inferred = _infer(self._model)
        owner = scope.owner(name)
        if owner is None or owner.number >= len(self._inferred):
            return None
        return self._inferred[owner.number].get(name)


def _infer(model: ModelProto) -> list[dict[str, TypeProto.Tensor]]:
    skeleton = ModelProto()
    skeleton.CopyFrom(model)
    del skeleton.functions[:]
    _strip(skeleton.graph)
    try:
        skeleton = onnx.shape_inference.infer_shapes(skeleton, data_prop=True)
    except Exception:  # an inference that gives up leaves everything unknown, which is refused
        return []
    found: list[dict[str, TypeProto.Tensor]] = []
    _collect(skeleton.graph, found)
    return found


def _strip(graph: GraphProto) -> None:
    del graph.value_info[:]
    for tensor in graph.initializer:
        _empty(tensor)
    for node in graph.node:
        for attribute in node.attribute:
            if attribute.HasField("t"):
                _empty(attribute.t)
        for _, body in bodies(node):
            _strip(body)


def _empty(tensor: TensorProto) -> None:
    if math.prod(tensor.dims) > _LARGE:
        tensor.ClearField("raw_data")


def _collect(graph: GraphProto, found: list[dict[str, TypeProto.Tensor]]) -> None:
    """Append the types of `graph` and of its bodies, in the order in which an Index has them."""
    values = (*graph.input, *graph.value_info, *graph.output)
    found.append({value.name: value.type.tensor_type for value in values})
    for node in graph.node:
        for _, body in bodies(node):
            _collect(body, found)
