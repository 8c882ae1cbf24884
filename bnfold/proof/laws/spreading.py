"""Channels that lie on several axes, between a Reshape that cuts them up and one that joins them.

There a map is known, but not as one along an axis. Only Reshape and Transpose are followed; what
else reads such a value reads something of which nothing is known.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from bnfold.graph.index import Node
from bnfold.proof.laws.moving import as_many
from bnfold.proof.numbers.maps import Map, Relation
from bnfold.proof.numbers.words import Ids
from bnfold.proof.reading.dimensions import Shape
from bnfold.proof.reading.model import Model

SPREADING = ("Reshape", "Transpose")


@dataclass(frozen=True)
class Spread:
    """The axes in a row that hold the channels, and which channel is where on them."""

    axes: tuple[int, ...]
    order: Ids

    @classmethod
    def of(cls, relation: Relation) -> Spread | None:
        """All channels in their order along the axis of a relation; None where it has none."""
        widest = max((relation.p, relation.q), key=len)
        one = relation.p.axis if relation.q.axis is None else relation.q.axis
        if one is None or relation.p.axis not in (None, one):
            return None
        return cls((one,), np.arange(len(widest)))

    @property
    def is_whole(self) -> bool:
        """Whether they are along one axis."""
        return len(self.axes) == 1

    def applied(self, relation: Relation) -> Relation:
        """The relation of what has its channels in this order, along one axis."""
        return Relation(*(self._applied(a) for a in (relation.p, relation.q)))

    def _applied(self, a: Map) -> Map:
        return a if a.axis is None else Map(
            a.functions, self.axes[0], a.ids[self.order] if len(a) > 1 else a.ids
        )  # fmt: skip


def moved(model: Model, node: Node, spread: Spread) -> Spread | None:
    """Where the channels are behind a Reshape or Transpose; None where that cannot be said."""
    shape, out = model.shapes.of(node.scope, node.input(0)), model.shapes.output(node)
    if shape is None or out is None or spread.axes[-1] >= len(shape):
        return None
    if spread.is_whole and shape[spread.axes[0]] != spread.order.size:
        return None
    return _transposed(node, spread) if node.op == "Transpose" else _reshaped(spread, shape, out)


def _transposed(node: Node, spread: Spread) -> Spread | None:
    perm = node.numbers("perm")
    if perm is None or sorted(perm) != list(range(len(perm))) or spread.axes[-1] >= len(perm):
        return None
    places = [perm.index(axis) for axis in spread.axes]
    turned = sorted(range(len(places)), key=places.__getitem__)
    return Spread(tuple(places[k] for k in turned), spread.order.transpose(turned))


def _reshaped(spread: Spread, shape: Shape, out: Shape) -> Spread | None:
    """Elements keep their order: axes in a row, with as many elements in front and behind."""
    first, last = spread.axes[0], spread.axes[-1]
    if spread.axes != tuple(range(first, last + 1)):
        return None
    for start in range(len(out)):
        if not as_many(shape[:first], out[:start]):
            continue
        for end in range(start + 1, len(out) + 1):
            dims = [dim for dim in out[start:end] if isinstance(dim, int)]
            fits = len(dims) == end - start and math.prod(dims) == spread.order.size
            if fits and 1 not in dims and as_many(shape[last + 1 :], out[end:]):
                return Spread(tuple(range(start, end)), spread.order.reshape(dims))
    return None
