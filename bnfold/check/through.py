"""One node and its counterpart: what their outputs are in terms of each other.

The node lets the maps before it pass (`laws`, `shared`), or its counterpart's constants have taken
them, and those that stand behind it (`absorbed`, `kept`, `held`).
"""

from __future__ import annotations

import numpy as np

from bnfold.check import absorbed, kernels, sites
from bnfold.check.absorbed import Absorption
from bnfold.check.counterparts import attributes
from bnfold.check.exact import Real
from bnfold.check.held import held
from bnfold.check.kept import nearest, paddings, raised, repadded
from bnfold.check.laws import LAWS, carried
from bnfold.check.maps import Map, identity, quotient
from bnfold.check.numbers import told
from bnfold.check.outcome import CertifiedFold, Finding, Outcome
from bnfold.check.relations import Known, Pairs, Relation, maker, outputs
from bnfold.check.shared import shared
from bnfold.check.view import View, alike
from bnfold.check.wanted import Candidate, Wanted
from bnfold.graph import Node

_NORMS = ("InstanceNormalization", "GroupNormalization")


def _present(folded: View) -> set[str]:
    """The names of the nodes of a folded model.

    Where a Mul and an Add make a value, they may be a BatchNormalization without a name.
    """
    nodes = list(folded.index.nodes())
    written_out = {
        f"BatchNormalization→{add.output}" for add in nodes
        if add.op == "Add" and (mul := add.scope.producers.get(add.input(0))) and mul.op == "Mul"
    }  # fmt: skip
    return {node.label for node in nodes} | written_out


class Through:
    """Leads relations through pairs of nodes, and records what was taken and what is wrong."""

    def __init__(self, original: View, folded: View, loose: float = 0.0) -> None:
        self.original = original
        self.folded = folded
        maxima = any(node.op == "Max" for node in folded.index.nodes())
        self.wanted = Wanted(original, raises=maxima)
        self.loose = loose
        self.present = _present(folded)
        self.pairs = Pairs()

    # --- findings --------------------------------------------------------------------------------

    def _wrong(self, node: str, sentence: str) -> None:
        self.pairs.findings.append(Finding(Outcome.INVALID, node, sentence))

    def _unknown(self, node: str, sentence: str) -> None:
        self.pairs.findings.append(Finding(Outcome.UNDECIDED, node, sentence))

    def _apart(self, relation: Relation) -> str:
        settled = quotient(relation.p, relation.q)
        if settled is None:
            return "cannot be told from the folded model's, which has lost a channel"
        away = ~(
            (np.abs(settled.scale.value - 1) <= settled.scale.error).repeat(
                len(settled) // len(settled.scale)
            )
            & (np.abs(settled.shift.value) <= settled.shift.error).repeat(
                len(settled) // len(settled.shift)
            )
        )
        channel = int(np.argmax(away))
        return f"would be {settled.channel(channel)} of the folded model's, in channel {channel}"

    # --- one pair --------------------------------------------------------------------------------

    def _through(
        self, node: Node, other: Node, inputs: list[Relation | None],
        known: Known,
    ) -> Known:  # fmt: skip
        """What the outputs of a node are, in terms of those of its counterpart."""
        nothing: Known = dict.fromkeys(filter(None, node.proto.output))
        same = outputs(node, other)
        linear = node.op in kernels.LINEAR and other.op in kernels.LINEAR
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
            slot for slot in range(len(node.proto.input) if joins else node.op in LAWS)
            if inputs[slot] is None
            and self.original.is_constant(node.scope, node.input(slot))
            and self.folded.is_constant(other.scope, other.input(slot))
        ]  # fmt: skip
        changed = [slot for slot in slots if not self._equal_at(node, other, slot)]
        found = {slot: self._changed(node, other, slot) for slot in changed}
        related = [*inputs, *found.values()]
        if None in found.values() or not any(relation is not None for relation in related):
            return inputs
        same = {slot: Relation(other.input(slot)) for slot in slots}
        return [found.get(slot) or same.get(slot, relation) for slot, relation in enumerate(inputs)]

    def _changed(self, node: Node, other: Node, slot: int) -> Relation | None:
        """The constant c′ = u(c) at one input; None where the two can be no such thing."""
        before = self.original.array(node.scope, node.input(slot))
        after = self.folded.array(other.scope, other.input(slot))
        if before is None or after is None or before.shape != after.shape:
            return None

        def check(candidate: Candidate) -> Absorption | None:
            u = candidate.map
            if u.axis is not None and len(u) not in (1, *before.shape[u.axis : u.axis + 1]):
                return None
            return absorbed.constant(
                after, before, u.axis, u.scale, u.shift, other.input(slot), candidate,
                self._loose(node),
            )  # fmt: skip

        result = absorbed.best(self.wanted.at(node, slot), self.present, check)
        if result is None:
            return None
        return self._took(node, other, result, other.input(slot))[node.output]

    def _equal_at(self, node: Node, other: Node, slot: int) -> bool:
        return self._equal(node, node.input(slot), other, other.input(slot))

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
        relation = inputs[0]
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

    def _loose(self, node: Node) -> float:
        """How far the constants of a node may be off, in u: those that are dequantised by more."""
        names = (name for name in node.proto.input if name)
        quantized = any(self.original.is_quantized(node.scope, name) for name in names)
        return max(self.loose, absorbed.DEQUANTISED) if quantized else self.loose

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

    def _equal(self, node: Node, name: str, other: Node, theirs: str) -> bool:
        one, two = self.original.array(node.scope, name), self.folded.array(other.scope, theirs)
        if one is None or two is None:
            return one is two is None and name == theirs
        return alike(one, two)

    def _linear(
        self, node: Node, other: Node, inputs: list[Relation | None], same: dict[str, Relation]
    ) -> Known | None:
        one, two = kernels.linear(self.original, node), kernels.linear(self.folded, other)
        if one is None or two is None:
            return None
        data = inputs[1 - one.slot] if node.op == "MatMul" else inputs[0]
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
        result = absorbed.linear(
            one, two, e.scale_only() if passed is not None else e, candidates, self.loose,
            self.present,
        )  # fmt: skip
        if isinstance(result, str):
            self._wrong(node.label, f"{other.label} cannot stand for it: {result}")
            return nothing
        found = self._took(node, other, result, same[node.output].f)
        if passed is not None:  # W(x + t) = W(x) + ΣW·t, which is still to come
            response = absorbed.response(one, passed.spread(one.inputs))
            p = Map(one.out_axis, Real.full(1.0, one.channels), response)
            q = result.chosen.map
            found[node.output] = self._settled(Relation(same[node.output].f, p, q, other.label))
        return found

    def _kept_map(
        self, node: Node, other: Node, at: tuple[int, Map], inputs: list[Relation | None]
    ) -> Known | None:
        relation = inputs[at[0]]
        theirs = sites.site(self.folded, other)
        assert relation is not None
        if theirs is None and node.op != "BatchNormalization":
            return self._held(node, other, inputs)
        if theirs is None:
            self._unknown(node.label, f"{other.label} is no map that can be read")
            return None
        own = relation.p.then(at[1])
        new = relation.q.then(theirs[1])
        candidates = self.wanted.of(node.scope, node.output)
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

    def _types(self, node: Node, view: View | None = None) -> list[str]:
        """The element types of a node's constants."""
        view = view or self.original
        arrays = (view.array(node.scope, name) for name in node.proto.input if name)
        return [array.dtype.name for array in arrays if array is not None]

    def _held(self, node: Node, other: Node, inputs: list[Relation | None]) -> Known | None:
        """Constants that do not vary along one axis only, and the ends of normalisations."""
        loose = self._loose(node)
        found = held(
            self.original, self.folded, node, other, inputs, self.wanted, self.present, loose
        )
        if isinstance(found, str):
            self._unknown(node.label, found)
            return None
        return self._took(node, other, found, other.output)

    def _took(self, node: Node, other: Node, result: Absorption, f: str) -> Known:
        """Record what a node took; the maps it made are now part of what it gives."""
        tallies = result.tallies
        if tallies:
            k = max(tally.k for tally in tallies.values())
            self.pairs.changed[other] = 1.0 if result.faults else k
            if result.moved:
                self.pairs.taken.setdefault(other, set()).update(tallies)
            self.pairs.folds.append(
                CertifiedFold(
                    other.label, other.op, result.chosen.sites, result.length,
                    k, sum(t.numbers for t in tallies.values()),
                    sum(t.misrounded for t in tallies.values()),
                    sum(t.decided for t in tallies.values()), result.faults,
                )
            )  # fmt: skip
        if any(2 * tally.far > tally.numbers for tally in tallies.values()):
            self._unknown(other.label, "no map that stands behind it explains its constants")
            return {node.output: None}
        for name, tally in tallies.items():
            if tally.faults:
                self._wrong(other.label, told(name, tally, result.chosen.sites))
        return {node.output: self._settled(Relation(f, identity(), result.chosen.map, other.label))}

    def _divided(self, relation: Relation, *, scales: bool = False) -> Relation:
        settled = quotient(relation.p, relation.q, scales=scales)
        if settled is None:
            return relation
        return Relation(relation.f, settled, maker=relation.maker)

    def _settled(self, relation: Relation) -> Relation:
        """The relation without what both sides have in common, if that leaves no scale."""
        divided = self._divided(relation)
        return relation if divided.p.scales else divided

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
