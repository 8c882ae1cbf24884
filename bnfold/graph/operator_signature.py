"""Whether a node reads what its operator is specified to read, before any rule looks at it.

Rules rely on it: that an input which must be there is there, that indices are integers. What the
specification says comes from onnx itself; of operators that it does not know, nothing is asked.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Any

import onnx
from onnx import TensorProto

from bnfold.graph.index import Node

_Option = onnx.defs.OpSchema.FormalParameterOption
_REQUIRED = (_Option.Single, _Option.Variadic)
_INTEGERS = {"tensor(int32)", "tensor(int64)"}  # sizes, axes, indices; floats runtimes widen
_NAMES = {number: name.lower() for name, number in TensorProto.DataType.items()}


def signature_fault(node: Node, element_type: Callable[[str], int | None]) -> str:
    """What is wrong with the inputs and outputs of a node, "" for nothing.

    `element_type` tells the ONNX element type of a value, None where that is not known.
    """
    schema = _schema(node.proto.op_type, node.scope.opset, node.proto.domain)
    if schema is None:
        return ""
    read, made = len(node.proto.input), len(node.proto.output)
    if not schema.min_input <= read <= schema.max_input:
        return f"it has {read} inputs"
    if not schema.min_output <= made <= schema.max_output:
        return f"it has {made} outputs"
    for slot, name in enumerate(node.proto.input):
        formal = schema.inputs[min(slot, len(schema.inputs) - 1)]
        if not name:
            if formal.option in _REQUIRED:
                return f"its input {formal.name} is missing"
            continue
        kind = element_type(name) if formal.types <= _INTEGERS else None
        if kind is not None and f"tensor({_NAMES.get(kind)})" not in formal.types:
            return f"its input {formal.name} is of type {_NAMES.get(kind)}"
    return ""


@cache
def _schema(op: str, opset: int, domain: str) -> Any:
    try:
        schema = onnx.defs.get_schema(op, opset, domain)
    except onnx.defs.SchemaError:
        return None
    return None if schema.deprecated else schema
