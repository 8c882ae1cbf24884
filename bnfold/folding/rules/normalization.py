"""The rules of the normalisations, which take a map into the scale and bias they end with.

s and t are the map's scale and shift, γ and β the node's own.
"""

from __future__ import annotations

import numpy as np

from bnfold.folding.rules.affine_nodes import batch_norm
from bnfold.folding.rules.base import (
    Step,
    broadcast_along,
    channels,
    refuse,
    refuse_misshapen_weight,
)
from bnfold.folding.weights.affine import Affine
from bnfold.folding.weights.draft import Draft, Operand
from bnfold.folding.weights.edits import Edit, Rescale, Supply
from bnfold.graph.index import Node
from bnfold.reasons import Reason, Refusal


def batch_norm_up(draft: Draft, node: Node, _: int, a: Affine) -> Step | Refusal:
    """s·(γ·z + β) + t  =  (s·γ)·z + (s·β + t)   with   z = (x−μ)/√(σ²+ε)."""
    own = batch_norm(draft, node)
    if isinstance(own, Refusal):
        return own
    return _into_scale_and_bias(node, a, own.channels)


def batch_norm_down(draft: Draft, node: Node, _: int, a: Affine) -> Step | Refusal:
    """γ·(s·x + t − μ)/σ̂ + β  =  (γ·s)·(x − μ)/σ̂ + β + γ′·(s·μ + t − μ)   with   γ′ = γ/σ̂."""
    own = batch_norm(draft, node)
    if isinstance(own, Refusal):
        return own
    a_or_refusal = channels(a, node, 1, own.channels)
    if isinstance(a_or_refusal, Refusal):
        return a_or_refusal
    a = a_or_refusal
    mean = draft.values(node, 3)
    moved = own.scale * (a.scale * mean + a.shift - mean)
    shape = (own.channels,)
    return Step(
        (Rescale(node, 1, shape, a.scale), Rescale(node, 2, shape, np.ones_like(moved), moved))
    )


def instance_norm_up(draft: Draft, node: Node, _: int, a: Affine) -> Step | Refusal:
    """γ and β of one entry per channel, behind the normalisation."""
    return _per_channel_norm_up(draft, node, a)


def group_norm_up(draft: Draft, node: Node, _: int, a: Affine) -> Step | Refusal:
    """Likewise from opset 21 on; before, γ and β had one entry per group."""
    if node.scope.opset < 21:
        return refuse(Reason.CHANNEL_AXIS, node, "1, its γ and β one entry per group")
    return _per_channel_norm_up(draft, node, a)


def layer_norm_up(draft: Draft, node: Node, _: int, a: Affine) -> Step | Refusal:
    """s·(γ·z + β) + t = (s·γ)·z + (s·β + t), where the axis is one that γ has."""
    gamma, shape = draft.operand(node, 1), draft.shape(node, 0)
    if isinstance(gamma, Refusal):
        return gamma
    if not shape:
        return refuse(Reason.UNKNOWN_RANK, node)
    first = draft.attribute(node, "axis", -1) % len(shape)
    if a.axis is not None and (a.axis < first or gamma.shape != shape[first:]):
        return refuse(Reason.CHANNEL_AXIS, node, f"{first} and behind, the map along {a.axis}")
    scale, shift = (
        broadcast_along(a.scale, a.axis, len(shape)),
        broadcast_along(a.shift, a.axis, len(shape)),
    )
    edits: list[Edit] = [Rescale(node, 1, gamma.shape, scale)]
    if draft.has(node, 2):
        beta = draft.operand(node, 2)
        if isinstance(beta, Refusal):
            return beta
        edits.append(Rescale(node, 2, beta.shape, scale, shift))
    elif a.shifts:
        values = np.broadcast_to(shift, gamma.shape)
        edits.append(Supply(node, 2, values, gamma.dtype, f"{gamma.name}_bias"))
    return Step(tuple(edits))


def _per_channel_norm_up(draft: Draft, node: Node, a: Affine) -> Step | Refusal:
    gamma, beta = draft.operand(node, 1), draft.operand(node, 2)
    for operand in (gamma, beta):
        if isinstance(operand, Refusal):
            return operand
    assert isinstance(gamma, Operand)
    assert isinstance(beta, Operand)
    if len(gamma.shape) != 1 or gamma.shape != beta.shape:
        return refuse_misshapen_weight(node, gamma)
    return _into_scale_and_bias(node, a, gamma.shape[0])


def _into_scale_and_bias(node: Node, a: Affine, count: int) -> Step | Refusal:
    a_or_refusal = channels(a, node, 1, count)
    if isinstance(a_or_refusal, Refusal):
        return a_or_refusal
    a = a_or_refusal
    return Step((Rescale(node, 1, (count,), a.scale), Rescale(node, 2, (count,), a.scale, a.shift)))
