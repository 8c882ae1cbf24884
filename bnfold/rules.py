"""THE TABLE: what each operator does with an affine map that stands on its output.

A rule sees one node and its constants and returns a Step (the edits, and the maps still owed to
other values) or a Refusal. It changes nothing, and nothing else carries it out, so what is planned
and what is done cannot drift apart.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np

from bnfold import linear
from bnfold.affine import Affine, FloatArray
from bnfold.constants import Constant
from bnfold.draft import Draft
from bnfold.edits import Edit, Rescale, SetOperator, Supply
from bnfold.graph import Node
from bnfold.linear import Layout
from bnfold.reasons import Reason, Refusal
from bnfold.sites import BATCH_NORM, batch_norm


@dataclass(frozen=True)
class Demand:
    """A map still owed to the value that `node` reads at `slot`."""

    node: Node
    slot: int
    affine: Affine


@dataclass(frozen=True)
class Step:
    """What one node does: edits, and the demands it passes on. Without demands: absorbed."""

    edits: tuple[Edit, ...] = ()
    demands: tuple[Demand, ...] = ()


Rule: TypeAlias = Callable[[Draft, Node, Affine], Step | Refusal]


def _conv_up(draft: Draft, node: Node, a: Affine) -> Step | Refusal:
    # s·(W∗x + b) + t  =  (s·W)∗x + (s·b + t)
    return _kernel_up(draft, node, a, linear.conv)


def _conv_transpose_up(draft: Draft, node: Node, a: Affine) -> Step | Refusal:
    # the same identity; only the place of the output channels in W differs
    return _kernel_up(draft, node, a, linear.conv_transpose)


def _kernel_up(
    draft: Draft, node: Node, a: Affine, layout_of: Callable[[tuple[int, ...], int], Layout | None]
) -> Step | Refusal:
    weight = draft.constant(node, 1)
    if isinstance(weight, Refusal):
        return weight
    layout = layout_of(weight.shape, node.attribute("group", 1))
    if (mismatch := _mismatch(node, weight, layout, a)) is not None:
        return mismatch
    assert layout is not None
    edits: list[Edit] = [_scale_outputs(node, layout, a)]
    if not node.input(2):
        edits += _supply(node, weight, a.shift)
    else:
        bias = draft.constant(node, 2)
        if isinstance(bias, Refusal):
            return bias
        if bias.shape != (a.channels,):
            detail = f"its bias {bias.name} has shape {list(bias.shape)}, not [{a.channels}]"
            return Refusal(Reason.SHAPE_MISMATCH, node.label, detail)
        edits.append(Rescale(node, 2, bias.shape, a.scale, a.shift))
    return Step(tuple(edits))


def _gemm_up(draft: Draft, node: Node, a: Affine) -> Step | Refusal:
    # s·(α·A·B + β·C) + t  =  α·A·(B·diag s) + β·(s·C + t/β)
    weight = draft.constant(node, 1)
    if isinstance(weight, Refusal):
        return weight
    layout = linear.matrix(weight.shape, transposed=bool(node.attribute("transB", 0)))
    if (mismatch := _mismatch(node, weight, layout, a)) is not None:
        return mismatch
    assert layout is not None
    edits: list[Edit] = [_scale_outputs(node, layout, a)]
    beta = float(node.attribute("beta", 1.0))
    if node.input(2) and beta != 0:
        offset = draft.constant(node, 2)
        if isinstance(offset, Refusal):
            return offset
        shape = offset.shape
        if len(shape) > 2 or (shape and shape[-1] not in (1, a.channels)):
            detail = f"its C has shape {list(shape)} beside {a.channels} columns"
            return Refusal(Reason.SHAPE_MISMATCH, node.label, detail)
        edits.append(Rescale(node, 2, shape or (1,), a.scale, a.shift / beta))
        enlarged = shape[-1:] != (a.channels,)
    else:
        # no C, or one that β = 0 switches off: C = t with β = 1
        edits.append(SetOperator(node, "Gemm", drop=("beta",)))
        edits += _supply(node, weight, a.shift, always=bool(node.input(2)))
        enlarged = True
    if enlarged and node.scope.opset < 7:
        edits.append(SetOperator(node, "Gemm", put={"broadcast": 1}))
    return Step(tuple(edits))


def _matmul_up(draft: Draft, node: Node, a: Affine) -> Step | Refusal:
    # s·(A·B) + t  =  A·(B·diag s) + t, which is a Gemm
    weight = draft.constant(node, 1)
    if isinstance(weight, Refusal):
        return weight
    rank = draft.inferred.rank(node.scope, node.input(0))
    if rank is None:
        return Refusal(Reason.UNKNOWN_RANK, node.label)
    if rank != 2:
        return Refusal(Reason.CHANNEL_AXIS, node.label, str(rank))
    layout = linear.matrix(weight.shape)
    if (mismatch := _mismatch(node, weight, layout, a)) is not None:
        return mismatch
    assert layout is not None
    edits: list[Edit] = [_scale_outputs(node, layout, a)]
    if supplied := _supply(node, weight, a.shift):
        broadcast = {"broadcast": 1} if node.scope.opset < 7 else {}
        edits += [SetOperator(node, "Gemm", put=broadcast), *supplied]
    return Step(tuple(edits))


def _batch_norm_up(draft: Draft, node: Node, a: Affine) -> Step | Refusal:
    # s·(γ·z + β) + t  =  (s·γ)·z + (s·β + t)   with   z = (x−μ)/√(σ²+ε)
    own = batch_norm(draft, node)
    if isinstance(own, Refusal):
        return own
    if own.channels != a.channels:
        detail = f"it has {own.channels} channels, and {a.channels} are normalised behind it"
        return Refusal(Reason.SHAPE_MISMATCH, node.label, detail)
    shape = (a.channels,)
    scale, bias = Rescale(node, 1, shape, a.scale), Rescale(node, 2, shape, a.scale, a.shift)
    return Step((scale, bias))


def _identity_up(draft: Draft, node: Node, a: Affine) -> Step | Refusal:
    return Step(demands=(Demand(node, 0, a),))


UP: dict[str, Rule] = {
    "Conv": _conv_up,
    "ConvTranspose": _conv_transpose_up,
    "Gemm": _gemm_up,
    "MatMul": _matmul_up,
    BATCH_NORM: _batch_norm_up,
    "Identity": _identity_up,
}


def _mismatch(node: Node, weight: Constant, layout: Layout | None, a: Affine) -> Refusal | None:
    if layout is None:
        detail = f"its weight {weight.name} has shape {list(weight.shape)}, which does not fit it"
    elif layout.channels != a.channels:
        detail = f"it makes {layout.channels} channels, and {a.channels} are normalised behind it"
    else:
        return None
    return Refusal(Reason.SHAPE_MISMATCH, node.label, detail)


def _scale_outputs(node: Node, layout: Layout, a: Affine) -> Rescale:
    return Rescale(node, 1, layout.view, a.scale.reshape(layout.outputs))


def _supply(node: Node, weight: Constant, shift: FloatArray, *, always: bool = False) -> list[Edit]:
    """A new bias; none where it would be all zero, unless it must replace one that is there."""
    if not always and not np.any(shift):
        return []
    stem = weight.name.removesuffix("weight")
    name = f"{stem}bias" if stem != weight.name else f"{weight.name}_bias"
    return [Supply(node, 2, shift, weight.dtype, name)]
