"""What operators with several computed inputs, and Pad, make of the maps that stand before them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from bnfold.graph.index import Node
from bnfold.proof.numbers.reals import joined
from bnfold.proof.search.numbers.maps import Map, identity
from bnfold.proof.search.numbers.relation import Relation
from bnfold.proof.search.reading.model_view import View


def shared(
    view: View, node: Node, inputs: Sequence[Relation | None]
) -> tuple[Map, Map] | str | None:
    """P and q of the result; a string for what does not pass; None for any other operator."""
    given = [(slot, r) for slot, r in enumerate(inputs) if r is not None]
    if node.op == "Pad":
        return _padded(view, node, given[0][1]) if [slot for slot, _ in given] == [0] else None
    if node.op in ("Add", "Sub", "Mul", "Div") and node.scope.opset < 7:
        return None  # which broadcast in another way
    computed = len(given) == len([n for n in node.proto.input if n])
    rule = {"Add": _sum, "Sum": _sum, "Sub": _sum, "Mul": _product, "Div": _product,
            "Concat": _concat}.get(node.op)  # fmt: skip
    if rule is None or not computed:
        return None
    sides = []
    for side in ("p", "q"):
        maps = [_on_output(view, node, slot, getattr(r, side)) for slot, r in given]
        if any(a is None for a in maps):
            return "a map along an axis that is broadcast"
        found = rule(view, node, [a for a in maps if a is not None])
        if isinstance(found, str):
            return found
        sides.append(found)
    return sides[0], sides[1]


def _on_output(view: View, node: Node, slot: int, a: Map) -> Map | None:
    """A map on an input as one on the output, which may have more axes in front."""
    if a.axis is None or node.op == "Concat":
        return a
    shape = view.shape(node.scope, node.input(slot))
    out = view.shape(node.scope, node.output)
    if shape is None or out is None:
        return None
    axis = a.axis + len(out) - len(shape)
    return replace(a, axis=axis) if out[axis] == len(a) or len(a) == 1 else None


def _sum(_view: View, node: Node, maps: list[Map]) -> Map | str:
    """(s·x + t₁) + (s·y + t₂) = s·(x + y) + (t₁ + t₂)."""
    first = max(maps, key=len)
    shift = None
    for slot, a in enumerate(maps):
        if None not in (a.axis, first.axis) and a.axis != first.axis:
            return "maps along two axes"
        if not a.scale.near(first.scale):
            return "different scales in what is added"
        own = -a.shift if node.op == "Sub" and slot == 1 else a.shift
        shift = own if shift is None else shift + own
    assert shift is not None
    return Map(first.axis, first.scale, shift)


def _product(_view: View, node: Node, maps: list[Map]) -> Map | str:
    """(s₁·x)·(s₂·y) = s₁s₂·(x·y)."""
    total = identity()
    for slot, a in enumerate(maps):
        if a.shifts:
            return "a shift in what is multiplied"
        if node.op == "Div" and slot == 1:
            if np.any(a.scale.value == 0):
                return "a scale of 0 in a divisor"
            a = replace(a, scale=a.scale.inverse())
        found = total.then(a)
        if found is None:
            return "maps along two axes"
        total = found
    return total


def _concat(view: View, node: Node, maps: list[Map]) -> Map | str:
    """On the axis of the channels the maps stand side by side; on another they must be one."""
    shapes = [view.shape(node.scope, name) for name in node.proto.input]
    if all(a.near(maps[0]) for a in maps) and (maps[0].axis is None or shapes[0] is None):
        return maps[0]
    if any(shape is None for shape in shapes):
        return "values of unknown shape"
    rank = len(shapes[0] or ())
    axis = node.attribute("axis", 1 if node.scope.opset < 4 else 0) % rank
    if all(a.axis in (None, axis) for a in maps):
        sizes = [(shape or ())[axis] for shape in shapes]
        if not all(isinstance(size, int) for size in sizes):
            return "values of unknown shape"
        wide = [a.over(axis, int(size or 0)) for a, size in zip(maps, sizes, strict=True)]
        return Map(axis, joined([a.scale for a in wide]), joined([a.shift for a in wide]))
    if all(a.near(maps[0]) for a in maps):
        return max(maps, key=len)
    return "different maps in what is joined"


def _padded(view: View, node: Node, relation: Relation) -> tuple[Map, Map] | str:
    """Copies of what is there pass every map; zeros pass a scale; channels are never padded."""
    shape = view.shape(node.scope, node.input(0))
    pads = node.numbers("pads") or node.numbers("paddings")
    if pads is None and node.input(1):
        found = view.array(node.scope, node.input(1))
        pads = None if found is None else found.reshape(-1).tolist()
    if shape is None or pads is None or len(pads) != 2 * len(shape) or node.input(3):
        return "padding that is not known"
    axes = {a.axis for a in (relation.p, relation.q) if a.axis is not None}
    if any(pads[axis] or pads[axis + len(shape)] for axis in axes):
        return "padding of the channels"
    if node.attribute("mode", b"constant") != b"constant" or not any(pads):
        return relation.p, relation.q
    value = float(node.attribute("value", 0.0))
    if node.input(2):
        given = view.array(node.scope, node.input(2))
        if given is None:
            return "padding that is not known"
        value = float(np.asarray(given, np.float64).reshape(-1)[0])
    if value != 0 or relation.p.shifts or relation.q.shifts:
        return "a shift where a constant is padded"
    return relation.p, relation.q
