"""Trees of branches: nodes that add up convolutions of one value x, and x itself, per channel.

y = Σ scaleⱼ·(convⱼ∗x) + shift
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from bnfold.folding.rules.affine_nodes import affine_map
from bnfold.folding.rules.transparent import dropout
from bnfold.folding.weights.affine import Affine, FloatArray
from bnfold.folding.weights.draft import Draft, Operand
from bnfold.graph.index import Index, Node, Role

JOINS = ("Add", "Sub", "Sum")
SLIDING = ("AveragePool", "Conv")  # which add up what a window sees
_TERMS = 16  # of a sum that a convolution reads: sums of sums multiply
_SOURCES = 4  # values that the branches of one sum are asked to be linear in
_MOST = 100  # nodes of one tree


@dataclass(frozen=True, eq=False)
class Composed:
    """A convolution or an average pool of scale·(inner∗x) + shift.

    Of a sum of several, the first one has the shift, and the bias of the outer one.
    """

    outer: Node
    inner: Term
    scale: FloatArray
    shift: FloatArray | None


Term = Node | Composed | None  # a convolution of x, one of what another one makes, or x itself


@dataclass(frozen=True)
class LinearSum:
    """Σ scaleⱼ·(termⱼ∗x) + shift."""

    scales: Mapping[Term, FloatArray]
    shift: FloatArray

    @property
    def channels(self) -> set[int]:
        """How many channels there are, by each of the vectors; a vector of 1 serves any number."""
        return {len(vector) for vector in (*self.scales.values(), self.shift)} - {1}

    def then(self, a: Affine) -> LinearSum | None:
        """The sum with a map behind it; None where the numbers of channels disagree."""
        if len(self.channels | ({a.channels} - {1})) > 1:
            return None
        scales = {term: scale * a.scale for term, scale in self.scales.items()}
        return LinearSum(scales, self.shift * a.scale + a.shift)

    def plus(self, other: LinearSum, sign: float) -> LinearSum | None:
        """The sum with another one added, or taken away; None likewise."""
        if len(self.channels | other.channels) > 1:
            return None
        scales = dict(self.scales)
        for term, scale in other.scales.items():
            scales[term] = scales.get(term, np.zeros(1)) + sign * scale
        return LinearSum(scales, self.shift + sign * other.shift)


def composed_sum(node: Node, inner: LinearSum) -> LinearSum | None:
    """What a convolution or pool makes of a sum; None where that has too many terms."""
    if len(inner.scales) > _TERMS:
        return None
    scales: dict[Term, FloatArray] = {
        Composed(node, term, scale, None if place else inner.shift): np.ones(1)
        for place, (term, scale) in enumerate(inner.scales.items())
    }
    return LinearSum(scales, np.zeros(1))


class Survey:
    """What each node of a model adds up or maps, asked once and in order.

    In order, because what is found out about a value is remembered for those that are made from it.
    """

    def __init__(self, draft: Draft, index: Index) -> None:
        self.draft = draft
        self.position = {node: place for place, node in enumerate(index.nodes())}
        self.maps: dict[Node, Affine] = {}
        self._slots = {node: self._linear_inputs(node) for node in self.position}

    def slots(self, node: Node) -> list[int]:
        """The slots of what the node adds up or maps per channel; none where it does neither."""
        return [] if self.draft.is_removed(node) else self._slots[node]

    def _linear_inputs(self, node: Node) -> list[int]:
        draft = self.draft
        found = affine_map(draft, node)
        if isinstance(found, tuple):
            slot, self.maps[node] = found
            return [slot] if found[1].axis in (None, 1) else []
        if node.op == "Identity":
            return [0]
        if node.op == "Dropout":
            kept = dropout(draft, node, Affine.identity(), True)
            return [0] if isinstance(kept, Affine) else []
        adds = node.op in JOINS and (node.scope.opset >= 7 or node.op == "Sum")
        slots = list(range(len(node.proto.input)))
        if adds and not any(isinstance(draft.operand(node, slot), Operand) for slot in slots):
            return slots
        return []


def sources_of(survey: Survey, root: Node) -> list[str]:
    """What the convolutions read that are reached from the root through linear operators alone.

    The last ones first: the branches can be linear in no other value than one of these.
    """
    producers, position = root.scope.producers, survey.position
    found: dict[str, int] = {}
    seen: set[Node] = set()
    pending = [root]
    while pending and len(seen) < _MOST:
        node = pending.pop()
        if node in seen:
            continue
        seen.add(node)
        names = [node.input(slot) for slot in survey.slots(node)]
        if survey.draft.op(node) in SLIDING and not survey.draft.is_removed(node):
            names = [node.input(0)]
            if survey.draft.op(node) == "Conv":
                found[names[0]] = position[producers[names[0]]] if names[0] in producers else -1
        pending.extend(producers[name] for name in names if name in producers)
    return sorted(found, key=lambda name: found[name], reverse=True)[:_SOURCES]


class Tree:
    """The nodes between the root and the source, and the sum that they make of it."""

    def __init__(self, survey: Survey, root: Node, source: str) -> None:
        self.survey = survey
        self.draft = survey.draft
        self.root = root
        self.source = source
        self.nodes: dict[Node, None] = {}  # in the order in which they were reached
        self._sums: dict[str, LinearSum | None] = {}
        self.outer: set[Node] = set()  # convolutions and pools of what others make
        self.sum = self._sum_of(root.output) if source else None

    def _sum_of(self, name: str) -> LinearSum | None:
        """What the value is in terms of the source; None where it is no sum of branches."""
        if name == self.source:
            return LinearSum({None: np.ones(1)}, np.zeros(1))
        if name not in self._sums:
            self._sums[name] = None
            node = self.root.scope.producers.get(name)
            if node is not None and node.output == name and len(self.nodes) < _MOST:
                self.nodes[node] = None
                self._sums[name] = self._made_by(node)
        return self._sums[name]

    def _made_by(self, node: Node) -> LinearSum | None:
        if self.draft.op(node) in SLIDING:
            if self.draft.is_removed(node):
                return None
            if node.input(0) == self.source and self.draft.op(node) == "Conv":
                return LinearSum({node: np.ones(1)}, np.zeros(1))
            inner = self._sum_of(node.input(0))
            self.outer.add(node)
            return None if inner is None else composed_sum(node, inner)
        slots = self.survey.slots(node)
        sums = [self._sum_of(node.input(slot)) for slot in slots]
        total: LinearSum | None = None
        for slot, branch in enumerate(sums):
            if branch is None:
                return None
            sign = -1.0 if node.op == "Sub" and slot == 1 else 1.0
            total = branch if slot == 0 else total.plus(branch, sign) if total else None
        own = self.survey.maps.get(node)
        return total.then(own) if total is not None and own is not None else total

    def path(self, conv: Node) -> list[tuple[Node, int]]:
        """A way from the root down to `conv`: nodes, each with the slot that leads on."""
        leads: dict[Node, tuple[Node, int]] = {}  # from a node to one above it
        for node in self.nodes:  # a node stands behind one that reads it
            for slot in [0] if node in self.outer else self.survey.slots(node):
                below = self.root.scope.producers.get(node.input(slot))
                if below is not None and below in self.nodes:
                    leads.setdefault(below, (node, slot))
        way = [leads[conv]]
        while way[-1][0] is not self.root:
            way.append(leads[way[-1][0]])
        return way[::-1]

    def outside(self) -> tuple[str, str]:
        """A value inside the tree that is read outside, with its reader; empty if there is none."""
        for node in self.nodes:
            for name in node.proto.output if node is not self.root else ():
                for use in self.draft.uses(self.root.scope, name) if name else ():
                    if use.role is not Role.READ or use.node not in self.nodes:
                        return name, use.node.label if use.node else "the list of outputs"
        return "", ""
