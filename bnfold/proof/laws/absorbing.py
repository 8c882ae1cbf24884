"""What constants must be where a node takes maps: obligations, and how they are met.

A node that takes maps has the value o of the original for p(z), and in the folded model f = q(z).
Each law here states what its constants must then be, exactly; `numbers.rounding` says whether they
are. What cannot be true raises WrongError, what cannot be told raises UnprovenError.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

import numpy as np

from bnfold.graph.index import Node
from bnfold.proof.numbers.correct_rounding import Numbers, Tally, unit_roundoff
from bnfold.proof.numbers.maps import Map
from bnfold.proof.numbers.reals import UNIT, FloatArray, Real, Sum, plus, rational, sign, times
from bnfold.proof.numbers.rounding import DEQUANTISED, check
from bnfold.proof.reading.dimensions import Shape
from bnfold.proof.reading.model import Model
from bnfold.proof.reading.same_constants import roundings
from bnfold.proof.values.operands import Array

_MOST_EXACTLY = 4096  # numbers that are told from 0 exactly


class WrongError(Exception):
    """The folded model is not what the proof says, or that is not equal to the original.

    `certain`: no other proof could show that it is equal, if all else is understood.
    """

    def __init__(self, sentence: str, *, certain: bool = False) -> None:
        super().__init__(sentence)
        self.certain = certain


class UnprovenError(Exception):
    """Nothing known says whether it is."""


class UnknownError(Exception):
    """Nothing is known of what a node reads, for a reason that has been found before."""

    def __init__(self, cause: Cause) -> None:
        super().__init__(str(cause.what))
        self.cause = cause


@dataclass
class Cause:
    """Why nothing is known of a value, where that shows, and whether it has been said."""

    what: WrongError | UnprovenError
    label: str
    said: bool = False


@dataclass
class Taken:
    """What was found of the constants of one node."""

    length: int = 1  # n of the theorem
    tallies: dict[str, Tally] = field(default_factory=dict)  # by the constant's name
    slots: set[int] = field(default_factory=set)  # whose constants may differ

    def tally(self, name: str, slot: int) -> Tally:
        """That of one constant, which may now differ."""
        self.slots.add(slot)
        return self.tallies.setdefault(name, Tally())


@dataclass(frozen=True)
class Pair:
    """A node and the one that stands for it in the folded model."""

    original: Model
    node: Node
    folded: Model
    other: Node
    loose: float = 0.0  # u that other tools' constants may be off

    def before(self, slot: int) -> Array | None:
        """The constant of the original at a slot, None where there is none."""
        return self._value(self.original, self.node, slot)

    def after(self, slot: int) -> Array | None:
        """The constant of the folded model at a slot, None where there is none."""
        return self._value(self.folded, self.other, slot)

    def _value(self, model: Model, node: Node, slot: int) -> Array | None:
        if not node.input(slot):
            return None
        value = model.value_at(node, slot)
        if value is None:
            raise UnprovenError(f"the value of {node.input(slot)!r} is not known")
        return value

    def tolerance(self, slot: int) -> float:
        """How many u more a constant may be off: those that are dequantised round more often."""
        quantized = self.original.is_quantized(self.node.scope, self.node.input(slot))
        return max(self.loose, DEQUANTISED) if quantized else self.loose

    def roundings(self, slot: int) -> int:
        """How many roundings of a runtime's own are in a constant that it computes."""
        return roundings(self.original, self.node.scope, self.node.input(slot))

    def hangs_on_sums(self, slots: Iterable[int], tally: Tally) -> bool:
        """Whether what is wrong with a computed constant may be the last digit of a sum.

        Which way it is rounded may depend on the order of the sum, which is not for us to say.
        """
        unit = 0.0
        for slot in slots:
            stored = self.after(slot) if self.roundings(slot) else None
            if stored is not None and stored.size:
                largest = float(np.max(np.abs(stored.astype(np.float64))))
                unit = max(unit, unit_roundoff(stored.dtype) * largest)
        return all(abs(wrong.stored - wrong.expected) <= 4 * unit for wrong in tally.wrong)

    def shape(self, slot: int) -> Shape | None:
        """The shape of what the node reads at a slot."""
        return self.original.shapes.of(self.node.scope, self.node.input(slot))

    def rank(self, slot: int) -> int:
        """The number of its axes. Raises UnprovenError where it is not known."""
        shape = self.shape(slot)
        if shape is None:
            raise UnprovenError("values of unknown shape")
        return len(shape)


def beside(vector: FloatArray, axis: int | None, rank: int) -> FloatArray:
    """A vector along an axis of a value, so that it broadcasts against the value."""
    if len(vector) == 1 or axis is None:
        return vector.reshape(())
    return vector.reshape((-1,) + (1,) * (rank - axis - 1))


def lifted(values: Array, rank: int) -> Array:
    """An array with axes of size 1 in front, so that it has as many as a value."""
    return values.reshape((1,) * (rank - values.ndim) + values.shape)


def require_constant(
    stored: Array, base: Array, axis: int | None, scale: Real, shift: Real, rank: int, tally: Tally,
    loose: float = 0.0, *, added: bool = True,
) -> None:  # fmt: skip
    """The stored constant is scale·base + shift, along an axis of a value of `rank` axes.

    `added`: it is not multiplied by anything.
    """
    if stored.dtype != base.dtype or stored.dtype.kind not in "fV":
        raise WrongError("its constants are of another type")
    if axis is not None and axis >= max(rank, 1):
        raise WrongError("a map along an axis that is not there")
    if max(stored.ndim, base.ndim) > rank:
        raise UnprovenError("a constant that makes the value larger")
    new, old = lifted(stored, rank), lifted(base, rank)
    s, t = beside(scale.value, axis, rank), beside(shift.value, axis, rank)
    try:
        shape = np.broadcast_shapes(s.shape, t.shape, new.shape, old.shape)
    except ValueError:
        raise WrongError("a constant of a shape that does not fit") from None
    c = np.broadcast_to(old, shape).astype(np.float64)
    of = [(beside(v.magnitude, axis, rank), beside(v.parts, axis, rank)) for v in (scale, shift)]
    size, parts = (m * np.abs(c) + n for m, n in zip(*of, strict=True))
    along = 0 if axis is None else axis

    def exact(index: tuple[int, ...]) -> Sum:
        entry = index[along] if len(index) > along else 0
        one, two = (v.exact(entry if len(v) > 1 else 0) for v in (scale, shift))
        return plus(times(one, rational(float(c[index]))), two)

    with np.errstate(all="ignore"):
        value = s * c + t
    numbers = Numbers(value, size, max(scale.steps + 1, shift.steps) + 1, exact,
                      parts=parts)  # fmt: skip
    check(np.broadcast_to(new, shape), numbers, tally, loose=loose, added=added)


def require_same_growth(
    data: Shape | None, before: tuple[int, ...], after: tuple[int, ...]
) -> None:  # fmt: skip
    """Raises WrongError unless a constant of either shape makes results of one shape of the data.

    Raises UnprovenError where the data's shape is not known well enough to tell.
    """
    if before == after:
        return
    if data is None:
        raise UnprovenError("values of unknown shape")
    rank = max(len(data), len(before))
    if max(len(data), len(after)) != rank:
        raise WrongError("a constant that makes the value larger than it was")
    one, two = ((1,) * (rank - len(shape)) + shape for shape in (before, after))
    wide = (*(1,) * (rank - len(data)), *data)
    for dim, a, b in zip(wide, one, two, strict=True):
        if a == b or (a in (1, dim) and b in (1, dim)):
            continue
        if not isinstance(dim, int):
            raise UnprovenError("values of unknown shape")
        raise WrongError("a constant that makes the value larger than it was")


def require_zero(values: Real, what: str) -> None:
    """Numbers that must be 0.

    Raises WrongError where they are not, UnprovenError where they nearly are.
    """
    with np.errstate(invalid="ignore"):
        near = np.abs(values.value) <= (values.steps + 16) * UNIT * values.magnitude
    if not np.all(near & np.isfinite(values.magnitude)):
        raise WrongError(what)
    if values.doubles:
        return
    left = np.flatnonzero(values.magnitude).tolist()
    if len(left) > _MOST_EXACTLY or any(sign(values.exact(i)) for i in left):
        raise UnprovenError(f"{what}, of numbers that cancel but for a rounding")


def difference(one: Map, other: Map, part: str) -> Real:
    """The difference of the scales or shifts of two maps."""
    a, b = getattr(one, part), getattr(other, part)
    return a + -b  # type: ignore[no-any-return]
