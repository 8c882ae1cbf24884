"""The rules of Conv, ConvTranspose, Gemm and MatMul, which take a map into their weights.

Each rule has its identity beside it: s and t are the map's scale and shift.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np

from bnfold import steps
from bnfold.folding.rules import kernel_layout
from bnfold.folding.rules.base import Demand, Step, channels, refuse, refuse_shift
from bnfold.folding.rules.kernel_layout import Layout
from bnfold.folding.weights.affine import Affine, FloatArray
from bnfold.folding.weights.draft import Draft, Operand
from bnfold.folding.weights.edits import Edit, Guard, Rescale, SetOperator, Supply
from bnfold.graph.index import Node
from bnfold.reasons import Reason, Refusal

Kernel = Callable[[tuple[int, ...], int], Layout | None]
Weight = tuple[Operand, Layout]
Offset = Callable[[Draft, Node, Operand, Affine], list[Edit] | Refusal]


# --- Conv and ConvTranspose ---------------------------------------------------------------------


def conv_up(draft: Draft, node: Node, _: int, a: Affine) -> Step | Refusal:
    """s·(W∗x + b) + t  =  (s·W)∗x + (s·b + t)."""
    return _kernel_up(draft, node, a, kernel_layout.conv)


def conv_transpose_up(draft: Draft, node: Node, _: int, a: Affine) -> Step | Refusal:
    """The same identity; only the place of the output channels in W differs."""
    return _kernel_up(draft, node, a, kernel_layout.conv_transpose)


def _kernel_up(draft: Draft, node: Node, a: Affine, kernel: Kernel) -> Step | Refusal:
    return _from_outputs(draft, node, _kernel(draft, node, kernel), a, _into_bias)


def conv_down(draft: Draft, node: Node, slot: int, a: Affine) -> Step | Refusal:
    """W∗(s·x + t) + b  =  (W·s)∗x + (b + ΣW·t), if no zeros are read from the padding or t = 0."""
    if slot != 0:
        return refuse(Reason.RUN_TIME_WEIGHT, node)
    weight = _kernel(draft, node, kernel_layout.conv)
    if isinstance(weight, Refusal):
        return weight
    if _reads_padding(draft, node, weight[0]):
        padded = refuse_shift(node, a, Reason.ZERO_PADDING)
        if padded is not None:
            return padded
    return _from_inputs(draft, node, weight, a, 1, _into_bias)


def conv_transpose_down(draft: Draft, node: Node, slot: int, a: Affine) -> Step | Refusal:
    """W∗(s·x) = (W·s)∗x; a shift reaches the border through fewer taps than the middle."""
    if slot != 0:
        return refuse(Reason.RUN_TIME_WEIGHT, node)
    weight = _kernel(draft, node, kernel_layout.conv_transpose)
    shifted = refuse_shift(node, a, Reason.BORDER)
    return shifted or _from_inputs(draft, node, weight, a, 1, _into_bias)


def _kernel(draft: Draft, node: Node, kernel: Kernel) -> Weight | Refusal:
    operand = draft.operand(node, 1)
    if isinstance(operand, Refusal):
        return operand
    layout = kernel(operand.shape, draft.attribute(node, "group", 1))
    return (operand, layout) if layout is not None else refuse_misshapen_weight(node, operand)


def _reads_padding(draft: Draft, node: Node, weight: Operand) -> bool:
    if draft.attribute(node, "auto_pad", b"NOTSET") in (b"SAME_UPPER", b"SAME_LOWER"):
        return any(size != 1 for size in weight.shape[2:])
    return any(draft.numbers(node, "pads") or ())


def _into_bias(draft: Draft, node: Node, weight: Operand, a: Affine) -> list[Edit] | Refusal:
    """B = s·b + t; b is input 2, and absent means 0."""
    if not draft.has(node, 2):
        return _supply_bias(node, weight, a.shift)
    bias = draft.operand(node, 2)
    if isinstance(bias, Refusal):
        return bias
    if bias.shape != (a.channels,):
        detail = f"its bias {bias.name} has shape {list(bias.shape)}, not [{a.channels}]"
        return refuse(Reason.SHAPE_MISMATCH, node, detail)
    return [] if a.is_identity else [Rescale(node, 2, bias.shape, a.scale, a.shift)]


# --- Gemm and MatMul ----------------------------------------------------------------------------


def gemm_up(draft: Draft, node: Node, _: int, a: Affine) -> Step | Refusal:
    """s·(α·A·B + β·C) + t  =  α·A·(B·diag s) + β·(s·C + t/β)."""
    return _from_outputs(draft, node, _gemm_weight(draft, node), a, _into_c)


def gemm_down(draft: Draft, node: Node, slot: int, a: Affine) -> Step | Refusal:
    """α·(A·diag s + t)·B + β·C  =  α·A·(diag s·B) + β·(C + α·t·B/β)."""
    if slot != 0:
        return refuse(Reason.RUN_TIME_WEIGHT, node)
    axis = 0 if draft.attribute(node, "transA", 0) else 1
    alpha = float(draft.attribute(node, "alpha", 1.0))
    return _from_inputs(draft, node, _gemm_weight(draft, node), a, axis, _into_c, alpha)


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
    edits = _supply_bias(node, weight, a.shift, always=draft.has(node, 2))
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
    scaled = _scale(node, slot, layout, a.scale.reshape(layout.outputs), guard)
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
    scaled = _scale(node, constant, layout, a.scale.reshape(layout.inputs), Guard())
    if not a.shifts:
        return Step(scaled)
    shift = _response(draft, node, constant, layout, a.shift)
    origin = _response_origin(draft, node, constant, a, produced)
    passed = Demand(0, Affine(produced, np.ones_like(shift), shift, origin))
    if constant == 1 and rank == 2:
        gemm = Step((*scaled, *_as_gemm(node, operand, shift)))
        return Step(scaled, (passed,), otherwise=lambda: gemm)
    return Step(scaled, (passed,))


def _response_origin(
    draft: Draft, node: Node, constant: int, a: Affine, produced: int
) -> steps.Map:  # fmt: skip
    """The shift W′·t by the weight W of the model as it is: W′ = u_s·W·e_s."""
    p, q = draft.relation_at(node, 1 - constant)
    e, u = steps.between(q, p), steps.between(*draft.relation(node))
    inner = steps.shift(steps.then(steps.shift(a.origin), steps.scale(e)))
    response = steps.Response(draft.ref(node), constant, inner, produced)
    return steps.shift(steps.then(response, steps.scale(u)))


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


# --- what they share ----------------------------------------------------------------------------


def _from_outputs(
    draft: Draft, node: Node, weight: Weight | Refusal, a: Affine, into_offset: Offset
) -> Step | Refusal:
    """A map on the output: the weight's output channels by s, the offset by s and t."""
    if isinstance(weight, Refusal):
        return weight
    operand, layout = weight
    each = channels(a, node, 1, layout.output_channels)
    if isinstance(each, Refusal):
        return each
    offset = into_offset(draft, node, operand, each)
    if isinstance(offset, Refusal):
        return offset
    guard = _guard(draft, node, layout, offset)
    return Step((*_scale(node, 1, layout, each.scale.reshape(layout.outputs), guard), *offset))


def _from_inputs(
    draft: Draft, node: Node, weight: Weight | Refusal, a: Affine, axis: int, into_offset: Offset,
    factor: float = 1.0,
) -> Step | Refusal:  # fmt: skip
    """A map before the data: the weight's input channels by s, `factor`·ΣW·t to the offset."""
    if isinstance(weight, Refusal):
        return weight
    operand, layout = weight
    each = channels(a, node, axis, layout.input_channels)
    if isinstance(each, Refusal):
        return each
    with np.errstate(over="ignore", invalid="ignore"):  # what is not finite is refused by name
        shift = factor * _response(draft, node, 1, layout, each.shift)
    offset = into_offset(draft, node, operand, Affine(1, np.ones_like(shift), shift))
    if isinstance(offset, Refusal):
        return offset
    own = _guard(draft, node, layout, offset)
    guard = Guard(np.abs(own.offset).min(), own.length)
    return Step((*_scale(node, 1, layout, each.scale.reshape(layout.inputs), guard), *offset))


def _response(
    draft: Draft, node: Node, slot: int, layout: Layout, inputs: FloatArray
) -> FloatArray:
    """Σ W·t: what inputs that are `inputs`[i] everywhere on channel i make of each output."""
    times = Rescale(node, slot, layout.view, inputs.reshape(layout.inputs))
    return draft.recipe(node, slot).summed(times, layout.outputs).reshape(-1)


def _scale(
    node: Node, slot: int, layout: Layout, scale: FloatArray, guard: Guard
) -> tuple[Edit, ...]:
    """The weight times `scale`; nothing where that is 1 everywhere."""
    return (Rescale(node, slot, layout.view, scale, guard=guard),) if np.any(scale != 1) else ()


def _guard(draft: Draft, node: Node, layout: Layout, planned: list[Edit]) -> Guard:
    """What the output channels of a node are, but for what its weight gives: its offset.

    `planned` are the edits of the offset.
    """
    offset = np.zeros(1)
    if draft.has(node, 2) and isinstance(draft.operand(node, 2), Operand):
        offset = draft.values(node, 2)
    for edit in planned:
        if isinstance(edit, Supply):
            offset = edit.values
        elif isinstance(edit, Rescale):
            offset = edit.of(offset)
    beta = float(draft.attribute(node, "beta", 1.0)) if draft.op(node) == "Gemm" else 1.0
    alpha = float(draft.attribute(node, "alpha", 1.0)) if draft.op(node) == "Gemm" else 1.0
    with np.errstate(over="ignore", invalid="ignore"):  # what is not finite is refused by name
        offset = np.atleast_1d(np.abs(offset * (beta / alpha if alpha else 0.0)))
    rows = offset.reshape(-1, offset.shape[-1])
    least = np.broadcast_to(rows.min(axis=0), (layout.output_channels,))
    taps = math.prod(layout.view) // layout.output_channels
    return Guard(least.reshape(layout.outputs), taps)


def _supply_bias(
    node: Node, weight: Operand, shift: FloatArray, *, always: bool = False
) -> list[Edit]:
    """A new bias; none where it would be all zero, unless it must replace one that is there."""
    return [supplied_bias(node, weight, shift)] if always or np.any(shift) else []


def supplied_bias(node: Node, weight: Operand, values: FloatArray) -> Supply:
    """A new bias, named after the weight."""
    stem = weight.name.removesuffix("weight")
    name = f"{stem}bias" if stem != weight.name else f"{weight.name}_bias"
    return Supply(node, 2, values, weight.dtype, name)


def refuse_misshapen_weight(node: Node, operand: Operand) -> Refusal:
    """The refusal of a constant whose shape does not fit its node."""
    detail = f"its weight {operand.name} has shape {list(operand.shape)}, which does not fit it"
    return refuse(Reason.SHAPE_MISMATCH, node, detail)
