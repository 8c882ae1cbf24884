"""Einsum of a computed value and a constant: any equation in which the map's letter survives.

Each rule has its identity beside it: s and t are the map's scale and shift.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from bnfold.folding.rules.base import Demand, Step, broadcast_along, refuse, refuse_shift
from bnfold.folding.rules.products.absorbing import response_origin
from bnfold.folding.weights.affine import Affine, line, varying_axes
from bnfold.folding.weights.draft import Draft, Operand
from bnfold.folding.weights.edits import Edit, Guard, Rescale
from bnfold.graph.index import Node
from bnfold.reasons import Reason, Refusal


@dataclass(frozen=True)
class _Product:
    """The letters of the constant, of the data and of the result, and where the constant is."""

    slot: int
    shape: tuple[int, ...]
    weight: str
    data: str
    out: str


def einsum_up(draft: Draft, node: Node, _: int, a: Affine) -> Step | Refusal:
    """s·Σ W·x = Σ (s·W)·x where the result's letter is the weight's, else Σ W·(s·x)."""
    found = _product(draft, node)
    if isinstance(found, Refusal):
        return found
    if a.shifts:
        return refuse(Reason.NO_PLACE_FOR_SHIFT, node)
    letter = found.out[a.axis] if a.axis is not None else ""
    if letter not in found.weight:
        return Step(demands=(Demand(1 - found.slot, a.along(found.data.index(letter))),))
    summed = [n for n, c in zip(found.shape, found.weight, strict=True) if c not in found.out]
    return _scaled(draft, node, found, letter, a, Guard(np.zeros(()), math.prod(summed)))


def einsum_down(draft: Draft, node: Node, slot: int, a: Affine) -> Step | Refusal:
    """Σ W·(s·x + t) = Σ (W·s)·x + Σ W·t, the latter passed on."""
    found = _product(draft, node)
    if isinstance(found, Refusal):
        return found
    if slot == found.slot:
        return refuse(Reason.RUN_TIME_WEIGHT, node)
    letter = found.data[a.axis] if a.axis is not None else ""
    if letter not in found.weight:
        if letter not in found.out:
            return refuse(Reason.AXIS_LOST, node)
        passed = a.along(found.out.index(letter))
        return refuse_shift(node, a) or Step(demands=(Demand(0, passed),))
    shift = _response(draft, node, found, letter, a) if a.shifts else None
    if isinstance(shift, Refusal):
        return shift
    scaled = _scaled(draft, node, found, letter, a, Guard())
    if isinstance(scaled, Refusal) or shift is None:
        return scaled
    return Step(scaled.edits, (Demand(0, shift),))


def _product(draft: Draft, node: Node) -> _Product | Refusal:
    """What is multiplied and summed up. Only two operands, of which one is a constant."""
    equation = node.attribute("equation", b"").decode(errors="replace").replace(" ", "")
    terms, arrow, out = equation.partition("->")
    letters = terms.split(",")
    if not arrow:  # what occurs once, in the order of the alphabet
        out = "".join(sorted(c for c in {*terms} - {","} if terms.count(c) == 1))
    plain = all(part.isalpha() and len({*part}) == len(part) for part in (*letters, out or "a"))
    if len(letters) != 2 or not plain or not {*out} <= {*terms}:
        return refuse(Reason.NOT_TRANSPARENT, node, f"Einsum {equation}")
    right = draft.operand(node, 1)
    slot, operand = (1, right) if isinstance(right, Operand) else (0, draft.operand(node, 0))
    if isinstance(operand, Refusal):
        return operand
    if isinstance(draft.operand(node, 1 - slot), Operand):
        return refuse(Reason.NOT_TRANSPARENT, node, "Einsum of constants")
    shape = draft.shape(node, 1 - slot)
    weight, data = letters[slot], letters[1 - slot]
    if shape is None:
        return refuse(Reason.UNKNOWN_RANK, node)
    sizes = dict(zip(data, shape, strict=False))
    fits = len(weight) == len(operand.shape) and len(data) == len(shape) and min(operand.shape) > 0
    # a size of 1 broadcasts, so that the two could differ
    if not fits or any(sizes.get(c, n) != n for c, n in zip(weight, operand.shape, strict=True)):
        return refuse(Reason.SHAPE_MISMATCH, node, f"{equation} of {operand.name}")
    return _Product(slot, operand.shape, weight, data, out)


def _scaled(
    draft: Draft, node: Node, found: _Product, letter: str, a: Affine, guard: Guard
) -> Step | Refusal:
    """The weight times s along the axis of a letter; without one, all of it."""
    axis = found.weight.index(letter) if letter else None
    if axis is not None and found.shape[axis] != a.channels:
        detail = f"it has {found.shape[axis]} channels, and the map has {a.channels}"
        return refuse(Reason.SHAPE_MISMATCH, node, detail)
    scale = broadcast_along(a.scale, axis, len(found.shape))
    edits: tuple[Edit, ...] = (Rescale(node, found.slot, found.shape, scale, guard=guard),)
    return Step(edits if a.scales else ())


def _response(
    draft: Draft, node: Node, found: _Product, letter: str, a: Affine
) -> Affine | Refusal:
    """Σ W·t as a map on the result, along the one axis on which it may vary."""
    if {*found.data} - {*found.weight, *found.out}:
        return refuse(
            Reason.SHIFT, node, "they would be added up as often as the data has elements"
        )
    axis = found.weight.index(letter) if letter else None
    terms = draft.values(node, found.slot) * broadcast_along(a.shift, axis, len(found.shape))
    summed = tuple(k for k, c in enumerate(found.weight) if c not in found.out)
    kept = [c for c in found.weight if c in found.out]
    with np.errstate(over="ignore", invalid="ignore"):  # what is not finite is refused by name
        response = terms.sum(axis=summed)
    varying = varying_axes(response) if response.ndim else []
    if len(varying) > 1:
        return refuse(Reason.SHIFT, node, f"they would vary along {len(varying)} axes")
    wide = [k for k, size in enumerate(response.shape) if size > 1]
    own = next(iter([*varying, *wide, *range(len(kept))]), None)
    shift = line(response, own) if response.ndim else response.reshape(1)
    produced = found.out.index(kept[own]) if own is not None else None
    origin = response_origin(draft, node, found.slot, a, produced or 0)
    return Affine(produced, np.ones_like(shift), shift, origin)
