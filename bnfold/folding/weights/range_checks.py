"""Whether a tensor's type can hold what an edit makes of it.

An edit is refused where values overflow, where they were not finite to begin with, and where
underflow would take more than half of a weight that counts. Large tensors are looked at block by
block.
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

_PLENTY = 2.0**-100  # whose u² in float32 is more than half of its smallest number
_NATIVE = (TensorProto.FLOAT, TensorProto.DOUBLE)  # in which maxima are found without conversion


@dataclass(frozen=True)
class _Found:
    """What one block shows. `errors`, `lost` and `largest` have an entry for each of its channels.

    `errors` is Σ|exact − stored| of what underflow has changed, `lost` whether it has left less
    than half of anything, `largest` the largest number that is stored.
    """

    finite_before: bool
    finite: bool
    errors: FloatArray
    lost: npt.NDArray[np.bool_]
    largest: FloatArray
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
    errors, lost = np.zeros(scale.shape), np.zeros(scale.shape, bool)
    largest = np.zeros(scale.shape)
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
        own = block.of(errors)
        own += found.errors
        block.of(lost)[found.lost] = True
        most = block.of(largest)
        np.maximum(most, found.largest, out=most)
    whole = _Found(finite_before, finite, errors, lost, largest, imprecise)
    return _reason(edit, before.dtype, whole)


def _reason(edit: Rescale | Supply, dtype: int, found: _Found) -> Reason | None:
    if not found.finite_before:
        return Reason.NOT_FINITE
    if not found.finite:
        return Reason.OVERFLOW
    if edit.guard is None:
        return None
    lost = found.imprecise or _shows(edit.guard, dtype, found)
    return Reason.UNDERFLOW if lost else None


def _shows(guard: Guard, dtype: int, found: _Found) -> bool:
    """Whether a finite input could show what underflow has taken.

    It could not where Σ|error|·|x| stays below what roundings make of the sum, (2n + 8)·u·|offset|
    for every finite x. (Trained models hold channels that weight decay has brought down to 1e-40,
    and of which the bias is all that is left.) Nor does it count where inputs up to √largest give
    less than half of the smallest number: then the original computes zeros as well; nor below u² of
    what the largest weight of the channel makes.
    """
    limits = _limits(dtype)
    most, smallest, u = float(limits.max), float(limits.smallest_subnormal), float(limits.eps) / 2
    offset, largest = np.abs(guard.offset).reshape(-1), found.largest.reshape(-1)
    errors = np.where(found.lost, found.errors, 0.0).reshape(-1)
    errors = np.where(errors <= u * u * largest, 0.0, errors)
    if offset.size != errors.size:  # of input channels, which one sum reads together
        offset, errors = offset.min(), errors.sum()
    with np.errstate(over="ignore"):
        hidden = errors * most <= (2 * guard.length + 8) * u * offset
        zero = 2 * errors * most**0.5 < smallest
    return not np.all(hidden | zero)


def _limits(dtype: int) -> Any:
    return ml_dtypes.finfo(helper.tensor_dtype_to_np_dtype(dtype))  # type: ignore[no-untyped-call]


def _examine(cut: Blockwise, block: Block, edit: Rescale, dtype: int, *, quick: bool) -> _Found:
    scale, shift = cut.maps[-1]
    own = block.of(scale)
    if quick:
        # rounding keeps order: where the largest of each channel is finite, all are; and beside one
        # that is large enough, what underflow takes of others is not seen
        stored, idle = cut.stored(block), broadcast_axes(own.shape)
        largest = np.maximum(
            stored.max(axis=idle, keepdims=True), -stored.min(axis=idle, keepdims=True)
        ).astype(np.float64)
        found = _compared(largest, _scaled(largest, own), own.shape, dtype, edit, own)
        if edit.guard is None or np.all(found.largest >= _PLENTY):
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
        none = np.zeros(channels)
        return _Found(finite_before, finite, none, np.zeros(channels, bool), none)
    idle = broadcast_axes(channels)
    tiny = np.abs(stored) < float(_limits(dtype).smallest_normal)
    with np.errstate(over="ignore", invalid="ignore"):
        off = np.where(tiny, np.abs(exact - stored), 0.0)
    if scale is not None:  # what has vanished in float64 counts as the smallest number that it has
        vanished = (exact == 0) & (before != 0) & (scale != 0)
        off = np.where(vanished, float(np.finfo(np.float64).smallest_subnormal), off)
    errors = off.sum(axis=idle, keepdims=True)
    lost = np.any((off > 0) & (2 * off >= np.abs(exact)), axis=idle, keepdims=True)
    largest = np.abs(stored).max(axis=idle, keepdims=True, initial=0.0)
    imprecise = False
    if isinstance(edit, Rescale) and edit.precise:
        normal = float(_limits(dtype).smallest_normal)
        imprecise = bool(np.any((np.abs(exact) < normal) & (np.abs(before) >= normal)))
    return _Found(finite_before, finite, errors, lost, largest, imprecise)


def _scaled(values: FloatArray, scale: FloatArray) -> FloatArray:
    with np.errstate(over="ignore", invalid="ignore"):
        return np.asarray(values * scale)
