"""Whether a tensor's type can hold what an edit makes of it.

An edit is refused where values overflow, where they were not finite to begin with, and where a
channel that counts would be lost to underflow. Large tensors are looked at block by block.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import ml_dtypes
import numpy as np
import numpy.typing as npt
from onnx import TensorProto, helper

from bnfold.folding.weights.affine import FloatArray
from bnfold.folding.weights.blocks import Block, in_order
from bnfold.folding.weights.constants import in_range, rounded
from bnfold.folding.weights.edits import Guard, Rescale, Supply
from bnfold.folding.weights.recipe import Blockwise, Recipe, broadcast_axes
from bnfold.onnx_io.protos import INTEGER_TYPES
from bnfold.reasons import Reason

_NATIVE = (TensorProto.FLOAT, TensorProto.DOUBLE)  # in which maxima are found without conversion


@dataclass(frozen=True)
class _Found:
    """What one block shows. `response` and `remains` have an entry for each of its channels."""

    finite_before: bool
    finite: bool
    response: FloatArray  # Σ|exact|, at least of channels of which nothing remains
    remains: npt.NDArray[np.bool_]  # whether anything but zeros is stored
    imprecise: bool = False


def exceeded(edit: Rescale | Supply, before: Recipe) -> Reason | None:
    """Why the values must not be edited so, None if they may.

    `before` are the values that a Rescale changes; its dtype is that in which they are stored.
    """
    if before.dtype in INTEGER_TYPES:
        after = edit.values if isinstance(edit, Supply) else edit.of(before.values())
        return None if np.all(in_range(after, before.dtype)) else Reason.QUANTIZED
    cut = before.base and Blockwise.of(before.base, (*before.edits, edit))
    if not cut:
        return _reason(edit, before.dtype, _examine_whole(edit, before))
    assert isinstance(edit, Rescale)
    scale = cut.maps[-1][0]
    response, remains = np.zeros(scale.shape), np.zeros(scale.shape, bool)
    finite_before = finite = True
    imprecise = False
    quick = not before.edits and edit.shift is None and not edit.precise
    quick = quick and before.dtype in _NATIVE

    def examine(block: Block) -> tuple[Block, _Found]:
        return block, _examine(cut, block, edit, before.dtype, quick=quick)

    for block, found in in_order(examine, cut):
        finite_before &= found.finite_before
        finite &= found.finite
        imprecise |= found.imprecise
        own = block.of(response)
        own += found.response
        block.of(remains)[found.remains] = True
    return _reason(edit, before.dtype, _Found(finite_before, finite, response, remains, imprecise))


def _reason(edit: Rescale | Supply, dtype: int, found: _Found) -> Reason | None:
    if not found.finite_before:
        return Reason.NOT_FINITE
    if not found.finite:
        return Reason.OVERFLOW
    if edit.guard is None:
        return None
    lost = found.imprecise or _shows(edit.guard, dtype, found.response, ~found.remains)
    return Reason.UNDERFLOW if lost else None


def _shows(guard: Guard, dtype: int, response: FloatArray, lost: npt.NDArray[np.bool_]) -> bool:
    """Whether a finite input could show that the values of channels are lost.

    It could not where Σ|exact|·|x| stays below what roundings make of the sum, (2n + 8)·u·|offset|
    for every finite x. (Trained models hold channels that weight decay has brought down to 1e-40,
    and of which the bias is all that is left.) Nor does it count where inputs up to √largest give
    less than half of the smallest number: then the original computes zeros as well.
    """
    limits = _limits(dtype)
    largest, smallest = float(limits.max), float(limits.smallest_subnormal)
    offset = np.abs(guard.offset).reshape(-1)
    response = np.where(lost, response, 0.0).reshape(-1)
    if offset.size != response.size:  # of input channels, which one sum reads together
        offset, response = offset.min(), response.sum()
    with np.errstate(over="ignore"):
        hidden = response * largest <= (2 * guard.length + 8) * float(limits.eps) / 2 * offset
        zero = 2 * response * largest**0.5 < smallest
    return not np.all(hidden | zero)


def _limits(dtype: int) -> Any:
    return ml_dtypes.finfo(helper.tensor_dtype_to_np_dtype(dtype))  # type: ignore[no-untyped-call]


def _examine(cut: Blockwise, block: Block, edit: Rescale, dtype: int, *, quick: bool) -> _Found:
    scale, shift = cut.maps[-1]
    own = block.of(scale)
    if quick:
        # rounding keeps order: the largest element of each channel decides for all of them
        stored, idle = cut.stored(block), broadcast_axes(own.shape)
        largest = np.maximum(
            stored.max(axis=idle, keepdims=True), -stored.min(axis=idle, keepdims=True)
        ).astype(np.float64)
        found = _compared(largest, _scaled(largest, own), own.shape, dtype, edit, own)
        if np.all(found.remains) or edit.guard is None:
            return found
    before = cut.values(block, len(cut.maps) - 1)
    after = _scaled(before, own)
    if shift is None:
        return _compared(before, after, own.shape, dtype, edit, own)
    return _compared(before, after + block.of(shift), own.shape, dtype, edit)


def _examine_whole(edit: Rescale | Supply, before: Recipe) -> _Found:
    if isinstance(edit, Supply):
        shape = (*edit.values.shape[:1], *(1,) * (edit.values.ndim - 1))
        return _compared(np.zeros(0), edit.values, shape, before.dtype, edit)
    values = before.values()
    after = edit.of(values)
    shift = () if edit.shift is None else edit.shift.shape
    view = np.broadcast_shapes(edit.view, edit.scale.shape, shift)
    shape = (1,) * (len(view) - edit.scale.ndim) + edit.scale.shape
    return _compared(values.reshape(edit.view), after.reshape(view), shape, before.dtype, edit)


def _compared(
    before: FloatArray,
    exact: FloatArray,
    channels: tuple[int, ...],
    dtype: int,
    edit: Rescale | Supply,
    scale: FloatArray | None = None,
) -> _Found:
    stored = rounded(exact, dtype).astype(np.float64)
    finite_before, finite = bool(np.isfinite(before).all()), bool(np.isfinite(stored).all())
    if edit.guard is None:
        return _Found(finite_before, finite, np.zeros(channels), np.ones(channels, bool))
    idle = broadcast_axes(channels)
    vanished = np.zeros(exact.shape, bool)
    if scale is not None:
        vanished = (exact == 0) & (before != 0) & (scale != 0)
    with np.errstate(over="ignore", invalid="ignore"):
        # what has vanished in float64 counts as the smallest number that it has
        size = np.where(vanished, float(np.finfo(np.float64).smallest_subnormal), np.abs(exact))
        response = size.sum(axis=idle, keepdims=True)
    remains = np.any(stored != 0, axis=idle, keepdims=True)
    imprecise = False
    if isinstance(edit, Rescale) and edit.precise:
        normal = float(_limits(dtype).smallest_normal)
        imprecise = bool(np.any((np.abs(exact) < normal) & (np.abs(before) >= normal)))
    return _Found(finite_before, finite, response, remains, imprecise)


def _scaled(values: FloatArray, scale: FloatArray) -> FloatArray:
    with np.errstate(over="ignore", invalid="ignore"):
        return np.asarray(values * scale)
