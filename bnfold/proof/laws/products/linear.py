"""Conv, ConvTranspose, Gemm and MatMul, which take maps into their weights.

With o = α·W(x) + β·b in the original, x = e(x′), and f = α·W′(x′) + β′·b′ in the folded model,
f = u(o) for all x′ exactly if

    W′ = u_s·W·e_s          β′·b′ = u_s·(β·b + α·ΣW·e_t) + u_t
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from bnfold.graph.index import Node
from bnfold.proof.laws.absorbing import Pair, Taken, UnprovenError, WrongError, require_zero
from bnfold.proof.laws.products.weights import (
    KINDS,
    Lost,
    Weight,
    alpha_of,
    kind,
    response,
    response_of,
    weight_of,
)
from bnfold.proof.numbers.correct_rounding import Numbers
from bnfold.proof.numbers.maps import Map
from bnfold.proof.numbers.reals import FloatArray, Real, Sum, rational, times
from bnfold.proof.numbers.rounding import check
from bnfold.proof.reading.model import Model
from bnfold.proof.values.operands import Array

LINEAR = ("Conv", "ConvTranspose", "Gemm", "MatMul")
TAKING = tuple(KINDS)
_RESHAPING = (
    "Cast", "Constant", "DequantizeLinear", "Flatten", "Identity", "Reshape", "Squeeze",
    "Unsqueeze",
)  # fmt: skip


@dataclass(frozen=True)
class _Offset:
    """What is added to the sums, as [rows, channels] (a Gemm's C may have rows), and β."""

    rows: Array
    beta: float
    name: str
    stored: bool


def _offset(model: Model, node: Node, weight: Weight) -> _Offset:
    gemm, slot = kind(node) == "Gemm", offset_slot(node)
    beta = node.attribute("beta", 1.0) if gemm else 1.0
    if node.op == "MatMul" or not node.input(slot) or beta == 0:
        unread = model.value_at(node, slot) if beta == 0 and node.input(slot) else None
        rows = len(unread) if unread is not None and unread.ndim == 2 else 1  # which still bind
        zeros = np.zeros((rows, weight.channels), weight.values.dtype)
        return _Offset(zeros, 1.0, "bias", stored=False)
    values = model.value_at(node, slot)
    if values is None:
        raise UnprovenError("a bias that is no constant")
    if not gemm and values.shape != (weight.channels,):
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
    return _Offset(wide, beta, node.input(slot), stored=True)


def offset_slot(node: Node) -> int:
    """Which input is added to the products."""
    return 3 if node.op == "DeformConv" else 2


def products(model: Model, node: Node) -> int:
    """The length of the dot products of a linear node; 0 for any other."""
    if node.op not in LINEAR:
        return 0
    slot = 0 if node.op != "MatMul" or model.is_constant(node.scope, node.input(1)) else 1
    try:
        return weight_of(model, node, model.rank(node.scope, node.input(slot))).length
    except UnprovenError:
        return 0


def take(pair: Pair, e: Map, u: Map, *, rows: bool = False) -> Taken:
    """Check the constants of a pair of linear nodes.

    `rows`: the other one reads the rows of all leading axes one behind the other.
    """
    node, other = pair.node, pair.other
    _require_to_pass_activation(node, u)
    slot = _data_slot(pair)
    rank = None if pair.shape(slot) is None else pair.rank(slot)
    old, new = weight_of(pair.original, node, rank), weight_of(pair.folded, other, rank)
    if (node.op, other.op) == ("MatMul", "Gemm") and other.attribute("transB", 0):
        new = new.transposed()
    _require_alike(pair, old, new, 2 if rows else rank)
    e_wide, u_wide = e.over(old.data_axis, old.inputs), u.over(old.out_axis, old.channels)
    if e_wide is None or u_wide is None:
        raise UnprovenError("a map along another axis than the channels'")
    if old.reads_padding and e_wide.shifts:
        raise WrongError("a shift where zeros are read from the padding")
    taken = Taken(old.length)
    lost = check_weights(pair, old, new, e_wide.scale, u_wide.scale, taken)
    _check_offset(pair, old, new, e_wide, u_wide, taken, lost)
    return taken


def _require_to_pass_activation(node: Node, u: Map) -> None:
    """What a fused operator ends in must let the map of its output pass; so must what it adds."""
    if not node.op.startswith("com.microsoft::"):
        return
    if u.is_identity:
        return
    if node.op.endswith("Conv") and node.input(3):
        raise UnprovenError("a FusedConv that adds another value")
    activation = node.attribute("activation", b"")
    if not activation:
        return
    if activation not in (b"Relu", b"LeakyRelu"):
        raise UnprovenError(f"its {activation.decode(errors='replace')}, which lets no map pass")
    if u.shifts or not u.keeps_order:
        raise WrongError("a shift or a negative scale behind its activation")


RECURRENT = ("GRU", "LSTM", "RNN")
_BIAS_OF_RECURRENT = 3


def take_recurrent(pair: Pair, e: Map) -> Taken:
    """W·x + b_w of every step and gate, with the same result: W′ = W·e_s, b_w′ = b_w + W·e_t.

    W is [directions, gates·hidden, inputs]; B is [directions, 2·gates·hidden], first b_w, then the
    bias of the recurrent side, which stays.
    """
    old, new = (_input_weight(w) for w in (pair.before(1), pair.after(1)))
    if old.values.shape != new.values.shape or old.values.dtype != new.values.dtype:
        raise WrongError("its weight is of another shape or type")
    rank = pair.rank(0)
    inner = e.over(2, old.inputs) if rank == 3 else None
    if inner is None:
        raise UnprovenError("a map along another axis than the channels'")
    taken = Taken(old.length)
    lost = check_weights(pair, old, new, inner.scale, Real.full(1.0, old.channels), taken)
    half = (old.values.shape[0], old.values.shape[1])
    before, after = (_recurrent_bias(b, half, old) for b in (pair.before(3), pair.after(3)))
    if before.dtype != after.dtype or not np.array_equal(before[:, 1], after[:, 1]):
        raise WrongError("the bias of its recurrent side has changed")
    total = Real.of(before[:, 0].reshape(-1))
    if inner.shifts:
        total = total + response_of(old, inner.shift, 1.0)
    name = pair.other.input(_BIAS_OF_RECURRENT) or "bias"
    stored = after[:, 0].reshape(-1)
    tally = taken.tally(name, _BIAS_OF_RECURRENT)
    check(stored, Numbers.of(total), tally, loose=pair.tolerance(_BIAS_OF_RECURRENT), added=True)
    if np.any(lost.errors):
        offset = np.abs(stored.astype(np.float64))
        lost.judge(new, offset, 1.0, taken.tallies[pair.other.input(1)])
    return taken


def _input_weight(values: Array | None) -> Weight:
    if values is None or values.ndim != 3 or not values.size or values.dtype.kind not in "fV":
        raise UnprovenError("a weight that is no constant of three axes")
    view = (1, values.shape[0] * values.shape[1], values.shape[2], 1)
    return Weight(values, 1, view, 1, 2, 0)


def _recurrent_bias(values: Array | None, half: tuple[int, int], weight: Weight) -> Array:
    """B as [directions, 2, gates·hidden]; zeros where there is none."""
    directions, width = half
    if values is None:
        return np.zeros((directions, 2, width), weight.values.dtype)
    if values.shape != (directions, 2 * width) or values.dtype != weight.values.dtype:
        raise UnprovenError("a bias of another shape or type")
    return values.reshape(directions, 2, width)


def _data_slot(pair: Pair) -> int:
    if pair.node.op != "MatMul":
        return 0
    return 0 if pair.original.is_constant(pair.node.scope, pair.node.input(1)) else 1  # B, else A


def _require_alike(pair: Pair, old: Weight, new: Weight, rank: int | None) -> None:
    node, other = pair.node, pair.other
    same = (old.values.shape, old.view, old.outputs, old.slot) == (
        new.values.shape, new.view, new.outputs, new.slot,
    )  # fmt: skip
    same &= old.data_axis == new.data_axis or node.op != other.op
    if not same or old.values.dtype != new.values.dtype:
        raise WrongError("its weight is of another shape or type")
    if old.values.dtype.kind not in "fV":
        raise UnprovenError("a weight of integers")
    if node.op != other.op:
        if (node.op, other.op) != ("MatMul", "Gemm") or rank != 2 or old.slot != 1:
            raise WrongError(f"a {other.op} cannot stand for a {node.op} here")
        plain = (other.attribute("alpha", 1.0), other.attribute("beta", 1.0)) == (1.0, 1.0)
        if not plain or other.attribute("transA", 0):
            raise WrongError("a Gemm that is no product of the two")


def check_weights(
    pair: Pair, old: Weight, new: Weight, inside: Real, outside: Real, taken: Taken
) -> Lost:  # fmt: skip
    """W′ = u_s·W·e_s, block by block. Gives, per output channel, what underflow has taken."""
    before, after = old.values.reshape(old.view), new.values.reshape(new.view)
    u, e = old.beside(outside.value, outputs=True), old.beside(inside.value, outputs=False)
    sizes = [np.all(np.isfinite(v.magnitude)) for v in (outside, inside)]
    u, e = (np.broadcast_to(v, (*old.view[:3], 1)) for v in (u, e))
    steps = outside.steps + inside.steps + 2
    tally = taken.tally(pair.other.input(new.slot), old.slot)
    loose = pair.tolerance(old.slot)
    lost = Lost.none(old)
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
        errors = np.zeros(p.shape)
        numbers = Numbers(p, np.abs(p), steps, exact, at, place)
        check(after[cut], numbers, tally, loose=loose, errors=errors)
        zero = p == 0
        if np.any(zero):
            zero &= (before[cut] != 0) & (u[cut] != 0) & (e[cut] != 0)
            errors[zero] = 2.0**-1074  # the least that float64 could have held
        for index in np.argwhere(errors) if np.any(errors) else ():
            own = tuple(int(i) + a for i, a in zip(index, at, strict=True))
            channels = (old.channel_of(own, outputs=True), old.channel_of(own, outputs=False))
            lost.add(channels, float(errors[tuple(index)]), abs(float(p[tuple(index)])))
    return lost


def _check_offset(
    pair: Pair, old: Weight, new: Weight, e: Map, u: Map, taken: Taken, lost: Lost
) -> None:  # fmt: skip
    one, two = _offset(pair.original, pair.node, old), _offset(pair.folded, pair.other, new)
    if one.rows.dtype != two.rows.dtype and one.stored and two.stored:
        raise WrongError("its bias is of another type")
    if len(two.rows) not in (1, len(one.rows)):
        raise WrongError("a bias with more rows, which only batches of that size have")
    inner = response(pair, old, e) if np.any(e.shift.magnitude) else None
    rows = max(len(one.rows), len(two.rows))
    before = np.broadcast_to(one.rows, (rows, old.channels))
    after = np.broadcast_to(two.rows, (rows, old.channels))
    slot = offset_slot(pair.node)
    loose = max(pair.tolerance(slot), pair.loose) if one.stored else pair.loose
    step = _half_step(pair, u) if inner is not None or u.shifts else None
    tally = taken.tally(two.name, slot) if pair.other.op != "MatMul" else None
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
            check(after[row], Numbers.of(total), tally, loose=loose, step=step, added=True)
    if np.any(lost.errors):
        offset = np.abs(after.astype(np.float64)).min(axis=0) * abs(two.beta)
        lost.judge(
            new, offset, abs(alpha_of(pair.other)), taken.tallies[pair.other.input(new.slot)]
        )


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
    bias = node.input(offset_slot(node))
    makers = model.computing(node.scope, bias) if bias else []
    found = [maker for maker in makers if maker.op == "DequantizeLinear"]
    if len(found) != 1 or any(maker.op not in _RESHAPING for maker in makers):
        return None
    integers = model.value_at(found[0], 0)
    known = integers is not None and integers.dtype == np.int32
    return model.value_at(found[0], 1) if known else None
