"""Chains of maps: BatchNormalizations and constants in a row, which together are one map."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from bnfold.folding.rules.affine_nodes import ARITHMETIC, affine_map
from bnfold.folding.weights.affine import Affine
from bnfold.folding.weights.draft import Draft
from bnfold.graph.index import Index, Node, Role
from bnfold.reasons import Refusal


@dataclass(frozen=True)
class Link:
    """One node of a chain, with the slot of its data."""

    node: Node
    slot: int


Chain = list[Link]


def chains_of(draft: Draft, index: Index) -> Iterator[Chain]:
    """Every maximal chain of maps along one axis, in the order of their last nodes."""
    chains: dict[Node, tuple[Chain, Affine]] = {}
    for node in index.nodes():
        found = None if draft.is_removed(node) else affine_map(draft, node)
        of_constants = found is None and node.op in ARITHMETIC and _ends_constants(draft, node)
        if isinstance(found, Refusal) or of_constants:
            yield [Link(node, 0)]
        if not isinstance(found, tuple):
            continue
        slot, a = found
        before = node.scope.producers.get(node.input(slot))
        chain, total = chains.get(before, ([], None)) if before else ([], None)
        joined = total.then(a) if total is not None else None
        if before is None or joined is None or not _only_reader(before, node, slot):
            chains[node] = ([Link(node, slot)], a)
        else:
            del chains[before]
            chains[node] = ([*chain, Link(node, slot)], joined)
    yield from (chain for chain, _ in chains.values())


def recut(draft: Draft, chain: Chain) -> Iterator[Chain]:
    """The chain, cut where sites behind it have made its constants vary along another axis."""
    part: Chain = []
    total: Affine | None = None
    for link in chain:
        found = affine_map(draft, link.node)
        joined = total.then(found[1]) if total is not None and isinstance(found, tuple) else None
        if part and joined is None:
            yield part
            part = []
        if isinstance(found, tuple):
            total = joined or found[1]
            part.append(link)
        else:
            if isinstance(found, Refusal) or draft.constants.is_made(link.node):
                yield [link]
            total = None
    if part:
        yield part


def _ends_constants(draft: Draft, node: Node) -> bool:
    """Whether a node makes a constant of constants that one reads which depends on the input."""
    if not draft.constants.is_made(node):
        return False
    readers = (use.node for use in node.scope.uses[node.output])
    return any(reader is not None and not draft.constants.is_made(reader) for reader in readers)


def _only_reader(before: Node, node: Node, slot: int) -> bool:
    uses = before.scope.uses[before.output]
    return [(use.role, use.node, use.slot) for use in uses] == [(Role.READ, node, slot)]
