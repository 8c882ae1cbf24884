"""Where channels go, found by experiment: operators that move elements are run on labels.

An operator that moves data copies each element of its output from some place of its input, whatever
the elements are. So it is enough to run it once on a tensor that holds, at each place, the number
of the place's channel: what comes out says which channel stands where. Sizes that the model leaves
open are tried with two sets of numbers, which must tell the same.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
from onnx import NodeProto
from onnx.reference import ReferenceEvaluator

from bnfold.check.view import View
from bnfold.graph import Node

Indices = npt.NDArray[np.int64]
Flow = tuple[int | None, Indices]  # the axis of the output, and of each of its entries the channel

_MOST = 1 << 22  # elements of a tensor of labels
_SIZES = ((2, 3, 5, 7), (3, 4, 7, 5))  # what open dimensions are tried as
_PADDING = -1  # the label of what comes from nowhere


def reduced(view: View, node: Node, axis: int) -> Flow | None:
    """The same for a reduction, if it never reduces different channels to one.

    What is both the greatest and the least of the labels is all of them.
    """
    greatest = flow(view, node, 0, axis, op="ReduceMax")
    least = flow(view, node, 0, axis, op="ReduceMin")
    return greatest if greatest and least and _same(greatest, least) else None


def flow(
    view: View, node: Node, slot: int, axis: int, output: int = 0, op: str | None = None
) -> Flow | None:
    """Which channel along `axis` of input `slot` stands where on an output.

    The channel of an entry is −1 where it comes from another input or from padding. The axis is
    None where all entries come from one channel. Nothing where the output has no axis along which
    the channels lie, or it cannot be told.
    """
    found: Flow | None = None
    for sizes in _SIZES:
        again = _tried(view, node, slot, axis, output, op or node.op, sizes)
        if again is None or (found is not None and not _same(found, again)):
            return None
        found = again
        if not _is_open(view, node):
            break
    return found


def _same(one: Flow, other: Flow) -> bool:
    return one[0] == other[0] and np.array_equal(one[1], other[1])


def _is_open(view: View, node: Node) -> bool:
    shapes = [view.shape(node.scope, name) for name in node.proto.input if name]
    return any(not isinstance(dim, int) for shape in shapes for dim in shape or ())


def _tried(
    view: View, node: Node, slot: int, axis: int, output: int, op: str, sizes: tuple[int, ...]
) -> Flow | None:
    open_dims: dict[str, int] = {}
    feed: dict[str, Any] = {}
    names = []
    for place, name in enumerate(node.proto.input):
        names.append(f"input{place}" if name else "")
        if not name:
            continue
        value = None if place == slot else view.array(node.scope, name)
        if value is not None and value.dtype.kind not in "fc" and value.size < 1024:
            feed[f"input{place}"] = value
            continue
        shape = view.shape(node.scope, name)
        if shape is None:
            return None
        dims = []
        for dim in shape:
            if isinstance(dim, int):
                dims.append(dim)
            else:
                key = str(dim) if dim is not None else f"{name}:{len(dims)}"
                dims.append(open_dims.setdefault(key, sizes[len(open_dims) % len(sizes)]))
        if int(np.prod(dims, dtype=object)) > _MOST:
            return None
        labels = np.full(dims, _PADDING, np.int64)
        if place == slot:
            if axis >= len(dims) or not isinstance(shape[axis], int):
                return None
            along = [1] * len(dims)
            along[axis] = dims[axis]
            labels = np.broadcast_to(np.arange(dims[axis]).reshape(along), dims).copy()
        feed[f"input{place}"] = labels.astype(np.float32)
    try:
        moved = _moved(node, op, names, feed, output)
    except MemoryError:
        raise
    except Exception:  # a dimension that does not fit, an operator that is not there
        return None
    declared = view.shape(node.scope, node.proto.output[output])
    fits = declared is not None and len(declared) == moved.ndim and all(
        not isinstance(dim, int) or dim == size
        for dim, size in zip(declared, moved.shape, strict=True)
    )  # fmt: skip
    return _lying(moved) if fits else None


def _moved(
    node: Node, op: str, names: list[str], feed: dict[str, Any], output: int
) -> npt.NDArray[Any]:
    axes = node.numbers("axes")
    if node.op == "Squeeze" and axes:  # which the reference evaluator overlooks
        return np.squeeze(feed["input0"], axis=tuple(axes))
    proto = NodeProto()
    proto.CopyFrom(node.proto)
    proto.op_type, proto.input[:] = op, names
    proto.output[:] = [f"output{place}" for place in range(len(proto.output))]
    results = ReferenceEvaluator(proto, opsets={"": node.scope.opset}).run(None, feed)
    return np.asarray(results[output])


def _lying(moved: npt.NDArray[Any]) -> Flow | None:
    """The axis along which the labels lie, and in which order."""
    if not moved.size:
        return None
    if np.all(moved == moved.flat[0]):
        return None, moved.reshape(-1)[:1].astype(np.int64)
    for axis in range(moved.ndim):
        line = np.moveaxis(moved, axis, 0).reshape(moved.shape[axis], -1)
        if np.all(line == line[:, :1]):
            return axis, line[:, 0].astype(np.int64)
    return None
