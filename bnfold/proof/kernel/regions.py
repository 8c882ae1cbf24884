"""Where both models can be cut open: what each computes between values that both of them have.

A value of the original and one of the folded model that are equal for every input are an end of
such a region where something was folded before it, and a start of the next. So the folded model can
be fed the original's own values and be held against them, fold by fold.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from functools import cached_property

from bnfold.graph.index import Node, Scope
from bnfold.proof.kernel.order import in_order
from bnfold.proof.reading.model import Model

_MOST = 500  # nodes of one region


@dataclass(frozen=True)
class Part:
    """Nodes of one model, in order, which make the value `end` of the values `starts`."""

    nodes: tuple[Node, ...]
    starts: tuple[str, ...]
    end: str


@dataclass(frozen=True)
class Region:
    """What both models do between the same values; `took` is what holds the folded constants.

    `k`: how far these may be off, in units of u·A(x), beyond the one that rounding them makes.
    """

    original: Part
    folded: Part
    took: tuple[str, ...]
    sites: tuple[str, ...]
    k: float


@dataclass(frozen=True)
class Regions:
    """All regions of two models.

    `same` gives the original's name of each value that the folded model has too. `beyond` are the
    folded nodes that stand in no region: in a body, or behind what is not understood.
    """

    models: tuple[Model, Model]
    found: tuple[Region, ...]
    same: dict[str, str]
    beyond: tuple[str, ...]


@dataclass(frozen=True)
class Correspondence:
    """What is known of the main graphs of two models.

    `values` has, by the original's names, the folded model's value and whether the two are the
    same; None where nothing is known of it. `changed` are the folded nodes whose constants have
    changed, with their k.
    """

    nodes: Mapping[Node, Node]
    gone: Collection[Node]
    values: Mapping[str, tuple[str, bool] | None]
    changed: Mapping[Node, float]


def regions(original: Model, folded: Model, known: Correspondence) -> Regions:
    """Cut the main graphs of two models where they are known to have the same values."""
    return _Cutter(original, folded, known).regions()


class _Cutter:
    def __init__(self, original: Model, folded: Model, known: Correspondence) -> None:
        self.models = (original, folded)
        self.known = known
        self.gone = set(known.gone)
        found = {old: new for old, new in known.values.items() if new is not None}
        self.equal = {old: name for old, (name, same) in found.items() if same}
        self.same: dict[str, str] = {}
        for old, new in self.equal.items():
            self.same.setdefault(new, old)
        computed = {name for name, _ in found.values()}
        self.before = _Side(original.main, self.equal.keys(), known.values.keys())
        self.after = _Side(folded.main, self.same.keys(), computed)

    def regions(self) -> Regions:
        found = []
        for node in self.models[0].main.nodes:
            if node.output in self.equal and self._is_end(node):
                region = self._region(node.output)
                if region is not None:
                    found.append(region)
        covered = {label for region in found for label in region.took}
        beyond = [node.label for node in self.known.changed if node.label not in covered]
        return Regions(self.models, tuple(found), self.same, tuple(beyond))

    def _is_end(self, node: Node) -> bool:
        """Whether something was folded between this node's output and the values before it."""
        values, other = self.known.values, self.known.nodes.get(node)
        inputs = [values[name] for name in node.proto.input if name in values]
        return (
            node in self.gone
            or (other is not None and (other in self.known.changed or other.op != node.op))
            or any(value is None or not value[1] for value in inputs)
        )

    def _region(self, end: str) -> Region | None:
        before = self.before.part(end)
        if before is None:
            return None
        new = self.equal[end]
        after: Part | None
        if new in {self.equal[start] for start in before.starts}:  # a map that changes nothing
            after = Part((), (new,), new)
        else:
            after = self.after.part(new)
        if after is None:
            return None
        changed = self.known.changed
        took = tuple(node.label for node in after.nodes if node in changed)
        k = sum(max(0.0, changed[node] - 1) for node in after.nodes if node in changed)
        sites = tuple(node.label for node in before.nodes if node in self.gone)
        return Region(before, after, took, sites, k) if took or sites else None


@dataclass(frozen=True)
class _Side:
    """One main graph, the values at which it is cut, and those that depend on its inputs."""

    scope: Scope
    stops: Collection[str]
    computed: Collection[str]

    @cached_property
    def position(self) -> dict[Node, int]:
        return {node: place for place, node in enumerate(in_order(self.scope))}

    def part(self, end: str) -> Part | None:
        """What makes a value of those at `stops`; None where that cannot be told."""
        found: set[Node] = set()
        starts: dict[str, None] = {}
        pending = [end]
        while pending:
            name = pending.pop()
            if name in self.stops and name != end:
                starts[name] = None
                continue
            node = self.scope.producers.get(name)
            if node is None and name in self.scope.initializers and name not in self.computed:
                continue
            if node is None or len(found) > _MOST:
                return None
            if node not in found:
                found.add(node)
                pending.extend(filter(None, node.proto.input))
        return Part(tuple(sorted(found, key=self.position.__getitem__)), tuple(starts), end)
