"""Whether constants are their exact values, rounded once, and what underflow has taken of them."""

from __future__ import annotations

from dataclasses import dataclass, field

import ml_dtypes
import numpy as np
import numpy.typing as npt

from bnfold.onnx_io.protos import Array
from bnfold.proof.numbers.correct_rounding import Numbers, Tally, compare, unit_roundoff
from bnfold.proof.numbers.reals import FloatArray

DEQUANTISED = 3.0  # u: q·k rounded in both models, and the scale k once


@dataclass
class Underflow:
    """What underflow has taken of a weight, per output channel: sums of absolute errors."""

    lost: dict[int, float] = field(default_factory=dict)
    entries: int = 0


def limits(dtype: np.dtype[np.generic]) -> tuple[float, float, float]:
    """The largest, the least normal and the least number of a float type."""
    info = ml_dtypes.finfo(dtype)  # type: ignore[no-untyped-call]
    return float(info.max), float(info.smallest_normal), float(info.smallest_subnormal)


def check(
    stored: Array, numbers: Numbers, tally: Tally, *, loose: float = 0.0,
    step: FloatArray | None = None, lost: npt.NDArray[np.bool_] | None = None,
) -> None:  # fmt: skip
    """Hold an array against its exact values.

    `loose`: how many u more each number may be off. `step`: and how much absolutely. Where `lost`
    is given, it gets the entries of which underflow has left less than half; they are not counted
    in k, and it is for the caller to judge them.
    """
    value = numbers.value
    with np.errstate(all="ignore"):
        nearest = _rounded(value, stored.dtype)
        same = nearest == stored
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
    )  # fmt: skip
    picked = None if step is None else np.broadcast_to(step, stored.shape)[rest]
    compare(stored[rest], some, tally, loose, picked)
    with np.errstate(all="ignore"):
        off = np.abs(stored[rest].astype(np.float64) - some.value)
        tiny = (np.abs(stored[rest]) < least) & (off > 0)
        ratio = off / (unit_roundoff(stored.dtype) * some.magnitude)
    gone = tiny & (2 * off >= np.abs(some.value))
    if lost is not None:
        lost[rest] = gone
        tiny = tiny & ~gone
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


def hidden(
    lost: FloatArray, offset: FloatArray, largest: FloatArray, length: int,
    dtype: np.dtype[np.generic],
) -> bool:  # fmt: skip
    """Whether no sum shows what underflow took of the weights of each channel.

    `lost` is Σ|error| of a channel, `offset` what is added to its sum, `largest` its largest
    weight. Hidden is what stays, for every finite x, below the roundings of the sum; what is less
    than u² of what the largest weight makes; and what is 0 in the original's own arithmetic.
    """
    u = unit_roundoff(dtype)
    most, _, least = limits(dtype)
    with np.errstate(all="ignore"):
        below = lost * most <= (2 * length + 8) * u * np.abs(offset)
        small = lost <= u * u * largest
        zero = 4 * lost * most**0.5 < least
    return bool(np.all(below | small | zero | (lost == 0)))
