"""Where the checker finds the channels of a weight, and what each linear operator computes."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import numpy as np

from bnfold.graph.index import Node
from bnfold.onnx_io.protos import Array
from bnfold.proof.search.reading.model_view import View

LINEAR = ("Conv", "ConvTranspose", "Gemm", "MatMul")


@dataclass(frozen=True)
class Linear:
    """y = alpha·W(x) + beta·bias, with W seen as [group, a, b, taps].

    `outputs` is the axis of that view (1 or 2) on which the output channels of a group lie, and
    `data_axis`, `out_axis` are those of the operator's input and output.
    """

    weight: Array
    name: str
    slot: int
    view: tuple[int, int, int, int]
    outputs: int
    data_axis: int
    out_axis: int
    bias: Array | None = None
    bias_name: str = ""
    alpha: float = 1.0
    beta: float = 1.0
    pads: bool = False  # whether it may read zeros that are not in its input
    quantized: bool = False  # whether the weight or the bias is dequantised
    step: Array | None = None  # of a bias made of 32-bit integers, one or one for each channel

    @property
    def channels(self) -> int:
        """The number of output channels."""
        return self.view[0] * self.view[self.outputs]

    @property
    def inputs(self) -> int:
        """The number of input channels."""
        return self.view[0] * self.view[3 - self.outputs]

    @property
    def length(self) -> int:
        """n, the length of the dot products."""
        return self.view[3 - self.outputs] * self.view[3]

    def over_outputs(self, vector: Array) -> Array:
        """A vector over output channels, shaped to stand beside the viewed weight."""
        return self._beside(vector, self.outputs)

    def over_inputs(self, vector: Array) -> Array:
        """A vector over input channels, shaped to stand beside the viewed weight."""
        return self._beside(vector, 3 - self.outputs)

    def _beside(self, vector: Array, axis: int) -> Array:
        shape = [self.view[0], 1, 1, 1]
        shape[axis] = self.view[axis]
        return vector.reshape(shape)

    def channel_of(self, index: tuple[int, ...], *, output: bool) -> int:
        """The output (input) channel of an entry of the viewed weight."""
        axis = self.outputs if output else 3 - self.outputs
        return index[0] * self.view[axis] + index[axis]


def linear(view: View, node: Node) -> Linear | None:
    """What a Conv, ConvTranspose, Gemm or MatMul computes; None where its weight is no constant."""
    reader = _READERS.get(node.op)
    found = reader(view, node) if reader else None
    if found is None:
        return None
    names = [name for name in (found.name, found.bias_name) if name]
    if not any(view.is_quantized(node.scope, name) for name in names):
        return found
    step = view.step(node.scope, found.bias_name) if found.bias_name else None
    if step is not None and step.size in (1, found.channels) and found.beta == 1:
        return replace(found, quantized=True, step=step.reshape(-1))
    return replace(found, quantized=True)


def _conv(view: View, node: Node) -> Linear | None:
    return _kernel(view, node, outputs=1)


def _conv_transpose(view: View, node: Node) -> Linear | None:
    return _kernel(view, node, outputs=2)


def _kernel(view: View, node: Node, outputs: int) -> Linear | None:
    weight, group = view.array(node.scope, node.input(1)), node.attribute("group", 1)
    if weight is None or weight.ndim < 3 or not weight.size or group < 1:
        return None
    if weight.shape[0] % group:
        return None
    bias = view.array(node.scope, node.input(2)) if node.input(2) else None
    channels = weight.shape[0] if outputs == 1 else weight.shape[1] * group
    if node.input(2) and (bias is None or bias.shape != (channels,)):
        return None
    # Conv: [M, C/g, …], ConvTranspose: [C, M/g, …]
    shape = (group, weight.shape[0] // group, weight.shape[1], math.prod(weight.shape[2:]))
    same = node.attribute("auto_pad", b"NOTSET") in (b"SAME_UPPER", b"SAME_LOWER")
    pads = any(node.numbers("pads") or ()) or (same and any(k != 1 for k in weight.shape[2:]))
    return Linear(
        weight, node.input(1), 1, shape, outputs, 1, 1, bias, node.input(2),
        pads=bool(pads) or outputs == 2,
    )  # fmt: skip


def _gemm(view: View, node: Node) -> Linear | None:
    weight = view.array(node.scope, node.input(1))
    if weight is None or weight.ndim != 2 or not weight.size:
        return None
    beta = float(node.attribute("beta", 1.0))
    bias = view.array(node.scope, node.input(2)) if node.input(2) and beta != 0 else None
    if node.input(2) and beta != 0 and bias is None:
        return None
    transposed = bool(node.attribute("transB", 0))
    columns = weight.shape[0] if transposed else weight.shape[1]
    if bias is not None and (bias.ndim > 2 or (bias.ndim and bias.shape[-1] not in (1, columns))):
        return None
    return Linear(
        weight, node.input(1), 1, (1, *weight.shape, 1), 1 if transposed else 2,
        0 if node.attribute("transA", 0) else 1, 1, bias, node.input(2) if bias is not None else "",
        float(node.attribute("alpha", 1.0)), beta if bias is not None else 1.0,
    )  # fmt: skip


def _matmul(view: View, node: Node) -> Linear | None:
    for slot in (1, 0):
        weight = view.array(node.scope, node.input(slot))
        rank = view.rank(node.scope, node.input(1 - slot))
        if weight is None or weight.ndim != 2 or not weight.size or rank is None or rank < 2:
            continue
        axis = rank - 1 if slot else rank - 2
        shape = (1, *weight.shape, 1)
        return Linear(weight, node.input(slot), slot, shape, 2 if slot else 1, axis, axis)
    return None


_READERS = {
    "Conv": _conv, "ConvTranspose": _conv_transpose, "Gemm": _gemm, "MatMul": _matmul,
}  # fmt: skip


def bias_rows(of: Linear, rows: int, like: np.dtype[np.generic]) -> Array:
    """The bias as [rows, channels]; zeros where there is none."""
    if of.bias is None:
        return np.zeros((rows, of.channels), like)
    return np.broadcast_to(of.bias if of.bias.ndim else of.bias.reshape(1), (rows, of.channels))
