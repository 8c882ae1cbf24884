"""The checker's own affine maps: y = scale·x + shift along one axis, in exact numbers."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from bnfold.proof.numbers.reals import Real


@dataclass(frozen=True)
class Map:
    """y = scale·x + shift; `axis` None: the same for every element, both of length 1."""

    axis: int | None
    scale: Real
    shift: Real

    def __len__(self) -> int:
        return max(len(self.scale), len(self.shift))

    @property
    def is_identity(self) -> bool:
        """Whether it changes nothing, as far as float64 can tell."""
        return not self.scales and not self.shifts

    @property
    def scales(self) -> bool:
        """Whether it multiplies by anything but 1."""
        return not self.scale.equals(1.0)

    @property
    def shifts(self) -> bool:
        """Whether it adds anything but 0."""
        return not self.shift.equals(0.0)

    @property
    def keeps_order(self) -> bool:
        """Whether no scale is negative."""
        return bool(np.all(self.scale.value >= 0))

    def then(self, after: Map) -> Map | None:
        """First this map, then `after`; None where they vary along different axes."""
        axis = _common(self, after)
        if axis is False:
            return None
        # s₂(s₁x + t₁) + t₂  =  (s₂s₁)x + (s₂t₁ + t₂)
        return Map(axis, after.scale * self.scale, after.scale * self.shift + after.shift)

    def scale_only(self) -> Map:
        """The map without its shift."""
        return replace(self, shift=Real.full(0.0, len(self.scale)))

    def shift_first(self) -> Map | None:
        """The shift that, made before the scale, has the same effect: s·x + t = s·(x + t/s)."""
        if np.any(self.scale.value == 0):
            return None
        return replace(
            self, scale=Real.full(1.0, len(self.scale)), shift=self.shift * self.scale.inverse()
        )

    def take(self, indices: npt.NDArray[np.int64], axis: int) -> Map:
        """The entries at these places, along `axis`."""
        count = int(indices.max(initial=0)) + 1
        wide = self.over(axis, max(len(self), count))
        return Map(axis, wide.scale.take(indices), wide.shift.take(indices))

    def over(self, axis: int, count: int) -> Map:
        """Written out for each of `count` channels along `axis`."""
        return Map(axis, self.scale.spread(count), self.shift.spread(count))

    def near(self, other: Map) -> bool:
        """Whether the two are equal as far as float64 can tell."""
        same = _common(self, other) is not False
        return same and self.scale.near(other.scale) and self.shift.near(other.shift)

    def channel(self, i: int) -> str:
        """The map of one channel, to be read."""
        scale, shift = (v.value[i if len(v) > 1 else 0] for v in (self.scale, self.shift))
        return f"{scale:.6g}·x + {shift:.6g}"


def identity() -> Map:
    """The map that changes nothing."""
    return Map(None, Real.full(1.0), Real.full(0.0))


def cleaned(a: Map) -> Map:
    """The map with scales and shifts of which float64 cannot tell 1 and 0 taken for these."""
    scale = a.scale if a.scales else Real.full(1.0, len(a.scale))
    shift = a.shift if a.shifts else Real.full(0.0, len(a.shift))
    return identity() if not a.scales and not a.shifts else Map(a.axis, scale, shift)


def quotient(p: Map, q: Map, *, scales: bool = False) -> Map | None:
    """The map e with p = e∘q; None where q loses what p keeps.

    p = s₁z + t₁ and q = s₂z + t₂ give e(f) = (s₁/s₂)·f + (t₁ − (s₁/s₂)·t₂). Where s₂ = 0, s₁ must
    be 0 as well; then e(f) = f + (t₁ − t₂), or with `scales` e(f) = (t₁/t₂)·f where there is such.
    """
    if not all(v.is_known for v in (p.scale, p.shift, q.scale, q.shift)):
        return None
    if q.near(p):
        return identity()
    axis = _common(p, q)
    if axis is False:
        return None
    if not q.scales and not q.shifts:
        return cleaned(p)
    count = max(len(p), len(q))
    ps, qs = p.scale.spread(count), q.scale.spread(count)
    dead = qs.value == 0
    if np.any(dead & (ps.value != 0)):
        return None
    ones = Real.full(1.0, count)
    above, below = _patched(ps, dead, ones), _patched(qs, dead, ones)
    if scales:
        pt, qt = p.shift.spread(count), q.shift.spread(count)
        both = dead & (pt.value * qt.value > 0)
        if all(len(qt.exact(int(i))) == 1 for i in np.flatnonzero(both)):
            above, below = _patched(above, both, pt), _patched(below, both, qt)
    ratio = above * below.inverse()
    return cleaned(Map(axis, ratio, p.shift + -(ratio * q.shift)))


def _patched(values: Real, where: npt.NDArray[np.bool_], other: Real) -> Real:
    if not np.any(where):
        return values
    return Real(
        np.where(where, other.value, values.value),
        np.where(where, other.magnitude, values.magnitude),
        max(values.steps, other.steps),
        lambda i: other.exact(i) if where[i] else values.exact(i),
    )


def _common(a: Map, b: Map) -> int | bool | None:
    """The axis of both, None for none; False where there is no common one."""
    if None not in (a.axis, b.axis) and a.axis != b.axis:
        return False
    if 1 not in (len(a), len(b)) and len(a) != len(b):
        return False
    return a.axis if a.axis is not None else b.axis
