"""The rules of Add, Sub, Sum, Mul and Div, with constants or with computed values.

A constant operand is where a map stops first: a shift is held by the constant of an Add, a scale by
that of a Mul. Between computed values a map is shared out.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from bnfold import steps
from bnfold.folding.rules.affine_nodes import constant_slot, per_channel
from bnfold.folding.rules.base import (
    Demand,
    Step,
    broadcast_along,
    refuse,
    refuse_negative_scale,
    refuse_shift,
)
from bnfold.folding.weights.affine import Affine
from bnfold.folding.weights.draft import Draft, Operand
from bnfold.folding.weights.edits import Edit, Rescale, SetOperator, Supply
from bnfold.graph.index import Node
from bnfold.reasons import Reason, Refusal

_HOLDERS = 8  # branches of a Sum that are asked to hold a shift, each for all the others


def add_up(draft: Draft, node: Node, _: int, a: Affine) -> Step | Refusal:
    """s·(x + y + …) + t  =  (s·x + t) + s·y + …;  s·(x − y) + t  =  (s·x + t) − s·y.

    The shift goes to a constant, else to the first branch that can hold it.
    """
    op = draft.op(node)
    slots = [slot for slot in range(len(node.proto.input)) if draft.has(node, slot)]
    constant = constant_slot(draft, node)
    branches: dict[int, Affine] = {}
    for slot in slots:
        branch = a if slot == constant else _of_branch(draft, node, slot, a)
        if isinstance(branch, Refusal):
            return branch
        branches[slot] = branch
    holders = [constant] if constant is not None else slots[:_HOLDERS] if a.shifts else [0]

    def held_from(place: int) -> Step:
        """The step in which that holder has the shift; in its stead the next one may have it."""
        edits: tuple[Edit, ...] = ()
        demands = []
        for slot, branch in branches.items():
            share = branch if slot == holders[place] else branch.scale_only()
            share = share.negated() if op == "Sub" and slot == 1 else share
            if slot == constant:
                edits = _into_constant(draft, node, slot, share)
            else:
                demands.append(Demand(slot, share))
        more = place + 1 < len(holders)
        return Step(edits, tuple(demands), (lambda: held_from(place + 1)) if more else None)

    return held_from(0)


def relu_up(draft: Draft, node: Node, _: int, a: Affine) -> Step | Refusal:
    """s·Relu(x) = Relu(s·x) for s ≥ 0; with `allow_max`, Relu(x) + t = Max(x + t, t)."""
    shape = draft.shape(node, 0)
    if not (draft.options.allow_max and a.shifts and not a.scales) or node.scope.opset < 8:
        refusal = refuse_negative_scale(node, a) or refuse_shift(node, a)
        return refusal or Step(demands=(Demand(0, a),))
    dtype = draft.inferred.element_type(node.scope, node.input(0))
    if shape is None or dtype is None:
        return refuse(Reason.UNKNOWN_RANK, node)
    floor = broadcast_along(a.shift, a.axis, len(shape))
    edits = (SetOperator(node, "Max"), Supply(node, 1, floor, dtype, f"{node.output}_floor"))
    return Step(edits, (Demand(0, a),))


def add_down(draft: Draft, node: Node, slot: int, a: Affine) -> Step | Refusal:
    """(s·x + t) + c  =  s·(x + (c + t)/s);  (x + t) + y  =  (x + y) + t."""
    a = a.negated() if draft.op(node) == "Sub" and slot == 1 else a
    constant = constant_slot(draft, node)
    placed = _to_output(draft, node, slot, a)
    if isinstance(placed, Refusal):
        return placed
    if constant is None:
        if a.scales:
            return refuse(Reason.OTHER_BRANCH, node, "a scale")
        return Step(demands=(Demand(0, placed),))
    if not np.all(a.scale):
        return refuse(Reason.SHIFT, node, "a scale is 0 where a constant is added")
    # on x − c the constant carries the other sign, on c − x the data does
    sign = -1.0 if draft.op(node) == "Sub" and constant == 1 else 1.0
    share = replace(placed, scale=1 / placed.scale, shift=sign * placed.shift / placed.scale)
    edits = _into_constant(draft, node, constant, share)
    return Step(edits, (Demand(0, placed.scale_only()),))


def mul_up(draft: Draft, node: Node, _: int, a: Affine) -> Step | Refusal:
    """s·(c·x) = (s·c)·x;  s·(c·x) + t = c·(s·x + t/c);  s·(x·y) = (s·x)·y = x·(s·y)."""
    constant = constant_slot(draft, node)
    divides = draft.op(node) == "Div"
    out = draft.output_shape(node)
    if a.axis is not None and (out is None or (constant is not None and out[a.axis] != a.channels)):
        return refuse(Reason.UNKNOWN_RANK, node)  # a constant must not make the data larger
    if constant is not None and not a.shifts:
        if not divides or constant == 0:
            return Step(_into_constant(draft, node, constant, a))
        if np.all(a.scale):  # s·(x/c) = x/(c/s)
            inverse = replace(a, scale=1 / a.scale)
            return Step(_into_constant(draft, node, constant, inverse))
    if constant is not None and (own := per_channel(draft, node, constant)) is not None:
        if divides and (constant == 0 or not np.all(own.scale)):
            return refuse_shift(node, a) or refuse(
                Reason.NOT_TRANSPARENT, node, "the divisor of Div"
            )
        factor = own.scale if not divides else 1 / own.scale
        made_by = draft.own_map(node, 1 - constant)
        shift = Affine(own.axis, factor, np.zeros_like(factor), made_by).then(a.shift_only())
        before = shift.shift_first() if shift is not None else None
        if shift is None:
            return refuse(Reason.CHANNEL_AXIS, node, f"{own.axis}, the map along axis {a.axis}")
        if before is None:
            return refuse(Reason.SHIFT, node, "its constant is 0 where the map has a shift")
        merged = a.scale_only().then(before)
        if merged is None:
            return refuse(Reason.CHANNEL_AXIS, node, f"{own.axis}, the map along axis {a.axis}")
        return Step(demands=(Demand(1 - constant, merged),))
    if (shifted := refuse_shift(node, a)) is not None:
        return shifted
    found = [_of_branch(draft, node, slot, a) for slot in ((0,) if divides else (0, 1))]
    steps = [Step((), (Demand(slot, branch),)) for slot, branch in enumerate(found)
             if isinstance(branch, Affine)]  # fmt: skip
    if not steps:
        return next(branch for branch in found if isinstance(branch, Refusal))
    return replace(steps[0], otherwise=lambda: steps[1]) if len(steps) > 1 else steps[0]


def mul_down(draft: Draft, node: Node, slot: int, a: Affine) -> Step | Refusal:
    """c·(s·x + t) = (c·s)·x + c·t;  (s·x)·y = s·(x·y)."""
    divides = draft.op(node) == "Div"
    if divides and slot == 1:
        return refuse(Reason.NOT_TRANSPARENT, node, "the divisor of Div")
    placed = _to_output(draft, node, slot, a)
    if isinstance(placed, Refusal):
        return placed
    constant = constant_slot(draft, node)
    if constant is None or (divides and not np.all(a.scale)):
        return refuse_shift(node, a) or Step(demands=(Demand(0, placed),))
    taken = placed.scale_only()
    if divides:
        taken = replace(taken, scale=1 / taken.scale)
    edits = _into_constant(draft, node, constant, taken)
    own = per_channel(draft, node, constant)
    if own is None or not a.shifts or (divides and not np.all(own.scale)):
        return refuse_shift(node, a) or Step(edits)
    factor = replace(own, scale=1 / own.scale) if divides else own
    factor = factor.made_by(steps.scale(draft.own_map(node, slot)))
    passed = placed.shift_only().then(factor)
    if passed is None:
        return refuse(Reason.CHANNEL_AXIS, node, f"{own.axis}, the map along axis {placed.axis}")
    return Step(edits, (Demand(0, passed.shift_only()),))


def _into_constant(draft: Draft, node: Node, slot: int, a: Affine) -> tuple[Edit, ...]:
    """The constant c becomes s·c + t, per channel of the output."""
    operand, out = draft.operand(node, slot), draft.output_shape(node)
    assert isinstance(operand, Operand)
    assert out is not None or a.axis is None
    rank = len(out or ())
    if a.is_identity:
        return ()
    scale, shift = broadcast_along(a.scale, a.axis, rank), broadcast_along(a.shift, a.axis, rank)
    return (Rescale(node, slot, operand.shape, scale, shift if a.shifts else None),)


def _of_branch(draft: Draft, node: Node, slot: int, a: Affine) -> Affine | Refusal:
    """A map on the output as one on an input that may be broadcast, but not along the channels."""
    if a.axis is None:
        return a
    shape, out = draft.shape(node, slot), draft.output_shape(node)
    if shape is None or out is None:
        return refuse(Reason.UNKNOWN_RANK, node)
    axis = a.axis - (len(out) - len(shape))
    if axis < 0 or shape[axis] != a.channels:
        return refuse(Reason.OTHER_BRANCH, node, f"a map that varies where input {slot} does not")
    return a.along(axis)


def _to_output(draft: Draft, node: Node, slot: int, a: Affine) -> Affine | Refusal:
    """A map on an input as one on the output, which may have more axes in front."""
    if a.axis is None:
        return a
    shape, out = draft.shape(node, slot), draft.output_shape(node)
    if shape is None or out is None:
        return refuse(Reason.UNKNOWN_RANK, node)
    axis = a.axis + len(out) - len(shape)
    if axis >= len(out) or out[axis] != a.channels:
        return refuse(Reason.UNKNOWN_RANK, node)
    return a.along(axis)
