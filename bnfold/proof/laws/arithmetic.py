"""Add, Sub, Mul and Div with a constant."""

from __future__ import annotations

import numpy as np

from bnfold.proof.laws.absorbing import (
    Pair,
    Taken,
    UnprovenError,
    WrongError,
    beside,
    lifted,
    require_constant,
    require_same_growth,
    require_zero,
)
from bnfold.proof.laws.sites import (
    constant_slot,
    site,
)
from bnfold.proof.numbers.correct_rounding import Numbers, Tally
from bnfold.proof.numbers.maps import Map, Relation, common_axis
from bnfold.proof.numbers.reals import Real, Sum, plus, rational, times
from bnfold.proof.numbers.rounding import check
from bnfold.proof.values.operands import Array, same_array


def passes_beside(pair: Pair, relation: Relation) -> Relation | str:
    """What becomes of a map where the constant beside the data stays what it is.

    (x + t) + c = (x + c) + t,  (s·x)·c = s·(x·c)
    """
    node, slot = pair.node, constant_slot(pair.original, pair.node)
    maps = (relation.p, relation.q)
    multiplies = node.op == "Mul" or (node.op == "Div" and slot == 1)
    multiplies &= node.scope.opset >= 7
    if multiplies and not any(a.shifts for a in maps):
        return Relation(*(_placed(pair, 1 - (slot or 0), a) for a in maps))
    e = relation.original_of_folded()
    if e is None:
        return _conjugated(pair, relation) if multiplies else "a channel that is lost"
    if e.is_identity:
        return Relation(e.identity(e.functions), e.identity(e.functions))
    if node.scope.opset < 7 and e.axis is not None and slot == 0:
        return "an operand that broadcasts in another way"
    if node.op in ("Add", "Sub"):
        if e.scales:
            return "a scale where a constant is added"
        e = e.shift_part()
        if node.op == "Sub" and slot == 0:
            e = e.with_ids(e.functions.negated(e.ids))
    elif node.op == "Div" and slot == 0:
        return "a value in a divisor"
    elif e.shifts:
        return _conjugated(pair, relation)
    placed = _placed(pair, 1 - (slot or 0), e)
    return Relation(placed, e.identity(e.functions))


def _conjugated(pair: Pair, relation: Relation) -> Relation | str:
    """c·(s·x + t) = (c·a·c⁻¹)(c·x) for a constant c of one number for each channel."""
    functions = relation.p.functions
    found = site(pair.original, functions, pair.node)
    if found is None:
        return "a shift where a constant is multiplied"
    sides = []
    for a in (relation.p, relation.q):
        placed = _placed(pair, found[0], a)
        axis = common_axis(placed, found[1])
        if axis is False:
            return "maps along two axes"
        ids, own = np.broadcast_arrays(placed.ids, found[1].ids)
        moved = ids != 0
        result = np.zeros(ids.shape, np.int64)
        if np.any(moved):
            try:
                back = functions.inverse(own[moved])
            except ValueError:
                return "a shift of a channel that has no scale"
            result[moved] = functions.then(functions.then(back, ids[moved]), own[moved])
        sides.append(Map(functions, axis, result))
    return Relation(*sides)


def _placed(pair: Pair, slot: int, a: Map) -> Map:
    """A map on the data as one on the result, which may have more axes in front."""
    if a.axis is None:
        return a
    out = pair.original.shapes.output(pair.node)
    shape = pair.shape(slot)
    if out is None or shape is None:
        raise UnprovenError("values of unknown shape")
    axis = a.axis + len(out) - len(shape)
    if out[axis] != shape[a.axis]:
        one = a.uniform()
        if one is None and isinstance(shape[a.axis], str):  # which may be the same size
            raise UnprovenError("values of unknown shape")
        if one is None:
            raise WrongError("a map along an axis that is broadcast")
        return one
    return Map(a.functions, axis, a.ids)


def arithmetic(pair: Pair, relation: Relation, u: Map) -> Taken:
    """A constant that is added or multiplied, with f = u(o).

    o = σ·p(z) + κ·c and f = σ·q(z) + κ·c′:  u_s·p_s = q_s  and
    c′ = u_s·c + κ·(σ·u_s·p_t + u_t − σ·q_t).  Likewise o = p(z)·c with shifts that cancel.
    """
    node, other = pair.node, pair.other
    slot = constant_slot(pair.original, node)
    if slot is None or constant_slot(pair.folded, other) != slot or node.op != other.op:
        raise WrongError("its constant is not where it was")
    if node.scope.opset < 7:
        raise UnprovenError(f"a {node.op} that broadcasts in another way")
    c, stored = pair.before(slot), pair.after(slot)
    assert c is not None
    assert stored is not None
    out = pair.original.shapes.output(node)
    p, q = (_placed(pair, 1 - slot, a).simplest() for a in (relation.p, relation.q))
    u = u.simplest()
    axes = {a.axis for a in (p, q, u) if a.axis is not None}
    if len(axes) > 1:  # which they often have only because they were per channel once
        p, q, u = (a.uniform() or a for a in (p, q, u))
        axes = {a.axis for a in (p, q, u) if a.axis is not None}
    if out is None and (axes or c.shape != stored.shape):
        raise UnprovenError("values of unknown shape")
    require_same_growth(pair.shape(1 - slot), c.shape, stored.shape)
    axis = next(iter(axes), None)
    rank = len(out) if out is not None else max(c.ndim, stored.ndim)
    taken = Taken()
    tally = taken.tally(other.input(slot), slot)
    if len(axes) > 1:
        along = _added_along if node.op in ("Add", "Sub") else _multiplied_along
        along(pair, slot, (p, q, u), c, stored, rank, tally)
        return taken
    if node.op in ("Add", "Sub"):
        scale, shift = _added(node.op, slot, p, q, u)
    else:
        scale, shift = Real.full(1.0), Real.full(0.0)
        if not (same_array(c, stored) and all(a.is_identity for a in (p, q, u))):
            scale = _multiplied(pair, slot, p, q, u, c)
    adds = node.op in ("Add", "Sub")
    require_constant(stored, c, axis, scale, shift, rank, tally, pair.tolerance(slot), added=adds)
    return taken


def _added_along(
    pair: Pair, slot: int, maps: tuple[Map, Map, Map], c: Array, stored: Array, rank: int,
    tally: Tally,
) -> None:  # fmt: skip
    """c′ = c + κ·(σ·p_t + u_t − σ·q_t) where these shifts vary along different axes."""
    p, q, u = maps
    if any(a.scales for a in maps):
        raise UnprovenError("maps along two axes")
    data, own = (-1.0 if pair.node.op == "Sub" and slot == k else 1.0 for k in (0, 1))
    parts = [
        (a.axis, a.shift * Real.full(own * sign))
        for a, sign in ((p, data), (q, -data), (u, 1.0)) if a.shifts
    ]  # fmt: skip
    new, value = lifted(stored, rank), lifted(c, rank).astype(np.float64)
    base, size, before = value, np.abs(value), np.abs(value)
    for axis, shift in parts:
        value = value + beside(shift.value, axis, rank)
        size = size + beside(shift.magnitude, axis, rank)
        before = before + beside(shift.parts, axis, rank)
    if value.shape != np.broadcast_shapes(value.shape, new.shape):
        raise WrongError("a constant of a shape that does not fit")
    whole = np.broadcast_to(base, value.shape)

    def exact(index: tuple[int, ...]) -> Sum:
        total = rational(float(whole[index]))
        for axis, shift in parts:
            total = plus(
                total, shift.exact(index[axis] if axis is not None and len(shift) > 1 else 0)
            )
        return total

    steps = sum(shift.steps + 1 for _, shift in parts)
    numbers = Numbers(value, size, steps, exact, parts=before)
    loose = pair.tolerance(slot)
    check(np.broadcast_to(new, value.shape), numbers, tally, loose=loose, added=True)


def _added(op: str, slot: int, p: Map, q: Map, u: Map) -> tuple[Real, Real]:
    moved = p.then(u)
    if moved is None or not moved.scale_part().equals(q.scale_part()):
        raise WrongError("what is added to would have another scale")
    # σ = −1: c − x,  κ = −1: x − c
    data = u.scale * p.shift + -q.shift
    if op == "Sub" and slot == 0:
        return u.scale, -data + u.shift
    total = data + u.shift
    return u.scale, -total if op == "Sub" else total


def _multiplied(pair: Pair, slot: int, p: Map, q: Map, u: Map, c: Array) -> Real:
    """The factor of the constant: u_s·p_s/q_s. Shifts must cancel: u(c·p_t) = c′·q_t."""
    divides = pair.node.op == "Div"
    shifts = any(a.shifts for a in (p, q, u))
    if divides and slot == 0:
        if shifts or not (p.keeps_apart and q.keeps_apart):
            raise UnprovenError("a value in a divisor")
        return u.scale * q.scale * p.scale.inverse()
    if not q.keeps_apart:
        raise UnprovenError("a channel that is lost")
    factor = u.scale * p.scale * q.scale.inverse()
    if shifts:
        found = site(pair.original, p.functions, pair.node)
        total = p.then(found[1]) if found is not None else None
        total = total.then(u) if total is not None else None
        if found is None or total is None:
            raise UnprovenError("a shift where a constant is multiplied")
        left = factor * found[1].scale * q.shift
        require_zero(total.shift + -left, "a shift that is not taken up")
    if not divides:
        return factor
    if np.any(c == 0) or not np.all(factor.value):
        raise UnprovenError("a division by 0")
    return factor.inverse()


def _multiplied_along(
    pair: Pair, slot: int, maps: tuple[Map, Map, Map], c: Array, stored: Array, rank: int,
    tally: Tally,
) -> None:  # fmt: skip
    """c′ = u_s·p_s/q_s·c where these scales vary along different axes; of a divisor, 1/c′."""
    p, q, u = maps
    if pair.node.op == "Div" and slot == 1:
        p, q = q, p
    plain = pair.node.op == "Mul" or (pair.node.op == "Div" and slot == 1)
    if not plain or any(a.shifts for a in maps) or not q.keeps_apart:
        raise UnprovenError("maps along two axes")
    outer = u.scale
    if pair.node.op == "Div":
        if not u.keeps_apart:
            raise UnprovenError("a division by 0")
        outer = outer.inverse()
    sides = [(p.axis, p.scale), (q.axis, q.scale.inverse()), (u.axis, outer)]
    new, value = lifted(stored, rank), lifted(c, rank).astype(np.float64)
    base, size = value, np.abs(value)
    for axis, scale in sides:
        value = value * beside(scale.value, axis, rank)
        size = size * beside(scale.magnitude, axis, rank)
    if value.shape != np.broadcast_shapes(value.shape, new.shape):
        raise WrongError("a constant of a shape that does not fit")
    whole = np.broadcast_to(base, value.shape)

    def exact(index: tuple[int, ...]) -> Sum:
        total = rational(float(whole[index]))
        for axis, scale in sides:
            entry = index[axis] if axis is not None and len(scale) > 1 else 0
            total = times(total, scale.exact(entry))
        return total

    steps = sum(scale.steps + 1 for _, scale in sides)
    numbers = Numbers(value, size, steps, exact)
    check(np.broadcast_to(new, value.shape), numbers, tally, loose=pair.tolerance(slot))
