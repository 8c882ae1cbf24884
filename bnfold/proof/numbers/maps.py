"""Maps of whole values: which channel along which axis has which s·x + t."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from bnfold.proof.numbers.functions import Functions
from bnfold.proof.numbers.reals import Real
from bnfold.proof.numbers.words import Ids


@dataclass(frozen=True)
class Map:
    """x ↦ s·x + t, with an entry of `ids` for each channel along `axis`.

    `axis` None: one entry, for all elements. The numbers are those of `functions`.
    """

    functions: Functions
    axis: int | None
    ids: Ids

    def __post_init__(self) -> None:
        if self.axis is None and len(self.ids) != 1:
            raise ValueError("many channels, and no axis")

    def __len__(self) -> int:
        return len(self.ids)

    @classmethod
    def identity(cls, functions: Functions) -> Map:
        """The map that changes nothing."""
        return cls(functions, None, np.zeros(1, np.int64))

    @cached_property
    def is_identity(self) -> bool:
        """Whether it changes nothing."""
        return not self.ids.any() or self.functions.equal(self.ids, np.zeros_like(self.ids))

    @property
    def scale(self) -> Real:
        """The scales."""
        return self.functions.scale_of(self.ids)

    @property
    def shift(self) -> Real:
        """The shifts."""
        return self.functions.shift_of(self.ids)

    @cached_property
    def shifts(self) -> bool:
        """Whether it adds anything."""
        return not self.functions.without_shift(self.ids)

    @cached_property
    def scales(self) -> bool:
        """Whether it multiplies by anything but 1."""
        return not self.functions.without_scale(self.ids)

    @cached_property
    def keeps_order(self) -> bool:
        """Whether no scale is negative."""
        return self.functions.scales_are(self.ids, lambda s: s >= 0)

    @cached_property
    def keeps_apart(self) -> bool:
        """Whether no scale is 0."""
        return self.functions.scales_are(self.ids, lambda s: s != 0)

    def with_ids(self, ids: Ids) -> Map:
        """Other maps for the same channels."""
        return Map(self.functions, self.axis, ids)

    def then(self, after: Map) -> Map | None:
        """First this map, then `after`; None where they lie along different axes."""
        axis = common_axis(self, after)
        if axis is False:
            one, other = self.uniform() or self, after.uniform() or after
            axis = common_axis(one, other)
            return None if axis is False else one.then(other)
        return Map(self.functions, axis, self.functions.then(self.ids, after.ids))

    def scale_part(self) -> Map:
        """s·x."""
        return self.with_ids(self.functions.scale_part(self.ids))

    def shift_part(self) -> Map:
        """X + t."""
        return self.with_ids(self.functions.shift_part(self.ids))

    def inverse(self) -> Map | None:
        """(x − t)/s; None where a scale is 0."""
        if not self.keeps_apart:
            return None
        return self.with_ids(self.functions.inverse(self.ids))

    def equals(self, other: Map) -> bool:
        """Whether both do the same to every channel."""
        if common_axis(self, other) is False:
            one, two = self.uniform(), other.uniform()
            return one is not None and two is not None and one.equals(two)
        return self.functions.equal(self.ids, other.ids)

    def uniform(self) -> Map | None:
        """The same without an axis, if all channels are the same."""
        if not self.functions.equal(self.ids, self.ids[:1]):
            return None
        return Map(self.functions, None, self.ids[:1])

    def simplest(self) -> Map:
        """The same, without its channels where none of them is changed."""
        return self.identity(self.functions) if self.is_identity else self

    def over(self, axis: int, count: int) -> Map | None:
        """With one entry for each of `count` channels along `axis`; None where it has others."""
        if self.axis not in (None, axis) or len(self) not in (1, count):
            one = self.uniform()
            return None if one is None else one.over(axis, count)
        return Map(self.functions, axis, np.broadcast_to(self.ids, count))

    def channel(self, i: int) -> str:
        """The map of one channel, to be read."""
        at = self.ids[i if len(self) > 1 else 0 : (i if len(self) > 1 else 0) + 1]
        scale, shift = self.functions.scale_of(at).value[0], self.functions.shift_of(at).value[0]
        return f"{scale:.6g}·x + {shift:.6g}"


def common_axis(a: Map, b: Map) -> int | bool | None:
    """The axis of both, None for none; False where there is no common one."""
    if None not in (a.axis, b.axis) and a.axis != b.axis:
        return False
    if 1 not in (len(a), len(b)) and len(a) != len(b):
        return False
    return a.axis if a.axis is not None else b.axis


@dataclass(frozen=True)
class Relation:
    """There is a z such that a value is p(z) in the original, and q(z) in the folded model."""

    p: Map
    q: Map

    def settled(self) -> Relation:
        """The same without what was done first, and alike, in both."""
        p, q = self.p, self.q
        if not p.ids.any() or not q.ids.any():
            return self
        axis = common_axis(p, q)
        if axis is False:
            return self
        alike = p.ids is q.ids or np.array_equal(p.ids, q.ids)
        if alike or (p.keeps_apart and p.functions.equal(p.ids, q.ids)):
            nothing = Map.identity(p.functions)
            return Relation(nothing, nothing)
        ours, theirs = p.functions.cancelled(p.ids, q.ids)
        return Relation(Map(p.functions, axis, ours), Map(p.functions, axis, theirs))

    @property
    def same(self) -> bool:
        """Whether both models have the same value."""
        return self.p.equals(self.q)

    def original_of_folded(self) -> Map | None:
        """The map e with original = e(folded); None where the folded model has lost something."""
        settled = self.settled()
        return _one_of_other(settled.p, settled.q)

    def folded_of_original(self) -> Map | None:
        """The map e with folded = e(original); None where that cannot be told."""
        settled = self.settled()
        return _one_of_other(settled.q, settled.p)

    def down(self) -> Relation | None:
        """The same said as original = e(folded)."""
        e = self.original_of_folded()
        return None if e is None else Relation(e, Map.identity(e.functions))

    def up(self) -> Relation | None:
        """The same said as folded = e(original)."""
        e = self.folded_of_original()
        return None if e is None else Relation(Map.identity(e.functions), e)

    def forms(self) -> Iterator[Relation]:
        """The same relation, said in other ways."""
        yield self
        for found in (self.down(), self.up()):
            if found is not None:
                yield found


def _one_of_other(one: Map, other: Map) -> Map | None:
    """The map e with one(z) = e(other(z)) for every z; None where `other` has lost too much."""
    if other.is_identity:
        return one
    inverse = other.inverse()
    if inverse is not None:
        return inverse.then(one)
    return Map.identity(one.functions) if one.equals(other) else None
