"""Where the channels of the weights of linear nodes are, and what a shift makes of them."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np

from bnfold.graph.index import Node
from bnfold.proof.laws.absorbing import Pair, UnprovenError
from bnfold.proof.numbers.correct_rounding import Tally, unit_roundoff
from bnfold.proof.numbers.maps import Map
from bnfold.proof.numbers.reals import FloatArray, Real, Sum, plus, rational, times
from bnfold.proof.numbers.rounding import hidden
from bnfold.proof.reading.model import Model
from bnfold.proof.values.operands import Array

_BLOCK = 1 << 20  # weights that are looked at together
KINDS = {  # which operator each one is but for how it samples, or what it ends in
    "Conv": "Conv", "ConvTranspose": "ConvTranspose", "DeformConv": "Conv", "Gemm": "Gemm",
    "MatMul": "MatMul", "com.microsoft::FusedConv": "Conv", "com.microsoft::FusedGemm": "Gemm",
}  # fmt: skip


def kind(node: Node) -> str:
    """The plain operator whose weights the node has; empty where it is not linear."""
    return KINDS.get(node.op, "")


def alpha_of(node: Node) -> float:
    """What a Gemm multiplies its products by; 1 for all others."""
    return float(node.attribute("alpha", 1.0)) if kind(node) == "Gemm" else 1.0


@dataclass(frozen=True)
class Weight:
    """A weight seen as [group, a, b, taps].

    `outputs` is the axis of that view (1 or 2) on which the output channels of a group lie;
    `data_axis` and `out_axis` are the channels' axes of the operator's input and output.
    """

    values: Array
    slot: int
    view: tuple[int, int, int, int]
    outputs: int
    data_axis: int
    out_axis: int
    reads_padding: bool = False

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

    def beside(self, vector: FloatArray, *, outputs: bool) -> FloatArray:
        """A vector over output or input channels, shaped to stand beside the viewed weight."""
        axis = self.outputs if outputs else 3 - self.outputs
        shape = [self.view[0], 1, 1, 1]
        shape[axis] = self.view[axis]
        return vector.reshape(shape)

    def channel_of(self, index: tuple[int, ...], *, outputs: bool) -> int:
        """The output or input channel of an entry of the viewed weight."""
        axis = self.outputs if outputs else 3 - self.outputs
        return index[0] * self.view[axis] + index[axis]

    def transposed(self) -> Weight:
        """A matrix seen from its other side."""
        view = (1, *self.values.T.shape, 1)
        return replace(self, values=self.values.T, view=view, outputs=3 - self.outputs)

    def blocks(self) -> Iterator[tuple[tuple[int, ...], tuple[slice, ...]]]:
        """The viewed weight in pieces: where each begins, and its slices."""
        axis = 0 if self.view[0] > 1 else 1
        within = math.prod(self.view) // self.view[axis]
        step = max(1, _BLOCK // max(1, within))
        for start in range(0, self.view[axis], step):
            at, cut = [0, 0, 0, 0], [slice(None)] * 4
            at[axis], cut[axis] = start, slice(start, start + step)
            yield tuple(at), tuple(cut)


def weight_of(model: Model, node: Node, data_rank: int | None) -> Weight:
    """Where the channels of a linear node's weight are. Raises UnprovenError where none is."""
    if kind(node) == "MatMul":
        return _matrix(model, node, data_rank)
    values = model.value_at(node, 1)
    if values is None or not values.size:
        raise UnprovenError("a weight that is no constant")
    if kind(node) == "Gemm":
        if values.ndim != 2:
            raise UnprovenError("a weight of another rank")
        transposed = bool(node.attribute("transB", 0))
        axis = 0 if node.attribute("transA", 0) else 1
        return Weight(values, 1, (1, *values.shape, 1), 1 if transposed else 2, axis, 1)
    group = node.attribute("group", 1)
    if values.ndim < 3 or group < 1 or values.shape[0] % group:
        raise UnprovenError("a weight of another shape")
    same = node.attribute("auto_pad", b"NOTSET") in (b"SAME_UPPER", b"SAME_LOWER")
    padded = node.op == "DeformConv"  # which may sample beyond the border
    padded |= any(node.numbers("pads") or ()) or (same and any(k != 1 for k in values.shape[2:]))
    view = (group, values.shape[0] // group, values.shape[1], math.prod(values.shape[2:]))
    if kind(node) == "Conv":  # [M, C/g, …]
        return Weight(values, 1, view, 1, 1, 1, padded)
    return Weight(values, 1, view, 2, 1, 1, reads_padding=True)  # [C, M/g, …]; borders differ


def _matrix(model: Model, node: Node, data_rank: int | None) -> Weight:
    slots = [k for k in (1, 0) if model.is_constant(node.scope, node.input(k))]
    values = model.value_at(node, slots[0]) if slots else None
    if values is None or values.ndim != 2 or not values.size or data_rank is None or data_rank < 2:
        raise UnprovenError("a product with no constant matrix")
    axis = data_rank - 1 if slots[0] else data_rank - 2
    return Weight(values, slots[0], (1, *values.shape, 1), 2 if slots[0] else 1, axis, axis)


def response(pair: Pair, weight: Weight, e: Map) -> Real:
    """α·ΣW·t for each output channel: what a shift t of all inputs makes."""
    return response_of(weight, e.shift, alpha_of(pair.node))


def response_of(weight: Weight, shift: Real, alpha: float) -> Real:
    """Likewise, of a weight and a shift."""
    stored = weight.values.reshape(weight.view)
    group, outputs, inputs = (
        weight.view[0],
        weight.view[weight.outputs],
        weight.inputs // weight.view[0],
    )
    t, size, parts = (v.reshape(group, inputs) for v in (shift.value, shift.magnitude, shift.parts))
    value, magnitude, before = np.zeros((3, group, outputs))
    step = max(1, _BLOCK // max(1, stored[0, 0].size))
    with np.errstate(all="ignore"):
        for g in range(group):
            for at in range(0, weight.view[1], step):  # as it lies in memory
                block, cut = stored[g, at : at + step].astype(np.float64), slice(at, at + step)
                sums, sizes = block.sum(axis=2), np.abs(block).sum(axis=2)
                if weight.outputs == 1:
                    value[g, cut], magnitude[g, cut] = sums @ t[g], sizes @ size[g]
                    before[g, cut] = sizes @ parts[g]
                else:
                    value[g] += t[g, cut] @ sums
                    magnitude[g] += size[g, cut] @ sizes
                    before[g] += parts[g, cut] @ sizes
    view = np.moveaxis(stored, weight.outputs, 1)

    def exact(channel: int) -> Sum:
        g, own = divmod(channel, outputs)
        weights = view[g, own].astype(np.float64)
        return _summed(weights, [shift.exact(g * inputs + i) for i in range(inputs)])

    total = Real(
        value.reshape(-1), magnitude.reshape(-1), weight.length + shift.steps + 2, exact,
        before.reshape(-1), shift.doubles,
    )  # fmt: skip
    return total if alpha == 1 else total * Real.full(alpha)


def _summed(weights: FloatArray, shifts: list[Sum]) -> Sum:
    """Σ W·t, added up once: terms with the same root are put together."""
    total: Sum = ()
    for row, t in zip(weights, shifts, strict=True):
        own: Sum = ()
        for w in row:
            own = plus(own, rational(float(w)))
        total = plus(total, times(own, t))
    return total


@dataclass
class Lost:
    """What underflow has taken of a weight: Σ|error| and the worst k of each output channel.

    `inputs` is Σ|error| of each input channel.
    """

    errors: FloatArray
    k: FloatArray
    inputs: FloatArray

    @classmethod
    def none(cls, weight: Weight) -> Lost:
        """Nothing at all."""
        zeros = np.zeros((2, weight.channels))
        return cls(zeros[0], zeros[1], np.zeros(weight.inputs))

    def add(self, channels: tuple[int, int], error: float, exact: float) -> None:
        """Count an entry: its output and input channel, how far off, and what it should be."""
        self.errors[channels[0]] += error
        self.inputs[channels[1]] += error
        self.k[channels[0]] = max(self.k[channels[0]], error / exact if exact else 1.0)

    def judge(self, new: Weight, offset: FloatArray, alpha: float, tally: Tally) -> None:
        """Count what shows in k. Raises UnprovenError where more than half of a weight is lost.

        An input channel of which nothing is left is weighed with all others like it: it shows
        where the other inputs are 0.
        """
        dtype = new.values.dtype
        rest = np.moveaxis(np.abs(new.values.reshape(new.view)), new.outputs, 1).astype(np.float64)
        largest = rest.max(axis=(2, 3)).reshape(-1)
        unseen = hidden(self.errors * alpha, offset, largest * alpha, new.length, dtype)
        relative = float(np.max(self.k[~unseen], initial=0.0))
        gone = np.sum(self.inputs[rest.max(axis=(1, 3)).reshape(-1) == 0], keepdims=True)
        inputs = hidden(gone * alpha, offset.min(keepdims=True), 0 * gone, new.length, dtype)
        if relative >= 0.5 or not np.all(inputs):
            raise UnprovenError("weights are lost to underflow")
        tally.k = max(tally.k, relative / unit_roundoff(dtype))
