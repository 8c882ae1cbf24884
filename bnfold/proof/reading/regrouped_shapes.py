"""Shapes of what keeps all elements and groups them in another way."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

from bnfold.graph.index import Node
from bnfold.proof.reading.dimensions import LONGEST, Dim, Shape, UnknownShapeError
from bnfold.proof.values.operands import axis_of

if TYPE_CHECKING:
    from bnfold.proof.reading.shapes import Shapes


def reshape(shapes: Shapes, node: Node) -> Sequence[Shape | None]:
    """What is asked for; 0 keeps a dimension, −1 is what is left."""
    shape = shapes.of(node.scope, node.input(0))
    target: Sequence[Dim] | None
    target = node.numbers("shape") if node.scope.opset < 5 else shapes.numbers(node, 1)
    if target is None:
        rank = shapes.input(node, 1)
        if len(rank) == 1 and isinstance(rank[0], int) and rank[0] <= LONGEST:
            return [tuple(shapes.new() for _ in range(rank[0]))]
        raise UnknownShapeError
    zeros = bool(node.attribute("allowzero", 0))
    if shape is None:  # of what is asked for in numbers, and of the rank, that is no matter
        asked = [dim == -1 or (dim == 0 and not zeros) for dim in target]
        return [tuple(shapes.new() if a else d for a, d in zip(asked, target, strict=True))]
    result = [shape[k] if dim == 0 and not zeros else dim for k, dim in enumerate(target)]
    # a symbol may turn out to be 0 or −1 only where the file computes it to be
    if -1 in result:
        place = result.index(-1)
        result[place] = _remaining(shapes, shape, result[:place] + result[place + 1 :])
    if any(isinstance(dim, int) and dim < 0 for dim in result):
        raise UnknownShapeError
    return [tuple(result)]


def _remaining(shapes: Shapes, shape: Shape, others: list[Dim]) -> Dim:
    """The size that is left when those of the other dimensions are taken out."""
    rest = list(shape)
    for dim in [dim for dim in others if isinstance(dim, str)]:
        if dim not in rest:
            return shapes.new()
        rest.remove(dim)
    numbers = math.prod(dim for dim in rest if isinstance(dim, int))
    divisor = math.prod(dim for dim in others if isinstance(dim, int))
    symbols = [dim for dim in rest if isinstance(dim, str)]
    if not symbols and divisor and numbers % divisor == 0:
        return numbers // divisor
    if len(symbols) == 1 and numbers == divisor and divisor:
        return symbols[0]
    return shapes.new()


def flatten(shapes: Shapes, node: Node) -> Sequence[Shape | None]:
    """Two dimensions, of what is in front of an axis and behind."""
    shape, axis = shapes.of(node.scope, node.input(0)), node.attribute("axis", 1)
    if shape is None:
        return [(shapes.new(), shapes.new())]
    if not -len(shape) <= axis <= len(shape):
        raise UnknownShapeError
    axis = axis + len(shape) if axis < 0 else axis
    sides = []
    for dims in (shape[:axis], shape[axis:]):
        rest = [dim for dim in dims if dim != 1]
        known = all(isinstance(dim, int) for dim in rest)
        size = math.prod(dim for dim in rest if isinstance(dim, int))
        sides.append(size if known else rest[0] if len(rest) == 1 else shapes.new())
    return [tuple(sides)]


def transpose(shapes: Shapes, node: Node) -> Sequence[Shape | None]:
    """The dimensions in another order."""
    shape = shapes.input(node, 0)
    perm = node.numbers("perm")
    order = range(len(shape))[::-1] if perm is None else perm
    if sorted(order) != list(range(len(shape))):
        raise UnknownShapeError
    return [tuple(shape[k] for k in order)]


def squeeze(shapes: Shapes, node: Node) -> Sequence[Shape | None]:
    """Without axes of size 1."""
    shape = shapes.input(node, 0)
    axes = shapes.axes(node, 1, 13, len(shape))
    if axes == []:  # the specification squeezes none, and runtimes all
        raise UnknownShapeError
    if axes is None:
        if not all(isinstance(dim, int) for dim in shape):
            raise UnknownShapeError
        axes = [k for k, dim in enumerate(shape) if dim == 1]
    return [tuple(dim for k, dim in enumerate(shape) if k not in axes)]


def unsqueeze(shapes: Shapes, node: Node) -> Sequence[Shape | None]:
    """With more axes of size 1."""
    shape = shapes.input(node, 0)
    named = node.numbers("axes") if node.scope.opset < 13 else shapes.ints(node, 1)
    if named is None:
        raise UnknownShapeError
    rank = len(shape) + len(named)
    axes = {axis_of(axis, rank) for axis in named}
    if len(axes) != len(named):
        raise UnknownShapeError
    sizes = iter(shape)
    return [tuple(1 if k in axes else next(sizes) for k in range(rank))]


def constant_of_shape(shapes: Shapes, node: Node) -> Sequence[Shape | None]:
    """What is asked for."""
    return [shapes.numbers(node, 0)]
