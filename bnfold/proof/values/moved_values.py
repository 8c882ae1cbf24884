"""Operators that move data, and casts, on constants."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
from onnx import TensorProto, helper, numpy_helper

from bnfold.graph.index import Node
from bnfold.proof.values.operands import (
    FLOATS,
    NARROW,
    Array,
    Operands,
    UnknownValueError,
    axis_of,
    get,
    has,
    ints,
    require_bounded,
)


def identity(_: Node, operands: Operands) -> Array:
    """X."""
    return get(operands, 0)


def cast(node: Node, operands: Operands) -> Array:
    """In another type."""
    if node.scope.opset < 6:
        raise UnknownValueError
    target = node.attribute("to", 0)
    return cast_to(get(operands, 0), target)


def cast_to(value: Array, target: int) -> Array:
    """A value in another type, where every runtime does that alike."""
    if target in (TensorProto.STRING, TensorProto.UNDEFINED) or value.dtype.kind in "OSU":
        raise UnknownValueError
    dtype = np.dtype(helper.tensor_dtype_to_np_dtype(target))
    if any(kind.name.startswith(NARROW) for kind in (dtype, value.dtype)):
        raise UnknownValueError  # of which casts saturate, or wrap, differently everywhere
    if dtype.kind in "iu" and value.dtype.name in FLOATS:
        limits = np.iinfo(dtype)
        wide = value.astype(np.float64)
        if not np.all((np.trunc(wide) >= limits.min) & (np.trunc(wide) <= limits.max)):
            raise UnknownValueError  # what is out of range is undefined
    if dtype.name == "bfloat16" and value.dtype == np.float64:
        raise UnknownValueError  # which is rounded twice by some
    return value.astype(dtype)


def cast_or_none(value: Array, target: int) -> Array | None:
    """Likewise; None where runtimes differ."""
    try:
        return cast_to(value, target)
    except UnknownValueError:
        return None


def constant_of_shape(node: Node, operands: Operands) -> Array:
    """One number, everywhere."""
    shape = ints(operands, 0)
    if any(dim < 0 for dim in shape):
        raise UnknownValueError
    require_bounded(math.prod(map(float, shape)), operands)
    value = next((a.t for a in node.proto.attribute if a.name == "value"), None)
    if value is None:
        return np.zeros(shape, np.float32)
    if value.data_location == TensorProto.EXTERNAL:
        raise UnknownValueError
    fill = numpy_helper.to_array(value)
    if fill.size != 1:
        raise UnknownValueError
    return np.full(shape, fill.reshape(()), fill.dtype)


def concat(node: Node, operands: Operands) -> Array:
    """One behind the other."""
    arrays = [get(operands, slot) for slot in range(len(operands))]
    axis = axis_of(node.attribute("axis", 1 if node.scope.opset < 4 else 0), arrays[0].ndim)
    if len({a.dtype for a in arrays}) > 1:
        raise UnknownValueError
    return np.concatenate(arrays, axis=axis)


def expand(_: Node, operands: Operands) -> Array:
    """Broadcast to a shape."""
    value, target = get(operands, 0), ints(operands, 1)
    shape = np.broadcast_shapes(value.shape, tuple(target))
    require_bounded(math.prod(map(float, shape)), operands)
    return np.broadcast_to(value, shape).copy()


def flatten(node: Node, operands: Operands) -> Array:
    """As a matrix."""
    value, axis = get(operands, 0), node.attribute("axis", 1)
    if not -value.ndim <= axis <= value.ndim:
        raise UnknownValueError
    axis = axis + value.ndim if axis < 0 else axis
    return value.reshape(math.prod(value.shape[:axis]), math.prod(value.shape[axis:]))


def gather(node: Node, operands: Operands) -> Array:
    """Entries along one axis."""
    value, indices = get(operands, 0), get(operands, 1)
    axis = axis_of(node.attribute("axis", 0), value.ndim)
    size = value.shape[axis]
    if indices.dtype.kind not in "iu" or np.any((indices < -size) | (indices >= size)):
        raise UnknownValueError
    if np.any(indices < 0) and node.scope.opset < 11:
        raise UnknownValueError
    require_bounded(float(value.size) / max(size, 1) * indices.size, operands)
    return np.take(value, indices, axis=axis)


def reshape(node: Node, operands: Operands) -> Array:
    """In another shape; 0 keeps a dimension, −1 is what is left."""
    value = get(operands, 0)
    target = node.numbers("shape") if node.scope.opset < 5 else ints(operands, 1)
    if target is None:
        raise UnknownValueError
    zeros = bool(node.attribute("allowzero", 0))
    shape = [
        value.shape[place] if dim == 0 and not zeros else int(dim)
        for place, dim in enumerate(target)
    ]  # fmt: skip
    if sum(dim < 0 for dim in shape) > 1 or min(shape, default=0) < -1:
        raise UnknownValueError
    return value.reshape(shape)


def shape(node: Node, operands: Operands) -> Array:
    """Its dimensions, or some of them."""
    dims = get(operands, 0).shape
    start, end = shape_bounds(node, len(dims))
    return np.array(dims[start:end], np.int64)


def shape_bounds(node: Node, rank: int) -> tuple[int, int]:
    """Which of the dimensions a Shape gives: bounds count from the end, and are clamped."""
    start, end = node.attribute("start", 0), node.attribute("end", rank)
    start, end = (bound + rank if bound < 0 else bound for bound in (start, end))
    return min(max(start, 0), rank), min(max(end, 0), rank)


def slice_value(node: Node, operands: Operands) -> Array:
    """A part."""
    value = get(operands, 0)
    parts: list[list[int] | None] = []
    for slot, name in enumerate(("starts", "ends", "axes", "steps"), start=1):
        if node.scope.opset < 10:
            parts.append(node.numbers(name))
        else:
            parts.append(ints(operands, slot) if has(operands, slot) else None)
    for axis, indices in slices(parts, value.shape).items():
        value = np.take(value, indices, axis=axis)
    return value


def slices(
    parts: Sequence[Sequence[int] | None], shape: Sequence[int | str]
) -> dict[int, npt.NDArray[np.int64]]:
    """Which indices a Slice leaves along each axis that it names.

    `parts` are its starts, ends, axes and steps. Raises ValueError where it is none, or an axis has
    no known size.
    """
    starts, ends, axes, steps = parts
    if starts is None or ends is None or len(starts) != len(ends):
        raise ValueError("starts and ends")
    axes = list(range(len(starts))) if axes is None else axes
    steps = [1] * len(starts) if steps is None else steps
    if len(axes) != len(starts) or len(steps) != len(starts):
        raise ValueError("axes and steps")
    found: dict[int, npt.NDArray[np.int64]] = {}
    for start, end, named, step in zip(starts, ends, axes, steps, strict=True):
        axis = axis_of(named, len(shape))
        size = shape[axis]
        if axis in found or step == 0 or not isinstance(size, int):
            raise ValueError("axes")
        found[axis] = between(start, end, step, size)
    return found


def between(start: int, end: int, step: int, size: int) -> npt.NDArray[np.int64]:
    """The indices from `start` to `end`, clamped as the specification says.

    Forwards to [0, size]; backwards start to [0, size − 1] and end to [−1, size − 1].
    """
    if not step:
        raise ValueError(step)
    start, end = (bound + size if bound < 0 else bound for bound in (start, end))
    if step > 0:
        return np.arange(min(max(start, 0), size), min(max(end, 0), size), step)
    return np.arange(min(max(start, 0), size - 1), min(max(end, -1), size - 1), step)


def _axes(node: Node, operands: Operands, slot: int, since: int) -> list[int] | None:
    if node.scope.opset < since:
        return node.numbers("axes")
    return ints(operands, slot) if has(operands, slot) else None


def squeeze(node: Node, operands: Operands) -> Array:
    """Without axes of size 1."""
    value = get(operands, 0)
    axes = _axes(node, operands, 1, 13)
    if axes is not None and not len(axes):  # the specification squeezes none, and runtimes all
        raise UnknownValueError
    if axes is None:
        return value.reshape([dim for dim in value.shape if dim != 1])
    return np.squeeze(value, axis=tuple(axis_of(axis, value.ndim) for axis in axes))


def unsqueeze(node: Node, operands: Operands) -> Array:
    """With more axes of size 1."""
    value = get(operands, 0)
    axes = _axes(node, operands, 1, 13)
    if axes is None:
        raise UnknownValueError
    rank = value.ndim + len(axes)
    places = {axis_of(axis, rank) for axis in axes}
    if len(places) != len(axes):
        raise UnknownValueError
    sizes = iter(value.shape)
    return value.reshape([1 if place in places else next(sizes) for place in range(rank)])


def tile(node: Node, operands: Operands) -> Array:
    """Several times over."""
    value = get(operands, 0)
    if node.scope.opset < 6:
        raise UnknownValueError
    repeats = ints(operands, 1)
    if len(repeats) != value.ndim or min(repeats, default=0) < 0:
        raise UnknownValueError
    require_bounded(value.size * math.prod(map(float, repeats)), operands)
    return np.tile(value, repeats)


def transpose(node: Node, operands: Operands) -> Array:
    """With its axes in another order."""
    value = get(operands, 0)
    perm = node.numbers("perm")
    return value.transpose(perm if perm is not None else range(value.ndim)[::-1])
