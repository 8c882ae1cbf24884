"""Conv, ConvTranspose, Gemm and MatMul, which take maps into their weights.

With o = α·W(x) + β·b in the original, x = e(x′), and f = α·W′(x′) + β′·b′ in the folded model,
f = u(o) for all x′ exactly if

    W′ = u_s·W·e_s          β′·b′ = u_s·(β·b + α·ΣW·e_t) + u_t
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from bnfold.graph.index import Node
from bnfold.proof.laws.absorbing import Pair, Taken, UnprovenError, WrongError, require_zero
from bnfold.proof.numbers.correct_rounding import Numbers
from bnfold.proof.numbers.maps import Map
from bnfold.proof.numbers.reals import FloatArray, Real, Sum, plus, rational, times
from bnfold.proof.numbers.rounding import check, hidden
from bnfold.proof.reading.model import Model
from bnfold.proof.reading.operands import Array

LINEAR = ("Conv", "ConvTranspose", "Gemm", "MatMul")
_BLOCK = 1 << 20  # weights that are looked at together
_RESHAPING = (
    "Cast", "Constant", "DequantizeLinear", "Flatten", "Identity", "Reshape", "Squeeze",
    "Unsqueeze",
)  # fmt: skip


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
    if node.op == "MatMul":
        return _matrix(model, node, data_rank)
    values = model.value_at(node, 1)
    if values is None or not values.size:
        raise UnprovenError("a weight that is no constant")
    if node.op == "Gemm":
        if values.ndim != 2:
            raise UnprovenError("a weight of another rank")
        transposed = bool(node.attribute("transB", 0))
        axis = 0 if node.attribute("transA", 0) else 1
        return Weight(values, 1, (1, *values.shape, 1), 1 if transposed else 2, axis, 1)
    group = node.attribute("group", 1)
    if values.ndim < 3 or group < 1 or values.shape[0] % group:
        raise UnprovenError("a weight of another shape")
    same = node.attribute("auto_pad", b"NOTSET") in (b"SAME_UPPER", b"SAME_LOWER")
    padded = any(node.numbers("pads") or ()) or (same and any(k != 1 for k in values.shape[2:]))
    view = (group, values.shape[0] // group, values.shape[1], math.prod(values.shape[2:]))
    if node.op == "Conv":  # [M, C/g, …]
        return Weight(values, 1, view, 1, 1, 1, padded)
    return Weight(values, 1, view, 2, 1, 1, reads_padding=True)  # [C, M/g, …]; borders differ


def _matrix(model: Model, node: Node, data_rank: int | None) -> Weight:
    slots = [k for k in (1, 0) if model.is_constant(node.scope, node.input(k))]
    values = model.value_at(node, slots[0]) if slots else None
    if values is None or values.ndim != 2 or not values.size or data_rank is None or data_rank < 2:
        raise UnprovenError("a product with no constant matrix")
    axis = data_rank - 1 if slots[0] else data_rank - 2
    return Weight(values, slots[0], (1, *values.shape, 1), 2 if slots[0] else 1, axis, axis)


@dataclass(frozen=True)
class _Offset:
    """What is added to the sums, as [rows, channels] (a Gemm's C may have rows), and β."""

    rows: Array
    beta: float
    name: str
    stored: bool


def _offset(model: Model, node: Node, weight: Weight) -> _Offset:
    beta = node.attribute("beta", 1.0) if node.op == "Gemm" else 1.0
    if node.op == "MatMul" or not node.input(2) or beta == 0:
        zeros = np.zeros((1, weight.channels), weight.values.dtype)
        return _Offset(zeros, 1.0, "bias", stored=False)
    values = model.value_at(node, 2)
    if values is None:
        raise UnprovenError("a bias that is no constant")
    if node.op != "Gemm" and values.shape != (weight.channels,):
        raise UnprovenError("a bias of another shape")
    if values.ndim > 2 or (values.ndim and values.shape[-1] not in (1, weight.channels)):
        raise UnprovenError("a bias of another shape")
    plain = node.op != "Gemm" or node.scope.opset >= 7 or node.attribute("broadcast", 0)
    if not plain and (values.ndim != 2 or values.shape[-1] != weight.channels):
        raise UnprovenError("a bias that does not broadcast")
    rows = values.shape[0] if values.ndim == 2 else 1
    wide = np.broadcast_to(
        values.reshape(1) if not values.ndim else values, (rows, weight.channels)
    )
    return _Offset(wide, beta, node.input(2), stored=True)


def take(pair: Pair, e: Map, u: Map) -> Taken:
    """Check the constants of a pair of linear nodes."""
    node, other = pair.node, pair.other
    slot = _data_slot(pair)
    rank = None if pair.shape(slot) is None else pair.rank(slot)
    old, new = weight_of(pair.original, node, rank), weight_of(pair.folded, other, rank)
    _require_alike(pair, old, new, rank)
    e_wide, u_wide = e.over(old.data_axis, old.inputs), u.over(old.out_axis, old.channels)
    if e_wide is None or u_wide is None:
        raise UnprovenError("a map along another axis than the channels'")
    if old.reads_padding and e_wide.shifts:
        raise WrongError("a shift where zeros are read from the padding")
    taken = Taken(old.length)
    lost = _check_weights(pair, old, new, e_wide.scale, u_wide.scale, taken)
    _check_offset(pair, old, new, e_wide, u_wide, taken, lost)
    return taken


def _data_slot(pair: Pair) -> int:
    if pair.node.op != "MatMul":
        return 0
    return 0 if pair.original.is_constant(pair.node.scope, pair.node.input(1)) else 1  # B, else A


def _require_alike(pair: Pair, old: Weight, new: Weight, rank: int | None) -> None:
    node, other = pair.node, pair.other
    same = (old.values.shape, old.view, old.outputs, old.slot, old.data_axis) == (
        new.values.shape, new.view, new.outputs, new.slot, new.data_axis,
    )  # fmt: skip
    if not same or old.values.dtype != new.values.dtype:
        raise WrongError("its weight is of another shape or type")
    if old.values.dtype.kind not in "fV":
        raise UnprovenError("a weight of integers")
    if node.op != other.op:
        if (node.op, other.op) != ("MatMul", "Gemm") or rank != 2 or old.slot != 1:
            raise WrongError(f"a {other.op} cannot stand for a {node.op} here")
        plain = (other.attribute("alpha", 1.0), other.attribute("beta", 1.0)) == (1.0, 1.0)
        if not plain or other.attribute("transA", 0) or other.attribute("transB", 0):
            raise WrongError("a Gemm that is no product of the two")


def _check_weights(
    pair: Pair, old: Weight, new: Weight, inside: Real, outside: Real, taken: Taken
) -> FloatArray:  # fmt: skip
    """W′ = u_s·W·e_s, block by block. Gives, per output channel, what underflow has taken."""
    before, after = old.values.reshape(old.view), new.values.reshape(new.view)
    u, e = old.beside(outside.value, outputs=True), old.beside(inside.value, outputs=False)
    sizes = [np.all(np.isfinite(v.magnitude)) for v in (outside, inside)]
    u, e = (np.broadcast_to(v, (*old.view[:3], 1)) for v in (u, e))
    steps = outside.steps + inside.steps + 2
    tally = taken.tally(pair.other.input(new.slot), old.slot)
    loose = pair.tolerance(old.slot)
    lost = np.zeros(old.channels)
    if not all(sizes):
        raise UnprovenError("maps beyond what float64 holds")

    def exact(index: tuple[int, ...]) -> Sum:
        own = rational(float(before[index]))
        out = outside.exact(old.channel_of(index, outputs=True))
        return times(times(own, out), inside.exact(old.channel_of(index, outputs=False)))

    def place(index: tuple[int, ...]) -> tuple[int, ...]:
        flat = np.ravel_multi_index(index, old.view)
        return tuple(int(i) for i in np.unravel_index(flat, new.values.shape))

    for at, cut in old.blocks():
        with np.errstate(all="ignore"):
            p = before[cut].astype(np.float64) * (u[cut] * e[cut])
        gone = np.zeros(p.shape, bool)
        numbers = Numbers(p, np.abs(p), steps, exact, at, place)
        check(after[cut], numbers, tally, loose=loose, lost=gone)
        vanished = (p == 0) & (before[cut] != 0) & (u[cut] != 0) & (e[cut] != 0)
        gone |= vanished
        if np.any(gone):
            for index in np.argwhere(gone):
                own = tuple(int(i) + a for i, a in zip(index, at, strict=True))
                channel = old.channel_of(own, outputs=True)
                lost[channel] += max(abs(float(p[tuple(index)])), 2.0**-1074)
    return lost


def _check_offset(
    pair: Pair, old: Weight, new: Weight, e: Map, u: Map, taken: Taken, lost: FloatArray
) -> None:  # fmt: skip
    one, two = _offset(pair.original, pair.node, old), _offset(pair.folded, pair.other, new)
    if one.rows.dtype != two.rows.dtype and one.stored and two.stored:
        raise WrongError("its bias is of another type")
    if len(two.rows) not in (1, len(one.rows)):
        raise WrongError("a bias with more rows, which only batches of that size have")
    inner = response(pair, old, e) if e.shifts else None
    rows = max(len(one.rows), len(two.rows))
    before = np.broadcast_to(one.rows, (rows, old.channels))
    after = np.broadcast_to(two.rows, (rows, old.channels))
    loose = max(pair.tolerance(2), pair.loose) if one.stored else pair.loose
    step = _half_step(pair, u)
    tally = taken.tally(two.name, 2) if pair.other.op != "MatMul" else None
    for row in range(rows):
        total = Real.of(before[row])
        if one.beta != 1:
            total = total * Real.full(one.beta)
        if inner is not None:
            total = total + inner
        total = total * u.scale + u.shift
        if two.beta != 1:
            total = total * Real.full(two.beta).inverse()
        if tally is None:
            require_zero(total, f"{pair.other.label} has no place for a shift")
        else:
            check(after[row], Numbers.of(total), tally, loose=loose, step=step)
    if np.any(lost):
        offset = np.abs(after.astype(np.float64)).min(axis=0) * abs(two.beta)
        alpha = pair.other.attribute("alpha", 1.0) if pair.other.op == "Gemm" else 1.0
        rest = np.moveaxis(np.abs(new.values.reshape(new.view)), new.outputs, 1)
        largest = rest.astype(np.float64).max(axis=(2, 3)).reshape(-1)
        if not hidden(lost * abs(alpha), offset, largest, old.length, old.values.dtype):
            raise UnprovenError("weights are lost to underflow")


def response(pair: Pair, weight: Weight, e: Map) -> Real:
    """α·ΣW·t for each output channel: what a shift t of all inputs makes."""
    node = pair.node
    alpha = node.attribute("alpha", 1.0) if node.op == "Gemm" else 1.0
    return response_of(weight, e.shift, alpha)


def response_of(weight: Weight, shift: Real, alpha: float) -> Real:
    """Likewise, of a weight and a shift."""
    view = np.moveaxis(weight.values.reshape(weight.view), weight.outputs, 1)  # [g, o, i, taps]
    group, outputs, inputs, _ = view.shape
    t, size = (v.reshape(group, inputs) for v in (shift.value, shift.magnitude))
    value, magnitude = np.zeros((group, outputs)), np.zeros((group, outputs))
    step = max(1, _BLOCK // max(1, inputs * view.shape[3]))
    with np.errstate(all="ignore"):
        for g in range(group):
            for at in range(0, outputs, step):
                block = view[g, at : at + step].astype(np.float64)
                value[g, at : at + step] = block.sum(axis=2) @ t[g]
                magnitude[g, at : at + step] = np.abs(block).sum(axis=2) @ size[g]

    def exact(channel: int) -> Sum:
        g, own = divmod(channel, outputs)
        weights = view[g, own].astype(np.float64)
        return _summed(weights, [shift.exact(g * inputs + i) for i in range(inputs)])

    total = Real(
        value.reshape(-1), magnitude.reshape(-1), weight.length + shift.steps + 2, exact
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


def _half_step(pair: Pair, u: Map) -> FloatArray | None:
    """How far rounding to 32-bit integers may move a bias that is made of them: half a step."""
    steps = [_step(m, n) for m, n in ((pair.original, pair.node), (pair.folded, pair.other))]
    if steps[0] is None or steps[1] is None:
        return None
    before, after = (np.abs(s.astype(np.float64)).reshape(-1) for s in steps if s is not None)
    if before.size not in (1, len(u)) or after.size not in (1, len(u)):
        return None
    scale = np.abs(u.scale.value)
    widest = before * np.where(scale == 0, 1.0, scale) * (1 + 2.0**-20)
    return np.asarray(np.where(after <= widest, after / 2, 0.0), np.float64)


def _step(model: Model, node: Node) -> Array | None:
    """The scale of a bias that is made of 32-bit integers; None for any other."""
    makers = model.computing(node.scope, node.input(2)) if node.input(2) else []
    found = [maker for maker in makers if maker.op == "DequantizeLinear"]
    if len(found) != 1 or any(maker.op not in _RESHAPING for maker in makers):
        return None
    integers = model.value_at(found[0], 0)
    known = integers is not None and integers.dtype == np.int32
    return model.value_at(found[0], 1) if known else None
