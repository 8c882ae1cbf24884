"""What holds a value beside the data: a Max, and a Pad."""

from __future__ import annotations

import numpy as np

from bnfold.proof.laws.absorbing import (
    Pair,
    Taken,
    UnprovenError,
    WrongError,
    require_constant,
    require_same_growth,
)
from bnfold.proof.laws.passing import pad_value
from bnfold.proof.laws.sites import (
    constant_slot,
)
from bnfold.proof.numbers.maps import Relation
from bnfold.proof.reading.window_shapes import pad_widths


def maximum(pair: Pair, relation: Relation) -> tuple[Taken, Relation]:
    """max(x, 0) as max(u(x), u(0)), which is u(max(x, 0)) where u keeps the order."""
    other = pair.other
    u = relation.folded_of_original()
    slot = constant_slot(pair.folded, other)
    if u is None or slot is None or not u.keeps_order:
        raise WrongError(f"a {other.op} cannot stand for it")
    stored = pair.folded.value_at(other, slot)
    shape = pair.shape(0)
    if stored is None or shape is None or other.scope.opset < 8:
        raise UnprovenError("values of unknown shape")
    require_same_growth(shape, (), stored.shape)
    kind = pair.original.element_type(pair.node.scope, pair.node.input(0))
    if kind != pair.folded.element_type(other.scope, other.input(slot)):
        raise WrongError("a constant of another type")
    taken = Taken()
    zero = np.zeros((), stored.dtype)
    tally = taken.tally(other.input(slot), slot)
    require_constant(stored, zero, u.axis, u.scale, u.shift, len(shape), tally, pair.loose)
    return taken, Relation(u.identity(u.functions), u)


def padding(pair: Pair, relation: Relation) -> tuple[Taken, Relation] | None:
    """u(Pad(x, c)) = Pad(u(x), u(c)); None where the value that is padded stays."""
    node, other = pair.node, pair.other
    values = [pad_value(m, n) for m, n in ((pair.original, node), (pair.folded, other))]
    if node.scope.opset < 11 or values[0] is None or values[1] is None:
        return None
    if node.attribute("mode", b"constant") != b"constant" or not node.input(2) + other.input(2):
        return None
    u = relation.folded_of_original()
    rank = pair.rank(0)
    widths = pad_widths(pair.original.shapes, node, rank)
    if u is None or widths is None or (u.axis is not None and any(widths[u.axis])):
        return None
    stored = pair.folded.value_at(other, 2) if other.input(2) else None
    kind = pair.before(2) if node.input(2) else None
    if stored is None or (kind is not None and kind.dtype != stored.dtype):
        return None
    taken = Taken()
    tally = taken.tally(other.input(2), 2)
    base = np.asarray(values[0]).astype(stored.dtype)
    axis = 0 if len(u) > 1 else None
    require_constant(stored.reshape(()), base, axis, u.scale, u.shift, 1, tally, pair.loose)
    return taken, Relation(u.identity(u.functions), u)
