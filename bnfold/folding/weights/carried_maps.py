"""How values relate that carry maps, as a proof says it."""

from __future__ import annotations

from collections.abc import Iterable

from bnfold import steps
from bnfold.folding.weights.edits import Carry
from bnfold.graph.index import Index, Node


def refs_of(index: Index) -> dict[Node, steps.Ref]:
    """How a proof names the nodes of a model."""
    return {
        node: steps.Ref(scope.number, place)
        for scope in index.scopes for place, node in enumerate(scope.nodes)
    }  # fmt: skip


def relation_of(carries: Iterable[Carry]) -> tuple[steps.Map, steps.Map]:
    """What one map behind the other makes of a value: p(z) as it was, q(z) as it will be."""
    p: steps.Map = steps.IDENTITY
    q: steps.Map = steps.IDENTITY
    for carry in carries:
        if not carry.down:  # f′ = a(f)
            q = steps.then(q, carry.map)
        elif isinstance(q, steps.Identity):  # f = a(f′)
            p = steps.then(carry.map, p)
        else:
            q = steps.then(q, steps.inverse(carry.map))
    return p, q
