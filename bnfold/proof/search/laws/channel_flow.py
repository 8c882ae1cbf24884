"""Where channels go, found by experiment: operators that move elements are run on labels.

An operator that moves data copies each element of its output from some place of its input, whatever
the elements are. So it is enough to run it once on a tensor that holds, at each place, the number
of the place's channel: what comes out says which channel stands where. Sizes that the model leaves
open are tried with two sets of numbers, which must tell the same.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt
from onnx import NodeProto
from onnx.reference import ReferenceEvaluator

from bnfold.graph.index import Node
from bnfold.graph.shape_inference import Shape
from bnfold.proof.search.reading.model_view import View

Indices = npt.NDArray[np.int64]
Flow = tuple[int | None, Indices]  # the axis of the output, and of each of its entries the channel

_MOST = 1 << 22  # elements of a tensor of labels
_SIZES = ((2, 3, 5, 7), (3, 4, 7, 5))  # what open dimensions are tried as
_PADDING = -1  # the label of what comes from nowhere


def flow(
    view: View, node: Node, slot: int, axis: int, labels: Indices, output: int = 0
) -> Flow | None:
    """Which of the labels, one for each channel along `axis` of input `slot`, stands where.

    The label of an entry is −1 where it comes from another input or from padding. The axis is None
    where all entries have one label. Nothing where the output has no axis along which the labels
    lie, or it cannot be told. A reduction must have the same greatest and least label everywhere.
    """

    def tried(sizes: tuple[int, ...]) -> Flow | None:
        def spread(shape: tuple[int, ...], declared: Shape) -> Indices | None:
            if axis >= len(shape) or declared[axis] != len(labels):
                return None
            along = [1] * len(shape)
            along[axis] = len(labels)
            return np.broadcast_to(labels.reshape(along), shape)

        found = None
        for op in ("ReduceMax", "ReduceMin") if node.op.startswith("Reduce") else (node.op,):
            moved = _run(view, node, op, slot, output, sizes, spread)
            again = None if moved is None else _lying(moved[1])
            if again is None or (found is not None and not _same(found, again)):
                return None
            found = again
        return found

    return _agreeing(view, node, tried)


def origin(view: View, node: Node, axis: int, labels: Indices, output: int = 0) -> Flow | None:
    """The same backwards: which label of an output's `axis` each channel of the first input gets.

    −1 for channels that do not reach the output. Nothing where a channel would get two labels.
    """

    def tried(sizes: tuple[int, ...]) -> Flow | None:
        def places(shape: tuple[int, ...], _: Shape) -> Indices:
            return np.arange(int(np.prod(shape))).reshape(shape)

        moved = _run(view, node, node.op, 0, output, sizes, places)
        if moved is None or axis >= moved[1].ndim or moved[1].shape[axis] != len(labels):
            return None
        before, after = moved
        along = [1] * after.ndim
        along[axis] = len(labels)
        wanted = np.broadcast_to(labels.reshape(along), after.shape).reshape(-1)
        source = after.reshape(-1).astype(np.int64)
        if np.any(source < 0):
            return None
        given = np.full(before.size, -1, np.int64)
        given[source] = wanted
        if np.any(given[source] != wanted):
            return None
        return _lying(given.reshape(before.shape), unread=True)

    return _agreeing(view, node, tried)


def _agreeing(
    view: View, node: Node, tried: Callable[[tuple[int, ...]], Flow | None]
) -> Flow | None:
    """What is found with every choice of the sizes that the model leaves open."""
    found: Flow | None = None
    for sizes in _SIZES:
        again = tried(sizes)
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


def _run(
    view: View, node: Node, op: str, slot: int, output: int, sizes: tuple[int, ...],
    labelled: Callable[[tuple[int, ...], Shape], Indices | None],
) -> tuple[Indices, npt.NDArray[Any]] | None:  # fmt: skip
    """The labels that input `slot` was given, and what came out; other inputs hold −1."""
    given = np.zeros(0, np.int64)
    open_dims: dict[str, int] = {}
    feed: dict[str, Any] = {}
    names = []
    for place, name in enumerate(node.proto.input):
        names.append(f"input{place}" if name else "")
        if not name:
            continue
        value = None if place == slot else view.array(node.scope, name)
        if value is not None and value.dtype.kind not in "fc":
            feed[f"input{place}"] = value
            continue
        if place != slot and value is None and node.op != "Concat":
            return None  # indices, shapes or axes that are not known
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
        if min(dims, default=0) < 0 or int(np.prod(dims, dtype=object)) > _MOST:
            return None
        labels = np.full(dims, _PADDING, np.int64)
        if place == slot:
            wanted = labelled(tuple(dims), shape)
            if wanted is None:
                return None
            labels = given = wanted
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
    return (given, moved) if fits else None


def _moved(
    node: Node, op: str, names: list[str], feed: dict[str, Any], output: int
) -> npt.NDArray[Any]:
    axes = node.numbers("axes")
    if node.op == "Squeeze" and axes:  # which the reference evaluator overlooks
        return np.asarray(np.squeeze(feed["input0"], axis=tuple(axes)))
    proto = NodeProto()
    proto.CopyFrom(node.proto)
    proto.op_type, proto.input[:] = op, names
    proto.output[:] = [f"output{place}" for place in range(len(proto.output))]
    results = ReferenceEvaluator(proto, opsets={"": node.scope.opset}).run(None, feed)
    return np.asarray(list(results)[output])


def _lying(moved: npt.NDArray[Any], *, unread: bool = False) -> Flow | None:
    """The axis along which the labels lie, and in which order.

    With `unread`, −1 stands for what nobody reads, and may have the label of its neighbours.
    """
    if not moved.size:
        return None
    if np.all(moved == moved.flat[0]):
        return None, moved.reshape(-1)[:1].astype(np.int64)
    lines = [
        np.moveaxis(moved, axis, 0).reshape(moved.shape[axis], -1) for axis in range(moved.ndim)
    ]
    for axis, line in enumerate(lines):
        if np.all(line == line[:, :1]):
            return axis, line[:, 0].astype(np.int64)
    if not unread:
        return None
    if np.all((moved == moved.max()) | (moved < 0)):
        return None, np.array([moved.max()], np.int64)
    for axis, line in enumerate(lines):
        label = line.max(axis=1, keepdims=True)
        if np.all((line == label) | (line < 0)):
            return axis, label[:, 0].astype(np.int64)
    return None
