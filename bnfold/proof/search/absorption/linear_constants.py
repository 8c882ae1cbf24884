"""Whether the constants of a folded node are what its maps make of the original's.

For a linear operator W with o = W(x) + b in the original, x = e(x′) and f = W′(x′) + b′ in the
folded model, f = u(o) for all x′ if and only if

    W′ = u_s·W·e_s          b′ = u_s·(b + ΣW·e_t) + u_t

where e is known from what was checked before and u is one of the candidates.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator
from dataclasses import dataclass, field, replace

import numpy as np

from bnfold.onnx_io.protos import Array
from bnfold.proof.numbers.correct_rounding import Numbers, Tally, compare
from bnfold.proof.numbers.reals import FloatArray, Real, Sum, plus, rational, times
from bnfold.proof.numbers.rounding import lost
from bnfold.proof.search.absorption.candidates import Candidate, best, fitting
from bnfold.proof.search.numbers.maps import Map
from bnfold.proof.search.reading.linear_nodes import Linear, bias_rows
from bnfold.proof.search.reading.model_view import alike

_SAMPLE = 64  # weights of a channel by which candidates are told
_NEAR = 0.05  # candidates that fit these by so much less than the best are not looked at
_BLOCK = 1 << 20
DEQUANTISED = 3.0  # u: q·k rounded in both models, and the scale k once


@dataclass
class Absorption:
    """What one node took, and what was found of its numbers."""

    chosen: Candidate
    length: int  # n
    moved: bool = True  # whether there was a map to take
    tallies: dict[str, Tally] = field(default_factory=dict)  # by the constant's name

    @property
    def faults(self) -> int:
        """How many numbers are wrong."""
        return sum(tally.faults for tally in self.tallies.values())


def linear(
    original: Linear, folded: Linear, e: Map, candidates: list[Candidate], loose: float,
    present: Collection[str] = (),
) -> Absorption | str:  # fmt: skip
    """Check a pair of linear nodes; or why there is nothing to check.

    `present` are the names of nodes that the folded model still has.
    """
    shapes = [
        (of.weight.shape, of.view, of.outputs, of.data_axis, of.out_axis)
        for of in (original, folded)
    ]
    if shapes[0] != shapes[1]:
        return "a weight of another shape"
    rows = [of.bias.shape[0] if of.bias is not None and of.bias.ndim > 1 else 1
            for of in (original, folded)]  # fmt: skip
    if rows[1] not in (1, rows[0]):
        return "a bias with more rows, which only batches of that size have"
    types = {of.dtype for of in (original.weight, folded.weight)}
    biases = {of.bias.dtype for of in (original, folded) if of.bias is not None}
    if len(types) > 1 or (folded.bias is not None and len(biases) > 1):
        return "constants of another type"
    if original.alpha != folded.alpha:
        return "another alpha"
    if e.axis not in (None, original.data_axis) or len(e) not in (1, original.inputs):
        return "a map along another axis"
    if original.pads and e.shifts:
        return "a shift where zeros are read from the padding"
    e = e.over(original.data_axis, original.inputs)
    choices = fitting(candidates, original.out_axis, original.channels)
    inner = response(original, e.shift) if e.shifts else None
    if folded.quantized:
        loose = max(loose, DEQUANTISED)

    def check(candidate: Candidate) -> Absorption:
        chosen = _with_doubt(candidate, choices, present)
        u = chosen.map
        same = e.is_identity and u.is_identity
        result = Absorption(chosen, original.length, not same)
        if not (same and alike(original.weight, folded.weight)):
            tally = result.tallies.setdefault(folded.name, Tally())
            _weights(original, folded, e.scale, u.scale, tally, loose)
        _bias(original, folded, inner, u, result, loose)
        return result

    found = best(_likely(original, folded, e, inner, choices), present, check)
    assert found is not None, "the map that changes nothing is among the candidates"
    return found


# --- which candidate it is -----------------------------------------------------------------------


def _likely(
    original: Linear, folded: Linear, e: Map, inner: Real | None, choices: list[Candidate]
) -> list[Candidate]:
    """The candidates that come as close as any to what some weights of each channel say."""
    if len(choices) == 1:
        return choices
    before, after = _samples(original, e.scale.value), _samples(folded, None)
    energy = np.sum(before * before, axis=1)
    with np.errstate(all="ignore"):
        ratio = np.sum(before * after, axis=1) / energy
    alive = np.isfinite(ratio) & (energy > 0)
    if not np.any(alive):
        return choices
    with np.errstate(all="ignore"):
        bias = original.beta * _first_bias(original, folded.weight.dtype)
        bias = bias + (inner.value if inner is not None else 0.0)
        found = folded.beta * _first_bias(folded, folded.weight.dtype)
        size = np.abs(ratio * bias) + np.abs(found)

    def misfit(candidate: Candidate) -> float:
        scale, shift = candidate.map.scale.value, candidate.map.shift.value
        apart = np.abs(scale - ratio) / (np.abs(scale) + np.abs(ratio) + 1e-300)
        off = np.abs(scale * bias + shift - found) / (size + np.abs(shift) + 1e-300)
        return float(np.mean(apart[alive])) + float(np.mean(off[alive]))

    with np.errstate(all="ignore"):  # what is not finite comes close to nothing
        misfits = [misfit(candidate) for candidate in choices]
    least = np.nanmin(misfits) if not np.all(np.isnan(misfits)) else np.inf
    near = [c for c, off in zip(choices, misfits, strict=True) if off <= least + _NEAR]
    return near or choices


def _with_doubt(
    chosen: Candidate, choices: list[Candidate], present: Collection[str]
) -> Candidate:  # fmt: skip
    """The candidate, with a shift as uncertain as that of any that float64 cannot tell from it.

    Where terms of a shift cancel, one candidate has 0 and another 10⁻¹⁷. That is an excuse only if
    the nodes that these terms come from are gone: else the terms are not what was folded.
    """
    a = chosen.map
    if any(site in present for site in chosen.sites):
        a = replace(a, shift=a.shift.settled())
    alike = [
        c.map.shift for c in choices
        if c.map.near(a) and not any(site in present for site in c.sites)
    ]  # fmt: skip
    magnitude = np.max([a.shift.magnitude, *(shift.magnitude for shift in alike)], axis=0)
    steps = max([a.shift.steps, *(shift.steps for shift in alike)])
    shift = replace(a.shift, magnitude=magnitude, steps=steps)
    return replace(chosen, map=replace(a, shift=shift))


def _first_bias(of: Linear, dtype: np.dtype[np.generic]) -> FloatArray:
    rows = of.bias.shape[0] if of.bias is not None and of.bias.ndim > 1 else 1
    return np.asarray(bias_rows(of, rows, dtype)[0], np.float64)


def _samples(of: Linear, scale: FloatArray | None) -> FloatArray:
    """Some weights of each output channel, as [channels, some]."""
    view = of.weight.reshape(of.view)
    b = np.moveaxis(view, of.outputs, 1)  # [group, outputs, inputs, taps]
    count = b.shape[2] * b.shape[3]
    step = max(1, count // _SAMPLE)
    inputs, taps = np.divmod(np.arange(0, count, step), b.shape[3])
    picked = b[:, :, inputs, taps].astype(np.float64)
    if scale is not None:
        picked = picked * scale.reshape(of.view[0], 1, -1)[:, :, inputs]
    return picked.reshape(of.channels, -1)


# --- the numbers ---------------------------------------------------------------------------------


def _weights(
    original: Linear, folded: Linear, inside: Real, outside: Real, tally: Tally, loose: float
) -> None:
    """W′ = u_s·W·e_s, block by block."""
    before, after = original.weight.reshape(original.view), folded.weight.reshape(folded.view)
    u, e = original.over_outputs(outside.value), original.over_inputs(inside.value)
    u, e = (np.broadcast_to(v, (*original.view[:3], 1)) for v in (u, e))
    steps = outside.steps + inside.steps + 2

    def exact(index: tuple[int, ...]) -> Sum:
        own = rational(float(before[index]))
        out = outside.exact(original.channel_of(index, output=True))
        return times(times(own, out), inside.exact(original.channel_of(index, output=False)))

    def place(index: tuple[int, ...]) -> tuple[int, ...]:
        flat = np.ravel_multi_index(index, original.view)
        return tuple(int(i) for i in np.unravel_index(flat, folded.weight.shape))

    for at, block in _blocks(original.view):
        p = before[block].astype(np.float64) * u[block] * e[block]
        numbers = Numbers(p, np.abs(p), steps, exact, at, place)
        compare(after[block], numbers, tally, loose)
        tally.lost += lost(after[block], p)


def _blocks(view: tuple[int, ...]) -> Iterator[tuple[tuple[int, ...], tuple[slice, ...]]]:
    axis = 0 if view[0] > 1 else 1
    within = int(np.prod(view)) // view[axis]
    step = max(1, _BLOCK // max(1, within))
    for start in range(0, view[axis], step):
        at = [0, 0, 0, 0]
        at[axis] = start
        cut = [slice(None)] * 4
        cut[axis] = slice(start, start + step)
        yield tuple(at), tuple(cut)


def response(of: Linear, shift: Real) -> Real:
    """ΣW·t for each output channel."""
    view = np.moveaxis(of.weight.reshape(of.view), of.outputs, 1).astype(np.float64)
    t = shift.value.reshape(of.view[0], 1, -1, 1)
    size = shift.magnitude.reshape(of.view[0], 1, -1, 1)

    def exact(channel: int) -> Sum:
        group, own = divmod(channel, of.view[of.outputs])
        total: Sum = ()
        for i in range(view.shape[2]):
            weight = sum((rational(float(w)) for w in view[group, own, i]), ())
            weight = plus(weight, ())
            total = plus(total, times(weight, shift.exact(group * view.shape[2] + i)))
        return total

    value = (view * t).sum(axis=(2, 3)).reshape(-1)
    magnitude = (np.abs(view) * size).sum(axis=(2, 3)).reshape(-1)
    alpha = Real.full(of.alpha)
    return Real(value, magnitude, of.length + shift.steps + 2, exact) * alpha


def _bias(
    original: Linear, folded: Linear, inner: Real | None, u: Map, result: Absorption,
    loose: float,
) -> None:  # fmt: skip
    rows = [1 if of.bias is None or of.bias.ndim < 2 else of.bias.shape[0]
            for of in (original, folded)]  # fmt: skip
    dtype = folded.weight.dtype
    before, after = bias_rows(original, max(rows), dtype), bias_rows(folded, max(rows), dtype)
    same = u.is_identity and inner is None and original.beta == folded.beta
    if same and alike(before, after):
        return
    tally = result.tallies.setdefault(folded.bias_name or "bias", Tally())
    for row in range(max(rows)):
        total = Real.of(before[row])
        if original.beta != 1:
            total = total * Real.full(original.beta)
        if inner is not None:
            total = total + inner
        total = total * u.scale + u.shift
        if folded.beta != 1:
            total = total * Real.full(folded.beta).inverse()
        rounded = _half_step(original, folded, u) if u.shifts or inner is not None else None
        compare(after[row], Numbers.of(total), tally, loose, rounded)


def _half_step(original: Linear, folded: Linear, u: Map) -> FloatArray:
    """How far rounding to integers may move a bias: half a step, which a map makes s times as wide.

    No wider than that, and not at all where the original's bias is not made of integers.
    """
    if original.step is None or folded.step is None:
        return np.zeros(1)
    before, after = (np.abs(s.astype(np.float64)) for s in (original.step, folded.step))
    scale = np.abs(u.scale.value)
    widest = before * np.where(scale == 0, 1.0, scale) * (1 + 2.0**-20)
    return np.asarray(np.where(after <= widest, after / 2, 0.0), np.float64)


# --- constants that are added and multiplied -----------------------------------------------------


def constant(
    stored: Array, expected: Array, along: int | None, scale: Real, shift: Real, name: str,
    chosen: Candidate, loose: float,
) -> Absorption | None:  # fmt: skip
    """Check that `stored` = scale·`expected` + shift, with vectors along one axis of both.

    None where the shapes do not go together.
    """
    if stored.dtype != expected.dtype or stored.dtype.kind not in "fV":
        return None
    axis = 0 if along is None else along
    rank = max(stored.ndim, expected.ndim, axis + 1)

    def beside(vector: FloatArray) -> FloatArray:
        shape = [1] * rank
        shape[axis] = len(vector)
        return vector.reshape(shape) if len(vector) > 1 else vector.reshape(())

    s, t = beside(scale.value), beside(shift.value)
    try:
        shape = np.broadcast_shapes(s.shape, t.shape, stored.shape, expected.shape)
    except ValueError:
        return None
    c = np.broadcast_to(expected, shape).astype(np.float64)
    size = beside(scale.magnitude) * np.abs(c) + beside(shift.magnitude)

    def exact(index: tuple[int, ...]) -> Sum:
        entry = index[axis] if len(index) > axis else 0
        one, two = (v.exact(entry if len(v) > 1 else 0) for v in (scale, shift))
        return plus(times(one, rational(float(c[index]))), two)

    result = Absorption(chosen, 1)
    tally = result.tallies.setdefault(name, Tally())
    numbers = Numbers(s * c + t, size, max(scale.steps + 1, shift.steps) + 1, exact)
    compare(np.broadcast_to(stored, shape), numbers, tally, loose)
    return result


def batch_norm(
    parameters: tuple[Array, Array, Array, Array, float],
    names: tuple[str, str],
    dtypes: tuple[np.dtype[np.generic], np.dtype[np.generic]],
    total: Map,
    chosen: Candidate,
    loose: float,
) -> Absorption:
    """γ = s·√(σ²+ε) and β = t + s·μ for the map s, t that a BatchNormalization has to make."""
    gamma, beta, mean, variance, epsilon = parameters
    total = total.over(1, len(gamma))
    wanted = (
        total.scale * Real.deviation(variance, epsilon),
        total.shift + total.scale * Real.of(mean),
    )
    result = Absorption(chosen, 1)
    for stored, dtype, name, value in zip((gamma, beta), dtypes, names, wanted, strict=True):
        tally = result.tallies.setdefault(name, Tally())
        compare(stored.astype(dtype), Numbers.of(value), tally, loose)
    return result
