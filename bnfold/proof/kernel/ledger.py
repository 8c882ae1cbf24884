"""What is known of values, what was found, and the nodes whose constants take maps."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, field

from bnfold import steps
from bnfold.graph.index import Node, Scope
from bnfold.proof.kernel.expressions import Expressions
from bnfold.proof.kernel.flattened import REGROUPING, Flattened, flattened, same_but_one
from bnfold.proof.kernel.meaning import attributes, changed_attribute, may_change
from bnfold.proof.kernel.outcome import CertifiedFold, Finding, Outcome
from bnfold.proof.kernel.pairing import Pairing, paired
from bnfold.proof.laws import arithmetic, scale_and_bias
from bnfold.proof.laws.absorbing import (
    Cause,
    Pair,
    Taken,
    UnknownError,
    UnprovenError,
    WrongError,
)
from bnfold.proof.laws.branches import sums
from bnfold.proof.laws.passing import handed_on, is_idle
from bnfold.proof.laws.products import einsum, linear
from bnfold.proof.laws.sites import ARITHMETIC
from bnfold.proof.laws.spreading import Spread
from bnfold.proof.numbers.correct_rounding import told
from bnfold.proof.numbers.maps import Map, Relation
from bnfold.proof.reading.model import Model
from bnfold.proof.reading.same_constants import with_data
from bnfold.steps import Proof, Ref

Place = tuple[Scope, str]  # a value: the scope that it is made in, and its name

_WITH_SIDE_INPUTS = ("DeformConv", "com.microsoft::FusedConv")  # that no constant must take


@dataclass(frozen=True)
class Known:
    """What is known of a value: the folded model's value, and how the two relate."""

    folded: Place
    relation: Relation


@dataclass
class Ledger:
    """Two models, their proof, and what was found of them so far."""

    original: Model
    folded: Model
    proof: Proof
    known: dict[Place, Known | None] = field(default_factory=dict)  # None: nothing can be told
    findings: list[Finding] = field(default_factory=list)
    folds: list[CertifiedFold] = field(default_factory=list)
    free: set[tuple[Node, int]] = field(default_factory=set)  # what laws have judged, or nobody can
    judged: set[tuple[Node, int]] = field(default_factory=set)  # the same slots of the original
    changed: set[Node] = field(default_factory=set)
    constants: list[tuple[Node, int, Node, int]] = field(default_factory=list)
    given: list[tuple[Place, Place]] = field(default_factory=list)  # constants that are outputs
    loose: float = 0.0  # u that constants may be off, as those of tools that round more than once
    doubtful: bool = False  # a finding that another proof might not have
    far: set[Node] = field(default_factory=set)  # whose constants may have taken other maps
    k: dict[Node, float] = field(default_factory=dict)  # of folded nodes whose constants took maps

    def __post_init__(self) -> None:
        self.pairing: Pairing = paired(self.original, self.folded, self.proof)
        self.maps = Expressions(self.original)
        self.identity = self.maps.identity
        self.same = Relation(self.identity, self.identity)
        self.carried = {c.node: c for c in self.proof.carried}
        self.taken = {(t.node, t.slot): t.map for t in self.proof.taken}
        if len(self.carried) < len(self.proof.carried) or len(self.taken) < len(self.proof.taken):
            raise WrongError("the proof says two things of one node")
        self.used: set[object] = set()
        self.lost: dict[Place, Cause] = {}  # of what nothing is known
        self.spread: dict[Place | None, tuple[Known, Spread]] = {}  # on several axes at once
        self.regrouped: dict[Place, Known] = {}  # what has the same elements, in another shape
        self.roots = {m.root: m.kept for m in self.proof.merged}
        self.kept_in_sums = set(self.roots.values())
        self.in_sums = {ref for m in self.proof.merged for ref in m.nodes}

    def _say(self, what: WrongError | UnprovenError, node: str) -> None:
        self.doubtful |= not (isinstance(what, WrongError) and what.certain)
        verdict = Outcome.INVALID if isinstance(what, WrongError) else Outcome.UNDECIDED
        self.findings.append(Finding(verdict, node, str(what)))

    def source(self, scope: Scope, name: str) -> Place:
        """The value of the folded model itself, where new nodes only hand it on."""
        if not self.pairing.named:
            return scope, name
        return handed_on(self.folded, scope, name, lambda maker: maker in self.pairing.new)

    def _input(self, node: Node, slot: int) -> Known | None:
        """What is known of a computed input; None for a constant, and for one that is absent."""
        name = node.input(slot)
        owner = node.scope.owner(name) if name else None
        if owner is None or (
            (owner, name) not in self.known and self.original.is_constant(owner, name)
        ):
            return None
        known = self.known.get((owner, name))
        if known is None and slot == 0 and self._may_be_regrouped(node):
            known = self.regrouped.get((owner, name))
        if known is None:
            raise UnknownError(self.cause((owner, name)))
        return known

    def _may_be_regrouped(self, node: Node) -> bool:
        """Whether a node only wants the elements of what it reads in their order."""
        other = self.pairing.partner.get(node)
        if other is not None and node.op == "MatMul":
            return self.flattened(node, other) is not None
        if node.op not in REGROUPING:
            return False
        return other is None or self._makes_the_same_shape(node, other)

    def _makes_the_same_shape(self, node: Node, other: Node) -> bool:
        """Of as many elements."""
        one, two = self.original.shapes.output(node), self.folded.shapes.output(other)
        if one is None or two is None:
            return False
        return same_but_one(self.folded, one, other, two)

    def asks_for_the_same(self, node: Node, slot: int, other: Node) -> bool:
        """Whether a Reshape or Expand is told in other words what shape to make."""
        if not self.pairing.named or slot != 1 or node.op != other.op:
            return False
        if node.op == "Reshape":
            return self._makes_the_same_shape(node, other)
        one, two = self.original.shapes.output(node), self.folded.shapes.output(other)
        known = one is not None and all(isinstance(dim, int) for dim in one)
        return node.op == "Expand" and known and one == two

    def cause(self, place: Place) -> Cause:
        """Why nothing is known of a value."""
        if place not in self.lost:
            producer = place[0].producers.get(place[1])
            label = producer.label if producer else place[1]
            self.lost[place] = Cause(UnprovenError(f"of {place[1]!r} nothing is known"), label)
        return self.lost[place]

    def say_once(self, cause: Cause) -> None:
        """Say it, if it has not been said yet."""
        if not cause.said:
            cause.said = True
            self._say(cause.what, cause.label)

    def _summed(self, root: Node, ref: Ref) -> dict[int, Known | Relation]:
        """The root of a sum of branches, which one of its convolutions now makes."""
        kept = self.original.node(ref.scope, ref.node)
        other = None if kept is None else self.pairing.partner.get(kept)
        if kept is None or other is None or kept.op != "Conv" or other.op != "Conv":
            raise WrongError("the convolution that should stand for it is not there")
        known = self._input(kept, 0)
        owner = kept.scope.owner(kept.input(0))
        theirs = other.scope.owner(other.input(0)) if other.input(0) else None
        if known is None or theirs is None or known.folded != self.source(theirs, other.input(0)):
            raise WrongError(f"{other.label} does not read what its branches read")
        said = self.carried.get(ref)
        self.used.add(ref)
        relation = self.same
        if said is not None:
            relation = Relation(self.maps.map(said.p), self.maps.map(said.q))
        e, u = known.relation.original_of_folded(), relation.folded_of_original()
        if e is None or u is None or owner is None:
            raise UnprovenError("a map that loses a channel")
        pair = Pair(self.original, kept, self.folded, other, self.loose)
        total = sums.BranchSum(
            self.original, self.maps.functions, root, (owner, kept.input(0)), self.pairing.gone
        )
        said_nodes = {m.root: m.nodes for m in self.proof.merged}[
            Ref(*self.original.positions[root])
        ]
        inside = {Ref(*self.original.positions[node]) for node in total.nodes}
        if kept not in total.nodes or not inside.issuperset(said_nodes):
            raise WrongError("the proof counts nodes to the sum that are not in it")
        taken = sums.stands_for(total, pair, e, u)
        self.changed.add(other)
        self._require_attributes(pair, sums.GEOMETRY)
        self._took(pair, taken, relation)
        return {0: Known((other.scope, other.output), relation)}

    def _absorbed(
        self, pair: Pair, inputs: list[Known | None], said: steps.Carried
    ) -> Known | Relation:
        """A node whose constants make its output other than it was, as the proof says."""
        node, other = pair.node, pair.other
        relation = Relation(self.maps.map(said.p), self.maps.map(said.q))
        u = relation.folded_of_original()
        if u is None:
            raise UnprovenError("a map that loses a channel")
        data = [known.relation for known in inputs if known is not None]
        slots = [slot for slot, known in enumerate(inputs) if known is not None]
        if not data and node.op in linear.TAKING:
            data, slots = [self.same], [0]  # of a constant, which stays
        if node.op in _WITH_SIDE_INPUTS and all(r.same for r in data[1:]):
            del data[1:], slots[1:]
        if len(data) != 1 or any(node.proto.output[1:]):
            raise UnprovenError(f"a {node.op} whose constants are computed")
        if node.op not in ("Einsum", "MatMul", *ARITHMETIC) and slots != [0]:
            raise UnprovenError(f"a {node.op} whose constants are computed")
        given = data[0]
        self.changed.add(other)
        rows = self.flattened(node, other)
        if node.op in linear.TAKING and other.op in linear.TAKING:
            e = given.original_of_folded()
            if e is None:
                raise UnprovenError("what it reads has lost a channel")
            taken = linear.take(pair, e, u, rows=rows is not None)
        elif node.op == other.op == "Einsum":
            e = given.original_of_folded()
            if e is None:
                raise UnprovenError("what it reads has lost a channel")
            taken = einsum.take(pair, e, u)
        elif node.op == "BatchNormalization":
            taken = self._batch_norm(pair, given, u)
        elif node.op in ARITHMETIC:
            taken = arithmetic.arithmetic(pair, given.down() or given, u)
        elif node.op in scale_and_bias.NORMALISING and node.op == other.op:
            taken = scale_and_bias.normalisation(pair, given, u)
        else:
            raise WrongError(f"a {node.op} has no constants that take maps")
        self._require_attributes(pair)
        self._took(pair, taken, relation)
        if rows is None:
            return relation
        return Known((other.scope, rows.after.output), relation.settled())

    def _recurrent(
        self, pair: Pair, inputs: list[Known | None], said: steps.Carried
    ) -> dict[int, Known | Relation]:
        """An LSTM, GRU or RNN whose input weights take a map: what it gives is what it gave."""
        if pair.node.op != pair.other.op or said.p != steps.IDENTITY or said.q != steps.IDENTITY:
            raise UnprovenError(f"a {pair.node.op} gives what it gave")
        known = inputs[0] if inputs else None
        if known is None or any(k is not None and not k.relation.same for k in inputs[1:]):
            raise UnprovenError(f"a {pair.node.op} whose state carries a map")
        e = known.relation.original_of_folded()
        if e is None:
            raise UnprovenError("what it reads has lost a channel")
        taken = linear.take_recurrent(pair, e)
        self.changed.add(pair.other)
        self._require_attributes(pair)
        self._took(pair, taken, self.same)
        return dict.fromkeys(range(len(pair.node.proto.output)), self.same)

    def flattened(self, node: Node, other: Node) -> Flattened | None:
        """The Reshapes around a Gemm that stands for a product over several axes."""
        if not self.pairing.named or (node.op, other.op) != ("MatMul", "Gemm"):
            return None
        found = flattened(other)
        if found is None or not self.pairing.new.issuperset((found.before, found.after)):
            return None
        data = self.original.shapes.of(node.scope, node.input(0))
        return found if found.keeps_rows(self.folded, data) else None

    def _batch_norm(self, pair: Pair, given: Relation, u: Map) -> Taken:
        other = pair.other
        if other.op == "BatchNormalization":
            return scale_and_bias.kept_batch_norm(pair, given, u)
        if other.op == "Conv":
            return scale_and_bias.as_convolution(pair, given, u)
        if other.op == "Mul" and len(other.proto.input) == 2 and not other.proto.attribute:
            return scale_and_bias.scale_that_stays(pair, given, u)
        if other.op != "Add" or other.attribute("axis", -1) != -1 or len(other.proto.input) != 2:
            raise WrongError(f"a {other.op} cannot stand for it")
        owner = other.scope.owner(other.input(0))
        mul = owner.producers.get(other.input(0)) if owner is not None else None
        if mul is not None and mul in self.pairing.new and not is_idle(self.folded, mul):
            self.changed.add(mul)
            self.free.add((mul, 1))
            if [use.node for use in mul.scope.uses[mul.output]] != [other]:
                raise WrongError("a new value that is read elsewhere")
            plain = len(mul.proto.input) == 2 and len(mul.proto.output) == 1
            if mul.op != "Mul" or not plain or mul.proto.attribute:
                raise WrongError("a new node that is no plain Mul")
            first = Pair(self.original, pair.node, self.folded, mul, self.loose)
            return scale_and_bias.written_out(pair, first, given, u)
        return scale_and_bias.shift_that_stays(pair, given, u)

    def _require_attributes(self, pair: Pair, allowed: Collection[str] = ()) -> None:
        """Attributes stay, but those that go with another operator, and a Gemm's beta."""
        if self.pairing.named:
            one, two = attributes(pair.original, pair.node), attributes(pair.folded, pair.other)
        else:
            one, two = (
                {a.name: with_data(m, a) for a in n.proto.attribute}
                for m, n in ((pair.original, pair.node), (pair.folded, pair.other))
            )
        allowed = {*allowed, *may_change(pair.node, pair.other, {*one}, {*two})}
        name = changed_attribute(one, two, allowed)
        if name is not None:
            raise WrongError(f"its attribute {name!r} has changed")

    def _took(self, pair: Pair, taken: Taken, relation: Relation) -> None:
        other = pair.other
        slots = set(taken.slots)
        if other.op != pair.node.op:  # of which all constants went into what was judged
            slots |= set(range(max(len(pair.node.proto.input), len(other.proto.input))))
        self.free.update((other, slot) for slot in slots)
        self.judged.update((pair.node, slot) for slot in slots)
        tallies = taken.tallies.values()
        faults = sum(tally.faults for tally in tallies)
        k = max((tally.k for tally in tallies), default=0.0)
        k += max((pair.roundings(slot) for slot in taken.slots), default=0)
        self.k[other] = 0.0 if faults else k  # what is wrong allows nothing
        self.folds.append(
            CertifiedFold(
                other.label, other.op, self._sites(pair), taken.length, k,
                sum(t.numbers for t in tallies), sum(t.misrounded for t in tallies),
                sum(t.decided for t in tallies), faults,
            )
        )  # fmt: skip
        for name, tally in taken.tallies.items():
            if tally.faults:
                said = told(name, tally, self._sites(pair))
                if pair.hangs_on_sums(taken.slots, tally):
                    self._say(UnprovenError(f"{said}, which may hang on a sum"), other.label)
                    continue
                if tally.cancelled == tally.faults:
                    self._say(UnprovenError(f"{said}, and larger numbers cancel"), other.label)
                    continue
                self._say(WrongError(said, certain=True), other.label)
                if tally.far:
                    self.far.add(other)

    def _sites(self, pair: Pair) -> tuple[str, ...]:
        """The nodes whose maps a node has taken, by what the proof says."""
        ref = Ref(*self.original.positions[pair.node])
        said = self.carried.get(ref)
        found: dict[str, None] = {}
        pending: list[object] = [] if said is None else [said.p, said.q]
        pending += [a for (node, _), a in self.taken.items() if node == ref]
        while pending:
            a = pending.pop()
            if isinstance(a, steps.NodeMap):
                node = self.original.node(a.node.scope, a.node.node)
                if node is not None:
                    found[node.label] = None
            elif isinstance(a, steps.Then):
                pending.extend(a.maps)
            elif not isinstance(a, steps.Identity | steps.Factors):
                pending.append(a.of)  # type: ignore[attr-defined]
        return tuple(found)
