"""Operators that put several values together: what passes when each of them carries a map."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from bnfold.graph.index import Node
from bnfold.proof.laws.moving import APART, UNKNOWN
from bnfold.proof.numbers.maps import Map
from bnfold.proof.reading.model import Model
from bnfold.proof.values.operands import axis_of

JOINING = ("Add", "Concat", "Div", "Mul", "Sub", "Sum")


def joined(model: Model, node: Node, maps: Sequence[Map]) -> Map | str:
    """The map of the result where each input has been given one; or what does not pass."""
    if all(a.is_identity for a in maps):
        return maps[0].identity(maps[0].functions)
    if node.op == "Concat":
        return _concat(model, node, maps)
    if node.scope.opset < 7 and node.attribute("broadcast", 0):
        return "an operator that broadcasts in another way"
    placed = [_on_output(model, node, slot, a) for slot, a in enumerate(maps)]
    lost = next((a for a in placed if isinstance(a, str)), None)
    if lost is not None:
        return lost
    wide = [a for a in placed if isinstance(a, Map)]
    return _product(node, wide) if node.op in ("Mul", "Div") else _sum(node, wide)


def _on_output(model: Model, node: Node, slot: int, a: Map) -> Map | str:
    """A map on an input as one on the output, which may have more axes in front."""
    if a.axis is None:
        return a
    if a.is_identity:
        return a.identity(a.functions)
    shape = model.shapes.of(node.scope, node.input(slot))
    out = model.shapes.output(node)
    if shape is None or out is None:
        return a.uniform() or UNKNOWN
    axis = a.axis + len(out) - len(shape)
    if out[axis] != shape[a.axis]:
        return a.uniform() or "a map along an axis that is broadcast"
    return Map(a.functions, axis, a.ids)


def _sum(node: Node, maps: Sequence[Map]) -> Map | str:
    """(s·x + t₁) + (s·y + t₂) = s·(x + y) + (t₁ + t₂)."""
    scale = max((a.scale_part() for a in maps), key=len)
    total = scale
    for slot, a in enumerate(maps):
        if not a.scale_part().equals(scale):
            return "different scales in what is added"
        own = a.shift_part()
        if node.op == "Sub" and slot == 1:
            own = own.with_ids(own.functions.negated(own.ids))
        found = total.then(own)
        if found is None:
            return "maps along two axes"
        total = found
    return total


def _product(node: Node, maps: Sequence[Map]) -> Map | str:
    """(s₁·x)·(s₂·y) = s₁s₂·(x·y)."""
    total: Map | None = Map.identity(maps[0].functions)
    for slot, a in enumerate(maps):
        if a.shifts:
            return "a shift in what is multiplied"
        own: Map | None = a.scale_part()
        if node.op == "Div" and slot == 1 and own is not None:
            own = own.inverse()
            if own is None:
                return "a scale of 0 in a divisor"
        total = total.then(own) if total is not None and own is not None else None
        if total is None:
            return "maps along two axes"
    assert total is not None
    return total


def _concat(model: Model, node: Node, maps: Sequence[Map]) -> Map | str:
    """On the axis of the channels the maps stand side by side; on another they must be one."""
    first = max(maps, key=len)
    one = all(a.equals(first) for a in maps)
    if one and first.axis is None:
        return first
    shapes = [model.shapes.of(node.scope, name) for name in node.proto.input]
    rank = next((len(shape) for shape in shapes if shape is not None), None)
    if rank is None:
        return UNKNOWN
    axis = axis_of(node.attribute("axis", 1 if node.scope.opset < 4 else 0), rank)
    if one and first.axis != axis:
        return first
    parts = []
    for a, shape in zip(maps, shapes, strict=True):
        size = shape[axis] if shape is not None else None
        if not isinstance(size, int):
            return UNKNOWN
        wide = a.over(axis, size)
        if wide is None:
            return APART
        parts.append(wide.ids)
    return Map(first.functions, axis, np.concatenate(parts))
