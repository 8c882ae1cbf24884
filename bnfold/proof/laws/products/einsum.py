"""Einsum of a computed value and a constant, in any equation of two terms without repeated letters.

With o = ΣW·x in the original, x = e(x′), and f = ΣW′·x′ in the folded model, f = u(o) for all x′ if

    W′ = u_s·W·e_s along the letters of e and u          0 = u_s·ΣW·e_t + u_t

"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from bnfold.graph.index import Node
from bnfold.proof.laws.absorbing import Pair, Taken, UnprovenError, WrongError, require_zero
from bnfold.proof.laws.products.linear import check_weights
from bnfold.proof.laws.products.weights import Weight, response_of
from bnfold.proof.numbers.maps import Map, Relation
from bnfold.proof.numbers.reals import Real
from bnfold.proof.reading.dimensions import UnknownShapeError
from bnfold.proof.reading.model import Model
from bnfold.proof.reading.shape_rules import equation
from bnfold.proof.values.operands import Array


@dataclass(frozen=True)
class _Equation:
    """The letters of the constant, of the data and of the result; the constant and its slot."""

    slot: int
    weight: str
    data: str
    out: str
    values: Array

    def size(self, letter: str) -> int:
        """Of an axis of the constant; 1 for no letter."""
        return self.values.shape[self.weight.index(letter)] if letter else 1

    @property
    def kept(self) -> str:
        """The letters of the constant that the result has, and varies along."""
        return "".join(c for c in self.weight if c in self.out and self.size(c) > 1)

    @property
    def length(self) -> int:
        """n, the length of the sums."""
        return math.prod(self.size(c) for c in self.weight if c not in self.out)

    def seen(self, inside: str, outside: str) -> Weight:
        """The weight with one letter before it, of the data, and one behind it, of the result."""
        group = inside if inside == outside else ""
        first = [self.weight.index(c) for c in dict.fromkeys((outside, inside)) if c]
        rest = [k for k in range(len(self.weight)) if k not in first]
        values = self.values.transpose([*first, *rest])
        sides = (1, 1) if group else (self.size(outside), self.size(inside))
        taps = values.size // (self.size(group) * math.prod(sides))
        view = (self.size(group), *sides, taps)
        return Weight(values.reshape(view), self.slot, view, 1, 0, 0)


def _equation(model: Model, node: Node) -> _Equation:
    try:
        letters, out = equation(node)
    except UnknownShapeError:
        raise UnprovenError("an Einsum of another kind") from None
    if len(letters) != 2:
        raise UnprovenError("an Einsum of another kind")
    slots = [k for k in (0, 1) if model.is_constant(node.scope, node.input(k))]
    values = model.value_at(node, slots[0]) if len(slots) == 1 else None
    if values is None or not values.size or values.dtype.kind not in "fV":
        raise UnprovenError("an Einsum without a constant")
    found = _Equation(slots[0], letters[slots[0]], letters[1 - slots[0]], out, values)
    shape = model.shapes.of(node.scope, node.input(1 - slots[0]))
    if shape is None or len(shape) != len(found.data) or values.ndim != len(found.weight):
        raise UnprovenError("values of unknown shape")
    for letter, dim in zip(found.data, shape, strict=True):
        if letter in found.weight and dim != found.size(letter):
            raise UnprovenError("sizes that are not known to be the same")
    return found


def take(pair: Pair, e: Map, u: Map) -> Taken:
    """Check the constant of a pair of Einsums."""
    old, new = _equation(pair.original, pair.node), _equation(pair.folded, pair.other)
    if (old.slot, old.weight, old.data, old.out) != (new.slot, new.weight, new.data, new.out):
        raise WrongError("another equation")
    if old.values.shape != new.values.shape or old.values.dtype != new.values.dtype:
        raise WrongError("its weight is of another shape or type")
    e, u = (a.uniform() or a for a in (e.simplest(), u.simplest()))
    inside, outside = (_letter(a, axes) for a, axes in ((e, old.data), (u, old.out)))
    if {inside, outside} - {*old.weight, ""}:
        e, u = _passing(e, u, same=inside == outside)
        inside = outside = ""
    if e.shifts:
        outside = outside or _only(old)
    seen = [both.seen(inside, outside) for both in (old, new)]
    inner, outer = e.over(e.axis or 0, seen[0].inputs), u.over(u.axis or 0, seen[0].channels)
    if inner is None or outer is None:
        raise WrongError("a map of other channels")
    taken = Taken(old.length)
    lost = check_weights(pair, seen[0], seen[1], inner.scale, outer.scale, taken)
    total = outer.shift
    if inner.shifts:
        total = outer.scale * _response(old, inner, inside, outside) + total
    require_zero(total, f"{pair.other.label} has no place for a shift")
    if np.any(lost.errors):
        offset = np.zeros(seen[1].channels)
        lost.judge(seen[1], offset, 1.0, taken.tallies[pair.other.input(new.slot)])
    return taken


def passed(model: Model, node: Node, relation: Relation) -> Relation | None:
    """Scales along a letter that only the data has, and the result: Σ W·(s·x) = s·ΣW·x.

    None where they lie elsewhere, or shift.
    """
    own = _equation(model, node)
    letters = {_letter(a, own.data) for a in (relation.p, relation.q) if a.axis is not None}
    letter = "".join(letters)
    shifts = relation.p.shifts or relation.q.shifts
    if len(letters) != 1 or letter in own.weight or letter not in own.out or shifts:
        return None
    axis = own.out.index(letter)
    p, q = (
        a if a.axis is None else Map(a.functions, axis, a.ids) for a in (relation.p, relation.q)
    )
    return Relation(p, q)


def response(model: Model, node: Node, shift: Map, axis: int) -> Map:
    """What a shift of the data adds to the result: x + Σ W·t, along an axis of the result."""
    own = _equation(model, node)
    shift = shift.uniform() or shift
    inside, kept = _letter(shift, own.data), own.kept
    if inside not in ("", *own.weight) or axis >= max(len(own.out), 1):
        raise UnprovenError("a shift along an axis that the weight has not")
    outside = own.out[axis] if kept else ""
    wide = shift.over(shift.axis or 0, own.seen(inside, outside).inputs)
    if wide is None:
        raise WrongError("a map of other channels")
    made = shift.functions.shifts(_response(own, wide, inside, outside))
    return Map(shift.functions, axis if kept else None, made)


def _letter(a: Map, letters: str) -> str:
    """The letter of a map's axis; none for a map without one."""
    if a.axis is not None and a.axis >= len(letters):
        raise WrongError("a map along an axis that is not there")
    return "" if a.axis is None else letters[a.axis]


def _passing(e: Map, u: Map, *, same: bool) -> tuple[Map, Map]:
    """Maps along a letter that the weight has not: together they are one for all channels."""
    if e.shifts or u.shifts or not same:
        raise UnprovenError("a map along a letter that the weight has not")
    both = Map(e.functions, 0, e.functions.then(e.ids, u.ids)).uniform()
    if both is None:
        raise WrongError("a scale along a letter that the weight has not")
    return both, both.identity(both.functions)


def _only(own: _Equation) -> str:
    if len(own.kept) > 1:
        raise UnprovenError("a shift that would vary along several axes")
    return own.kept


def _response(own: _Equation, e: Map, inside: str, outside: str) -> Real:
    """ΣW·t for each channel of the result; every other letter of the weight must be summed up."""
    counted = {*own.data} - {*own.weight, *own.out}
    if counted or {*own.kept} - {outside}:
        raise UnprovenError("a shift that is not added up by the weight alone")
    return response_of(own.seen(inside, outside), e.shift, 1.0)
