"""Axes and shapes that a model computes from constants, stored, so that shape inference sees them.

PyTorch's exporter writes the axes of a mean as Reshape([-1, -2], [-1]), which ONNX's inference does
not follow.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import numpy as np
from onnx import AttributeProto, GraphProto, NodeProto, TensorProto, helper, numpy_helper

from bnfold.graph.constant_evaluation import REARRANGING, rearranged
from bnfold.graph.index import DEFAULT_DOMAINS
from bnfold.onnx_io.protos import Array, bodies, is_external

LONGEST = 1024  # elements; no operand of a shape has as many


def store_shape_operands(graph: GraphProto, outer: Mapping[str, Array] | None = None) -> None:
    """Make initializers of small integers that are only rearranged, in bodies too.

    `outer` are those around a body; what it reads of them becomes its own, since the inference
    looks for no values outside.
    """
    given = {value.name for value in graph.input}
    around = {name: value for name, value in (outer or {}).items() if name not in given}
    known = around | {
        tensor.name: numpy_helper.to_array(tensor)
        for tensor in graph.initializer
        if _is_small(tensor) and (outer is None or tensor.name not in given)
    }
    read = {name for node in graph.node for name in node.input}
    stored = []
    for place, node in enumerate(graph.node):
        for name, value in _made(node, known):
            known[name] = value
            if node.op_type != "Constant":
                stored.append(place)
        for _, body in bodies(node):
            store_shape_operands(body, known)
    for place in reversed(stored):
        name = graph.node[place].output[0]
        graph.initializer.append(numpy_helper.from_array(known[name], name))
        del graph.node[place]
    made = {name for node in graph.node for name in node.output}
    own = {tensor.name for tensor in graph.initializer}
    for name in sorted((read & around.keys()) - made - own):
        graph.initializer.append(numpy_helper.from_array(around[name], name))


def _made(node: NodeProto, known: Mapping[str, Array]) -> Iterator[tuple[str, Array]]:
    """The output of a node and its value, where that is known."""
    if node.domain not in DEFAULT_DOMAINS or len(node.output) != 1:
        return
    if node.op_type == "Constant":
        for attribute in node.attribute:
            if attribute.type == AttributeProto.TENSOR and _is_small(attribute.t):
                yield node.output[0], numpy_helper.to_array(attribute.t)
            elif attribute.type in (AttributeProto.INT, AttributeProto.INTS):
                yield node.output[0], np.array(helper.get_attribute_value(attribute), np.int64)
    elif node.op_type in REARRANGING and all(name in known for name in node.input):
        value = rearranged(node, [known[name] for name in node.input])
        if value is not None and value.size <= LONGEST:
            yield node.output[0], value


def _is_small(tensor: TensorProto) -> bool:
    """Whether these are few integers, and in the model."""
    if tensor.data_type not in (TensorProto.INT32, TensorProto.INT64) or is_external(tensor):
        return False
    return bool(np.prod(tensor.dims, dtype=np.float64) <= LONGEST)
