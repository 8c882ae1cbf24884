"""One node and its counterpart: what their outputs are in terms of each other.

The node lets the maps before it pass (`laws`, `shared`), or its counterpart's constants have taken
them, and those that stand behind it (`absorption`).
"""

from __future__ import annotations

import numpy as np

from bnfold.graph.index import Node
from bnfold.proof.numbers.reals import Real
from bnfold.proof.search.absorption import linear_constants
from bnfold.proof.search.absorption.candidates import Candidate, best, standing
from bnfold.proof.search.absorption.kept_maps import nearest, paddings, raised, repadded
from bnfold.proof.search.absorption.linear_constants import Absorption
from bnfold.proof.search.absorption.other_constants import held
from bnfold.proof.search.laws.multi_input import shared
from bnfold.proof.search.laws.table import LAWS, carried
from bnfold.proof.search.ledger import Ledger
from bnfold.proof.search.node_matching import attributes
from bnfold.proof.search.numbers.maps import Map, identity, quotient
from bnfold.proof.search.numbers.relation import Known, Relation, maker, outputs
from bnfold.proof.search.reading import affine_nodes, linear_nodes
from bnfold.proof.search.reading.model_view import alike

_NORMS = ("InstanceNormalization", "GroupNormalization")


class Through(Ledger):
    """Leads relations through pairs of nodes."""

    def _through(
        self, node: Node, other: Node, inputs: list[Relation | None],
        known: Known,
    ) -> Known:  # fmt: skip
        """What the outputs of a node are, in terms of those of its counterpart."""
        nothing: Known = dict.fromkeys(filter(None, node.proto.output))
        same = outputs(node, other)
        linear = node.op in linear_nodes.LINEAR and other.op in linear_nodes.LINEAR
        if node.op in ("Shape", "Size"):  # which do not read values
            return dict(same)
        if node.op == "Relu" and other.op == "Max":
            return self._raised(node, other, inputs[0]) or nothing
        if node.op == other.op == "Pad":
            if found := self._repadded(node, other, inputs):
                return found
            if attributes(node).get("value") != attributes(other).get("value"):
                self._wrong(node.label, f"{other.label} has another value than in the original")
        at = self.wanted.site(node)
        if at is not None and other.op in ("BatchNormalization", "Add", "Sub", "Mul", "Div"):
            return self._kept_map(node, other, at, inputs) or nothing
        if linear:
            found = self._linear(node, other, inputs, same)
            if found is not None:
                return found
        if node.op != other.op:
            self._unknown(node.label, f"{other.label} stands for it, and cannot be read")
            return nothing
        if node.op == "Gemm" and attributes(node) != attributes(other):
            self._wrong(node.label, f"{other.label} has other attributes than in the original")
            return nothing
        inputs = self._with_constants(node, other, inputs)
        plain = all(relation is None or relation.plain for relation in inputs)
        single = not any(node.proto.output[1:]) or node.op == "Split"
        if plain:
            return self._unchanged(node, other, inputs, known, same)
        rest = all(relation is None or relation.plain for relation in inputs[1:])
        if (node.op in LAWS or node.op == "Pad") and (
            name := self._changed_constant(node, other, inputs)
        ):
            self._wrong(node.label, f"its constant {name!r} is not the same")
            return nothing
        if node.op in LAWS and single and rest and inputs[0] is not None:
            return self._passed(node, inputs[0], same)
        both = shared(self.original, node, inputs)
        if isinstance(both, str):  # the same without what both sides have in common
            settled = [r and self._divided(r) for r in inputs]
            again = shared(self.original, node, settled)
            both = both if again is None or isinstance(again, str) else again
        if both is not None:
            if isinstance(both, str):
                return self._stopped(node, both, inputs, nothing)
            p, q = both
            return {node.output: self._settled(Relation(other.output, p, q, maker(inputs)))}
        if node.op in ("Add", "Sub", "Mul", "Div", "LayerNormalization", *_NORMS):
            return self._held(node, other, inputs) or nothing
        return self._stopped(node, "an operator that lets no map pass", inputs, nothing)

    def _with_constants(
        self, node: Node, other: Node, inputs: list[Relation | None]
    ) -> list[Relation | None]:
        """The inputs, with constants that have taken maps among what is related to each other.

        A map that moves up into an embedding's table or a class token ends in such a constant.
        """
        joins = node.op in ("Concat", "Sum")
        slots = [
            slot for slot in range(len(inputs) if joins else min(len(inputs), node.op in LAWS))
            if inputs[slot] is None
            and self.original.is_constant(node.scope, node.input(slot))
            and self.folded.is_constant(other.scope, other.input(slot))
        ]  # fmt: skip
        found = {slot: self._constant(node, other, slot) for slot in slots}
        if None in found.values() or all(r is None or r.plain for r in (*inputs, *found.values())):
            return inputs
        return [found.get(slot, relation) for slot, relation in enumerate(inputs)]

    def _constant(self, node: Node, other: Node, slot: int) -> Relation | None:
        """The constant c′ = u(c) at one input; None where the two can be no such thing.

        One that is the same in both models may have taken a map as well: zeros take every scale.
        """
        before = self.original.array(node.scope, node.input(slot))
        after = self.folded.array(other.scope, other.input(slot))
        if before is None or after is None or before.shape != after.shape:
            return None
        name, loose = other.input(slot), self._loose(node)

        def check(candidate: Candidate) -> Absorption | None:
            u = candidate.map
            if u.axis is not None and len(u) not in (1, *before.shape[u.axis : u.axis + 1]):
                return None
            return linear_constants.constant(
                after, before, u.axis, u.scale, u.shift, name, candidate, loose
            )

        if not alike(before, after):
            result = best(self.wanted.at(node, slot), self.present, check)
            return None if result is None else self._took(node, other, result, name)[node.output]
        if before.dtype.kind not in "fV" or np.any(before):
            return Relation(name)
        zeros = [c for c in self.wanted.at(node, slot) if not c.map.shifts]
        taken = min(zeros, key=lambda c: standing(c, self.present))
        return self._settled(Relation(name, identity(), taken.map, other.label))

    def _raised(self, node: Node, other: Node, relation: Relation | None) -> Known | None:
        """max(x, 0) as max(u(x), u(0)), which is u(max(x, 0)) where u keeps the order."""
        u = quotient(relation.q, relation.p) if relation is not None else None
        result = None
        if u is not None and u.keeps_order:
            result = raised(self.folded, other, u, self.loose)
        if result is None:
            self._unknown(node.label, f"nothing says what {other.label} makes of it")
            return None
        return self._took(node, other, result, other.output)

    def _repadded(
        self, node: Node, other: Node, inputs: list[Relation | None]
    ) -> Known | None:  # fmt: skip
        """Pad(x) with c around it as Pad(u(x)) with u(c), which is u(Pad(x)); else None."""
        relation = inputs[0] if inputs else None
        if relation is None or any(r is not None for r in inputs[1:]):
            return None
        u = quotient(relation.q, relation.p)
        constant = node.attribute("mode", b"constant") == b"constant"
        pads = [paddings(view, n) for view, n in ((self.original, node), (self.folded, other))]
        if u is None or u.is_identity or not constant or pads[0] is None or pads[0] != pads[1]:
            return None
        if u.axis is not None and any(pads[0].get(u.axis, (0, 0))):
            return None  # the channels are no longer where they were
        result = repadded(self.original, self.folded, node, other, u, self.loose)
        if result is None or result.faults:
            return None
        return self._took(node, other, result, other.output)

    def _stopped(
        self, node: Node, why: str, inputs: list[Relation | None],
        nothing: Known,
    ) -> Known:  # fmt: skip
        held = next(r for r in inputs if r is not None and not r.plain)
        sentence = f"what {node.label} reads {self._apart(held)}, which does not pass it: {why}"
        if why in ("a shift", "a negative scale"):
            self._wrong(held.maker or node.label, sentence)
        else:
            self._unknown(held.maker or node.label, sentence)
        return nothing

    def _passed(self, node: Node, relation: Relation, same: dict[str, Relation]) -> Known:
        """What each output is where both maps pass, or what is left of them without the common."""
        found: Known = {}
        for place, name in enumerate(node.proto.output):
            if not name:
                continue
            for given in (
                relation, self._divided(relation), self._divided(relation, scales=True)
            ):  # fmt: skip
                p, q = (carried(self.original, node, a, place) for a in (given.p, given.q))
                if not isinstance(p, str) and not isinstance(q, str):
                    made = Relation(same[name].f, p, q, relation.maker)
                    found[name] = self._settled(made)
                    break
            else:
                why = p if isinstance(p, str) else str(q)
                found.update(self._stopped(node, why, [relation], {name: None}))
        return found

    def _linear(
        self, node: Node, other: Node, inputs: list[Relation | None], same: dict[str, Relation]
    ) -> Known | None:
        one, two = linear_nodes.linear(self.original, node), linear_nodes.linear(self.folded, other)
        if one is None or two is None:
            return None
        place = 1 - one.slot if node.op == "MatMul" else 0
        data = inputs[place]
        if data is None and self._equal_at(node, other, place):  # a constant that is multiplied
            data = Relation(other.input(place))
        if data is None or (node.op != "MatMul" and any(r is not None for r in inputs[1:])):
            return None
        nothing: Known = {node.output: None}
        e = quotient(data.p, data.q)
        if e is None:
            self._unknown(node.label, "what it reads has lost a channel")
            return nothing
        candidates = self.wanted.of(node.scope, node.output)
        if other.op == "MatMul":  # which has no place for a shift
            candidates = [c for c in candidates if not c.map.shifts]
        passed = e.shift if other.op == "MatMul" and e.shifts else None
        result = linear_constants.linear(
            one, two, e.scale_only() if passed is not None else e, candidates, self.loose,
            self.present,
        )  # fmt: skip
        if isinstance(result, str):
            self._wrong(node.label, f"{other.label} cannot stand for it: {result}")
            return nothing
        found = self._took(node, other, result, same[node.output].f)
        if passed is not None:  # W(x + t) = W(x) + ΣW·t, which is still to come
            response = linear_constants.response(one, passed.spread(one.inputs))
            p = Map(one.out_axis, Real.full(1.0, one.channels), response)
            q = result.chosen.map
            found[node.output] = self._settled(Relation(same[node.output].f, p, q, other.label))
        return found

    def _kept_map(
        self, node: Node, other: Node, at: tuple[int, Map], inputs: list[Relation | None]
    ) -> Known | None:
        relation = inputs[at[0]]
        theirs = affine_nodes.site(self.folded, other)
        if relation is None:  # a map of a constant
            if attributes(node) == attributes(other) and not self._changed_constant(
                node, other, inputs
            ):
                return {node.output: Relation(other.output)}
            self._unknown(node.label, "it reads a constant, and is not the same")
            return None
        if theirs is None and node.op != "BatchNormalization":
            return self._held(node, other, inputs)
        if theirs is None:
            self._unknown(node.label, f"{other.label} is no map that can be read")
            return None
        own = relation.p.then(at[1])
        new = relation.q.then(theirs[1])
        candidates = self._candidates(node, relation)
        if self._types(node) != self._types(other, self.folded) and node.op == other.op:
            self._wrong(node.label, "its constants are of another type")
            return None
        same = attributes(node) == attributes(other) and not self._changed_constant(
            node, other, inputs
        )
        equal = relation.plain and at[1].near(theirs[1]) and same
        if equal:
            return {node.output: Relation(other.output)}
        if own is None or new is None:
            self._unknown(node.label, "it works along another axis than the map before it")
            return None
        result = nearest(
            self.folded, other, own, relation.q, candidates, self.present, self._loose(node)
        )
        if result is None:
            self._unknown(node.label, f"no map is known that {other.label} could hold")
            return None
        return self._took(node, other, result, other.output)

    def _candidates(self, node: Node, relation: Relation | None) -> list[Candidate]:
        """What a node with a constant may owe: what is behind it, or a scale that goes on.

        (s·x) + c as s·(x + c/s): the scale before it is led past it.
        """
        found = self.wanted.of(node.scope, node.output)
        p = relation.p.scale if relation is not None else None
        if relation is None or p is None or not relation.p.scales or not np.all(p.value):
            return found
        onwards = Map(relation.p.axis, p.inverse(), Real.full(0.0, len(p)))
        return [*found, Candidate(onwards)]

    def _held(self, node: Node, other: Node, inputs: list[Relation | None]) -> Known | None:
        """Constants that do not vary along one axis only, and the ends of normalisations."""
        loose = self._loose(node)
        relation = next((r for r in inputs if r is not None), None)
        candidates = self._candidates(node, relation)
        found = held(
            self.original, self.folded, node, other, inputs, candidates, self.present, loose
        )
        if isinstance(found, str):
            self._unknown(node.label, found)
            return None
        return self._took(node, other, found, other.output)

    def _unchanged(
        self, node: Node, other: Node, inputs: list[Relation | None], known: Known,
        same: dict[str, Relation],
    ) -> Known:  # fmt: skip
        """Equal inputs make equal outputs, if the constants and the bodies are equal."""
        if node.op in ("Add", "Sub", "Mul", "Div", "LayerNormalization", *_NORMS):
            constants = [
                (a, b) for a, b in zip(node.proto.input, other.proto.input, strict=False)
                if a and self.original.is_constant(node.scope, a)
            ]  # fmt: skip
            if constants and any(not self._equal(node, a, other, b) for a, b in constants):
                found = self._held(node, other, inputs)
                return found or dict.fromkeys(same)
        if name := self._changed_constant(node, other, inputs):
            self._wrong(node.label, f"its constant {name!r} is not the same")
        self._bodies(node, other, known)
        return dict(same)

    def _changed_constant(self, node: Node, other: Node, inputs: list[Relation | None]) -> str:
        """A constant that only one of two nodes reads, or reads as one; "" for none."""
        for slot in range(max(len(node.proto.input), len(other.proto.input))):
            name, theirs = node.input(slot), other.input(slot)
            constant = self.original.is_constant(node.scope, name)
            related = slot < len(inputs) and inputs[slot] is not None
            if bool(name) != bool(theirs):
                return name or theirs
            if constant and not related and not self._equal(node, name, other, theirs):
                return name
            if name and not constant and self.folded.is_constant(other.scope, theirs):
                return name
        return ""

    def _bodies(self, node: Node, other: Node, known: Known) -> None:
        """Walk the bodies of a node; left to who walks scopes."""
        raise NotImplementedError
