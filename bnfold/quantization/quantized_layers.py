"""What a quantiser made of linear layers: their weights as they are now, and where a bias is.

QDQ          Conv, ConvTranspose, Gemm and MatMul that read a DequantizeLinear of integers; the bias
             is one as well, of 32 bits with the step s_x·s_w, or has stayed in float
QOperator    QLinearConv, QLinearMatMul, and QGemm of com.microsoft
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from onnx import TensorProto

from bnfold.folding.weights.constants import Constant
from bnfold.folding.weights.draft import Draft
from bnfold.graph.index import Index, Node
from bnfold.options import Options
from bnfold.quantization.regions import LINEAR
from bnfold.tuning.moments import FloatArray

# the operator that it stands for, and the slots of x's step, of the weight, its step and zero
# point, and of the bias
_OPERATORS = {
    "QLinearConv": ("Conv", 1, 3, 4, 5, 8),
    "com.microsoft::QGemm": ("Gemm", 1, 3, 4, 5, 6),
    "QLinearMatMul": ("MatMul", 1, 3, 4, 5, -1),
}
_SUFFIXES = ("_quant", "_quantized", "_QuantizeLinear_Input")  # what onnxruntime adds to names


@dataclass(frozen=True)
class StoredBias:
    """An initializer that one layer alone reads; `step` [C] or [1], None where it is in float."""

    constant: Constant
    step: FloatArray | None


@dataclass(frozen=True)
class QuantizedLayer:
    """A layer with the weight that it computes with, and the size of one step of each number.

    `op` is the operator in float; `bias` says in words why there is none that could be changed.
    """

    node: Node
    op: str
    weight: FloatArray
    step: FloatArray
    bias: StoredBias | str


class QuantizedLayers:
    """Those of a model's main graph, to be found by what they are called in the float model."""

    def __init__(self, index: Index) -> None:
        draft = Draft(index, Options())
        self._found: dict[str, list[QuantizedLayer]] = {}
        self.count = 0
        for layer in _layers(draft, index):
            self.count += 1
            for name in {_plain(layer.node.proto.name), _plain(layer.node.output)} - {""}:
                self._found.setdefault(name, []).append(layer)

    def of(self, node: Node) -> QuantizedLayer | None:
        """What a node of the float model became; None where names do not say it."""
        for name in (node.proto.name, node.output):
            found = self._found.get(name, [])
            if len(found) == 1:
                return found[0]
        return None


def _plain(name: str) -> str:
    for suffix in _SUFFIXES:
        name = name.removesuffix(suffix)
    return name


def _layers(draft: Draft, index: Index) -> Iterator[QuantizedLayer]:
    for node in index.scopes[0].nodes:
        found = _dequantized(draft, node) if node.op in LINEAR else _operator(draft, node)
        if found is not None:
            yield found


def _dequantized(draft: Draft, node: Node) -> QuantizedLayer | None:
    maker = node.scope.producers.get(node.input(1))
    if maker is None or maker.op != "DequantizeLinear":
        return None
    slots = (0, 1, 2) if maker.input(2) else (0, 1)
    block = int(maker.attribute("block_size", 0))
    found = _weight(draft, maker, slots, int(maker.attribute("axis", 1)), block)
    return None if found is None else QuantizedLayer(node, node.op, *found, _bias(draft, node))


def _weight(
    draft: Draft, node: Node, slots: Sequence[int], axis: int, block: int = 0
) -> tuple[FloatArray, FloatArray] | None:
    """(q − z)·s, and s for each number; of q, s and z in these slots, and z may be missing."""
    read = [draft.constants.find_any(node, slot) for slot in slots]
    stored = [constant.values() for constant in read if isinstance(constant, Constant)]
    if len(stored) < len(slots):
        return None
    integers = stored[0]
    wide = [_steps(values, integers.shape, axis, block) for values in stored[1:]]
    step, zero = wide[0], wide[1] if len(wide) > 1 else 0.0
    return None if step is None or zero is None else ((integers - zero) * step, step)


def _steps(steps: FloatArray, shape: tuple[int, ...], axis: int, block: int) -> FloatArray | None:
    """One number for each weight: of one step for all, one for each channel, or for each block."""
    if steps.size == 1:
        return np.full(shape, steps.reshape(-1)[0])
    if not -len(shape) <= axis < len(shape):
        return None
    if block:
        if block < 0 or steps.ndim != len(shape) or steps.shape[axis] * block < shape[axis]:
            return None
        wide = np.repeat(steps, block, axis).take(range(shape[axis]), axis)
        return wide if wide.shape == shape else None
    if steps.shape != (shape[axis],):
        return None
    axes = [1] * len(shape)
    axes[axis] = -1
    return np.broadcast_to(steps.reshape(axes), shape)


def _bias(draft: Draft, node: Node) -> StoredBias | str:
    if node.op == "MatMul" or not node.input(2):
        return f"{node.label} has no bias, and a new one would be a new node"
    maker = node.scope.producers.get(node.input(2))
    if maker is None or maker.op != "DequantizeLinear":
        return _stored(draft, node, 2, None)
    steps = draft.constants.find_any(maker, 1)
    if not isinstance(steps, Constant) or len(node.scope.uses[maker.output]) > 1:
        return f"others read the bias of {node.label}"
    return _stored(draft, maker, 0, steps.values().reshape(-1))


def _stored(draft: Draft, reader: Node, slot: int, step: FloatArray | None) -> StoredBias | str:
    constant = draft.constants.find_any(reader, slot)
    if not isinstance(constant, Constant):
        return f"the bias that {reader.label} reads is not constant"
    kind = (TensorProto.FLOAT,) if step is None else (TensorProto.INT32,)
    if constant.dtype not in kind or len(constant.shape) != 1:
        return f"the bias that {reader.label} reads is of another type or shape"
    if not constant.is_stored or len(constant.scope.uses[constant.name]) > 1:
        return f"others read the bias of {reader.label}"
    if step is not None and step.size not in (1, constant.shape[0]):
        return f"the bias that {reader.label} reads has a step for something else"
    return StoredBias(constant, step)


def _operator(draft: Draft, node: Node) -> QuantizedLayer | None:
    if node.op not in _OPERATORS:
        return None
    op, x, w, scale, zero, b = _OPERATORS[node.op]
    axis = 0 if op == "Conv" or (op == "Gemm" and node.attribute("transB", 0)) else 1
    found = _weight(draft, node, (w, scale, zero), axis)
    x_step, steps = (draft.constants.find_any(node, slot) for slot in (x, scale))
    if found is None or not isinstance(x_step, Constant) or not isinstance(steps, Constant):
        return None
    if b < 0 or not node.input(b):
        return QuantizedLayer(node, op, *found, f"{node.label} has no bias")
    alpha = float(node.attribute("alpha", 1.0))
    product = alpha * x_step.values().reshape(-1) * steps.values().reshape(-1)
    return QuantizedLayer(node, op, *found, _stored(draft, node, b, product))
