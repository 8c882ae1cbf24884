"""Nodes that let maps pass: what each output is, if nothing of the node takes any."""

from __future__ import annotations

import numpy as np

from bnfold import steps
from bnfold.graph.index import Node
from bnfold.proof.kernel.ledger import Known, Ledger, Place
from bnfold.proof.kernel.meaning import changed_between
from bnfold.proof.laws import arithmetic, beside
from bnfold.proof.laws.absorbing import Pair, Taken, UnprovenError, WrongError, require_constant
from bnfold.proof.laws.joining import JOINING, joined
from bnfold.proof.laws.passing import LAWS, passed
from bnfold.proof.laws.sites import constant_slot
from bnfold.proof.laws.spreading import Spread, moved
from bnfold.proof.numbers.maps import Relation
from bnfold.steps import Ref


class Passing(Ledger):
    """Leads relations through nodes that pass them on."""

    def _passed(
        self, pair: Pair, ref: Ref, inputs: list[Known | None]
    ) -> dict[int, Known | Relation]:
        node, other = pair.node, pair.other
        relations = [None if known is None else known.relation for known in inputs]
        if node.op == "Relu" and other.op == "Max" and relations[0] is not None:
            taken, relation = beside.maximum(pair, relations[0])
            if other.proto.attribute:
                raise WrongError("a Max with attributes")
            self.changed.add(other)
            self._took(pair, taken, relation)
            return {0: relation}
        self._require_same_operator(node, other)
        for slot in range(len(inputs)):
            if (ref, slot) in self.taken:
                self.used.add((ref, slot))
                relations[slot] = self._taken_constant(pair, slot, self.taken[ref, slot])
        some = [r for r in relations if r is not None]
        outputs = range(len(node.proto.output))
        if node.op in ("Shape", "Size") or all(r.same for r in some):
            if node.op == "Pad" and some and self._repadded(pair, relations[0]):
                raise WrongError("its value has changed, and what it reads has not")
            return dict.fromkeys(outputs, self.same)
        if node.op == "Pad" and relations[0] is not None and len(some) == 1:
            padded = self._repadded(pair, relations[0])
            if padded is not None:
                self._took(pair, *padded)
                return {0: padded[1]}
        if node.op in LAWS and relations[0] is not None and all(r.same for r in some[1:]):
            try:
                return self._through_all(node, relations[0])
            except UnprovenError:
                if node.op == "Reshape" and self._spreads(node, other, relations[0]):
                    return {}
                raise
        if node.op in JOINING:
            if len(some) == len([name for name in node.proto.input if name]):
                return {0: self._joined(node, some)}
            if node.op in ("Concat", "Sum"):
                whole = [r or self.same for r in relations]
                return {0: self._joined(node, whole)}
            if len(some) == 1 and constant_slot(self.original, node) is not None:
                passing = arithmetic.passes_beside(pair, some[0])
                if isinstance(passing, str):
                    raise UnprovenError(
                        f"it reads what {apart(some[0])}, which does not pass: {passing}"
                    )
                return {0: passing}
        culprit = next(r for r in some if not r.same)
        raise UnprovenError(f"it reads what {apart(culprit)}, which {node.op} does not let pass")

    def _spreads(self, node: Node, other: Node, relation: Relation) -> bool:
        """Whether the channels now lie on several axes, where they are known but no relation is."""
        start = Spread.of(relation)
        spread = None if start is None else moved(self.original, node, start)
        if spread is not None:
            place = (other.scope, other.output)
            self.spread[node.scope, node.output] = (Known(place, relation), spread)
        return spread is not None

    def _on_several_axes(self, node: Node, other: Node) -> dict[int, Known | Relation]:
        """A Reshape or Transpose of what has its channels on several axes."""
        ref, place = Ref(*self.original.positions[node]), self._place(node)
        assert place is not None
        known, spread = self.spread[place]
        if ref in self.carried or any((ref, slot) in self.taken for slot in (0, 1)):
            raise WrongError(f"a {node.op} has no constants that take maps")
        if node.call_attribute():
            raise UnprovenError("an attribute that only a call gives")
        self._require_same_operator(node, other)
        self.known[place] = known  # for this node alone
        try:
            inputs = self._inputs(node, other)
        finally:
            self.known[place] = None
        if any(k is not None and not k.relation.same for k in inputs[1:]):
            raise UnprovenError("a shape that is not the same")
        behind = moved(self.original, node, spread)
        if behind is None:
            raise UnprovenError("channels that do not stay apart")
        if behind.is_whole:
            return {0: behind.applied(known.relation)}
        there = Known((other.scope, other.output), known.relation)
        self.spread[node.scope, node.output] = (there, behind)
        return {}

    def _place(self, node: Node) -> Place | None:
        """Where a node's first input is made."""
        owner = node.scope.owner(node.input(0)) if node.input(0) else None
        return None if owner is None else (owner, node.input(0))

    def _through_all(self, node: Node, relation: Relation) -> dict[int, Known | Relation]:
        """What each output is; of those that nothing passes to, nothing is known."""
        found: dict[int, Known | Relation] = {}
        for place, name in enumerate(node.proto.output):
            try:
                found[place] = self._through(node, place, relation)
            except UnprovenError:
                if place == 0 or node.scope.uses.get(name):
                    raise
        return found

    def _through(self, node: Node, output: int, relation: Relation) -> Relation:
        """Both maps pass, or what is left of them without what they have in common."""
        why = ""
        for tried in relation.forms():
            p, q = (passed(self.original, node, output, a) for a in (tried.p, tried.q))
            if not isinstance(p, str) and not isinstance(q, str):
                return Relation(p, q)
            why = why or (p if isinstance(p, str) else str(q))
        raise UnprovenError(f"it reads what {apart(relation)}, which does not pass: {why}")

    def _joined(self, node: Node, relations: list[Relation]) -> Relation:
        why = ""
        for form in (lambda r: r, Relation.down, Relation.up):
            tried = [form(r) for r in relations]
            if any(r is None for r in tried):
                continue
            p = joined(self.original, node, [r.p for r in tried if r is not None])
            q = joined(self.original, node, [r.q for r in tried if r is not None])
            if not isinstance(p, str) and not isinstance(q, str):
                return Relation(p, q)
            why = why or (p if isinstance(p, str) else str(q))
        raise UnprovenError(
            f"what it reads is not the same in both models, and does not pass: {why}"
        )

    def _taken_constant(self, pair: Pair, slot: int, expression: steps.Map) -> Relation:
        """A constant that is a value, and has taken a map."""
        a = self.maps.map(expression)
        before, after = pair.before(slot), pair.after(slot)
        if before is None or after is None:
            raise WrongError("a map of a constant that is not there")
        if before.shape != after.shape:
            raise WrongError("a constant of another shape")
        if a.axis is not None and (
            a.axis >= before.ndim or len(a) not in (1, before.shape[a.axis])
        ):
            raise WrongError("a map of other channels")
        taken = Taken()
        tally = taken.tally(pair.other.input(slot), slot)
        require_constant(
            after, before, a.axis, a.scale, a.shift, before.ndim, tally, pair.tolerance(slot)
        )  # fmt: skip
        relation = Relation(self.identity, a)
        self._took(pair, taken, relation)
        return relation

    def _repadded(self, pair: Pair, relation: Relation | None) -> tuple[Taken, Relation] | None:
        names = [n.input(2) for n in (pair.node, pair.other)]
        if relation is None or names[0] == names[1]:
            return None
        return beside.padding(pair, relation)

    def _inputs(self, node: Node, other: Node) -> list[Known | None]:
        raise NotImplementedError

    def _require_same_operator(self, node: Node, other: Node) -> None:
        """With the same attributes; where places tell nodes apart, these are compared as bytes."""
        if node.op != other.op:
            raise WrongError(f"it was a {node.op}, and is a {other.op}")
        if self.pairing.named:
            name = changed_between(self.original, node, self.folded, other)
            if name is not None:
                raise WrongError(f"its attribute {name!r} has changed")


def apart(relation: Relation) -> str:
    """How two values differ, in words."""
    e = relation.original_of_folded()
    if e is None:
        return "cannot be told from the folded model's, which has lost a channel"
    nothing = np.zeros(1, np.int64)
    away = [not e.functions.equal(e.ids[i : i + 1], nothing) for i in range(len(e))]
    channel = away.index(True) if True in away else 0
    return f"would be {e.channel(channel)} of the folded model's, in channel {channel}"
