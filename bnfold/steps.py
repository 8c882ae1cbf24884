"""The steps of a proof: what was folded, as data, written by who folds, checked by the kernel.

They name nodes of the original by where they stand, and maps by expressions over those nodes: no
number in a proof is ever believed. Maps are of the form x ↦ s·x + t, one for each channel.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any, TypeAlias

import msgspec
import numpy as np
import numpy.typing as npt


class Ref(msgspec.Struct, frozen=True, array_like=True):
    """A node: the number of its scope (the main graph, then bodies, depth first) and its place."""

    scope: int
    node: int


class Indices:
    """For each channel of a map, which channel of another map it is; −1 for the identity."""

    def __init__(self, places: npt.NDArray[np.int64]) -> None:
        self.places = places

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Indices) and np.array_equal(self.places, other.places)

    def __hash__(self) -> int:
        return hash(self.places.tobytes())

    def runs(self) -> list[tuple[int, int, int]]:
        """The same as runs: first index, how many, and the step between them."""
        found: list[tuple[int, int, int]] = []
        steps, at = np.diff(self.places), 0
        turns = [*(np.flatnonzero(np.diff(steps)) + 1).tolist(), len(steps)]
        for turn in turns:  # the last place of a run, which the next one may begin with
            if turn > at:
                found.append((int(self.places[at]), turn - at + 1, int(steps[at])))
                at = turn + 1
        if at < len(self.places):
            found += [(int(place), 1, 1) for place in self.places[at:]]
        return found

    @classmethod
    def of_runs(cls, runs: Sequence[Sequence[int]]) -> Indices:
        """Raises ValueError for runs that are none."""
        if sum(max(0, count) for _, count, _ in runs) > 1 << 26:
            raise ValueError("a map of too many channels")
        parts = [first + step * np.arange(count, dtype=np.int64) for first, count, step in runs]
        return cls(np.concatenate(parts) if parts else np.zeros(0, np.int64))


class Identity(msgspec.Struct, frozen=True, tag=True):
    """x."""


class NodeMap(msgspec.Struct, frozen=True, tag="Site"):
    """What a node of the original makes of its data: a BatchNormalization, a Mul by a constant."""

    node: Ref


class Then(msgspec.Struct, frozen=True, tag=True):
    """One map behind the other, the first one first."""

    maps: tuple[Map, ...]


class Scale(msgspec.Struct, frozen=True, tag=True):
    """s·x of s·x + t."""

    of: Map


class Shift(msgspec.Struct, frozen=True, tag=True):
    """x + t of s·x + t."""

    of: Map


class First(msgspec.Struct, frozen=True, tag=True):
    """x + t/s of s·x + t: the shift as it has to be before the scale."""

    of: Map


class Negated(msgspec.Struct, frozen=True, tag=True):
    """s·x − t of s·x + t: the same seen through a minus sign."""

    of: Map


class Inverse(msgspec.Struct, frozen=True, tag=True):
    """(x − t)/s of s·x + t."""

    of: Map


class Along(msgspec.Struct, frozen=True, tag=True):
    """The same channels along another axis."""

    of: Map
    axis: int


class Take(msgspec.Struct, frozen=True, tag=True):
    """Channels of a map, in another order, repeated, or among others that have the identity."""

    of: Map
    axis: int | None
    indices: Indices


class Response(msgspec.Struct, frozen=True, tag=True):
    """x + Σ W·t of x + t: what the weight W of a linear node makes of a shift of its inputs."""

    node: Ref
    slot: int
    of: Map
    axis: int


class Factors(msgspec.Struct, frozen=True, tag=True):
    """s·x with these s along an axis: a map that no node makes, put between two that undo it."""

    values: tuple[float, ...]
    axis: int


Map: TypeAlias = (
    Identity | NodeMap | Then | Scale | Shift | First | Negated | Inverse | Along | Take | Response
    | Factors
)  # fmt: skip

IDENTITY = Identity()


def then(first: Map, after: Map) -> Map:
    """One map behind the other, without what changes nothing.

    A map and its inverse are nothing, also where a scale is 0: what was planned in between is taken
    back. They may have other scales between them, as a·b = b·a.
    """
    parts = list(_parts(first))
    for part in _parts(after):
        place = _taken_back(parts, part)
        if place is None:
            parts.append(part)
        else:
            del parts[place]
    return parts[0] if len(parts) == 1 else Then(tuple(parts)) if parts else IDENTITY


def _taken_back(parts: Sequence[Map], part: Map) -> int | None:
    """Where the part stands whose inverse the next one is."""
    undone = along(inverse(part), 0)
    for place in reversed(range(len(parts))):
        if along(parts[place], 0) == undone:
            return place
        if not (_only_scales(part) and _only_scales(parts[place])):
            break
    return None


def _only_scales(a: Map) -> bool:
    of = a.of if isinstance(a, Inverse) else a
    return isinstance(of, Scale | Factors)


def _parts(a: Map) -> tuple[Map, ...]:
    maps = a.maps if isinstance(a, Then) else (a,)
    return tuple(part for part in maps if not isinstance(part, Identity))


def _in_each(change: Callable[[Map], Map], of: Then | Inverse) -> Map:
    """Change a map in all its parts: (a then b)′ = a′ then b′, and (a⁻¹)′ = (a′)⁻¹."""
    if isinstance(of, Then):
        return _behind_each_other(map(change, of.maps))
    return inverse(change(of.of))


def _behind_each_other(maps: Iterable[Map]) -> Map:
    total: Map = IDENTITY
    for part in maps:
        total = then(total, part)
    return total


def scale(of: Map) -> Map:
    """s·x of a map."""
    if isinstance(of, Identity | Scale | Factors):
        return of
    if isinstance(of, Shift | First):
        return IDENTITY
    if isinstance(of, Then | Inverse):
        return _in_each(scale, of)
    return scale(of.of) if isinstance(of, Negated) else Scale(of)


def shift(of: Map) -> Map:
    """X + t of a map."""
    if isinstance(of, Identity | Shift | First):
        return of
    return IDENTITY if isinstance(of, Scale | Factors) else Shift(of)


def negated(of: Map) -> Map:
    """s·x − t of a map."""
    if isinstance(of, Identity | Scale | Factors):
        return of
    if isinstance(of, Then | Inverse):
        return _in_each(negated, of)
    return of.of if isinstance(of, Negated) else Negated(of)


def along(of: Map, axis: int) -> Map:
    """The same channels along another axis."""
    if isinstance(of, Identity):
        return of
    if isinstance(of, Then):
        return _behind_each_other(along(part, axis) for part in of.maps)
    if isinstance(of, Scale | Shift | First | Negated | Inverse):
        return type(of)(along(of.of, axis))
    if isinstance(of, Take):
        return Take(of.of, axis, of.indices)
    if isinstance(of, Factors):
        return Factors(of.values, axis)
    return Along(of.of if isinstance(of, Along) else of, axis)


def inverse(of: Map) -> Map:
    """(x − t)/s of a map."""
    if isinstance(of, Then):
        return _behind_each_other(map(inverse, reversed(of.maps)))
    return of if isinstance(of, Identity) else of.of if isinstance(of, Inverse) else Inverse(of)


def between(q: Map, p: Map) -> Map:
    """(q⁻¹ and then p): what is left of p when q is taken from its beginning."""
    first, second = (list(a.maps) if isinstance(a, Then) else [a] for a in (q, p))
    while first and second and first[0] == second[0]:
        del first[0], second[0]
    if len(first) == len(second) == 1 and first[0] == Scale(second[0]):
        return Shift(second[0])
    return _behind_each_other((*map(inverse, reversed(first)), *second))


class Carried(msgspec.Struct, frozen=True):
    """How a value that a node makes of constants relates in both models.

    There is a z with `p`(z) in the original and `q`(z) in the folded model.
    """

    node: Ref
    p: Map = IDENTITY
    q: Map = IDENTITY


class Taken(msgspec.Struct, frozen=True):
    """A constant at `slot` of a node is map(constant) in the folded model."""

    node: Ref
    slot: int
    map: Map


class Merged(msgspec.Struct, frozen=True):
    """A sum of branches, of these nodes, became one convolution, which stood in one of them.

    What is `Carried` of the convolution is the sum's value.
    """

    root: Ref
    kept: Ref
    nodes: tuple[Ref, ...]


class Proof(msgspec.Struct, frozen=True, kw_only=True):
    """What was done to the original.

    Attributes:
        gone: nodes of the original that the folded model does not have.
        new: nodes that only the folded model has, by their places in it.
        carried: values that are not the same in both models, where a node's constants make them so.
        taken: constants that are values, and have taken a map.
        merged: branches that became one convolution.
        inlined: domains and names of the functions whose calls were written out before all else.
        freeze: initializers that are also graph inputs count as constants.
        pairs: which node of the folded model stands for which one of the original, where this is
            not told by their places. All others are gone, or new, and names count for nothing.
    """

    gone: tuple[Ref, ...] = ()
    new: tuple[Ref, ...] = ()
    carried: tuple[Carried, ...] = ()
    taken: tuple[Taken, ...] = ()
    merged: tuple[Merged, ...] = ()
    inlined: tuple[tuple[str, str], ...] = ()
    freeze: bool = False
    pairs: tuple[tuple[Ref, Ref], ...] | None = None


def _encoded(value: Any) -> Any:
    if isinstance(value, Indices):
        return value.runs()
    raise TypeError(type(value).__name__)


def _decoded(kind: type, value: Any) -> Any:
    if kind is Indices:
        return Indices.of_runs(value)
    raise TypeError(kind.__name__)


def to_json(proof: Proof) -> bytes:
    """The proof as JSON."""
    return msgspec.json.encode(proof, enc_hook=_encoded)


def from_json(data: bytes) -> Proof:
    """Raises msgspec.ValidationError for what is no proof."""
    return msgspec.json.decode(data, type=Proof, dec_hook=_decoded)
