"""Which tensor of a folded model is which value of the original, and by what map.

The folder keeps account of it for its proof (`Draft.relation`), in symbols; here they get numbers.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import TypeVar

import numpy as np

from bnfold import steps
from bnfold.folding.plan import Plan
from bnfold.folding.rules.affine_nodes import affine_map
from bnfold.folding.weights.affine import Affine
from bnfold.folding.weights.carried_maps import refs_of
from bnfold.folding.weights.draft import Draft
from bnfold.graph.index import Index, Node, Role, Scope
from bnfold.options import Options
from bnfold.steps import Proof, Ref

T = TypeVar("T")


@dataclass(frozen=True)
class Place:
    """Where the folded model holds `map`(the value `name` of the original).

    That is an output or input of a node that stays, by its place in the original; without a node it
    is a value that keeps its name, since others rely on it.
    """

    node: Ref | None
    output: bool
    number: int
    scope: Scope  # whose value it is, in the original
    name: str
    map: Affine


def places(index: Index, planned: Plan) -> Iterator[Place]:
    """All of a model that is about to be folded."""
    draft = Draft(index, Options())
    for edit in planned.edits:
        draft.add(edit)
    sums = {merge.into: merge.root for merge in planned.merges if merge.into is not None}
    draft.merged.update(sums.values())
    numbers = _Numbers(index)
    for scope in index.scopes:
        for name, uses in scope.uses.items():
            relied_on = any(use.role in (Role.OUTPUT, Role.CAPTURE) for use in uses)
            if relied_on and name in scope.producers:
                yield Place(None, True, 0, scope, name, Affine.identity())
    for node in index.nodes():
        if draft.is_removed(node) or draft.scattered[node]:
            continue
        ref = draft.ref(node)
        made = sums.get(node, node)  # what its branches make together is now made by one of them
        for number, name in enumerate(made.proto.output):
            found = numbers.between(*draft.relation(node, number)) if name else None
            if found is not None:
                yield Place(ref, True, number, node.scope, name, found)
        for slot, name in enumerate(node.proto.input):
            owner = node.scope.owner(name) if name else None
            if owner is not node.scope or name not in owner.producers:
                continue
            maker = draft.producer(owner, name)
            if maker is not None and draft.scattered[maker]:
                continue
            found = numbers.between(*draft.relation_at(node, slot))
            if found is not None:
                yield Place(ref, False, slot, owner, name, found)


def named(index: Index, proof: Proof, found: Iterable[tuple[Place, T]]) -> Iterator[tuple[T, str]]:
    """What is known of each place, with the tensor of the folded model that is there, once."""
    now = _where(index, proof)
    seen: set[tuple[int, str]] = set()
    for place, known in sorted(found, key=_rank):
        name = place.name if place.node is None else _name_at(now.get(place.node), place)
        scopes = index.scopes[place.scope.number : place.scope.number + 1]
        there = any(name in scope.producers for scope in scopes)
        if there and (place.scope.number, name) not in seen:
            seen.add((place.scope.number, name))
            yield known, name


def _name_at(node: Node | None, place: Place) -> str:
    names = () if node is None else node.proto.output if place.output else node.proto.input
    return names[place.number] if place.number < len(names) else ""


def _rank(each: tuple[Place, object]) -> tuple[bool, bool, bool]:
    """What is as it was first, by its own name, then what nodes make."""
    place = each[0]
    return not place.map.is_identity, place.node is not None, not place.output


def _where(index: Index, proof: Proof) -> dict[Ref, Node]:
    """The nodes of the folded model, by those of the original that they were."""
    gone, new = set(proof.gone), set(proof.new)
    found: dict[Ref, Node] = {}
    for scope in index.scopes:
        left = [node for k, node in enumerate(scope.nodes) if Ref(scope.number, k) not in new]
        went = sum(ref.scope == scope.number for ref in gone)
        before = (Ref(scope.number, k) for k in range(len(left) + went))
        found |= zip((ref for ref in before if ref not in gone), left, strict=False)
    return found


class _Numbers:
    """The maps of a model's nodes, as numbers."""

    def __init__(self, index: Index) -> None:
        self._draft = Draft(index, Options())
        self._nodes = {ref: node for node, ref in refs_of(index).items()}

    def between(self, p: steps.Map, q: steps.Map) -> Affine | None:
        """q(p⁻¹(v)): what is now there, of what was. None where that is not known."""
        if p == q:
            return Affine.identity()
        first, second = self._of(p), self._of(q)
        back = None if first is None else _inverse(first)
        return None if back is None or second is None else back.then(second)

    def _of(self, of: steps.Map) -> Affine | None:
        if isinstance(of, steps.Identity):
            return Affine.identity()
        if isinstance(of, steps.NodeMap):
            found = affine_map(self._draft, self._nodes[of.node])
            return found[1] if isinstance(found, tuple) else None
        if isinstance(of, steps.Then):
            total: Affine | None = Affine.identity()
            for each in of.maps:
                part = self._of(each)
                total = None if total is None or part is None else total.then(part)
            return total
        if isinstance(of, steps.Response):
            return None
        if isinstance(of, steps.Factors):
            return Affine(of.axis, np.array(of.values), np.zeros(len(of.values)), of)
        inner = self._of(of.of)
        return None if inner is None else _changed(inner, of)


def _changed(
    a: Affine,
    how: steps.Scale | steps.Shift | steps.First | steps.Negated | steps.Inverse
    | steps.Along | steps.Take,
) -> Affine | None:  # fmt: skip
    match how:
        case steps.Scale():
            return a.scale_only()
        case steps.Shift():
            return a.shift_only()
        case steps.First():
            return a.shift_first()
        case steps.Negated():
            return a.negated()
        case steps.Inverse():
            return _inverse(a)
        case steps.Along():
            return a.along(how.axis)
        case steps.Take():
            return _taken(a, how)


def _taken(a: Affine, how: steps.Take) -> Affine:
    """−1 stands for the identity."""
    places = how.indices.places
    scale = np.where(places < 0, 1.0, a.scale[places])
    shift = np.where(places < 0, 0.0, a.shift[places])
    return Affine(how.axis, scale, shift)


def _inverse(a: Affine) -> Affine | None:
    """(x − t)/s; not a number in channels that the map has made constant."""
    with np.errstate(all="ignore"):
        scale = np.where(a.scale == 0, np.nan, 1 / a.scale)
        return Affine(a.axis, scale, -a.shift * scale)
