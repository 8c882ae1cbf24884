"""Scalar maps s·x + t: what else is a map where one is, and which ones are equal."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import numpy.typing as npt

from bnfold.proof.numbers.reals import UNIT, FloatArray, approximate, plus, rational, sign, times
from bnfold.proof.numbers.words import EXACT, IDENTITY, Ids, Words

_SLACK = 16  # roundings in float64 that two ways to one number may differ by


class Functions(Words):
    """The table, with the maps that are made of others, and their properties."""

    def scale_part(self, ids: Ids) -> Ids:
        """s·x of s·x + t."""
        result = np.zeros_like(ids)
        for letters in self._letters_of(ids):
            result = self._appended(result, np.where(self._shifting[letters], IDENTITY, letters))
        return result

    def shift_part(self, ids: Ids) -> Ids:
        """X + t of s·x + t."""
        result, shifted = np.zeros_like(ids), np.zeros(ids.shape, bool)
        mixed = False
        for letters in self._letters_of(ids):
            own = self._shifting[letters]
            mixed |= bool(np.any(shifted & ~own & (letters != IDENTITY)))
            shifted |= own
            result = self._appended(result, np.where(own, letters, IDENTITY))
        # scales first, then shifts: these are it; else it is a new number
        return self._mapped("shift", ids, self._shift_part) if mixed else result

    def first(self, ids: Ids) -> Ids:
        """X + t/s of s·x + t; the identity where t is 0. Raises ValueError where s alone is."""
        return self._mapped("first", ids, self._first)

    def negated(self, ids: Ids) -> Ids:
        """s·x − t of s·x + t."""
        return self._mapped("negated", ids, self._negated)

    def inverse(self, ids: Ids) -> Ids:
        """(x − t)/s of s·x + t. Raises ValueError where s is 0."""
        return self._mapped("inverse", ids, self._inverse)

    def _mapped(self, kind: str, ids: Ids, function: Callable[[int], int]) -> Ids:
        unique, place = np.unique(ids, return_inverse=True)
        found = []
        for number in unique.tolist():
            key = (kind, number)
            if key not in self._derived:
                self._derived[key] = function(number)
            found.append(self._derived[key])
        return np.array(found, np.int64)[place.reshape(ids.shape)]

    def _shift_part(self, number: int) -> int:
        return self._new(self.shift_of(np.array([number])), scales=False)

    def _first(self, number: int) -> int:
        if self._shift[number] == 0 and self._sizes[1, number] == 0:
            return IDENTITY
        if self._scale[number] == 0:
            raise ValueError("a shift of a channel that has no scale")
        if all(self._shifting[x] for x in self.word(number)):
            return number
        at = np.array([number])
        return self._new(self.shift_of(at) * self.scale_of(at).inverse(), scales=False)

    def _negated(self, number: int) -> int:
        letters = []
        for x in self.word(number):
            if not self._shifting[x]:
                letters.append(x)
            else:
                letters.append(self._new(-self.shift_of(np.array([x])), scales=False))
        return self._spelt(letters)

    def _inverse(self, number: int) -> int:
        letters = []
        for x in reversed(self.word(number)):
            at = np.array([x])
            if not self._shifting[x]:
                if self._scale[x] == 0:
                    raise ValueError("a scale of 0 has no inverse")
                letters.append(self._new(self.scale_of(at).inverse(), scales=True))
            else:
                letters.append(self._new(-self.shift_of(at), scales=False))
        return self._spelt(letters)

    def equal(self, one: Ids, two: Ids) -> bool:
        """Whether two maps are the same: word by word, or number by number.

        Numbers count as equal where they differ by no more than a rounding or two in float64.
        """
        if one is two:
            return True
        if one.shape != two.shape:
            one, two = np.broadcast_arrays(one, two)
        other = one != two
        if not other.any():
            return True
        a, b = one[other], two[other]
        for row, values in ((0, self._scale), (1, self._shift)):
            size = self._sizes[row, a] + self._sizes[row, b]
            steps = self._steps[row, a] + self._steps[row, b] + _SLACK
            with np.errstate(invalid="ignore"):
                close = np.abs(values[a] - values[b]) <= steps * UNIT * size
            if not (close & np.isfinite(size)).all():
                return False
        pairs = np.unique(np.stack([a, b]), axis=1)
        return all(self._exactly_equal(int(x), int(y)) for x, y in pairs.T)

    def _exactly_equal(self, one: int, two: int) -> bool:
        if max(self._length[one], self._length[two]) > EXACT:
            return False
        minus = rational(-1.0)
        for row, (a, b) in enumerate(zip(self.exact(one), self.exact(two), strict=True)):
            difference = plus(a, times(minus, b))
            values = (self._scale, self._shift)[row]
            allowed = 4 * UNIT * max(abs(values[one]), abs(values[two]))
            if row:
                allowed += self._dropped.get(one, 0.0) + self._dropped.get(two, 0.0)
            if sign(difference) and abs(approximate(difference)) > allowed:
                return False
        return True

    def scales_are(self, ids: Ids, what: Callable[[FloatArray], npt.NDArray[np.bool_]]) -> bool:
        """Whether the scales have a property of their signs, which float64 always tells."""
        return bool(np.all(what(self._scale[ids]) & np.isfinite(self._sizes[0, ids])))

    def without_shift(self, ids: Ids) -> bool:
        """Whether nothing is added."""
        return bool(np.all(self._shift[ids] == 0))  # which is exact: all that cancels is settled

    def without_scale(self, ids: Ids) -> bool:
        """Whether nothing is multiplied."""
        return self.equal(self.scale_part(ids), np.zeros_like(ids))
