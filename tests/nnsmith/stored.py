"""ONNX models of the graphs that NNSmith drew.

Each graph's number decides on weights, and behind which values there is a BatchNormalization.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from onnx import ModelProto, NodeProto, helper, numpy_helper
from onnx.reference import ReferenceEvaluator

from tests.support import Array

Attributes = dict[str, Any]
_SHARE = 0.6  # of the second operands that are constants
_NORMALISED = 0.4  # of the values, which have a BatchNormalization behind them


@cache
def graphs() -> list[dict[str, Any]]:
    """As they are stored."""
    path = Path(__file__).with_name("graphs.json")
    found: list[dict[str, Any]] = json.loads(path.read_text())
    return found


def model(number: int, dtype: Any = np.float32) -> ModelProto:
    """The model of a graph. Values that NNSmith leaves to the caller are inputs or constants."""
    return build(graphs()[number], number, dtype)


def build(graph: dict[str, Any], number: int, dtype: Any = np.float32) -> ModelProto:
    """Likewise, of a graph that has this number."""
    return _Builder(graph, number, dtype).model()


def feeds(built: ModelProto, number: int) -> dict[str, Array]:
    """Inputs of a model."""
    rng = np.random.default_rng(number)
    shapes = {
        value.name: [dim.dim_value for dim in value.type.tensor_type.shape.dim]
        for value in built.graph.input
    }
    return {name: rng.normal(size=shape) for name, shape in shapes.items()}


def outputs(built: ModelProto, given: dict[str, Array]) -> list[Array]:
    """What a model gives."""
    with np.errstate(all="ignore"):
        return [np.asarray(value) for value in ReferenceEvaluator(built).run(None, given)]


class _Builder:
    """One model in the making."""

    def __init__(self, graph: dict[str, Any], seed: int, dtype: Any) -> None:
        self.nodes_drawn: list[Any] = graph["nodes"]
        self.shapes: dict[str, list[int]] = dict(graph["shapes"])
        self.dtype = dtype
        self.rng = np.random.default_rng(seed)
        self.nodes: list[NodeProto] = []
        self.constants: dict[str, Array] = {}

    def model(self) -> ModelProto:
        shapes = self.shapes
        given = [output for op, _, output, _ in self.nodes_drawn if op in ("Input", "Constant")]
        largest = max(given, key=lambda name: int(np.prod(shapes[name])))
        inputs = [name for name in given if name == largest or self.rng.random() > _SHARE]
        for name in given:
            if name not in inputs:
                self.constants[name] = self.along_one_axis(shapes[name])
        for op, read, output, attributes in self.nodes_drawn:
            if op in ("Input", "Constant"):
                continue
            normalised = len(shapes[output]) > 1 and self.rng.random() < _NORMALISED
            made = f"{output}_before" if normalised else output
            self.shapes[made] = shapes[output]
            _OPERATORS[op](self, op, read, made, attributes)
            if normalised:
                _batch_norm(self, op, [made], output, {})
        read = {name for node in self.nodes for name in node.input}
        outputs = [n.output[0] for n in self.nodes if n.output[0] not in read]
        used = [(name, array) for name, array in self.constants.items() if name in read]
        graph = helper.make_graph(
            self.nodes, "nnsmith", [self.value(name) for name in inputs if name in read],
            [self.value(name) for name in outputs],
            [numpy_helper.from_array(array, name) for name, array in used],
        )  # fmt: skip
        return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=9)

    def value(self, name: str) -> Any:
        kind = helper.np_dtype_to_tensor_dtype(np.dtype(self.dtype))
        return helper.make_tensor_value_info(name, kind, self.shapes[name])

    def shape(self, name: str) -> list[int]:
        return self.shapes[name]

    def normal(self, *shape: int) -> Array:
        return self.rng.normal(size=shape).astype(self.dtype)

    def along_one_axis(self, shape: list[int]) -> Array:
        """A constant that most often varies along the channels only, or not at all."""
        kind = self.rng.random()
        if kind < 0.2:
            return self.normal(*shape)
        own = [size if axis == 1 and kind < 0.8 else 1 for axis, size in enumerate(shape)]
        return np.broadcast_to(self.normal(*own), shape).copy()

    def constant(self, values: Any, dtype: Any = np.int64) -> str:
        name = f"k{len(self.constants)}"
        self.constants[name] = np.array(values, dtype)
        return name

    def add(self, op: str, read: list[str], output: str, **attributes: Any) -> None:
        self.nodes.append(helper.make_node(op, read, [output], output, **attributes))


Make = Callable[[_Builder, str, list[str], str, Attributes], None]


def _as(onnx_name: str, **attributes: Any) -> Make:
    return lambda b, _, read, out, __: b.add(onnx_name, read, out, **attributes)


def _batch_norm(b: _Builder, _: str, read: list[str], out: str, __: Attributes) -> None:
    channels = b.shape(read[0])[1]
    parameters = [b.normal(channels) for _ in range(3)]
    parameters.append(np.abs(b.normal(channels)) + b.dtype(0.1))
    b.add(
        "BatchNormalization", read + [b.constant(v, b.dtype) for v in parameters], out,
        epsilon=1e-3,
    )  # fmt: skip


def _conv(b: _Builder, op: str, read: list[str], out: str, a: Attributes) -> None:
    sides = ["kernel_size"] if op == "Conv1d" else ["kernel_h_size", "kernel_w_size"]
    kernel = [a[side] for side in sides]
    dilations = [a["dilation"]] if op == "Conv1d" else [a["dilation_h"], a["dilation_w"]]
    weight = b.constant(b.normal(a["out_channels"], a["in_channels"], *kernel), b.dtype)
    bias = [b.constant(b.normal(a["out_channels"]), b.dtype)] if b.rng.random() < 0.5 else []
    b.add(
        "Conv", [*read, weight, *bias], out, kernel_shape=kernel, dilations=dilations,
        strides=[a["stride"]] * len(kernel), pads=[a["padding"]] * 2 * len(kernel),
    )  # fmt: skip


def _pool(b: _Builder, op: str, read: list[str], out: str, a: Attributes) -> None:
    more = {"count_include_pad": 1} if op == "AvgPool2d" else {}
    b.add(
        "AveragePool" if more else "MaxPool", read, out, strides=[a["stride"]] * 2,
        kernel_shape=[a["kernel_h_size"], a["kernel_w_size"]], pads=[a["padding"]] * 4, **more,
    )  # fmt: skip


def _slice(b: _Builder, _: str, read: list[str], out: str, a: Attributes) -> None:
    bounds = [b.constant([a[name]]) for name in ("start", "end", "axis", "step")]
    b.add("Slice", read + bounds, out)


def _pad(b: _Builder, op: str, read: list[str], out: str, a: Attributes) -> None:
    """PyTorch's list begins with the last axis."""
    rank, listed = len(b.shape(read[0])), a["padding_list"]
    pads = [0] * 2 * rank
    for place in range(len(listed) // 2):
        pads[rank - 1 - place], pads[2 * rank - 1 - place] = listed[2 * place : 2 * place + 2]
    mode = {"ConstPad": "constant", "ReflectPad": "reflect", "ReplicatePad": "edge"}[op]
    b.add("Pad", [*read, b.constant(pads)], out, mode=mode)


def _to_shape(op: str) -> Make:
    return lambda b, _, read, out, __: b.add(op, [*read, b.constant(b.shape(out))], out)


def _transpose(b: _Builder, _: str, read: list[str], out: str, a: Attributes) -> None:
    perm = list(range(len(b.shape(read[0]))))
    perm[a["dim0"]], perm[a["dim1"]] = perm[a["dim1"]], perm[a["dim0"]]
    b.add("Transpose", read, out, perm=perm)


def _resize(b: _Builder, _: str, read: list[str], out: str, __: Attributes) -> None:
    b.add("Resize", [*read, "", "", b.constant(b.shape(out))], out, mode="nearest")


def _reduce(b: _Builder, op: str, read: list[str], out: str, a: Attributes) -> None:
    b.add(op, [*read, b.constant([a["reduce_dim"]])], out, keepdims=0)


def _squeeze(b: _Builder, _: str, read: list[str], out: str, a: Attributes) -> None:
    b.add("Squeeze", [*read, b.constant([a["reduce_dim"]])], out)


def _clip(b: _Builder, _: str, read: list[str], out: str, __: Attributes) -> None:
    b.add("Clip", [*read, *(b.constant(v, b.dtype) for v in (-1.5, 1.5))], out)


def _prelu(b: _Builder, _: str, read: list[str], out: str, __: Attributes) -> None:
    b.add("PRelu", [*read, b.constant([0.25], b.dtype)], out)


def _concat(b: _Builder, _: str, read: list[str], out: str, a: Attributes) -> None:
    b.add("Concat", read, out, axis=a["axis"])


_OPERATORS: dict[str, Make] = {
    "BatchNorm2d": _batch_norm, "NCHWConv2d": _conv, "Conv1d": _conv, "MaxPool2d": _pool,
    "AvgPool2d": _pool, "Slice": _slice, "ConstPad": _pad, "ReflectPad": _pad,
    "ReplicatePad": _pad, "ExpandLast4": _to_shape("Expand"), "Reshape": _to_shape("Reshape"),
    "Transpose": _transpose, "NearestInterp": _resize, "Squeeze": _squeeze, "Clip": _clip,
    "PReLU": _prelu, "Concat2": _concat, "Concat3": _concat, "ReLU": _as("Relu"),
    "LeakyReLU": _as("LeakyRelu", alpha=0.01), "GELU": _as("Gelu"),
    **{op: _as(op) for op in ("Add", "Sub", "Mul", "Div", "Sigmoid", "Neg", "Abs", "Max", "Min")},
    **dict.fromkeys(("ReduceMean", "ReduceSum", "ReduceMax", "ReduceMin"), _reduce),
}  # fmt: skip
