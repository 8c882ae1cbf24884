"""How far the outputs of two models lie apart, and how far rounding explains."""

from __future__ import annotations

from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from bnfold.errors import UndecidedError
from bnfold.onnx_io.protos import Array
from bnfold.runtime.sessions import Run, is_float
from bnfold.verification.comparison import OutputDifference

_MARGIN = 4  # times the model's own noise: largest of a few draws against one draw of the fold
_ROUNDINGS = 4  # of the last operations: x·s, +b of the original; +b′ and b′ itself of the fold
_TIMES = 2  # times the original's own error against float64 that the folded model may be off
_BELIEVED = 8  # times the evaluator's own error in float32 that onnxruntime's may be
_EXPECTED = (1e-3, 1e-7)  # relative and absolute, as ONNX's own backend tests have them

_LEAST_GROUP = 64  # elements of a channel from which on it is judged by itself

Noise: TypeAlias = npt.NDArray[np.float64]  # one number for each group of an output
Exact: TypeAlias = tuple[Array, Array]  # by one evaluator in the model's precision and in float64


class MeaninglessOutputError(UndecidedError):
    """Rounding may change an output by as much as it holds."""


class Differences:
    """The differences of one output in all runs, group by group (see `_groups`).

    `exact` and `expected` have an entry for each run, None where there is none.
    """

    def __init__(
        self, name: str, truth: list[Run], results: list[Run],
        expected: list[Run] | None = None,
    ) -> None:  # fmt: skip
        self.name = name
        self.truth = [run[name] for run in truth]
        self.results = [run[name] for run in results]
        self.expected = [run.get(name) for run in expected or []]
        self.note = next(filter(None, map(_unlike, self.truth, self.results)), "")
        self.distances = [
            np.zeros(1) if self.note else distance(a, b)
            for a, b in zip(self.truth, self.results, strict=True)
        ]
        self._sizes = [_magnitude(array) if is_float(array) else None for array in self.truth]
        self._floors = list(map(_floor, self.truth, self._sizes))
        self.exact: list[Array | None] = [None] * len(truth)
        self.errors: list[tuple[Noise, Noise] | None] = [None] * len(truth)

    def compare_with(self, exact: list[Exact | None]) -> None:
        """Take the errors of original and folded against float64, for those runs that have it."""
        for place, found in enumerate(exact):
            truth = self.truth[place]
            if found is None or self.note or found[1].shape != truth.shape or not is_float(truth):
                continue
            narrow, wide = found
            if not np.array_equal(np.isfinite(wide), np.isfinite(truth)):
                continue
            original, folded = distance(truth, wide), distance(self.results[place], wide)
            believed = original <= _BELIEVED * distance(narrow, wide) + self._floors[place]
            if np.all(believed):
                self.exact[place] = wide
                self.errors[place] = (original, folded)

    def bounds(self, moved: Noise) -> list[Noise]:
        """How far apart both may lie, for each run and group."""
        return [
            np.maximum(_MARGIN * moved, 0 if errors is None else (_TIMES + 1) * errors[0]) + floor
            for floor, errors in zip(self._floors, self.errors, strict=True)
        ]

    def beyond(self, moved: Noise) -> bool:
        """Whether any group of any run differs by more than rounding explains."""
        return any(bool(np.any(unexplained)) for unexplained in self._unexplained(moved))

    def _unexplained(self, moved: Noise) -> list[npt.NDArray[np.bool_]]:
        """|f − o| ≤ 4·noise + floor, or |f − exact| ≤ 2·|o − exact| + floor; for each group not."""
        found = []
        for floor, apart, errors in zip(self._floors, self.distances, self.errors, strict=True):
            unexplained = apart > _MARGIN * moved + floor
            if errors is not None:
                unexplained &= errors[1] > _TIMES * errors[0] + floor
            found.append(unexplained)
        return found

    def judged(self, moved: Noise, *, may_say_nothing: bool) -> OutputDifference:
        """The verdict, with the figures of the group that comes closest to its bound."""
        bounds, unexplained = self.bounds(moved), self._unexplained(moved)
        ratios = [
            np.divide(d, b, out=np.where(d > 0, np.inf, 0.0), where=b > 0) + wrong * 1e9
            for d, b, wrong in zip(self.distances, bounds, unexplained, strict=True)
        ]
        run = int(np.argmax([np.max(ratio, initial=0.0) for ratio in ratios]))
        group = int(np.argmax(ratios[run])) if ratios[run].size else 0
        apart, bound = (_entry(values[run], group) for values in (self.distances, bounds))
        sizes = self._sizes[run]
        size = float(self.truth[run].size) if sizes is None else _entry(sizes, group)
        silent = 0 < apart <= bound and not self._tells(bounds)
        if silent and not (self.note or may_say_nothing):
            raise MeaninglessOutputError(
                f"rounding alone may change the output {self.name!r} by {bound:.3g}, which is as "
                f"much as it holds ({size:.3g}): equality would mean nothing",
                "give `inputs` on which the model's own results are stable",
            )
        errors = self.errors[run]
        return self._difference_of(
            run, None if len(self.distances[run]) == 1 else group, apart, size, bound,
            equal=not self.note and not self.beyond(moved), noise=_entry(moved, group),
            error_original=None if errors is None else _entry(errors[0], group),
            error_folded=None if errors is None else _entry(errors[1], group),
        )  # fmt: skip

    def _difference_of(
        self, run: int, group: int | None, apart: float, size: float, bound: float, *,
        equal: bool, **figures: Any,
    ) -> OutputDifference:  # fmt: skip
        array, result, exact = self.truth[run], self.results[run], self.exact[run]
        place = () if self.note else _furthest(array, result, group)
        missed = self._missed()
        return OutputDifference(
            name=self.name, dtype=str(array.dtype), shape=array.shape, max_abs=apart,
            max_rel=apart / size if size else 0.0, bound=bound, run=run, place=place,
            equal=equal and not missed, note=self.note or missed,
            original=float(array[place]) if array.size and not self.note else None,
            folded=float(result[place]) if array.size and not self.note else None,
            exact=float(exact[place]) if exact is not None and array.size else None,
            **(figures | self._statistics() | self._from_expected()),
        )  # fmt: skip

    def _missed(self) -> str:
        """In words, where only the original gives what the test data expects."""
        for run, expected in enumerate(self.expected):
            if expected is not None and not self.note:
                kept = _meets(self.truth[run], expected), _meets(self.results[run], expected)
                if kept == (True, False):
                    return "it does not give the expected output any more"
        return ""

    def _from_expected(self) -> dict[str, float | None]:
        """How far both are from what the test data expects."""
        found = [
            [
                float(np.max(distance(run, e), initial=0.0))
                for run in (self.truth[i], self.results[i])
            ]
            for i, e in enumerate(self.expected)
            if e is not None and not self.note and e.shape == self.truth[i].shape
        ]
        if not found:
            return {}
        most = np.max(found, axis=0)
        return {"expected_original": float(most[0]), "expected_folded": float(most[1])}

    def literal(self, rtol: float, atol: float) -> OutputDifference:
        """The verdict by |folded − original| ≤ atol + rtol·|original|, element by element."""
        apart, size, within, run, most = 0.0, 0.0, True, 0, -1.0
        runs = zip(self.truth, self.results, strict=True)
        for number, (a, b) in enumerate(runs) if not self.note else ():
            wide, other = (np.where(np.isfinite(v), v, 0).astype(np.float64) for v in (a, b))
            distances = np.abs(wide - other)
            excess = float(np.max(distances - (atol + rtol * np.abs(wide)), initial=-1.0))
            within &= excess <= 0
            if excess > most:
                run, most = number, excess
            apart = max(apart, float(np.max(distances, initial=0.0)))
            size = max(size, float(np.max(np.abs(wide), initial=0.0)))
        bound = atol + rtol * size
        return self._difference_of(
            run, None, apart, size, bound, equal=within and not self.note, noise=0.0
        )  # fmt: skip

    def _statistics(self) -> dict[str, float | None]:
        """What people ask for, of the finite elements of all runs."""
        if self.note or not all(map(is_float, self.truth)):
            return {}
        squares = others = product = error = 0.0
        count = 0
        for a, b in zip(self.truth, self.results, strict=True):
            one, two = (v.astype(np.float64).reshape(-1) for v in (a, b))
            if not (np.isfinite(one).all() and np.isfinite(two).all()):
                finite = np.isfinite(one) & np.isfinite(two)
                one, two = one[finite], two[finite]
            count += one.size
            squares, others = squares + float(one @ one), others + float(two @ two)
            product += float(one @ two)
            one -= two
            error += float(one @ one)
        length = np.sqrt(squares) * np.sqrt(others)
        pairs = zip(self.truth, self.results, strict=True)
        rows = [(a, b) for a, b in pairs if a.ndim == 2 and a.shape[1] > 1 and len(a)]
        same = [np.argmax(a, axis=1) == np.argmax(b, axis=1) for a, b in rows]
        return {
            "rmse": float(np.sqrt(error / count)) if count else None,
            "snr_db": float(10 * np.log10(squares / error)) if error and squares else None,
            "cosine": float(product / length) if length else None,
            "top1": float(np.mean(np.concatenate(same))) if same else None,
        }

    def _tells(self, bounds: list[Noise]) -> bool:
        """Whether anything was compared that is larger than its bound."""
        return any(
            bool(np.any((array.size if sizes is None else sizes) > bound))
            for array, sizes, bound in zip(self.truth, self._sizes, bounds, strict=True)
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


def _furthest(a: Array, b: Array, group: int | None) -> tuple[int, ...]:
    """Where two arrays differ most, in one channel or altogether."""
    if not a.size:
        return ()
    apart = _apart(a, b) if is_float(a) else (a != b).astype(np.float64)
    if group is not None:
        apart = np.where(
            np.arange(a.shape[1]).reshape(1, -1, *(1,) * (a.ndim - 2)) == group, apart, -1
        )
    return tuple(int(i) for i in np.unravel_index(int(np.argmax(apart)), a.shape))


def _meets(array: Array, expected: Array) -> bool:
    """Whether an output is what test data expects of it."""
    if array.shape != expected.shape:
        return False
    if not is_float(array):
        return bool(np.array_equal(array, expected))
    rtol, atol = _EXPECTED
    one, other = (v.astype(np.float64) for v in (array, expected))
    return bool(np.allclose(one, other, rtol=rtol, atol=atol, equal_nan=True))


def _unlike(a: Array, b: Array) -> str:
    """What makes two arrays incomparable, "" if nothing."""
    if a.dtype != b.dtype:
        return f"type {a.dtype} became {b.dtype}"
    if a.shape != b.shape:
        return f"shape {list(a.shape)} became {list(b.shape)}"
    if is_float(a) and not (np.isfinite(a).all() and np.isfinite(b).all()):
        same = (np.isnan(a) == np.isnan(b)) & (~np.isinf(a) & ~np.isinf(b) | (a == b) | np.isnan(a))
        if not same.all():
            return f"NaN or infinity in different places ({np.count_nonzero(~same)} values)"
    return ""


def distance(a: Array, b: Array) -> Noise:
    """The largest absolute difference of each group; but for floats, how many are different."""
    if not is_float(a):
        return np.array([np.count_nonzero(a != b)], np.float64)
    return np.asarray(np.max(_groups(_apart(a, b)), axis=1, initial=0.0))


def _apart(a: Array, b: Array) -> npt.NDArray[np.float64]:
    """|a − b|, 0 where either is not finite."""
    with np.errstate(all="ignore"):
        apart = a.astype(np.float64)
        apart -= b
        np.abs(apart, out=apart)
    if not np.isfinite(apart).all():
        apart[~(np.isfinite(a) & np.isfinite(b))] = 0.0
    return apart


def _magnitude(array: Array) -> Noise:
    """The largest finite |x| of each group."""
    finite = array if np.isfinite(array).all() else np.where(np.isfinite(array), array, 0)
    values = _groups(finite if finite.dtype.kind == "f" else finite.astype(np.float64))
    with np.errstate(all="ignore"):
        ends = np.max(values, axis=1, initial=0.0), np.min(values, axis=1, initial=0.0)
    return np.asarray(np.maximum(ends[0].astype(np.float64), -ends[1].astype(np.float64)))


def _floor(array: Array, sizes: Noise | None) -> Noise:
    """What the rounding of the last operations alone may do."""
    if sizes is None:
        return np.zeros(1)
    unit_roundoff = float(np.finfo(array.dtype).eps) / 2
    return np.asarray(_ROUNDINGS * unit_roundoff * sizes)
