"""Gemm and MatMul.

Each rule has its identity beside it: s and t are the map's scale and shift.
"""

from __future__ import annotations

import numpy as np

from bnfold.folding.rules.base import Demand, Step, channels, refuse, refuse_misshapen_weight
from bnfold.folding.rules.products import kernel_layout
from bnfold.folding.rules.products.absorbing import (
    Weight,
    from_inputs,
    from_outputs,
    response,
    response_origin,
    scaled_weight,
    supplied_bias,
    supply_bias,
)
from bnfold.folding.rules.products.kernel_layout import Layout
from bnfold.folding.weights.affine import Affine, FloatArray
from bnfold.folding.weights.draft import Draft, Operand
from bnfold.folding.weights.edits import Edit, Guard, Rescale, SetOperator
from bnfold.graph.index import Node
from bnfold.reasons import Reason, Refusal


def gemm_up(draft: Draft, node: Node, _: int, a: Affine) -> Step | Refusal:
    """s·(α·A·B + β·C) + t  =  α·A·(B·diag s) + β·(s·C + t/β)."""
    return from_outputs(draft, node, _gemm_weight(draft, node), a, _into_c)


def gemm_down(draft: Draft, node: Node, slot: int, a: Affine) -> Step | Refusal:
    """α·(A·diag s + t)·B + β·C  =  α·A·(diag s·B) + β·(C + α·t·B/β)."""
    if slot != 0:
        return refuse(Reason.RUN_TIME_WEIGHT, node)
    axis = 0 if draft.attribute(node, "transA", 0) else 1
    alpha = float(draft.attribute(node, "alpha", 1.0))
    return from_inputs(draft, node, _gemm_weight(draft, node), a, axis, _into_c, alpha)


def _gemm_weight(draft: Draft, node: Node) -> Weight | Refusal:
    operand = draft.operand(node, 1)
    if isinstance(operand, Refusal):
        return operand
    layout = kernel_layout.right_matrix(operand.shape, bool(draft.attribute(node, "transB", 0)))
    return (operand, layout) if layout is not None else refuse_misshapen_weight(node, operand)


def _into_c(draft: Draft, node: Node, weight: Operand, a: Affine) -> list[Edit] | Refusal:
    """β·C = s·(β·C) + t, for every shape of C and where there is none."""
    beta = float(draft.attribute(node, "beta", 1.0))
    if draft.has(node, 2) and beta != 0:
        offset = draft.operand(node, 2)
        if isinstance(offset, Refusal):
            return offset
        shape = offset.shape
        if len(shape) > 2 or (shape and shape[-1] not in (1, a.channels)):
            detail = f"its C has shape {list(shape)} beside {a.channels} columns"
            return refuse(Reason.SHAPE_MISMATCH, node, detail)
        if a.is_identity:
            return []
        with np.errstate(over="ignore"):  # an overflow is refused by name
            return [Rescale(node, 2, shape or (1,), a.scale, a.shift / beta)]
    # no C, or one that β = 0 switches off: C = t with β = 1
    edits = supply_bias(node, weight, a.shift, always=draft.has(node, 2))
    if draft.op(node) != "Gemm":  # a FusedGemm
        return edits if beta == 1 else refuse(Reason.NO_PLACE_FOR_SHIFT, node)
    operator = SetOperator(node, "Gemm", drop=("beta",), put=_broadcasting(node))
    return [operator, *edits] if edits else []


def matmul_up(draft: Draft, node: Node, _: int, a: Affine) -> Step | Refusal:
    """s·(A·B) + t  =  A·(B·diag s) + t;  from the left  (diag s·A)·B + t."""
    found = _matmul_weight(draft, node)
    if isinstance(found, Refusal):
        return found
    slot, operand, layout, rank = found
    axis = rank - 1 if slot == 1 else rank - 2
    a_or_refusal = channels(a, node, axis, layout.output_channels)
    if isinstance(a_or_refusal, Refusal):
        return a_or_refusal
    a = a_or_refusal
    guard = Guard(a.shift.reshape(layout.outputs), layout.input_channels)
    scaled = scaled_weight(node, slot, layout, a.scale.reshape(layout.outputs), guard)
    if not a.shifts:
        return Step(scaled)
    if slot == 1 and rank == 2:
        return Step((*scaled, *_as_gemm(node, operand, a.shift)))
    return refuse(Reason.NO_PLACE_FOR_SHIFT, node)


def matmul_down(draft: Draft, node: Node, slot: int, a: Affine) -> Step | Refusal:
    """(A·diag s + t)·B  =  A·(diag s·B) + t·B, the latter passed on; likewise from the left."""
    found = _matmul_weight(draft, node)
    if isinstance(found, Refusal):
        return found
    constant, operand, layout, rank = found
    if constant == slot:
        return refuse(Reason.RUN_TIME_WEIGHT, node)
    contracted, produced = (rank - 1, rank - 1) if constant == 1 else (rank - 2, rank - 2)
    a_or_refusal = channels(a, node, contracted, layout.input_channels)
    if isinstance(a_or_refusal, Refusal):
        return a_or_refusal
    a = a_or_refusal
    scaled = scaled_weight(node, constant, layout, a.scale.reshape(layout.inputs), Guard())
    if not a.shifts:
        return Step(scaled)
    shift = response(draft, node, constant, layout, a.shift)
    origin = response_origin(draft, node, constant, a, produced)
    passed = Demand(0, Affine(produced, np.ones_like(shift), shift, origin))
    if constant == 1 and rank == 2:
        gemm = Step((*scaled, *_as_gemm(node, operand, shift)))
        return Step(scaled, (passed,), otherwise=lambda: gemm)
    return Step(scaled, (passed,))


def _matmul_weight(draft: Draft, node: Node) -> tuple[int, Operand, Layout, int] | Refusal:
    """The slot of the constant matrix, the matrix, its layout, and the rank of the result."""
    right = draft.operand(node, 1)
    slot, operand = (1, right) if isinstance(right, Operand) else (0, draft.operand(node, 0))
    if isinstance(operand, Refusal):
        return right if isinstance(right, Refusal) else operand
    layout = (kernel_layout.right_matrix if slot else kernel_layout.left_matrix)(operand.shape)
    if layout is None:
        return refuse_misshapen_weight(node, operand)
    shape = draft.shape(node, 1 - slot)
    if shape is None:
        return refuse(Reason.UNKNOWN_RANK, node)
    if len(shape) < 2:
        return refuse(Reason.SHAPE_MISMATCH, node, "it multiplies a vector")
    return slot, operand, layout, len(shape)


def _as_gemm(node: Node, weight: Operand, shift: FloatArray) -> list[Edit]:
    return [
        SetOperator(node, "Gemm", put=_broadcasting(node)),
        supplied_bias(node, weight, shift),
    ]


def _broadcasting(node: Node) -> dict[str, int]:
    """What a Gemm needs to add a row to each of its rows: before opset 7 an attribute."""
    return {"broadcast": 1} if node.scope.opset < 7 else {}
