"""Constants that take maps without being maps: elementwise ones, and the ends of normalisations."""

from __future__ import annotations

from collections.abc import Collection, Sequence

import numpy as np

from bnfold.graph.index import Node
from bnfold.graph.shape_inference import Shape
from bnfold.onnx_io.protos import Array
from bnfold.proof.numbers.reals import Real
from bnfold.proof.search.absorption import linear_constants
from bnfold.proof.search.absorption.candidates import Candidate, best
from bnfold.proof.search.absorption.linear_constants import Absorption
from bnfold.proof.search.numbers.maps import Map, identity, quotient
from bnfold.proof.search.numbers.relation import Relation
from bnfold.proof.search.reading.model_view import View, alike


def held(
    original: View, folded: View, node: Node, other: Node, inputs: Sequence[Relation | None],
    candidates: list[Candidate], present: Collection[str], loose: float,
) -> Absorption | str:  # fmt: skip
    """The candidate that the constants of `other` fit best; or why none is known."""
    rank = original.rank(node.scope, node.output)
    if rank is None and "Normalization" in node.op:
        rank = original.rank(node.scope, node.input(0))
    if node.op != other.op:
        return f"what {other.label} holds cannot be read"
    if node.op in ("Add", "Sub", "Mul", "Div") and node.scope.opset < 7:
        return f"an {node.op} that broadcasts in another way"
    if "Normalization" in node.op and inputs[0] is not None and not _alike(inputs[0]):
        return "a normalisation, whose results do not follow what it reads"

    def check(candidate: Candidate) -> Absorption | None:
        if node.op in ("Add", "Sub", "Mul", "Div"):
            return _arithmetic(original, folded, node, other, inputs, candidate, rank, loose)
        if rank is None:
            return None
        return _normalised(original, folded, node, other, candidate, rank, loose)

    found = best(candidates, present, check)
    return found or f"no map is known that {other.label} could hold"


def _alike(relation: Relation) -> bool:
    """Whether the value is the same in both models."""
    settled = quotient(relation.p, relation.q)
    return settled is not None and settled.is_identity


def _arithmetic(
    original: View, folded: View, node: Node, other: Node, inputs: Sequence[Relation | None],
    candidate: Candidate, rank: int | None, loose: float,
) -> Absorption | None:  # fmt: skip
    """u_s·(p(z) + c) + u_t = q(z) + c′ with u_s·p_s = q_s;  u_s·c·p_s = c′·q_s without shifts."""
    slots = [s for s in (0, 1) if original.is_constant(node.scope, node.input(s))]
    if len(slots) != 1:
        return None
    (slot,) = slots
    c = original.array(node.scope, node.input(slot))
    stored = folded.array(other.scope, other.input(slot))
    relation = inputs[1 - slot]
    p, q = (relation.p, relation.q) if relation is not None else (identity(), identity())
    u = candidate.map
    axes = {a.axis for a in (p, q, u) if a.axis is not None}
    data_rank = original.rank(node.scope, node.input(1 - slot))
    if c is None or stored is None or len(axes) > 1 or (axes and data_rank != rank):
        return None
    if node.op == "Div" and slot == 1 and np.any(c == 0) and not alike(c, stored):
        return None  # 1/0 and 1/−0 differ
    if not grow_alike(original.shape(node.scope, node.input(1 - slot)), c.shape, stored.shape):
        return None
    none = Real.full(0.0)
    if node.op in ("Add", "Sub"):
        if not (u.scale * p.scale).near(q.scale):
            return None
        # x + c, x − c: c′ = u_s·c ± (u_s·p_t + u_t − q_t);  c − x: c′ = u_s·c − u_s·p_t + u_t + q_t
        shift = u.scale * p.shift
        if node.op == "Sub" and slot == 0:
            shift = -shift + u.shift + q.shift
        else:
            shift = shift + u.shift + -q.shift
            shift = -shift if node.op == "Sub" else shift
        scale = u.scale
    else:
        if u.shifts or p.shifts or q.shifts or np.any(q.scale.value == 0):
            return None
        if node.op == "Div" and slot == 1:
            scale = u.scale * p.scale * q.scale.inverse()
            if not np.all(scale.value):
                return None
            scale = scale.inverse()
        elif node.op == "Div":
            scale = u.scale * q.scale * p.scale.inverse()
        else:
            scale = u.scale * p.scale * q.scale.inverse()
        shift = none
    new, old = (v.reshape((1,) * ((rank or 0) - v.ndim) + v.shape) for v in (stored, c))
    axis = next(iter(axes), None)
    name = other.input(slot)
    return linear_constants.constant(new, old, axis, scale, shift, name, candidate, loose)


def grow_alike(data: Shape | None, before: tuple[int, ...], after: tuple[int, ...]) -> bool:
    """Whether a constant of either shape makes results of the same shape of the data."""
    if before == after:
        return True
    if data is None or max(len(before), len(after)) > len(data):
        return False
    one, two = ((1,) * (len(data) - len(shape)) + shape for shape in (before, after))
    return all(
        a == b or (a == 1 and b == dim) for dim, a, b in zip(data, one, two, strict=True)
    )  # fmt: skip


def _normalised(
    original: View, folded: View, node: Node, other: Node, candidate: Candidate, rank: int,
    loose: float,
) -> Absorption | None:  # fmt: skip
    """u_s·(γ·z + β) + u_t = (u_s·γ)·z + (u_s·β + u_t)."""
    u = candidate.map
    if not _on_parameters(node, u, rank):
        return None
    gamma, beta = (original.array(node.scope, node.input(slot)) for slot in (1, 2))
    new_gamma, new_beta = (folded.array(other.scope, other.input(slot)) for slot in (1, 2))
    if gamma is None or new_gamma is None or (node.input(2) and beta is None):
        return None
    if gamma.shape != new_gamma.shape:
        return None
    along = None if u.axis is None else u.axis - (rank - gamma.ndim)
    if gamma.ndim == 1 and node.op != "LayerNormalization":
        along = None if u.axis is None else 0
    if along is not None and (along < 0 or gamma.shape[along] != len(u)):
        return None
    none = Real.full(0.0)
    result = linear_constants.constant(
        new_gamma, gamma, along, u.scale, none, other.input(1), candidate, loose
    )
    old, new = _or_zeros(beta, gamma), _or_zeros(new_beta, gamma)
    if old.shape != gamma.shape or new.shape != gamma.shape:
        return None
    second = linear_constants.constant(
        new, old, along, u.scale, u.shift, other.input(2) or "bias", candidate, loose
    )
    if result is None or second is None:
        return None
    result.tallies.update(second.tallies)
    return result


def _on_parameters(node: Node, u: Map, rank: int) -> bool:
    """Whether γ and β have an entry for each channel of the map."""
    if u.axis is None:
        return True
    if node.op == "LayerNormalization":
        return u.axis >= node.attribute("axis", -1) % rank
    return u.axis == 1 and (node.op == "InstanceNormalization" or node.scope.opset >= 21)


def _or_zeros(values: Array | None, like: Array) -> Array:
    return np.zeros_like(like) if values is None else values
