"""One node after the other: what its outputs are, by the law that it obeys."""

from __future__ import annotations

import numpy as np
from onnx import TensorProto

from bnfold.errors import ModelError
from bnfold.graph.index import Node
from bnfold.onnx_io.protos import bodies, captured
from bnfold.proof.kernel.flattened import REGROUPING
from bnfold.proof.kernel.ledger import Known, Place
from bnfold.proof.kernel.meaning import changed_between
from bnfold.proof.kernel.passing import Passing, apart
from bnfold.proof.laws.absorbing import (
    Cause,
    Pair,
    UnknownError,
    UnprovenError,
    WrongError,
)
from bnfold.proof.laws.passing import is_idle
from bnfold.proof.laws.products import einsum, linear
from bnfold.proof.laws.sites import SITES, TRAINS, trains
from bnfold.proof.laws.spreading import SPREADING
from bnfold.proof.numbers.maps import Map, Relation
from bnfold.steps import Ref

_OPTIONAL_OUTPUTS = ("Dropout", "GRU", "LSTM", "MaxPool", "RNN")  # which change no other one


class NodeWalk(Passing):
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
        if node.op in SPREADING and self._place(node) in self.spread:
            return self._on_several_axes(node, other)
        inputs = self._inputs(node, other)
        if any(bodies(node.proto)):
            self._require_same_operator(node, other)
            self._require_same(node, inputs)
            for name in sorted({n for _, body in bodies(node.proto) for n in captured(body)}):
                owner = node.scope.owner(name)
                known = self.known.get((owner, name)) if owner is not None else None
                if known is not None and not known.relation.same:
                    raise UnprovenError(f"its body reads {name!r}, which {apart(known.relation)}")
            return self._body(node, other)
        pair = Pair(self.original, node, self.folded, other, self.loose)
        different = any(known is not None and not known.relation.same for known in inputs)
        if node.call_attribute() and (different or ref in self.carried):
            raise UnprovenError("an attribute that only a call gives")
        if node.op == "Einsum" and different:  # else its constant has taken what is carried
            found = next(k for k in inputs if k is not None and not k.relation.same)
            relation = einsum.passed(self.original, node, found.relation)
            if relation is not None:
                self._require_same_operator(node, other)
                self.used.add(ref)
                return {0: relation}
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

    def _require_same(self, node: Node, inputs: list[Known | None]) -> None:
        for known in inputs:
            if known is not None and not known.relation.same:
                raise UnprovenError(f"{node.op} reads what {apart(known.relation)}")

    def _body(self, node: Node, other: Node) -> dict[int, Known | Relation]:
        raise NotImplementedError
