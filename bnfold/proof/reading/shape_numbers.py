"""Integers that shapes are made of, followed as far as they are made of dimensions."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np
from onnx import TensorProto

from bnfold.graph.index import Node
from bnfold.proof.reading.dimensions import LONGEST, Dim, UnknownShapeError, unknown
from bnfold.proof.values.moved_values import between, shape_bounds

if TYPE_CHECKING:
    from bnfold.proof.reading.shapes import Shapes


def computed(shapes: Shapes, node: Node) -> tuple[Dim, ...] | None:
    """The integers that a node makes, some of them dimensions; None where nothing is known."""
    try:
        found = numbers_made(shapes, node)
    except (UnknownShapeError, ValueError, IndexError, TypeError, RecursionError):
        return None
    return found if found is None or len(found) <= LONGEST else None


def numbers_made(shapes: Shapes, node: Node) -> tuple[Dim, ...] | None:
    """Likewise. Raises UnknownShapeError."""
    if node.call_attribute():
        return None
    if node.op == "Shape":
        shape = shapes.input(node, 0)
        start, end = shape_bounds(node, len(shape))
        return shape[start:end]
    if node.op == "Size":
        size = math.prod(d for d in shapes.input(node, 0) if isinstance(d, int))
        return (size,) if all(isinstance(d, int) for d in shapes.input(node, 0)) else None
    if node.op in ("Identity", "Unsqueeze", "Squeeze", "Reshape"):
        return shapes.numbers(node, 0)  # of vectors, which stay in order
    if node.op == "Cast":
        kept = node.attribute("to", 0) in (TensorProto.INT64, TensorProto.INT32)
        found = shapes.numbers(node, 0) if kept else None
        return found if found is None or all(map(_fits, found)) else None
    if node.op == "Concat":
        if any(len(shapes.input(node, slot)) != 1 for slot in range(len(node.proto.input))):
            return None
        parts = [shapes.numbers(node, slot) for slot in range(len(node.proto.input))]
        if any(part is None for part in parts):
            return None
        return tuple(v for part in parts for v in part or ())
    if node.op == "Gather":
        vector, indices = shapes.numbers(node, 0), shapes.ints(node, 1)
        rank = shapes.input(node, 0)
        if vector is None or indices is None or len(rank) != 1:
            return None
        return tuple(vector[i] for i in indices if -len(vector) <= i < len(vector) or unknown())
    if node.op == "Slice" and node.scope.opset >= 10:
        vector = shapes.numbers(node, 0)
        starts, ends = shapes.ints(node, 1), shapes.ints(node, 2)
        steps = shapes.ints(node, 4) if node.input(4) else [1]
        if vector is None or starts is None or ends is None or steps is None:
            return None
        if len(shapes.input(node, 0)) != 1 or len(starts) != 1 or len(ends) != 1:
            return None
        return tuple(vector[i] for i in between(starts[0], ends[0], steps[0], len(vector)))
    if node.op in ("Add", "Sub", "Mul") and node.scope.opset >= 7:
        if max(len(shapes.input(node, slot)) for slot in (0, 1)) > 1:
            return None
        one, two = shapes.ints(node, 0), shapes.ints(node, 1)
        if one is None or two is None:
            return None
        function = {"Add": np.add, "Sub": np.subtract, "Mul": np.multiply}[node.op]
        result = tuple(int(v) for v in function(one, two).reshape(-1))
        return result if all(map(_fits, result)) else None
    return None


def _fits(number: Dim) -> bool:
    """Whether it is one in 32 bits as well; what is as large is no size of a tensor."""
    return not isinstance(number, int) or -(2**31) <= number < 2**31
