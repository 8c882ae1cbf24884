"""Numbers known twice: in float64 with a bound on their error, and, one by one, exactly.

Every number that an exact fold needs is a sum of terms r/√V with rational r and V: γ/√(σ²+ε) is
one, products and quotients of such terms are such terms, and what floats hold is rational. So a
vector is computed in float64, fast, and the few elements that float64 cannot decide are decided by
comparing rationals, without a square root wherever a sum has at most two terms.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from fractions import Fraction
from functools import lru_cache

import numpy as np
import numpy.typing as npt

FloatArray = npt.NDArray[np.float64]
Term = tuple[Fraction, Fraction]  # (r, V) stands for r/√V
Sum = tuple[Term, ...]

_TINY = 2.0**-1022  # below that float64 loses digits
UNIT = 2.0**-53  # the unit roundoff of float64
_DIGITS = 512  # bits in which sums of three terms and more are compared


def rational(value: float) -> Sum:
    """The number that a float holds."""
    return ((Fraction(value), Fraction(1)),)


def plus(a: Sum, b: Sum) -> Sum:
    """A + b, terms with the same root put together."""
    totals: dict[Fraction, Fraction] = {}
    for r, v in (*a, *b):
        totals[v] = totals.get(v, Fraction(0)) + r
    return tuple((r, v) for v, r in totals.items() if r)


def times(a: Sum, b: Sum) -> Sum:
    """a·b, by r/√V · q/√W = rq/√(VW)."""
    total: Sum = ()
    for r, v in a:
        total = plus(total, tuple((r * q, Fraction(1) if v == w == 1 else v * w) for q, w in b))
    return total


def inverse(a: Sum) -> Sum:
    """1/a of a single term: 1/(r/√V) = (V/r)/√V."""
    ((r, v),) = a
    return ((v / r, v),)


def sign(a: Sum) -> int:
    """-1, 0 or 1. Exact for up to two terms; else 0 also for less than 2⁻⁵⁰⁰ of the terms."""
    if not a:
        return 0
    if len(a) == 1:
        return _sign(a[0][0])
    if len(a) == 2:
        (r, v), (q, w) = a
        if _sign(r) == _sign(q):
            return _sign(r)
        # |r|/√V against |q|/√W, by their squares
        return _sign(r) * _sign(r * r * w - q * q * v)
    terms = [_approximate(term) for term in a]
    total = sum(terms, Fraction(0))
    error = Fraction(sum(map(abs, terms)), 1 << (_DIGITS - 12))
    return 0 if abs(total) <= error else _sign(total)


def approximate(a: Sum) -> float:
    """The nearest float64, or its neighbour; infinite where there is none."""
    if not sign(a):
        return 0.0
    total = sum(map(_approximate, a), Fraction(0))
    try:
        return float(total)
    except OverflowError:
        return math.copysign(math.inf, total)


def _sign(r: Fraction | int) -> int:
    return (r > 0) - (r < 0)


def _approximate(term: Term) -> Fraction:
    """r/√V with a relative error below 2⁻⁵⁰⁹."""
    r, v = term
    # √(p/q) = √(p·q)/q, the root of an integer shifted until it has enough digits
    product = v.numerator * v.denominator
    shift = max(0, 2 * _DIGITS - product.bit_length())
    shift += shift % 2
    root = Fraction(math.isqrt(product << shift), v.denominator << (shift // 2))
    return r / root


@dataclass(frozen=True)
class Real:
    """A vector of real numbers: |value − exact| ≤ steps · 2⁻⁵³ · magnitude, entry by entry.

    `exact(i)` is entry i as a sum of terms. `before` are the magnitudes that the entries had before
    some were computed exactly: whoever folds in float64 may have rounded numbers of that size.
    `doubles` tells whether any of what they were made of is stored in float64, and so as coarse
    itself as the arithmetic of who folds.
    """

    value: FloatArray
    magnitude: FloatArray
    steps: int
    exact: Callable[[int], Sum]
    before: FloatArray | None = None
    doubles: bool = False

    @property
    def parts(self) -> FloatArray:
        """The size of what the entries were made of."""
        return self.magnitude if self.before is None else self.before

    def __len__(self) -> int:
        return len(self.value)

    @classmethod
    def of(cls, values: npt.NDArray[np.generic]) -> Real:
        """What floats hold, without any error."""
        vector = np.asarray(values, np.float64).reshape(-1)

        def exact(i: int) -> Sum:
            return rational(float(vector[i]))

        return cls(vector, np.abs(vector), 0, exact, doubles=values.dtype == np.float64)

    @classmethod
    def full(cls, value: float, count: int = 1) -> Real:
        """One float, `count` times."""
        return replace(cls.of(np.full(count, value)), doubles=False)

    @classmethod
    def normalised(
        cls, gamma: npt.NDArray[np.generic], variance: npt.NDArray[np.generic], epsilon: float
    ) -> Real:
        """γ/√(σ²+ε)."""
        doubles = np.float64 in (gamma.dtype, variance.dtype)
        g, v = gamma.astype(np.float64), variance.astype(np.float64)

        def exact(i: int) -> Sum:
            return ((Fraction(float(g[i])), _shifted(v, epsilon, i)),)

        value = g / np.sqrt(v + epsilon)
        magnitude = unless_lost(value, np.abs(value), g != 0)
        return cls(value, magnitude, 4, exact, doubles=doubles)

    @classmethod
    def deviation(cls, variance: npt.NDArray[np.generic], epsilon: float) -> Real:
        """√(σ²+ε)."""
        wide = variance.astype(np.float64)

        def exact(i: int) -> Sum:
            v = _shifted(wide, epsilon, i)
            return ((v, v),)

        value = np.sqrt(wide + epsilon)
        return cls(value, value, 3, exact)

    @property
    def error(self) -> FloatArray:
        """How far each entry may be from its exact value."""
        return (self.steps + 1) * UNIT * self.magnitude

    def __mul__(self, other: Real) -> Real:
        one, two = _alike(self, other)
        with np.errstate(over="ignore", invalid="ignore", under="ignore"):
            value, magnitude = one.value * two.value, one.magnitude * two.magnitude
            parts = one.parts * two.parts
        some = (one.value != 0) & (two.value != 0)
        return Real(
            value, unless_lost(value, magnitude, some), one.steps + two.steps + 1,
            _once(lambda i: times(one.exact(i), two.exact(i))), parts,
            one.doubles or two.doubles,
        )  # fmt: skip

    def __add__(self, other: Real) -> Real:
        one, two = _alike(self, other)
        return Real(
            one.value + two.value, one.magnitude + two.magnitude, max(one.steps, two.steps) + 1,
            _once(lambda i: plus(one.exact(i), two.exact(i))), one.parts + two.parts,
            one.doubles or two.doubles,
        )  # fmt: skip

    def __neg__(self) -> Real:
        minus = rational(-1.0)
        return Real(
            -self.value, self.magnitude, self.steps, lambda i: times(minus, self.exact(i)),
            self.before, self.doubles,
        )  # fmt: skip

    def inverse(self) -> Real:
        """1/x of vectors of single terms without zeros."""
        with np.errstate(over="ignore", divide="ignore", under="ignore"):
            value = 1 / self.value
        magnitude = unless_lost(value, np.abs(value), np.isfinite(self.magnitude))
        magnitude = np.where(np.isfinite(self.magnitude), magnitude, np.inf)
        return Real(value, magnitude, self.steps + 1, lambda i: inverse(self.exact(i)))

    def take(self, indices: npt.NDArray[np.int64]) -> Real:
        """The entries at these places."""
        where = np.asarray(indices)
        return Real(
            self.value[where], self.magnitude[where], self.steps,
            lambda i: self.exact(int(where[i])), self.parts[where], self.doubles,
        )  # fmt: skip

    def spread(self, count: int) -> Real:
        """One entry, `count` times."""
        return self if len(self) == count else self.take(np.zeros(count, np.int64))


def unless_lost(
    value: FloatArray, magnitude: FloatArray, some: npt.NDArray[np.bool_]
) -> FloatArray:
    """The magnitude; infinite where what is not 0 has underflown, so that nothing is known."""
    return np.where(some & (np.abs(value) < _TINY), np.inf, magnitude)


def _once(exact: Callable[[int], Sum]) -> Callable[[int], Sum]:
    """The same, remembering a few entries: a vector may be used over and over in one sum."""
    return lru_cache(maxsize=16)(exact)


def _alike(one: Real, two: Real) -> tuple[Real, Real]:
    count = max(len(one), len(two))
    return one.spread(count), two.spread(count)


def _shifted(variance: FloatArray, epsilon: float, i: int) -> Fraction:
    return Fraction(float(variance[i])) + Fraction(epsilon)
