"""Sites that do the same to one value, or to all parts of a Split: they fold together."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from bnfold.folding.rules.affine_nodes import affine_map
from bnfold.folding.sites.chains import Chain, DraftedChain, Link
from bnfold.folding.weights.affine import Affine
from bnfold.folding.weights.draft import Draft
from bnfold.graph.index import Role, Scope, Use


def equals_of(chain: DraftedChain) -> list[Chain] | None:
    """The other chains that begin with the same maps, if nobody else reads what it reads.

    None where somebody does. With a Split before them, those of all its outputs.
    """
    draft, scope = chain.draft, chain.first.node.scope
    name = draft.origin(scope, chain.first.node.input(chain.first.slot))
    if (scope, name) in draft.compared:  # each value is asked for once: readers may be many
        return None
    draft.compared.add((scope, name))
    producer = scope.producers.get(name)
    split = producer is not None and draft.op(producer) == "Split"
    names = [n for n in producer.proto.output if n] if producer and split else [name]
    found: list[Chain] = []
    for use in _reads(draft, scope, names):
        other = _same_from(draft, use, chain.links)
        if other is None:
            return None
        if other[0].node is not chain.first.node:
            found.append(other)
    return found


def _reads(draft: Draft, scope: Scope, names: list[str]) -> Iterator[Use]:
    for name in names:
        yield from draft.uses(scope, name)


def _same_from(draft: Draft, use: Use, links: Chain) -> Chain | None:
    """The chain that begins with this use, if each of its maps is that of our link."""
    found: Chain = []
    for ours in links:
        node = use.node
        if node is None or use.role is not Role.READ or node.scope is not ours.node.scope:
            return None
        one, two = affine_map(draft, ours.node), affine_map(draft, node)
        if not isinstance(one, tuple) or not isinstance(two, tuple):
            return None
        if two[0] != use.slot or not _alike(one[1], two[1]):
            return None
        found.append(Link(node, use.slot))
        if len(found) < len(links):
            uses = list(draft.uses(node.scope, node.output))
            if len(uses) != 1:
                return None
            use = uses[0]
    return found


def _alike(one: Affine, other: Affine) -> bool:
    return one.axis == other.axis and all(
        np.array_equal(a, b) for a, b in ((one.scale, other.scale), (one.shift, other.shift))
    )
