"""Scalar maps s·x + t, each kept once, as words of letters.

A proof speaks of many channels, and most of them are made of few numbers. `Words` holds every
scalar map that occurs under a number; a map of a tensor is a vector of such numbers. A map is a
word: letters, applied from the first to the last. A BatchNormalization is two letters, its scale
and its shift; so what was done first can be taken away again from two words that begin alike, also
where a scale is 0 and has no inverse. Each number is known in float64 with a bound on its error,
and exactly (`reals`). A shift that is much smaller than what it is made of is computed exactly at
once, and its size is its own from then on: what it is made of must not excuse what it is used for.
Constants that are stored in float64 are no finer than the arithmetic of who folds them, so no more
can be asked of that: where they cancel but for a rounding of what they are, nothing is left.
"""

from __future__ import annotations

import math
from bisect import bisect_right
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from bnfold.proof.numbers.reals import (
    UNIT,
    FloatArray,
    Real,
    Sum,
    approximate,
    plus,
    rational,
    times,
    unless_lost,
)

Ids = npt.NDArray[np.int64]
IDENTITY = 0

_ONE, _ZERO = rational(1.0), ()
_CHUNK = 1 << 12
_LONGEST = 2048  # letters of a word
_CANCELLED = 2.0**20  # how many times larger the parts of a shift may be than the shift
_MOST = 4096  # shifts that are computed exactly at once
EXACT = 200  # letters of a word whose numbers are computed exactly


@dataclass(frozen=True)
class _Source:
    """Where letters come from: a vector of scales or of shifts, and which kind it is."""

    first: int  # the number of its first letter
    values: Real
    scales: bool


class Words:
    """The table."""

    def __init__(self) -> None:
        self._count = 1
        self._prefix = np.zeros(_CHUNK, np.int64)  # the word without its last letter
        self._letter = np.zeros(_CHUNK, np.int64)
        self._length = np.ones(_CHUNK, np.int64)
        self._scale = np.ones(_CHUNK)
        self._shift = np.zeros(_CHUNK)
        self._sizes = np.zeros((2, _CHUNK))  # magnitudes of scale and shift
        self._sizes[0, 0] = 1
        self._dropped: dict[int, float] = {}  # shifts that count as 0, as float64 makes them
        self._doubles = np.zeros(_CHUNK, bool)  # whether any letter was stored in float64
        self._before = np.zeros(_CHUNK)  # magnitudes of shifts before they were computed exactly
        self._steps = np.zeros((2, _CHUNK), np.int64)
        self._shifting = np.zeros(_CHUNK, bool)  # of letters: whether they are shifts
        self._sources: list[_Source] = []
        self._known: dict[tuple[int, int], int] = {}
        self._derived: dict[tuple[str, int], int] = {}
        self._exact: dict[int, tuple[Sum, Sum]] = {IDENTITY: (_ONE, _ZERO)}

    def scales(self, values: Real) -> Ids:
        """Letters x ↦ s·x; none where s is 1 and certainly so."""
        return self._letters(values, scales=True)

    def shifts(self, values: Real) -> Ids:
        """Letters x ↦ x + t; none where t is 0 and certainly so."""
        return self._letters(values, scales=False)

    def _letters(self, values: Real, *, scales: bool) -> Ids:
        ids = self._grow(len(values))
        at = slice(ids.start, ids.stop)
        row = 0 if scales else 1
        (self._scale if scales else self._shift)[at] = values.value
        self._sizes[0, at] = 1
        self._sizes[row, at] = values.magnitude
        self._steps[row, at] = values.steps
        self._letter[at] = np.arange(ids.start, ids.stop)
        self._shifting[at], self._doubles[at] = not scales, values.doubles
        self._sources.append(_Source(ids.start, values, scales))
        if scales:
            nothing = (values.value == 1.0) & (values.steps == 0)
        else:
            self._before[at] = values.parts
            self._settle(np.arange(ids.start, ids.stop))
            nothing = (self._shift[at] == 0) & ((values.magnitude == 0) | (not values.doubles))
        return np.where(nothing, IDENTITY, np.arange(ids.start, ids.stop))

    def _grow(self, count: int) -> range:
        first, self._count = self._count, self._count + count
        while self._count > len(self._prefix):
            more = len(self._prefix)
            self._prefix = np.concatenate([self._prefix, np.zeros(more, np.int64)])
            self._letter = np.concatenate([self._letter, np.zeros(more, np.int64)])
            self._length = np.concatenate([self._length, np.ones(more, np.int64)])
            self._scale = np.concatenate([self._scale, np.ones(more)])
            self._shift = np.concatenate([self._shift, np.zeros(more)])
            self._before = np.concatenate([self._before, np.zeros(more)])
            self._shifting = np.concatenate([self._shifting, np.zeros(more, bool)])
            self._doubles = np.concatenate([self._doubles, np.zeros(more, bool)])
            self._sizes = np.concatenate([self._sizes, np.zeros((2, more))], axis=1)
            self._steps = np.concatenate([self._steps, np.zeros((2, more), np.int64)], axis=1)
        return range(first, self._count)

    def then(self, first: Ids, after: Ids) -> Ids:
        """First one map, then the other, entry by entry."""
        first, after = np.broadcast_arrays(first, after)
        for letters in self._letters_of(after):
            first = self._appended(first, letters)
        return np.asarray(first, np.int64)

    def _letters_of(self, ids: Ids) -> list[Ids]:
        """The first letters of all words, the second ones, and so on; counted from their ends."""
        levels = []
        while np.any(ids):
            levels.append(self._letter[ids])
            ids = self._prefix[ids]
        return levels[::-1]

    def _appended(self, words: Ids, letters: Ids) -> Ids:
        result = np.where(letters == IDENTITY, words, letters)
        both = (words != IDENTITY) & (letters != IDENTITY)
        if not np.any(both):
            return result
        unique, place = np.unique((words[both] << 32) | letters[both], return_inverse=True)
        keys = [(key >> 32, key & 0xFFFFFFFF) for key in unique.tolist()]
        new = [key for key in keys if key not in self._known]
        if new:
            ids = self._grow(len(new))
            self._known.update(zip(new, ids, strict=True))
            self._compute(ids, np.array(new, np.int64))
        found = np.array([self._known[key] for key in keys], np.int64)
        result[both] = found[place.reshape(-1)]
        return result

    def _compute(self, ids: range, pairs: Ids) -> None:
        # s₂(s₁x + t₁) + t₂  =  (s₂s₁)x + (s₂t₁ + t₂)
        at, word, letter = slice(ids.start, ids.stop), pairs[:, 0], pairs[:, 1]
        self._prefix[at], self._letter[at] = word, letter
        self._length[at] = self._length[word] + 1
        self._doubles[at] = self._doubles[word] | self._doubles[letter]
        if np.any(self._length[at] > _LONGEST):
            raise ValueError("too many maps behind each other")
        with np.errstate(all="ignore"):  # what is lost has an infinite size
            scale = self._scale[letter] * self._scale[word]
            moved = self._scale[letter] * self._shift[word]
            self._scale[at], self._shift[at] = scale, moved + self._shift[letter]
            sizes, steps = self._sizes, self._steps
            some = self._scale[letter] != 0
            sizes[0, at] = unless_lost(
                scale, sizes[0, letter] * sizes[0, word], some & (self._scale[word] != 0)
            )
            sizes[1, at] = sizes[1, letter] + unless_lost(
                moved, sizes[0, letter] * sizes[1, word], some & (self._shift[word] != 0)
            )
            self._before[at] = self._before[letter] + sizes[0, letter] * self._before[word]
        steps[0, at] = steps[0, letter] + steps[0, word] + 1
        steps[1, at] = 2 + np.maximum(steps[1, letter], steps[0, letter] + steps[1, word])
        for number, first, last in zip(ids, word, letter, strict=True) if self._dropped else ():
            own, before = self._dropped.get(int(last), 0.0), self._dropped.get(int(first), 0.0)
            if own or before:  # what counted as 0 goes on doing so
                all_of_it = own + abs(float(self._scale[last])) * before
                self._dropped[number] = all_of_it * (1 + 2.0**-40)  # as this is rounded itself
        self._settle(np.arange(ids.start, ids.stop))

    def _settle(self, numbers: Ids) -> None:
        """Compute shifts exactly of which little is left of what they are made of."""
        size = self._sizes[1, numbers]
        wide = (size > _CANCELLED * np.abs(self._shift[numbers])) & np.isfinite(size)
        for count, place in enumerate(np.flatnonzero(wide).tolist()):
            number = int(numbers[place])
            if self._length[number] > EXACT or count >= _MOST:
                self._shift[number], self._sizes[1, number] = math.nan, math.inf
                continue
            value = approximate(self.exact(number)[1])
            rounding = 2 * UNIT * (self._length[number] + 1) * self._before[number]
            self._dropped.pop(number, None)
            if self._doubles[number] and abs(value) <= rounding:
                self._dropped[number], value = abs(value), 0.0
            self._shift[number] = value
            self._sizes[1, number], self._steps[1, number] = abs(value), 1

    def cancelled(self, p: Ids, q: Ids) -> tuple[Ids, Ids]:
        """Two words without the letters with which both of them begin."""
        p, q = np.broadcast_arrays(p, q)
        unique, place = np.unique(np.stack([p.ravel(), q.ravel()]), axis=1, return_inverse=True)
        both = [self._cancelled(int(a), int(b)) for a, b in unique.T]
        ones = np.array([a for a, _ in both], np.int64)
        others = np.array([b for _, b in both], np.int64)
        return ones[place.reshape(-1)], others[place.reshape(-1)]

    def _cancelled(self, a: int, b: int) -> tuple[int, int]:
        if IDENTITY in (a, b):
            return a, b
        one, two = self.word(a), self.word(b)
        same = 0
        while same < min(len(one), len(two)) and one[same] == two[same]:
            same += 1
        return (self._spelt(one[same:]), self._spelt(two[same:])) if same else (a, b)

    def word(self, number: int) -> list[int]:
        """The letters, from the first to the last."""
        letters = []
        while number != IDENTITY:
            letters.append(int(self._letter[number]))
            number = int(self._prefix[number])
        return letters[::-1]

    def _spelt(self, letters: list[int]) -> int:
        word = np.zeros(1, np.int64)
        for letter in letters:
            word = self._appended(word, np.array([letter]))
        return int(word[0])

    def _new(self, value: Real, *, scales: bool) -> int:
        return int(self._letters(value, scales=scales)[0])

    def _source(self, letter: int) -> _Source:
        place = bisect_right(self._sources, letter, key=lambda source: source.first) - 1
        return self._sources[place]

    def scale_of(self, ids: Ids) -> Real:
        """The scales."""
        return self._real(ids, 0, self._scale)

    def shift_of(self, ids: Ids) -> Real:
        """The shifts."""
        return self._real(ids, 1, self._shift)

    def _real(self, ids: Ids, row: int, values: FloatArray) -> Real:
        steps = int(self._steps[row, ids].max(initial=0))
        return Real(
            values[ids], self._sizes[row, ids], steps, lambda i: self.exact(int(ids[i]))[row],
            self._before[ids] if row else None, bool(np.any(self._doubles[ids])),
        )  # fmt: skip

    def exact(self, number: int) -> tuple[Sum, Sum]:
        """The scale and the shift, as sums of terms."""
        waiting = []
        while number not in self._exact:
            waiting.append(number)
            number = int(self._prefix[number])
        for word in reversed(waiting):
            letter = int(self._letter[word])
            source = self._source(letter)
            value = source.values.exact(letter - source.first)
            s, t = self._exact[int(self._prefix[word])]
            if source.scales:
                self._exact[word] = (times(value, s), times(value, t))
            else:
                self._exact[word] = (s, plus(t, value))
        return self._exact[waiting[0] if waiting else number]
