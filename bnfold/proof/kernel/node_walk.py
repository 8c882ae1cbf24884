"""One node after the other: what its outputs are, by the law that it obeys."""

from __future__ import annotations

import numpy as np
from onnx import TensorProto

from bnfold import steps
from bnfold.errors import ModelError
from bnfold.graph.index import Node
from bnfold.onnx_io.protos import bodies, captured
from bnfold.proof.kernel.flattened import REGROUPING
from bnfold.proof.kernel.ledger import Known, Ledger, Place
from bnfold.proof.kernel.meaning import changed_between
from bnfold.proof.laws import arithmetic, beside, linear
from bnfold.proof.laws.absorbing import (
    Cause,
    Pair,
    Taken,
    UnknownError,
    UnprovenError,
    WrongError,
    require_constant,
)
from bnfold.proof.laws.joining import JOINING, joined
from bnfold.proof.laws.passing import LAWS, is_idle, passed
from bnfold.proof.laws.sites import SITES, TRAINS, constant_slot, trains
from bnfold.proof.numbers.maps import Map, Relation
from bnfold.steps import Ref

_OPTIONAL_OUTPUTS = ("Dropout", "GRU", "LSTM", "MaxPool", "RNN")  # which change no other one


class NodeWalk(Ledger):
    """Leads relations through the nodes of the original, one at a time."""

    def _node(self, node: Node) -> None:
        other = self.pairing.partner.get(node)
        if node.op == "Constant":
            if other is not None and not self.original.is_constant(node.scope, node.output):
                # one without numbers, or that a call gives
                plain = other.op == "Constant" and not any(other.proto.input)
                changed = changed_between(self.original, node, self.folded, other)
                if not plain or changed is not None:
                    self._say(WrongError("its attributes have changed"), node.label)
                self.known[node.scope, node.output] = Known((other.scope, other.output), self.same)
            return
        if self._is_constant(node):
            return
        ref = Ref(*self.original.positions[node])
        try:
            if ref in self.roots:
                found = self._summed(node, self.roots[ref])
            elif ref in self.kept_in_sums or (ref in self.in_sums and other is None):
                found = {}  # nothing else may read what they make
            else:
                found = self._gone(node, ref) if other is None else self._kept(node, other, ref)
        except UnknownError as unknown:
            found = self._lost(node, other, unknown.cause)
        except (WrongError, UnprovenError, ModelError, LookupError, ValueError, TypeError) as said:
            what = (
                said if isinstance(said, WrongError | UnprovenError) else UnprovenError(str(said))
            )
            found = self._lost(node, other, Cause(what, node.label))
        for place, name in enumerate(node.proto.output):
            if not name:
                continue
            relation = found.get(place)
            new = other.proto.output[place] if other and place < len(other.proto.output) else ""
            if isinstance(relation, Known):
                self.known[node.scope, name] = relation
            elif relation is None or other is None or not new:
                self.known[node.scope, name] = None
            else:
                self.known[node.scope, name] = Known((other.scope, new), relation.settled())

    def _lost(self, node: Node, other: Node | None, cause: Cause) -> dict[int, Known | Relation]:
        """Nothing is known of what a node makes, and nothing more needs to be said of it."""
        if other is not None or not self.pairing.named:
            self.say_once(cause)  # else it may be of no use to anybody, and is said where it is
        self.lost.update({(node.scope, name): cause for name in node.proto.output})
        kept = self.roots.get(Ref(*self.original.positions[node]))  # of a sum of branches
        made_by = node if kept is None else self.original.node(kept.scope, kept.node)
        other = self.pairing.partner.get(made_by) if made_by is not None else None
        if made_by is not None and other is not None:
            self.changed.add(other)
            slots = max(len(made_by.proto.input), len(other.proto.input))
            self.free.update((other, slot) for slot in range(slots))
            self.judged.update((made_by, slot) for slot in range(slots))
        return {}

    def _is_constant(self, node: Node) -> bool:
        return any(node.proto.input) and self.original.is_constant(node.scope, node.output)

    def _gone(self, node: Node, ref: Ref) -> dict[int, Known | Relation]:
        """A node that is gone: its readers get what it read, which must have become its output."""
        found: tuple[int, Map] | None = None
        if node.call_attribute():
            raise UnprovenError("an attribute that only a call gives")
        if trains(node):
            raise WrongError(f"it is gone, and {TRAINS}", certain=True)
        if node.op in SITES:
            found = self.maps.site_or_none(ref)
        elif is_idle(self.original, node) and not any(
            node.scope.uses[name] for name in node.proto.output[1:] if name
        ):
            found = (0, self.identity)
        if found is None and self.pairing.named and node.op in REGROUPING:
            known = self._input(node, 0)
            if known is not None and known.relation.same:
                self.regrouped[node.scope, node.output] = known
        if found is None:
            raise UnprovenError("it is gone, and it applies no map that is known")
        slot, a = found
        known = self._input(node, slot)
        if known is None:
            raise UnprovenError("it is gone, and it read a constant")
        p = known.relation.p.then(a)
        if p is None:
            raise UnprovenError("it works along another axis than the map before it")
        return {0: Known(known.folded, Relation(p, known.relation.q).settled())}

    def _kept(self, node: Node, other: Node, ref: Ref) -> dict[int, Known | Relation]:
        if self.pairing.named:
            self._require_same_outputs(node, other)
        inputs = self._inputs(node, other)
        if any(bodies(node.proto)):
            self._require_same_operator(node, other)
            self._require_same(node, inputs)
            for name in sorted({n for _, body in bodies(node.proto) for n in captured(body)}):
                owner = node.scope.owner(name)
                known = self.known.get((owner, name)) if owner is not None else None
                if known is not None and not known.relation.same:
                    raise UnprovenError(f"its body reads {name!r}, which {apart(known.relation)}")
            self._body(node, other)
            return dict.fromkeys(range(len(node.proto.output)), self.same)
        pair = Pair(self.original, node, self.folded, other, self.loose)
        different = any(known is not None and not known.relation.same for known in inputs)
        if node.call_attribute() and (different or ref in self.carried):
            raise UnprovenError("an attribute that only a call gives")
        if ref in self.carried:
            self.used.add(ref)
            if node.op in linear.RECURRENT:
                return self._recurrent(pair, inputs, self.carried[ref])
            return {0: self._absorbed(pair, inputs, self.carried[ref])}
        return self._passed(pair, ref, inputs)

    def _inputs(self, node: Node, other: Node) -> list[Known | None]:
        """What a node reads; its counterpart must read the same values at the same slots."""
        found: list[Known | None] = []
        count = max(len(node.proto.input), len(other.proto.input))
        for slot in range(count):
            if self.asks_for_the_same(node, slot, other):
                found.append(None)
                continue
            known = self._input(node, slot)
            found.append(known)
            if known is None:
                self.constants.append((node, slot, other, slot))
                if other.input(slot) and not self.folded.is_constant(
                    other.scope, other.input(slot)
                ):
                    raise WrongError(f"it reads {other.input(slot)!r} where it read a constant")
                continue
            name = other.input(slot)
            theirs = other.scope.owner(name) if name else None
            if theirs is not None and self._is_known_now(node, slot, other):
                continue
            if theirs is None or known.folded != self.source(theirs, name):
                raw = self._through_new(node, other, slot)
                if raw is None or known.folded != raw:
                    wanted = known.folded[1]
                    raise WrongError(f"it reads {name!r} where it should read {wanted!r}")
        return found

    def _is_known_now(self, node: Node, slot: int, other: Node) -> bool:
        """Whether sizes that the original computes are a constant of the folded model."""
        if not self.pairing.named or not self.folded.is_constant(other.scope, other.input(slot)):
            return False
        numbers = self.original.shapes.ints(node, slot)
        name = node.input(slot)
        vector = (len(numbers or ()),) == self.original.shapes.of(node.scope, name)
        if not vector or self.original.element_type(node.scope, name) != TensorProto.INT64:
            return False
        value = self.folded.value_at(other, slot)
        return numbers is not None and value is not None and value.dtype == np.int64 and (
            value.ndim == 1 and value.tolist() == numbers
        )  # fmt: skip

    def _through_new(self, node: Node, other: Node, slot: int) -> Place | None:
        """What a new node reads in front of one that stands for another operator with it."""
        rows = self.flattened(node, other)
        if rows is not None and slot == 0:
            owner = rows.before.scope.owner(rows.before.input(0))
            return None if owner is None else self.source(owner, rows.before.input(0))
        if (node.op, other.op, slot) != ("BatchNormalization", "Add", 0):
            return None
        owner = other.scope.owner(other.input(slot)) if other.input(slot) else None
        mul = owner.producers.get(other.input(slot)) if owner is not None else None
        if mul is None or mul not in self.pairing.new or mul.op != "Mul":
            return None
        source = mul.scope.owner(mul.input(0))
        return None if source is None else (source, mul.input(0))

    def _require_same_outputs(self, node: Node, other: Node) -> None:
        """How many there are says what a Split does, and whether a BatchNormalization trains."""
        counts = [[bool(name) for name in n.proto.output] for n in (node, other)]
        if trains(node) != trains(other) or (
            counts[0] != counts[1] and node.op not in _OPTIONAL_OUTPUTS
        ):
            raise WrongError("it has not the same outputs")

    def _require_same_operator(self, node: Node, other: Node) -> None:
        """With the same attributes; where places tell nodes apart, these are compared as bytes."""
        if node.op != other.op:
            raise WrongError(f"it was a {node.op}, and is a {other.op}")
        if self.pairing.named:
            name = changed_between(self.original, node, self.folded, other)
            if name is not None:
                raise WrongError(f"its attribute {name!r} has changed")

    def _require_same(self, node: Node, inputs: list[Known | None]) -> None:
        for known in inputs:
            if known is not None and not known.relation.same:
                raise UnprovenError(f"{node.op} reads what {apart(known.relation)}")

    # --- maps that pass --------------------------------------------------------------------------

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
            return self._through_all(node, relations[0])
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

    def _body(self, node: Node, other: Node) -> None:
        raise NotImplementedError


def apart(relation: Relation) -> str:
    """How two values differ, in words."""
    e = relation.original_of_folded()
    if e is None:
        return "cannot be told from the folded model's, which has lost a channel"
    nothing = np.zeros(1, np.int64)
    away = [not e.functions.equal(e.ids[i : i + 1], nothing) for i in range(len(e))]
    channel = away.index(True) if True in away else 0
    return f"would be {e.channel(channel)} of the folded model's, in channel {channel}"
