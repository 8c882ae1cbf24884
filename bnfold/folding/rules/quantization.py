"""The rules of DequantizeLinear and QuantizeLinear.

A weight that stands behind a DequantizeLinear stays quantised: a map on it goes into the scale k of
(q − z)·k. Only signs, dead channels and, where the integers are wide enough, shifts go into q.
Activations that are rounded to integers let nothing pass: rounding is no per-channel map.
"""

from __future__ import annotations

import math

import numpy as np
from onnx import TensorProto

from bnfold.folding.rules.base import Step, broadcast_along, refuse, refuse_misshapen_weight
from bnfold.folding.weights.affine import Affine, FloatArray
from bnfold.folding.weights.constants import in_range
from bnfold.folding.weights.draft import Draft, Operand
from bnfold.folding.weights.edits import Edit, Guard, Rescale, SetOperator
from bnfold.graph.index import Node
from bnfold.onnx_io.protos import INTEGER_TYPES
from bnfold.reasons import Reason, Refusal

_VECTORS = 13  # the opset from which on a scale may have an entry for each channel

Operands = tuple[Operand, Operand, Operand | None]


def dequantize_up(draft: Draft, node: Node, _: int, a: Affine) -> Step | Refusal:
    """s·(q − z)·k + t  =  (f·(q − z) + t/(σ·k))·(σ·k)   with   σ = |s|, f = sign s.

    A dead channel, s = 0, keeps its scale (σ = 1) and holds only zeros (f = 0). Only 32-bit
    integers, the type of biases, take a shift: it is rounded to them.
    """
    operands = _operands(draft, node)
    if isinstance(operands, Refusal):
        return operands
    q, k, z = operands
    f, sigma = np.sign(a.scale), np.where(a.scale == 0, 1.0, np.abs(a.scale))
    scaled = _into_scale(draft, node, operands, a.axis, sigma)
    if isinstance(scaled, Refusal):
        return scaled
    if not a.shifts and np.all(f == 1):
        return Step(tuple(scaled))
    if a.shifts and q.dtype != TensorProto.INT32:
        return refuse(Reason.QUANTIZED, node, f"{q.name} has no room for a shift")
    f, sigma, shift = (broadcast_along(v, a.axis, len(q.shape)) for v in (f, sigma, a.shift))
    if a.shifts:
        with np.errstate(divide="ignore", over="ignore"):  # what overflows is refused by name
            shift = shift / (sigma * _broadcast_to_weight(draft, node, 1, q, k))
    shift = shift if z is None else shift + (1 - f) * _broadcast_to_weight(draft, node, 2, q, z)
    edit = Rescale(node, 0, q.shape, f, shift)
    return _without_opposite(draft, q, edit, a) or Step((*scaled, edit))


def quantize_down(_draft: Draft, node: Node, _slot: int, _a: Affine) -> Step | Refusal:
    """Always a refusal: what is rounded after a map is not what is rounded before it."""
    return refuse(Reason.ROUNDING, node)


def _operands(draft: Draft, node: Node) -> Operands | Refusal:
    """q, k and z of a weight; z is None where it is left out and means 0."""
    q, k = draft.operand(node, 0), draft.operand(node, 1)
    if isinstance(q, Refusal):
        computed = q.reason is Reason.COMPUTED
        return refuse(Reason.ROUNDING, node) if computed else q
    if isinstance(k, Refusal):
        return k
    z = draft.operand(node, 2) if draft.has(node, 2) else None
    if isinstance(z, Refusal):
        return z
    if z is not None and math.prod(z.shape) != math.prod(k.shape):
        return refuse_misshapen_weight(node, z)
    return q, k, z


def _into_scale(
    draft: Draft, node: Node, operands: Operands, axis: int | None, sigma: FloatArray
) -> list[Edit] | Refusal:
    """The scale k becomes σ·k. One number becomes one for each channel, and so does z."""
    q, k, z = operands
    own, rank = _axis(draft, node, q), len(q.shape)

    def scaled(view: tuple[int, ...], factor: FloatArray) -> Edit:
        return Rescale(node, 1, view, factor, guard=Guard(), precise=True)

    if np.all(sigma == sigma[0]):
        uniform = sigma[:1].reshape((1,) * len(k.shape))
        return [scaled(k.shape, uniform)] if sigma[0] != 1 else []
    assert axis is not None, "a map of several channels has an axis"
    blocked = draft.attribute(node, "block_size", 0) > 0
    if math.prod(k.shape) == 1 and not blocked:
        if node.scope.opset < _VECTORS:
            detail = f"before opset {_VECTORS} its scale is one number"
            return refuse(Reason.QUANTIZED, node, detail)
        edits: list[Edit] = [
            SetOperator(node, node.op, put={"axis": axis}),
            scaled((1,), sigma),
        ]
        return edits if z is None else [*edits, Rescale(node, 2, (1,), np.ones_like(sigma))]
    if blocked:  # of blocks along its own axis, and of single rows along the others
        factor = broadcast_along(sigma, axis, rank)
        fits = k.shape[axis] == len(sigma)
    else:
        factor, fits = sigma, axis == own
    if not fits:
        detail = f"its scale varies along axis {own}, the map along axis {axis}"
        return refuse(Reason.QUANTIZED, node, detail)
    return [scaled(k.shape, factor)]


def _axis(draft: Draft, node: Node, q: Operand) -> int:
    return int(draft.attribute(node, "axis", 1)) % max(len(q.shape), 1)


def _broadcast_to_weight(
    draft: Draft, node: Node, slot: int, q: Operand, parameter: Operand
) -> FloatArray:
    """The scale or the zero point, so that it broadcasts against q."""
    values, rank = draft.values(node, slot), len(q.shape)
    axis = _axis(draft, node, q)
    if (block := draft.attribute(node, "block_size", 0)) > 0:
        return values.repeat(block, axis).take(range(q.shape[axis]), axis)
    if values.size == 1:
        return values.reshape((1,) * rank)
    return broadcast_along(values, axis, rank)


def _without_opposite(draft: Draft, q: Operand, edit: Rescale, a: Affine) -> Refusal | None:
    """Refuses channels of a negative scale that hold the one integer without an opposite."""
    if q.dtype not in INTEGER_TYPES or a.shifts:
        return None
    beyond = ~in_range(edit.of(draft.values(edit.node, 0)), q.dtype)
    others = tuple(axis for axis in range(len(q.shape)) if axis != a.axis)
    if not (rows := int(np.count_nonzero(beyond.any(axis=others)))):
        return None
    detail = f"{rows} of {a.channels} channels have a negative scale, and integers without opposite"
    return refuse(Reason.QUANTIZED, edit.node, detail)
