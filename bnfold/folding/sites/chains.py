"""Chains of maps: BatchNormalizations and constants in a row, which together are one map."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from bnfold import steps
from bnfold.folding.rules.affine_nodes import ARITHMETIC, affine_map
from bnfold.folding.weights.affine import Affine
from bnfold.folding.weights.draft import Draft
from bnfold.folding.weights.edits import Remove
from bnfold.graph.index import BATCH_NORM, Index, Node, Role
from bnfold.reasons import Refusal


@dataclass(frozen=True)
class Link:
    """One node of a chain, with the slot of its data."""

    node: Node
    slot: int


Chain = list[Link]


class DraftedChain:
    """A chain as it stands in the draft."""

    def __init__(self, draft: Draft, chain: Chain) -> None:
        self.draft = draft
        self.links = chain
        self.first, self.last = chain[0], chain[-1]

    @property
    def nodes(self) -> set[Node]:
        """All of its nodes."""
        return {link.node for link in self.links}

    def has_norm(self) -> bool:
        """Whether there is a BatchNormalization in it."""
        return any(link.node.op == BATCH_NORM for link in self.links)

    def may_be_batch_norm(self, a: Affine) -> bool:
        """Whether it is, or may stand for, a BatchNormalization, and not for a bias."""
        return a.scales or self.has_norm()

    def shift_holder(self) -> Link | None:
        """An Add, or a Sub of a constant, in the chain."""
        for link in self.links:
            if link.node.op == "Add" or (link.node.op == "Sub" and link.slot == 0):
                return link
        return None

    def follows(self, op: str) -> bool:
        """Whether such an operator makes what the chain reads."""
        producer = self.draft.producer(
            self.first.node.scope, self.first.node.input(self.first.slot)
        )
        return producer is not None and self.draft.op(producer) == op

    def bypassable(self) -> bool:
        """Whether the chain can go without a reader noticing: a graph output must keep its name."""
        scope, name = self.first.node.scope, self.first.node.input(self.first.slot)
        if all(use.node is not None for use in self.draft.uses(scope, self.last.node.output)):
            return True
        name = self.draft.origin(scope, name)
        return name in scope.producers and len(list(self.draft.uses(scope, name))) == 1

    def behind(self) -> dict[Node, steps.Map]:
        """For each node of the chain the map of all that stand behind it."""
        found: dict[Node, steps.Map] = {}
        rest: steps.Map = steps.IDENTITY
        for link in reversed(self.links):
            found[link.node] = rest
            rest = steps.then(self.draft.own_map(link.node, link.slot), rest)
        return found

    def remove(self, nodes: set[Node]) -> None:
        """Plan that these of its nodes go."""
        for link in self.links:
            if link.node in nodes:
                self.draft.add(Remove(link.node, link.slot))


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
