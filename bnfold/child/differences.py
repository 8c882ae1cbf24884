"""How far the outputs of two models lie apart, and how far rounding explains."""

from __future__ import annotations

from typing import TypeAlias

import numpy as np
import numpy.typing as npt

from bnfold.child.sessions import Array, is_float
from bnfold.comparison import OutputDifference
from bnfold.errors import UndecidedError

_MARGIN = 4  # times the model's own noise: largest of a few draws against one draw of the fold
_ROUNDINGS = 4  # of the last operations: x·s, +b of the original; +b′ and b′ itself of the fold

_LEAST_GROUP = 64  # elements of a channel from which on it is judged by itself

Run: TypeAlias = dict[str, Array]
Noise: TypeAlias = npt.NDArray[np.float64]  # one number for each group of an output


class SaysNothingError(UndecidedError):
    """Rounding may change an output by as much as it holds."""


class Differences:
    """The differences of one output in all runs, group by group (see `_groups`)."""

    def __init__(self, name: str, truth: list[Run], results: list[Run]) -> None:
        self.name = name
        self.truth = [run[name] for run in truth]
        self.results = [run[name] for run in results]
        self.note = next(filter(None, map(_unlike, self.truth, self.results)), "")
        self.distances = [
            np.zeros(1) if self.note else distance(a, b)
            for a, b in zip(self.truth, self.results, strict=True)
        ]

    def bounds(self, moved: Noise) -> list[Noise]:
        """What rounding explains, for each run and group."""
        return [_MARGIN * moved + _floor(array) for array in self.truth]

    def beyond(self, moved: Noise) -> bool:
        """Whether any group of any run differs by more."""
        pairs = zip(self.distances, self.bounds(moved), strict=True)
        return any(bool(np.any(apart > bound)) for apart, bound in pairs)

    def judged(self, moved: Noise, *, may_say_nothing: bool) -> OutputDifference:
        """The verdict, with the figures of the group that comes closest to its bound."""
        bounds = self.bounds(moved)
        ratios = [
            np.divide(d, b, out=np.where(d > 0, np.inf, 0.0), where=b > 0)
            for d, b in zip(self.distances, bounds, strict=True)
        ]
        run = int(np.argmax([np.max(ratio, initial=0.0) for ratio in ratios]))
        group = int(np.argmax(ratios[run])) if ratios[run].size else 0
        array = self.truth[run]
        apart, bound = (_entry(values[run], group) for values in (self.distances, bounds))
        size = _entry(_magnitude(array), group) if is_float(array) else float(array.size)
        silent = 0 < apart <= bound and not self._tells(bounds)
        if silent and not (self.note or may_say_nothing):
            raise SaysNothingError(
                f"rounding alone may change the output {self.name!r} by {bound:.3g}, which is as "
                f"much as it holds ({size:.3g}): equality would mean nothing",
                "give inputs with --inputs on which the model's own results are stable",
            )
        return OutputDifference(
            name=self.name, dtype=str(array.dtype), shape=array.shape, max_abs=apart,
            max_rel=apart / size if size else 0.0, bound=bound, noise=_entry(moved, group),
            equal=not self.note and not self.beyond(moved), note=self.note, **self._statistics(),
        )  # fmt: skip

    def literal(self, rtol: float, atol: float) -> OutputDifference:
        """The verdict by |folded − original| ≤ atol + rtol·|original|, element by element."""
        apart, size, within = 0.0, 0.0, True
        for a, b in zip(self.truth, self.results, strict=True) if not self.note else ():
            wide, other = (np.where(np.isfinite(v), v, 0).astype(np.float64) for v in (a, b))
            distances = np.abs(wide - other)
            within &= bool(np.all(distances <= atol + rtol * np.abs(wide)))
            apart = max(apart, float(np.max(distances, initial=0.0)))
            size = max(size, float(np.max(np.abs(wide), initial=0.0)))
        array = self.truth[0]
        return OutputDifference(
            name=self.name, dtype=str(array.dtype), shape=array.shape, max_abs=apart,
            max_rel=apart / size if size else 0.0, bound=atol + rtol * size, noise=0.0,
            equal=within and not self.note, note=self.note, **self._statistics(),
        )  # fmt: skip

    def _statistics(self) -> dict[str, float | None]:
        """What people ask for, of the finite elements of all runs."""
        if self.note or not all(map(is_float, self.truth)):
            return {}
        pairs = [
            (a.astype(np.float64), b.astype(np.float64))
            for a, b in zip(self.truth, self.results, strict=True)
        ]
        flat = [np.concatenate([p[side].reshape(-1) for p in pairs]) for side in (0, 1)]
        finite = np.isfinite(flat[0]) & np.isfinite(flat[1])
        one, two = (values[finite] for values in flat)
        squares, error = float(np.sum(one * one)), float(np.sum((one - two) ** 2))
        length = np.sqrt(squares) * np.sqrt(float(np.sum(two * two)))
        rows = [(a, b) for a, b in pairs if a.ndim == 2 and a.shape[1] > 1 and len(a)]
        same = [np.argmax(a, axis=1) == np.argmax(b, axis=1) for a, b in rows]
        return {
            "rmse": float(np.sqrt(error / one.size)) if one.size else None,
            "snr_db": float(10 * np.log10(squares / error)) if error and squares else None,
            "cosine": float(np.sum(one * two) / length) if length else None,
            "top1": float(np.mean(np.concatenate(same))) if same else None,
        }

    def _tells(self, bounds: list[Noise]) -> bool:
        """Whether anything was compared that is larger than its bound."""
        return any(
            bool(np.any((_magnitude(array) if is_float(array) else array.size) > bound))
            for array, bound in zip(self.truth, bounds, strict=True)
        )


def larger(one: Noise, other: Noise) -> Noise:
    """Group by group; of all groups together where runs do not have the same ones."""
    if one.size == other.size or 1 in (one.size, other.size):
        return np.maximum(one, other)
    return np.array([max(np.max(one), np.max(other))])


def _entry(values: Noise, group: int) -> float:
    return float(values[group]) if group < values.size else float(np.max(values, initial=0.0))


def _groups(array: Array) -> Array:
    """The array as [groups, elements]: what is compared with one bound.

    Feature maps are judged channel by channel, where a channel has enough elements for its noise to
    be measured by a few draws; all else as a whole.
    """
    if array.ndim > 2 and array.shape[1] and array.size // array.shape[1] >= _LEAST_GROUP:
        return np.moveaxis(array, 1, 0).reshape(array.shape[1], -1)
    return array.reshape(1, -1)


def _unlike(a: Array, b: Array) -> str:
    """What makes two arrays incomparable, "" if nothing."""
    if a.dtype != b.dtype:
        return f"type {a.dtype} became {b.dtype}"
    if a.shape != b.shape:
        return f"shape {list(a.shape)} became {list(b.shape)}"
    if is_float(a):
        same = (np.isnan(a) == np.isnan(b)) & (~np.isinf(a) & ~np.isinf(b) | (a == b) | np.isnan(a))
        if not same.all():
            return f"NaN or infinity in different places ({np.count_nonzero(~same)} values)"
    return ""


def distance(a: Array, b: Array) -> Noise:
    """The largest absolute difference of each group; but for floats, how many are different."""
    if not is_float(a):
        return np.array([np.count_nonzero(a != b)], np.float64)
    both = np.isfinite(a) & np.isfinite(b)
    wide = np.where(both, a, 0).astype(np.float64) - np.where(both, b, 0).astype(np.float64)
    return np.asarray(np.max(np.abs(_groups(wide)), axis=1, initial=0.0))


def _magnitude(array: Array) -> Noise:
    values = np.abs(np.where(np.isfinite(array), array, 0).astype(np.float64))
    return np.asarray(np.max(_groups(values), axis=1, initial=0.0))


def _floor(array: Array) -> Noise:
    """What the rounding of the last operations alone may do."""
    if not is_float(array):
        return np.zeros(1)
    unit_roundoff = float(np.finfo(array.dtype).eps) / 2
    return _ROUNDINGS * unit_roundoff * _magnitude(array)
