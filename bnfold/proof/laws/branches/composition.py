"""A convolution, or an average pool, of what a convolution makes: one convolution of its input.

With K₁ of stride s₁, tap k₂ of K₂ and tap k₁ of K₁ together read x at

    position·s₂·s₁ + (k₂·d₂·s₁ + k₁·d₁) − (b₂·s₁ + b₁)

so that K[o, i] = Σ over c, k₁, k₂ of K₂[o, c, k₂]·scale[c]·K₁[c, i, k₁] at that place. Beyond its
border K₂ reads zeros: those that K₁ makes of the zeros around x, if it reads one element at a time,
or, without padding, none at all.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from bnfold.graph.index import Node
from bnfold.proof.laws.absorbing import UnprovenError
from bnfold.proof.laws.branches.geometry import Geometry
from bnfold.proof.numbers.reals import FloatArray, Real, Sum, plus, rational, times
from bnfold.proof.values.operands import Array

_MOST = 1 << 24  # products that are added up


@dataclass(frozen=True)
class Taps:
    """The weights of a convolution, [M, C/group, …], each known in float64 and exactly."""

    value: FloatArray
    magnitude: FloatArray
    steps: int
    exact: Callable[[tuple[int, ...]], Sum]
    kind: np.dtype[np.generic] | None  # of what is stored; None for a pool's

    @classmethod
    def of(cls, stored: Array) -> Taps:
        """Weights that are stored."""
        values = stored.astype(np.float64)
        return cls(
            values, np.abs(values), 0, lambda index: rational(float(values[index])), stored.dtype
        )

    @property
    def shape(self) -> tuple[int, ...]:
        """[M, C/group, …]."""
        return self.value.shape


def dirac(channels: int, axes: int) -> tuple[Geometry, Taps]:
    """X itself as a convolution: one tap in the middle for each channel."""
    one, none = (1,) * axes, (0,) * axes
    taps = replace(Taps.of(np.ones((channels, 1, *one))), kind=None)
    return Geometry(channels, one, one, one, none, none), taps


def pool(node: Node, channels: int, axes: int) -> tuple[Geometry, Taps]:
    """An AveragePool as a sum over its window, each channel by itself: without its 1/K².

    Raises UnprovenError where it averages another number of elements at the border.
    """
    size = tuple(node.numbers("kernel_shape") or ())
    one = (1,) * axes
    pads = tuple(node.numbers("pads") or (0,) * (2 * axes))
    strides = tuple(node.numbers("strides") or one)
    dilations = tuple(node.numbers("dilations") or one)
    whole = not any(pads) or node.attribute("count_include_pad", 0)
    automatic = node.attribute("auto_pad", b"NOTSET") != b"NOTSET"
    known = len(size) == axes == len(strides) == len(dilations) and len(pads) == 2 * axes
    if automatic or node.attribute("ceil_mode", 0) or not whole or not known:
        raise UnprovenError("a pool whose windows are not all alike")
    if min(*size, *strides, *dilations) < 1 or min(pads) < 0:
        raise UnprovenError("a pool that is not known")
    geometry = Geometry(channels, size, strides, dilations, pads[:axes], pads[axes:])
    return geometry, replace(Taps.of(np.ones((channels, 1, *size))), kind=None)


def composed(
    inner: tuple[Geometry, Taps], scale: Real, outer: tuple[Geometry, Taps]
) -> tuple[Geometry, Taps]:
    """What two convolutions make, with a scale for each channel between them.

    Raises UnprovenError where no convolution does.
    """
    (one, first), (two, second) = inner, outer
    middle, axes = len(first.value), len(one.size)
    if second.shape[1] * two.group != middle or len(two.size) != axes:
        raise UnprovenError("convolutions of other channels")
    if len(scale) not in (1, middle):
        raise UnprovenError("branches of different channels")
    if any(two.begins) or any(two.ends):
        require_pointwise(one)
    whole = _geometry(one, two)
    scale = scale.spread(middle)
    pairs = list(itertools.product(*(
        itertools.product(range(m), range(n)) for m, n in zip(two.size, one.size, strict=True)
    )))  # fmt: skip
    if math.prod((len(pairs), len(second.value), second.shape[1], first.shape[1])) > _MOST:
        raise UnprovenError("too many products")
    between = [v.reshape(-1, *(1,) * (axes + 1)) for v in (scale.value, scale.magnitude)]
    value = _summed(first.value * between[0], second.value, one, two, whole)
    magnitude = _summed(first.magnitude * between[1], second.magnitude, one, two, whole)
    terms = second.shape[1] * len(pairs)
    kind = first.kind if second.kind is None else second.kind
    if None not in (first.kind, second.kind) and first.kind != second.kind:
        raise UnprovenError("weights of different types")
    exact = _exactly(inner, scale, outer, whole)
    steps = first.steps + second.steps + scale.steps + terms + 2
    return whole, Taps(value, magnitude, steps, exact, kind)


def require_pointwise(inner: Geometry) -> None:
    """Raises UnprovenError where zeros around what a convolution makes are not what it makes."""
    plain = {*inner.size, *inner.strides} == {1} and not any((*inner.begins, *inner.ends))
    if not plain:
        raise UnprovenError("padding of what a convolution makes")


def _geometry(one: Geometry, two: Geometry) -> Geometry:
    sizes, strides, dilations, begins, ends = [], [], [], [], []
    for axis, step in enumerate(one.strides):
        outer, inner = two.dilations[axis] * step, one.dilations[axis]
        wide = (two.size[axis] - 1) * outer + (one.size[axis] - 1) * inner
        spans = [s for s, k in ((outer, two.size[axis]), (inner, one.size[axis])) if k > 1]
        dilation = math.gcd(*spans) or 1
        sizes.append(wide // dilation + 1)
        dilations.append(dilation)
        strides.append(two.strides[axis] * step)
        begins.append(two.begins[axis] * step + one.begins[axis])
        ends.append(two.ends[axis] * step + one.ends[axis])
    group = math.gcd(one.group, two.group)
    return Geometry(
        group, tuple(sizes), tuple(strides), tuple(dilations), tuple(begins), tuple(ends)
    )  # fmt: skip


def _summed(
    inside: FloatArray, outside: FloatArray, one: Geometry, two: Geometry, whole: Geometry
) -> FloatArray:
    """Σ outside·inside over the channels between, for every pair of taps."""
    a, b = (_in_groups(w, g, whole.group) for w, g in ((inside, one.group), (outside, two.group)))
    groups, outputs, inputs = whole.group, b.shape[1], a.shape[2]
    total = np.zeros((groups, outputs, inputs, *whole.size))
    for tap in itertools.product(*map(range, two.size)):
        for other in itertools.product(*map(range, one.size)):
            at = _place(tap, other, one, two, whole)
            left, right, spot = (_at(taps) for taps in (tap, other, at))
            total[spot] += np.einsum("gmc,gci->gmi", b[left], a[right])
    return total.reshape(groups * outputs, inputs, *whole.size)


def _at(taps: tuple[int, ...]) -> Any:
    """An index of the last axes."""
    return (..., *taps)


def _in_groups(weight: FloatArray, own: int, groups: int) -> FloatArray:
    """A weight of `own` groups as [groups, M/groups, C/groups, …], with zeros between."""
    outputs, inputs = weight.shape[:2]
    parts = own // groups
    blocks = weight.reshape(groups, parts, outputs // own, inputs, *weight.shape[2:])
    laid = np.zeros((groups, parts, outputs // own, parts, inputs, *weight.shape[2:]))
    for part in range(parts):
        laid[:, part, :, part] = blocks[:, part]
    return laid.reshape(groups, outputs // groups, parts * inputs, *weight.shape[2:])


def _place(
    tap: tuple[int, ...], other: tuple[int, ...], one: Geometry, two: Geometry, whole: Geometry
) -> tuple[int, ...]:
    return tuple(
        (k * two.dilations[axis] * one.strides[axis] + j * one.dilations[axis])
        // whole.dilations[axis]
        for axis, (k, j) in enumerate(zip(tap, other, strict=True))
    )


def _exactly(
    inner: tuple[Geometry, Taps], scale: Real, outer: tuple[Geometry, Taps], whole: Geometry
) -> Callable[[tuple[int, ...]], Sum]:
    (one, first), (two, second) = inner, outer
    middle, inputs = len(first.value), first.shape[1] * one.group

    def exact(index: tuple[int, ...]) -> Sum:
        row, column, *at = index
        channel = row // (len(second.value) // whole.group) * (inputs // whole.group) + column
        start = row // (len(second.value) // two.group) * second.shape[1]
        total: Sum = ()
        for c in range(start, start + second.shape[1]):
            own = channel - c // (middle // one.group) * first.shape[1]
            if not 0 <= own < first.shape[1]:
                continue
            for tap in itertools.product(*map(range, two.size)):
                for other in itertools.product(*map(range, one.size)):
                    if _place(tap, other, one, two, whole) == tuple(at):
                        term = times(second.exact((row, c - start, *tap)), scale.exact(c))
                        total = plus(total, times(term, first.exact((c, own, *other))))
        return total

    return exact


def response(taps: Taps, group: int, shift: Real) -> Real:
    """ΣK·t for each output channel, of a shift t of each of its inputs."""
    wide = shift.spread(taps.shape[1] * group)
    outputs = len(taps.value)
    first = np.arange(outputs) // (outputs // group) * taps.shape[1]
    columns = first[:, None] + np.arange(taps.shape[1])
    sums = [v.reshape(*v.shape[:2], -1).sum(axis=2) for v in (taps.value, taps.magnitude)]
    value, magnitude, parts = (
        (v * side[columns]).sum(axis=1)
        for v, side in zip((*sums, sums[-1]), (wide.value, wide.magnitude, wide.parts), strict=True)
    )

    def exact(row: int) -> Sum:
        total: Sum = ()
        for index in itertools.product(*map(range, taps.shape[1:])):
            entry = times(taps.exact((row, *index)), wide.exact(int(columns[row, index[0]])))
            total = plus(total, entry)
        return total

    steps = taps.steps + wide.steps + int(np.prod(taps.shape[1:])) + 1
    return Real(value, magnitude, steps, exact, parts, shift.doubles)
