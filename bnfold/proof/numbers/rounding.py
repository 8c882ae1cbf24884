"""Whether constants are their exact values, rounded once, and what underflow has taken of them."""

from __future__ import annotations

import ml_dtypes
import numpy as np
import numpy.typing as npt

from bnfold.onnx_io.protos import Array
from bnfold.proof.numbers.correct_rounding import Numbers, Tally, compare, unit_roundoff
from bnfold.proof.numbers.reals import FloatArray

DEQUANTISED = 3.0  # u: q·k rounded in both models, and the scale k once


def limits(dtype: np.dtype[np.generic]) -> tuple[float, float, float]:
    """The largest, the least normal and the least number of a float type."""
    info = ml_dtypes.finfo(dtype)  # type: ignore[no-untyped-call]
    return float(info.max), float(info.smallest_normal), float(info.smallest_subnormal)


def check(
    stored: Array, numbers: Numbers, tally: Tally, *, loose: float = 0.0,
    step: FloatArray | None = None, errors: FloatArray | None = None, added: bool = False,
) -> None:  # fmt: skip
    """Hold an array against its exact values.

    `loose`: how many u more each number may be off. `step`: and how much absolutely.

    What underflow takes of a number is counted in k, with two exceptions. Where `errors` is given,
    it gets the absolute errors of such entries, for the caller to judge. A number that is `added`
    is off by at most half of the smallest number there is, as every result of an addition may be:
    that is the underflow within, which the theorem leaves out.
    """
    value = numbers.value
    with np.errstate(all="ignore"):
        nearest = _rounded(value, stored.dtype)
        same = (nearest == stored) & np.isfinite(stored)  # what overflows is no rounding
    least = limits(stored.dtype)[1]
    small = np.abs(stored) < least
    if np.all(same) and not np.any(small) and np.all(np.isfinite(numbers.magnitude)):
        tally.numbers += stored.size
        tally.k = max(tally.k, 1.0)
        return
    rest = ~same | small | ~np.isfinite(numbers.magnitude)
    tally.numbers += int(stored.size - np.count_nonzero(rest))
    if np.any(~rest):
        tally.k = max(tally.k, 1.0)
    at = np.argwhere(rest)

    def whole(index: tuple[int, ...]) -> tuple[int, ...]:
        return numbers.whole(tuple(int(i) for i in at[index[0]]))

    def place(index: tuple[int, ...]) -> tuple[int, ...]:
        own = whole(index)
        return own if numbers.place is None else numbers.place(own)

    some = Numbers(
        np.broadcast_to(value, stored.shape)[rest],
        np.broadcast_to(numbers.magnitude, stored.shape)[rest], numbers.steps,
        lambda index: numbers.exact(whole(index)), (), place,
        None if numbers.parts is None else np.broadcast_to(numbers.parts, stored.shape)[rest],
    )  # fmt: skip
    picked = None if step is None else np.broadcast_to(step, stored.shape)[rest]
    compare(stored[rest], some, tally, loose, picked)
    with np.errstate(all="ignore"):
        off = np.abs(stored[rest].astype(np.float64) - some.value)
        tiny = (np.abs(stored[rest]) < least) & (off > 0) & (off <= limits(stored.dtype)[2])
        ratio = off / (unit_roundoff(stored.dtype) * some.magnitude)
    if step is not None:
        counted = np.isfinite(ratio) & (off > 0)
        tally.k = max(tally.k, float(np.max(ratio[counted], initial=0.0)))
    if errors is not None:
        errors[rest] = np.where(tiny, off, 0.0)
    elif not added:
        tally.k = max(tally.k, float(np.max(ratio[tiny], initial=0.0)))


def _rounded(value: FloatArray, dtype: np.dtype[np.generic]) -> Array:
    """The nearest numbers of a type; bfloat16 by way of float32, rounding to odd in between."""
    if dtype.name != "bfloat16":
        return np.asarray(value.astype(dtype))
    nearest = np.asarray(value, np.float32)
    away = np.abs(nearest.astype(np.float64)) > np.abs(value)
    bits = nearest.view(np.uint32) - away.astype(np.uint32)
    inexact = bits.view(np.float32).astype(np.float64) != value
    odd = (bits | (inexact & np.isfinite(value)).astype(np.uint32)).view(np.float32)
    return np.asarray(odd.astype(ml_dtypes.bfloat16))


def lost(stored: Array, exact: FloatArray) -> int:
    """Of how many numbers underflow has left less than half."""
    tiny = np.abs(stored) < limits(stored.dtype)[1]
    if not np.any(tiny):
        return 0
    off = np.abs(stored.astype(np.float64) - exact)
    return int(np.count_nonzero(tiny & (off > 0) & (2 * off >= np.abs(exact))))


def hidden(
    errors: FloatArray, offset: FloatArray, largest: FloatArray, length: int,
    dtype: np.dtype[np.generic],
) -> npt.NDArray[np.bool_]:  # fmt: skip
    """Of which channels no sum shows what underflow took of the weights.

    `errors` is Σ|error| of a channel, `offset` what is added to its sum, `largest` its largest
    weight. Hidden is what stays, for every finite x, below the roundings of the sum; what is less
    than u² of what the largest weight makes; and what is 0 in the original's own arithmetic, where
    x is no larger than the root of the type's largest number.
    """
    u = unit_roundoff(dtype)
    most, _, least = limits(dtype)
    with np.errstate(all="ignore"):
        below = errors * most <= (2 * length + 8) * u * np.abs(offset)
        small = errors <= u * u * largest
        zero = 4 * errors * most**0.5 < least
    return np.asarray(below | small | zero | (errors == 0))
