"""A map that is a node in both models: what the folded one's constants must be."""

from __future__ import annotations

import numpy as np

from bnfold.check import absorbed, sites
from bnfold.check.absorbed import Absorption
from bnfold.check.maps import Map, quotient
from bnfold.check.view import View
from bnfold.check.wanted import Candidate
from bnfold.graph import Node


def nearest(
    folded: View, other: Node, own: Map, q: Map, candidates: list[Candidate],
    loose: float,
) -> Absorption | None:  # fmt: skip
    """The candidate u for which the kept node holds u∘own, with the fewest wrong numbers."""
    best: Absorption | None = None
    for candidate in candidates:
        whole = own.then(candidate.map)
        total = quotient(whole, q) if whole is not None else None
        if total is None:
            continue
        result = _holds(folded, other, total, candidate, loose)
        if result is not None and (best is None or result.faults < best.faults):
            best = result
    return best


def _holds(
    folded: View, other: Node, total: Map, candidate: Candidate, loose: float
) -> Absorption | None:
    if other.op == "BatchNormalization":
        parameters = sites.batch_norm(folded, other)
        if parameters is None or total.axis not in (None, 1):
            return None
        names = (other.input(1), other.input(2))
        dtypes = [folded.array(other.scope, name) for name in names]
        assert dtypes[0] is not None
        assert dtypes[1] is not None
        if len(total) not in (1, len(parameters[0])):
            return None
        return absorbed.batch_norm(
            parameters, names, (dtypes[0].dtype, dtypes[1].dtype), total, candidate, loose
        )
    slot = next(s for s in (0, 1) if folded.is_constant(other.scope, other.input(s)))
    stored = folded.array(other.scope, other.input(slot))
    rank = folded.rank(other.scope, other.input(1 - slot))
    if stored is None or rank is None:
        return None
    zero = np.zeros((), stored.dtype)
    name = other.input(slot)
    if other.op == "Add" and not total.scales:
        value = total.shift
    elif other.op == "Sub" and slot == 1 and not total.scales:
        value = -total.shift
    elif other.op == "Mul" and not total.shifts:
        value = total.scale
    elif other.op == "Div" and slot == 1 and not total.shifts and np.all(total.scale.value):
        value = total.scale.inverse()
    else:
        return None
    lifted = stored.reshape((1,) * (rank - stored.ndim) + stored.shape)
    return absorbed.constant(lifted, zero, total.axis, value, value, name, candidate, loose)
