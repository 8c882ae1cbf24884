"""What the messages of a model say of themselves: which tensors they hold, how large, where.

A thin layer over onnx's classes, for what onnx's own helpers do not tell.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Collection, Iterable, Iterator
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt
from google.protobuf.message import Message
from onnx import (
    AttributeProto,
    FunctionProto,
    GraphProto,
    ModelProto,
    NodeProto,
    TensorProto,
    ValueInfoProto,
    helper,
)

from bnfold.errors import ModelError

_MOST_ELEMENTS = 1 << 40

M = TypeVar("M", bound=Message)


# --- what there is ------------------------------------------------------------------------------


def bodies(node: NodeProto) -> Iterator[tuple[str, GraphProto]]:
    """The graphs in a node's attributes, each with a label: its attribute's name."""
    for attribute in node.attribute:
        if attribute.type == AttributeProto.GRAPH:
            yield attribute.name, attribute.g
        for number, graph in enumerate(attribute.graphs):
            yield f"{attribute.name}[{number}]", graph


def is_set(message: Any, field: str) -> bool:
    """Whether a field of one value is there, if only to say its default; True for lists."""
    try:
        return bool(message.HasField(field))
    except ValueError:
        return True


def without(message: M, fields: Iterable[str]) -> M:
    """A copy of a message, without some of its fields."""
    copy = type(message)()
    copy.CopyFrom(message)
    for field in fields:
        copy.ClearField(field)
    return copy


def captured(graph: GraphProto) -> set[str]:
    """The names that a body reads of the graphs around it."""
    made = {value.name for value in graph.input} | {tensor.name for tensor in graph.initializer}
    made |= {name for node in graph.node for name in node.output}
    read = {name for node in graph.node for name in node.input}
    read |= {value.name for value in graph.output}
    for node in graph.node:
        for _, body in bodies(node):
            read |= captured(body)
    return {name for name in read if name} - made


def tensors(
    message: ModelProto | FunctionProto | GraphProto | AttributeProto,
) -> Iterator[TensorProto]:
    """Every tensor in it: initializers and those of attributes, in bodies and functions too."""
    if isinstance(message, AttributeProto):
        yield from _attribute_tensors(message)
    elif isinstance(message, GraphProto):
        yield from _graph_tensors(message)
    elif isinstance(message, FunctionProto):
        yield from node_tensors(message.node)
        for attribute in message.attribute_proto:
            yield from _attribute_tensors(attribute)
    else:
        yield from _graph_tensors(message.graph)
        for function in message.functions:
            yield from tensors(function)
        for info in message.training_info:
            yield from _graph_tensors(info.initialization)
            yield from _graph_tensors(info.algorithm)


def _graph_tensors(graph: GraphProto) -> Iterator[TensorProto]:
    yield from graph.initializer
    for sparse in graph.sparse_initializer:
        yield from (sparse.values, sparse.indices)
    yield from node_tensors(graph.node)


def node_tensors(nodes: Iterable[NodeProto]) -> Iterator[TensorProto]:
    """Every tensor in the attributes of these nodes, in their bodies too."""
    for node in nodes:
        for attribute in node.attribute:
            yield from _attribute_tensors(attribute)


def _attribute_tensors(attribute: AttributeProto) -> Iterator[TensorProto]:
    if attribute.HasField("t"):
        yield attribute.t
    yield from attribute.tensors
    own = [attribute.sparse_tensor] if attribute.HasField("sparse_tensor") else []
    for sparse in (*own, *attribute.sparse_tensors):
        yield from (sparse.values, sparse.indices)
    if attribute.HasField("g"):
        yield from _graph_tensors(attribute.g)
    for graph in attribute.graphs:
        yield from _graph_tensors(graph)


def delete_named(entries: Any, names: Collection[str]) -> None:
    """Delete the entries of a repeated field that have one of these names."""
    places = [place for place, entry in enumerate(entries) if entry.name in names]
    for place in reversed(places):
        del entries[place]


def expose(graph: GraphProto, names: Iterable[str]) -> None:
    """Make these values outputs of the graph as well."""
    outputs = {value.name for value in graph.output}
    graph.output.extend(ValueInfoProto(name=name) for name in sorted({*names} - outputs))


# --- one tensor ----------------------------------------------------------------------------------


def is_external(tensor: TensorProto) -> bool:
    """Whether the tensor's values are in a data file, or were."""
    return tensor.data_location == TensorProto.EXTERNAL


def external_entry(tensor: TensorProto) -> tuple[str, int, int | None]:
    """Location, offset and length that an external tensor gives; the length may be left out.

    Raises ModelError for numbers that are none.
    """
    entries = {entry.key: entry.value for entry in tensor.external_data}
    numbers = [entries.get("offset") or "0", entries.get("length") or ""]
    if not all(number.isascii() and number.isdigit() for number in numbers if number):
        raise ModelError(
            f"tensor {tensor.name!r} gives {numbers[0]!r} and {numbers[1]!r} as offset and length "
            "of its external data",
            "export the model again",
        )
    length = int(numbers[1]) if numbers[1] else None
    return entries.get("location", ""), int(numbers[0]), length


def size_in_bytes(tensor: TensorProto) -> int | None:
    """The bytes that the dims ask for; None for strings and types that are not known.

    Raises ModelError for dims that no file holds; rules compute with them before they read.
    """
    count = math.prod(tensor.dims)
    if min(tensor.dims, default=0) < 0 or count > _MOST_ELEMENTS:
        raise ModelError(
            f"the tensor {tensor.name!r} claims the shape {list(tensor.dims)}",
            "export the model again",
        )
    bits = _BITS.get(tensor.data_type)
    return None if bits is None else -(-count * bits // 8)


def _bits() -> dict[int, int]:
    known = {}
    for name, number in TensorProto.DataType.items():
        if name in ("UNDEFINED", "STRING") or name.startswith("FLOAT6"):
            continue
        narrow = [bits for bits in (2, 4) if name.endswith(f"INT{bits}") or f"FLOAT{bits}E" in name]
        size = helper.tensor_dtype_to_np_dtype(number).itemsize
        known[number] = narrow[0] if narrow else 8 * size
    return known


_BITS = _bits()  # of one element of each type


def plain_dtype(data_type: int) -> np.dtype[Any] | None:
    """The dtype as which a tensor's bytes can be read as they are; None where they are packed."""
    if data_type not in _BITS or sys.byteorder != "little":  # ONNX stores little-endian
        return None
    dtype = helper.tensor_dtype_to_np_dtype(data_type)
    return dtype if 8 * dtype.itemsize == _BITS[data_type] else None


FLOAT_TYPES = (
    TensorProto.FLOAT,
    TensorProto.DOUBLE,
    TensorProto.FLOAT16,
    TensorProto.BFLOAT16,
)


INTEGER_TYPES = (
    TensorProto.INT4, TensorProto.UINT4, TensorProto.INT8, TensorProto.UINT8, TensorProto.INT16,
    TensorProto.UINT16, TensorProto.INT32,
)  # fmt: skip


FLOAT8_TYPES = (
    TensorProto.FLOAT8E4M3FN, TensorProto.FLOAT8E4M3FNUZ,
    TensorProto.FLOAT8E5M2, TensorProto.FLOAT8E5M2FNUZ,
)  # fmt: skip


Array = npt.NDArray[Any]
