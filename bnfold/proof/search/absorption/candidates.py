"""Which maps may be owed to a value: what stands behind it in the original, led back to it.

A fold gives a value f = U(o) in place of o, and U is made of the maps that o's readers apply. These
are few, so all of them are collected here; which one it is, the folded weights tell (`absorption`).
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Protocol, TypeVar

import numpy as np

from bnfold.graph.index import Node, Role, Scope
from bnfold.proof.numbers.reals import Real
from bnfold.proof.search.laws.table import LAWS, pulled
from bnfold.proof.search.numbers.maps import Map, identity
from bnfold.proof.search.reading.affine_nodes import per_channel, site
from bnfold.proof.search.reading.model_view import View

_MOST = 48
_DEEPEST = 60
_SUMS = ("Add", "Sub", "Sum", "Mul", "Div", "Concat")


class Explained(Protocol):
    """What was found of constants that may have taken a map."""

    @property
    def faults(self) -> int:
        """How many of them are wrong."""
        ...


T = TypeVar("T", bound=Explained)


@dataclass(frozen=True)
class Candidate:
    """A map that may be owed, and the nodes that it is made of."""

    map: Map
    sites: tuple[str, ...] = ()


def fitting(candidates: list[Candidate], axis: int, channels: int) -> list[Candidate]:
    """Those that vary along this axis, written out for each channel."""
    found = []
    for candidate in candidates:
        a = candidate.map
        if a.axis in (None, axis) and len(a) in (1, channels):
            found.append(Candidate(a.over(axis, channels), candidate.sites))
    return found


def best(
    candidates: Sequence[Candidate], present: Collection[str],
    check: Callable[[Candidate], T | None],
) -> T | None:  # fmt: skip
    """The candidate that explains the constants, or the one with the fewest wrong numbers.

    `check` says what a candidate explains, None for one that cannot be. Several explain them where
    a map is so close to another that roundings hide it (γ = 1, σ² = 1), or the constants are zeros.
    Then it is the one whose nodes are gone.
    """
    found: T | None = None
    for candidate in sorted(candidates, key=lambda c: standing(c, present)):
        result = check(candidate)
        if result is not None and (found is None or result.faults < found.faults):
            found = result
            if not found.faults:
                break
    return found


def standing(candidate: Candidate, present: Collection[str]) -> tuple[int, int]:
    """How many of a candidate's nodes are still there, and how many are gone, these negative."""
    there = sum(site in present for site in candidate.sites)
    return there, there - len(candidate.sites)


class Wanted:
    """The candidates of each value of one model, found when they are asked for.

    `raises`: a Relu may have become a Max, which lets shifts pass as well.
    """

    def __init__(self, view: View, *, raises: bool = False) -> None:
        self.view = view
        self.raises = raises
        self._known: dict[tuple[Scope, str], list[Candidate]] = {}
        self._sites: dict[Node, tuple[int, Map] | None] = {}
        self._joined: dict[Node, list[tuple[float, float]]] = {}

    def site(self, node: Node) -> tuple[int, Map] | None:
        """As `sites.site`, once for each node."""
        if node not in self._sites:
            self._sites[node] = site(self.view, node)
        return self._sites[node]

    def of(self, scope: Scope, name: str, depth: int = 0) -> list[Candidate]:
        """The candidates for a value, the map that changes nothing first."""
        key = (scope, name)
        if key not in self._known:
            self._known[key] = [Candidate(identity())]  # against circles
            self._known[key] = _distinct(
                candidate
                for use in scope.uses.get(name, ()) if depth < _DEEPEST
                if use.node is not None and use.role is Role.READ
                for candidate in self._behind(use.node, use.slot, depth)
            )  # fmt: skip
        return self._known[key]

    def at(self, node: Node, slot: int) -> list[Candidate]:
        """The candidates for what one node alone reads, as it reads a constant of its own."""
        return _distinct(self._behind(node, slot, 0))

    def _behind(self, node: Node, slot: int, depth: int) -> Iterator[Candidate]:
        """What a node that reads a value may owe to it."""
        at = self.site(node)
        if at is not None and at[0] == slot:
            own = at[1]
            for after in self.of(node.scope, node.output, depth + 1):
                whole = own.then(after.map)
                if whole is not None:
                    yield Candidate(whole, (node.label, *after.sites))
                    yield Candidate(whole.scale_only(), (node.label, *after.sites))
            yield Candidate(own.scale_only(), (node.label,))
            if (first := own.shift_first()) is not None:
                yield Candidate(first, (node.label,))
        elif node.op in LAWS and slot == 0:
            yield from self._led_back(node, depth)
        elif node.op == "Pad" and slot == 0:
            for after in self.of(node.scope, node.output, depth + 1):
                yield after
                yield Candidate(after.map.scale_only(), after.sites)
        elif node.op in _SUMS:
            yield from self._of_branch(node, slot, depth)

    def _led_back(self, node: Node, depth: int) -> Iterator[Candidate]:
        for output, name in enumerate(node.proto.output):
            for after in self.of(node.scope, name, depth + 1) if name else ():
                if node.op == "Relu" and self.raises and after.map.keeps_order:
                    yield after
                for one in (after.map, after.map.scale_only()):
                    if not one.is_identity and (back := pulled(self.view, node, one, output)):
                        yield Candidate(back, after.sites)
                        if len(one) == 1 and back.axis is not None:  # what is not read as well
                            yield Candidate(replace(one, axis=None), after.sites)

    def _of_branch(self, node: Node, slot: int, depth: int) -> Iterator[Candidate]:
        """The share of one branch: its piece, or the scale with or without the shift."""
        view, scope = self.view, node.scope
        shape, out = view.shape(scope, node.input(slot)), view.shape(scope, node.output)
        if node.op == "Concat" and out is None and shape is not None:
            out = (None,) * len(shape)
        if shape is None or out is None:
            return
        behind = len(out) - len(shape)
        for after in self.of(scope, node.output, depth + 1):
            a = after.map
            if a.is_identity:
                continue
            if a.axis is not None and node.op == "Concat":
                axis = node.attribute("axis", 1) % len(out)
                if a.axis == axis:
                    start, end = self._pieces(node, axis)[slot]
                    if end <= len(a):
                        places = np.arange(start, end, dtype=np.int64)
                        yield Candidate(a.take(places, axis), after.sites)
                    continue
            if a.axis is not None:
                axis = a.axis - behind
                if not 0 <= axis < len(shape) or a.axis >= len(out):
                    continue
                if shape[axis] not in (len(a), out[a.axis]):
                    continue
                a = replace(a, axis=axis)
            if node.op in ("Mul", "Div"):
                a = a.scale_only()
            elif node.op == "Sub" and slot == 1:
                yield Candidate(replace(a, shift=-a.shift), after.sites)
            yield Candidate(a, after.sites)
            yield Candidate(a.scale_only(), after.sites)
            if node.op == "Mul":
                constant = _scale_of_constant(view, node, 1 - slot)
                if constant is not None:  # s·(c·x) + t = c·(s·x + t/c)
                    shift = after.map.shift * constant.inverse()
                    yield Candidate(replace(a, shift=shift), after.sites)

    def _pieces(self, node: Node, axis: int) -> list[tuple[float, float]]:
        """Where the channels of each input of a Concat stand in the result; infinity: unknown."""
        if node not in self._joined:
            shapes = (self.view.shape(node.scope, name) for name in node.proto.input)
            sizes = [shape[axis] if shape is not None and axis < len(shape) else None
                     for shape in shapes]  # fmt: skip
            widths = [size if isinstance(size, int) else math.inf for size in sizes]
            ends = list(itertools.accumulate(widths))
            self._joined[node] = list(zip([0, *ends[:-1]], ends, strict=True))
        return self._joined[node]


def _distinct(candidates: Iterable[Candidate]) -> list[Candidate]:
    """The map that changes nothing, and then the others, each once, up to so many."""
    found = [Candidate(identity())]
    for candidate in candidates:
        if len(found) < _MOST and not any(_same(c.map, candidate.map) for c in found):
            found.append(candidate)
    return found


def _same(a: Map, b: Map) -> bool:
    """Whether the first can stand for both: alike, and as uncertain."""
    if not a.near(b):
        return False
    one, other = (float(np.max(m.shift.magnitude, initial=0.0)) for m in (a, b))
    return other <= 4 * one


def _scale_of_constant(view: View, node: Node, slot: int) -> Real | None:
    if not view.is_constant(node.scope, node.input(slot)):
        return None
    found = per_channel(view, node, slot)
    return found[1] if found is not None and np.all(found[1].value) else None
