"""Whether stored numbers are the exact ones, rounded once; and if not, which one is not.

Each number is compared with p, its exact value computed in float64 with a known error. What lies
clearly within half an ulp is right, what lies clearly outside is wrong, and the few in between are
decided in rationals.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from fractions import Fraction

import numpy as np

from bnfold.onnx_io.protos import Array
from bnfold.proof.numbers.reals import UNIT, FloatArray, Real, Sum, plus, rational, sign

_DECIDED = 4096  # numbers that are decided exactly; more are not needed to tell of a fault
_NEAR = 0.05  # how far two numbers may be apart that are meant to be one
_FEW = 16  # half ulps that cancelling in float64 may cost who folds
_SLACK = 16  # further roundings in float64 that whoever folds is allowed


@dataclass(frozen=True)
class WrongError:
    """One stored number that no rounding explains."""

    index: tuple[int, ...]
    stored: float
    expected: float
    ulps: float  # between the two


@dataclass
class Tally:
    """What was found of the numbers of one fold."""

    numbers: int = 0
    misrounded: int = 0  # not the nearest number to the exact value, but within float64's own error
    decided: int = 0  # by rationals
    k: float = 0.0  # the largest distance from the exact value in units of u·(the terms' sizes)
    wrong: list[WrongError] = field(default_factory=list)  # the first few
    faults: int = 0  # all of them
    cancelled: int = 0  # of these, off by what float64 may lose where larger numbers cancel
    far: int = 0  # those that are not even near
    lost: int = 0  # weights of which underflow has left less than half


@dataclass(frozen=True)
class Numbers:
    """Exact numbers, known as |value − exact| ≤ steps·2⁻⁵³·magnitude, and exactly one by one.

    Where they are a block of a larger array, `at` is where it begins. `place` turns an index of
    that array into one of the tensor that is stored. `parts` are the sizes of what they were made
    of, where that is more (`Real.parts`).
    """

    value: FloatArray
    magnitude: FloatArray
    steps: int
    exact: Callable[[tuple[int, ...]], Sum]
    at: tuple[int, ...] = ()
    place: Callable[[tuple[int, ...]], tuple[int, ...]] | None = None
    parts: FloatArray | None = None

    @classmethod
    def of(cls, vector: Real) -> Numbers:
        """A vector."""
        exact = vector.exact
        return cls(
            vector.value, vector.magnitude, vector.steps, lambda i: exact(i[0]),
            parts=vector.before,
        )  # fmt: skip

    def whole(self, index: tuple[int, ...]) -> tuple[int, ...]:
        """The index in the whole array."""
        return tuple(i + a for i, a in zip(index, self.at or (0,) * len(index), strict=True))


def compare(
    stored: Array, numbers: Numbers, tally: Tally, loose: float = 0.0,
    step: FloatArray | None = None,
) -> None:  # fmt: skip
    """Hold what is stored against what it should be.

    With `loose`, numbers may be as far off as `loose`·u·magnitude (what was rounded more than
    once), and with `step` by as much more.
    """
    value, magnitude, steps = numbers.value, numbers.magnitude, numbers.steps
    wide = stored.astype(np.float64)
    half, unit = half_ulp(stored), unit_roundoff(stored.dtype)
    with np.errstate(invalid="ignore"):  # what is not finite is found wrong below
        distance = np.abs(wide - value)
    error = (steps + 1) * UNIT * magnitude
    tally.numbers += stored.size
    normal = (magnitude > 0) & (half > _least(stored.dtype))
    normal &= np.isfinite(distance) & np.isfinite(magnitude)
    ratio = np.divide(distance, unit * magnitude, out=np.zeros_like(distance), where=normal)
    tally.k = max(tally.k, float(np.max(ratio, initial=0.0)))
    certain = (distance + error <= half) & np.isfinite(half)
    if np.all(certain):
        return
    with np.errstate(invalid="ignore"):
        allowed = half + 2 * error + _SLACK * UNIT * magnitude + loose * unit * magnitude
    if step is not None:
        allowed = allowed + step
    outside = ~(distance <= allowed) | ~np.isfinite(allowed)  # NaN as well
    if numbers.parts is not None:
        wider = allowed + 4 * (steps + _SLACK) * UNIT * numbers.parts
        # where a float64 model is as coarse as the arithmetic of who folds; else a few ulp at most
        near = stored.dtype == np.float64 or distance <= _FEW * half
        outside &= ~(near & (distance <= wider))
        tally.cancelled += int(np.count_nonzero(outside & (distance <= wider)))
    _blame(stored, wide, half, outside, numbers, tally)
    between = np.argwhere(~certain & ~outside)
    if stored.dtype == np.float64 or loose:
        return  # float64 cannot tell a misrounded float64; and loose files are known to be off
    for place in between[: max(0, _DECIDED - tally.decided)]:
        index = tuple(int(i) for i in place)
        tally.decided += 1
        difference = plus(numbers.exact(numbers.whole(index)), rational(-float(wide[index])))
        bound = Fraction(float(half[index]))
        above = sign(plus(difference, ((-bound, Fraction(1)),)))
        below = sign(plus(difference, ((bound, Fraction(1)),)))
        tally.misrounded += above > 0 or below < 0


def _blame(
    stored: Array, wide: FloatArray, half: FloatArray, outside: Array, numbers: Numbers,
    tally: Tally,
) -> None:  # fmt: skip
    count = int(np.count_nonzero(outside))
    tally.faults += count
    near = np.abs(wide - numbers.value) <= _NEAR * np.maximum(np.abs(wide), np.abs(numbers.value))
    tally.far += int(np.count_nonzero(outside & ~near))
    if not count or len(tally.wrong) > 2:
        return
    with np.errstate(invalid="ignore"):
        apart = np.where(outside, np.nan_to_num(np.abs(wide - numbers.value), nan=np.inf), -1.0)
    index = tuple(int(i) for i in np.unravel_index(int(np.argmax(apart)), stored.shape))
    whole = numbers.whole(index)
    with np.errstate(over="ignore"):
        ulps = float(apart[index] / (2 * half[index])) if half[index] > 0 else float("inf")
    place = whole if numbers.place is None else numbers.place(whole)
    tally.wrong.append(WrongError(place, float(wide[index]), float(numbers.value[index]), ulps))


def told(name: str, tally: Tally, sites: tuple[str, ...]) -> str:
    """The first wrong number of a constant, in a sentence."""
    wrong = tally.wrong[0]
    by = f" with {', '.join(sites)} folded in" if sites else ""
    more = f", and {tally.faults - 1} more" if tally.faults > 1 else ""
    return (
        f"{name}{list(wrong.index)} is {wrong.stored:.9g}, and the original makes it "
        f"{wrong.expected:.9g}{by}: {wrong.ulps:.3g} ulp apart{more}"
    )


def unit_roundoff(dtype: np.dtype[np.generic]) -> float:
    """u: half the distance from 1 to the next number."""
    return {"float32": 2.0**-24, "float16": 2.0**-11, "bfloat16": 2.0**-8}.get(dtype.name, 2.0**-53)


def half_ulp(stored: Array) -> FloatArray:
    """Half the distance to the next number of the same type that is larger in size."""
    if stored.dtype.name == "bfloat16":
        _, exponent = np.frexp(np.abs(stored.astype(np.float64)))
        return np.asarray(np.ldexp(0.5, np.maximum(exponent - 8, -133)), np.float64)
    size = np.abs(stored)
    with np.errstate(invalid="ignore", over="ignore"):
        spacing = np.spacing(size)
        # there is no number beyond the largest: its neighbour is below
        last = np.isfinite(size) & ~np.isfinite(spacing)
        spacing = np.where(last, np.spacing(np.nextafter(size, np.zeros_like(size))), spacing)
    return np.asarray(spacing.astype(np.float64) / 2)


def _least(dtype: np.dtype[np.generic]) -> float:
    """Half an ulp of subnormal numbers, of which only the absolute distance means anything."""
    least = {"float32": 2.0**-150, "float16": 2.0**-25, "bfloat16": 2.0**-134}
    return least.get(dtype.name, 0.0)
