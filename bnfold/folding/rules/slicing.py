"""The rules of nodes that cut, join and copy: Concat, Split, Slice, Gather, Expand, Tile."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
from onnx import TensorProto

from bnfold.folding.rules.base import Demand, Step, refuse, refuse_too_wide
from bnfold.folding.weights.affine import Affine
from bnfold.folding.weights.constants import Constant
from bnfold.folding.weights.draft import Draft
from bnfold.graph.index import Node
from bnfold.reasons import Reason, Refusal

Indices = npt.NDArray[np.int64]


# --- cutting and joining ------------------------------------------------------------------------


def concat_up(draft: Draft, node: Node, _: int, a: Affine) -> Step | Refusal:
    """On the channel axis: A cut into pieces, one for each branch; else A for every branch."""
    slots = range(len(node.proto.input))
    if along_joined(draft, node, a) is None:
        return Step(demands=tuple(Demand(slot, a) for slot in slots))
    ends = draft.join_offsets(node, a.axis or 0)
    if ends is None or ends[-1] != a.channels:
        return refuse(Reason.UNKNOWN_RANK, node)
    pieces = (a.select(slice(ends[slot], ends[slot + 1])) for slot in slots)
    return Step(
        demands=tuple(Demand(slot, piece) for slot, piece in zip(slots, pieces, strict=True))
    )


def concat_down(draft: Draft, node: Node, slot: int, a: Affine) -> Step | Refusal:
    """The other branches get the identity; not to be had where they share the channels."""
    if along_joined(draft, node, a) is None:
        return refuse(Reason.OTHER_BRANCH, node, "another axis than the channels'")
    ends = draft.join_offsets(node, a.axis or 0)
    if ends is None or ends[slot + 1] - ends[slot] != a.channels:
        return refuse(Reason.UNKNOWN_RANK, node)
    if (wide := refuse_too_wide(draft, node, ends[-1])) is not None:
        return wide
    return Step(demands=(Demand(0, a.embed(ends[slot], ends[-1])),))


def along_joined(draft: Draft, node: Node, a: Affine) -> int | None:
    """The axis of a Concat or Split, if the map varies along it."""
    shape = draft.shape(node, 0)
    axis = node.attribute("axis", 1 if node.scope.opset < 4 else 0)
    if a.axis is None or not shape:
        return None if a.axis is None else a.axis
    return a.axis if axis % len(shape) == a.axis else None


def _size(draft: Draft, node: Node, slot: int, axis: int | None) -> int | None:
    shape = draft.shape(node, slot)
    dim = shape[axis] if shape is not None and axis is not None and axis < len(shape) else None
    return dim if isinstance(dim, int) else None


def split_up(draft: Draft, node: Node, output: int, a: Affine) -> Step | Refusal:
    """On the channel axis: the other outputs get the identity; else they would get A as well."""
    if a.axis is None or along_joined(draft, node, a) is None:
        return refuse(Reason.OTHER_BRANCH, node, "another axis than the channels', or all of them")
    pieces = _pieces(draft, node, a.axis)
    if pieces is None or pieces[output] != a.channels:
        return refuse(Reason.UNKNOWN_RANK, node)
    if (wide := refuse_too_wide(draft, node, sum(pieces))) is not None:
        return wide
    return Step(demands=(Demand(0, a.embed(sum(pieces[:output]), sum(pieces))),))


def split_down(draft: Draft, node: Node, slot: int, a: Affine) -> Step | Refusal:
    """Every output takes its piece."""
    outputs = range(len(node.proto.output))
    if a.axis is None or along_joined(draft, node, a) is None:
        return Step(demands=tuple(Demand(k, a) for k in outputs))
    pieces = _pieces(draft, node, a.axis)
    if pieces is None or sum(pieces) != a.channels:
        return refuse(Reason.UNKNOWN_RANK, node)
    starts = np.cumsum([0, *pieces])
    return Step(
        demands=tuple(Demand(k, a.select(slice(starts[k], starts[k + 1]))) for k in outputs)
    )


def _pieces(draft: Draft, node: Node, axis: int) -> list[int] | None:
    sizes = []
    for k, name in enumerate(node.proto.output):
        shape = draft.output_shape(node, k) if name else None
        if shape is None or not isinstance(shape[axis], int):
            return None
        sizes.append(shape[axis])
    return [size for size in sizes if isinstance(size, int)]


def slice_up(draft: Draft, node: Node, _: int, a: Affine) -> Step | Refusal:
    """What is cut away gets the identity."""
    return _selected_up(draft, node, a, _sliced(draft, node, a))


def slice_down(draft: Draft, node: Node, slot: int, a: Affine) -> Step | Refusal:
    """What is left keeps its part of A."""
    return _selected_down(node, slot, a, _sliced(draft, node, a))


def _sliced(draft: Draft, node: Node, a: Affine) -> Indices | Refusal | None:
    """The channels that a Slice leaves, in order; None where it does not cut the channel axis."""
    shape = draft.shape(node, 0)
    if a.axis is None:
        return None
    if shape is None:
        return refuse(Reason.UNKNOWN_RANK, node)
    parts: dict[str, list[int]] = {}
    for slot, name in enumerate(("starts", "ends", "axes", "steps"), start=1):
        values = node.numbers(name)
        if values is None and node.input(slot):
            constant = draft.constants.find_any(node, slot)
            if isinstance(constant, Refusal):
                return constant
            values = constant.array().ravel().tolist()
        parts[name] = list(values or [])
    axes = [axis % len(shape) for axis in parts["axes"] or range(len(parts["starts"]))]
    if any(len(parts[name]) not in (len(axes), 0) for name in ("steps", "ends", "starts")):
        return refuse(Reason.MALFORMED, node, "its starts, ends, axes and steps differ in number")
    if a.axis not in axes:
        return None
    place = axes.index(a.axis)
    size = shape[a.axis]
    if not isinstance(size, int):
        return refuse(Reason.UNKNOWN_RANK, node)
    step = (parts["steps"] or [1] * len(axes))[place]
    return _between(parts["starts"][place], parts["ends"][place], step, size)


def _between(start: int, end: int, step: int, size: int) -> Indices:
    """The indices of a Slice, clamped as ONNX says, which is not how Python does it."""
    start, end = (bound + size if bound < 0 else bound for bound in (start, end))
    if step > 0:
        return np.arange(min(max(start, 0), size), min(max(end, 0), size), step)
    return np.arange(min(max(start, 0), size - 1), min(max(end, -1), size - 1), step or -1)


def gather_up(draft: Draft, node: Node, _: int, a: Affine) -> Step | Refusal:
    """What is not gathered gets the identity; a channel gathered twice would need two maps."""
    return _gathered(draft, node, a, up=True)


def gather_down(draft: Draft, node: Node, slot: int, a: Affine) -> Step | Refusal:
    """Each gathered channel keeps its part of A."""
    return (
        _gathered(draft, node, a, up=False) if slot == 0 else refuse(Reason.RUN_TIME_WEIGHT, node)
    )


def _gathered(draft: Draft, node: Node, a: Affine, *, up: bool) -> Step | Refusal:
    shape, indices_shape = draft.shape(node, 0), draft.shape(node, 1)
    if a.axis is None:
        return Step(demands=(Demand(0, a),))
    if not shape or indices_shape is None:
        return refuse(Reason.UNKNOWN_RANK, node)
    axis, added = node.attribute("axis", 0) % len(shape), len(indices_shape) - 1
    places = {k: k if k < axis else k + added for k in range(len(shape)) if k != axis}
    if up:
        places = {place: k for k, place in places.items()}
    if a.axis in places:
        return Step(demands=(Demand(0, a.along(places[a.axis])),))
    constant = draft.constants.find_any(node, 1)
    size = shape[axis]
    if isinstance(constant, Refusal) or added or a.axis != axis or not isinstance(size, int):
        return refuse(Reason.AXIS_LOST, node)
    if constant.dtype not in (TensorProto.INT32, TensorProto.INT64):
        return refuse(Reason.SHAPE_MISMATCH, node, "its indices are no integers")
    indices = constant.array().astype(np.int64) % size
    return (_selected_up if up else _picked_down)(draft, node, a, indices)


def _picked_down(_draft: Draft, node: Node, a: Affine, indices: Indices) -> Step | Refusal:
    return _selected_down(node, 0, a, indices)


def _selected_up(
    draft: Draft, node: Node, a: Affine, indices: Indices | Refusal | None
) -> Step | Refusal:
    if isinstance(indices, Refusal):
        return indices
    if indices is None:
        return Step(demands=(Demand(0, a),))
    size = _size(draft, node, 0, a.axis)
    if size is None or len(indices) != a.channels or len(set(indices.tolist())) != len(indices):
        return refuse(Reason.AXIS_LOST, node)
    if (wide := refuse_too_wide(draft, node, size)) is not None:
        return wide
    return Step(demands=(Demand(0, a.scatter(indices, size)),))


def _selected_down(
    node: Node, slot: int, a: Affine, indices: Indices | Refusal | None
) -> Step | Refusal:
    if slot != 0:
        return refuse(Reason.RUN_TIME_WEIGHT, node)
    if isinstance(indices, Refusal):
        return indices
    if indices is None:
        return Step(demands=(Demand(0, a),))
    if not len(indices):
        return refuse(Reason.AXIS_LOST, node)
    return Step(demands=(Demand(0, a.select(indices)),))


# --- Expand and Tile ----------------------------------------------------------------------------


def expand(draft: Draft, node: Node, a: Affine, up: bool) -> Affine | Refusal:
    """Copies along axes other than the channels'; new axes come in front."""
    if a.axis is None:
        return a
    shape, out = draft.shape(node, 0), draft.output_shape(node)
    if shape is None or out is None:
        return refuse(Reason.UNKNOWN_RANK, node)
    added = len(out) - len(shape)
    axis = a.axis - added if up else a.axis
    if axis < 0 or shape[axis] is None or shape[axis] != out[axis + added]:
        return refuse(Reason.AXIS_LOST, node)
    return a.along(axis if up else axis + added)


def tile(draft: Draft, node: Node, a: Affine, _up: bool) -> Affine | Refusal:
    """Copies along axes other than the channels'."""
    if a.axis is None:
        return a
    if node.scope.opset < 6:  # other inputs
        return refuse(Reason.AXIS_LOST, node)
    repeats = draft.constants.find_any(node, 1)
    counts = repeats.array().ravel().tolist() if isinstance(repeats, Constant) else []
    return a if counts[a.axis : a.axis + 1] == [1] else refuse(Reason.AXIS_LOST, node)
