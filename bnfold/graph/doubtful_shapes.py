"""Keeps from ONNX's shape inference what it is known to get wrong.

A pool with ceil_mode whose last window would begin in the padding, a ConvTranspose with
output_shape, a Squeeze that names its axes out of order, a Shape or a Slice with bounds beyond what
there is: of each of these, inference knows dimensions that onnxruntime contradicts. Such nodes are
hidden: given another domain, and of their outputs only as much as is certain.
"""

from __future__ import annotations

import contextlib

from onnx import GraphProto, NodeProto, TypeProto, helper, numpy_helper

from bnfold.graph.long_vectors import HIDDEN
from bnfold.onnx_io.protos import bodies

_POOLS = ("AveragePool", "LpPool", "MaxPool")


def hide_doubtful_shapes(graph: GraphProto, known: GraphProto) -> int:
    """Hide nodes in `graph` and its bodies; gives their number.

    `known` is the same graph with the types that inference has found.
    """
    types = {value.name: value.type.tensor_type
             for value in (*known.input, *known.value_info, *known.output)}  # fmt: skip
    vectors = _integers(graph)
    declared = {value.name: value for value in (*graph.value_info, *graph.output)}
    hidden = 0
    for node, own in zip(graph.node, known.node, strict=True):
        kept = _certain_axes(node, types, vectors)
        if kept is not None:
            node.domain = HIDDEN
            hidden += 1
            for name in set(node.output) & types.keys():
                value = declared.get(name) or graph.value_info.add(name=name)
                value.type.tensor_type.CopyFrom(types[name])
                _forget(value.type.tensor_type, kept)
                if node.op_type in ("ConvTranspose", "Squeeze"):  # even their number may be wrong
                    _extend(value.type.tensor_type, _true_rank(node, types))
        for (_, body), (_, same) in zip(bodies(node), bodies(own), strict=True):
            hidden += hide_doubtful_shapes(body, same)
    return hidden


def _forget(kind: TypeProto.Tensor, kept: int) -> None:
    """Leave the first dimensions; of the others only that they are there."""
    for dim in kind.shape.dim[kept:]:
        dim.Clear()


def _true_rank(node: NodeProto, types: dict[str, TypeProto.Tensor]) -> int | None:
    """How many dimensions a ConvTranspose or a Squeeze gives."""
    rank = _rank(types, node.input[0])
    axes = [len(a.ints) for a in node.attribute if a.name == "axes"]
    return rank if rank is None or node.op_type != "Squeeze" else max(0, rank - sum(axes))


def _extend(kind: TypeProto.Tensor, rank: int | None) -> None:
    """Make it so many dimensions."""
    if rank is None:
        kind.ClearField("shape")
        return
    del kind.shape.dim[rank:]
    while len(kind.shape.dim) < rank:
        kind.shape.dim.add()


def _certain_axes(
    node: NodeProto, types: dict[str, TypeProto.Tensor], vectors: dict[str, list[int]]
) -> int | None:  # fmt: skip
    """How many of the first dimensions of the result are certain; None where all of them are."""
    given = {attribute.name: attribute for attribute in node.attribute}
    if node.op_type in _POOLS and "ceil_mode" in given and given["ceil_mode"].i:
        return 2
    if node.op_type == "ConvTranspose" and "output_shape" in given:
        return 2
    if node.op_type == "Squeeze" and "axes" in given:
        axes = list(given["axes"].ints)
        return None if axes == sorted(axes) and min(axes, default=0) >= 0 else 0
    rank = _rank(types, node.input[0]) if node.input else None
    if node.op_type == "Shape":
        bounds = [given[name].i for name in ("start", "end") if name in given]
        fits = rank is not None and all(-rank <= bound <= rank for bound in bounds)
        return None if fits or not bounds else 0
    if node.op_type == "Slice" and len(node.input) > 4 and node.input[4]:
        return None if _is_plain_slice(node, types, vectors) else 0
    return None


def _is_plain_slice(
    node: NodeProto, types: dict[str, TypeProto.Tensor], vectors: dict[str, list[int]]
) -> bool:  # fmt: skip
    """Whether no bound is beyond what there is, or all steps lead forwards."""
    starts, ends, axes, steps = (
        vectors.get(name) for name in (*node.input[1:5], "", "", "", "")[:4]
    )
    if steps is not None and all(step > 0 for step in steps):
        return True
    kind = types.get(node.input[0])
    if None in (starts, ends, axes, steps) or kind is None or not kind.HasField("shape"):
        return False
    dims = kind.shape.dim
    assert starts is not None
    assert ends is not None
    assert axes is not None
    for start, end, axis in zip(starts, ends, axes, strict=False):
        size = dims[axis].dim_value if -len(dims) <= axis < len(dims) else 0
        if not (size and -size <= start and (end >= -size or end < -(1 << 31))):
            return False
    return True


def _rank(types: dict[str, TypeProto.Tensor], name: str) -> int | None:
    kind = types.get(name)
    return len(kind.shape.dim) if kind is not None and kind.HasField("shape") else None


def _integers(graph: GraphProto) -> dict[str, list[int]]:
    """The small integer vectors that a graph stores, by name."""
    tensors = list(graph.initializer)
    for node in graph.node:
        if node.op_type == "Constant" and len(node.output) == 1:
            for attribute in node.attribute:
                if attribute.HasField("t"):
                    tensor = helper.make_tensor("", 7, [0], [])
                    tensor.CopyFrom(attribute.t)
                    tensor.name = node.output[0]
                    tensors.append(tensor)
    found = {}
    for tensor in tensors:
        if tensor.data_type in (6, 7) and len(tensor.dims) == 1 and tensor.dims[0] <= 8:
            with contextlib.suppress(Exception):  # damaged, which is said where it is read
                found[tensor.name] = [int(v) for v in numpy_helper.to_array(tensor)]
    return found
