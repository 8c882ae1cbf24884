"""The kernel: whether a proof shows that a folded model is equal to the original.

WHAT IS PROVEN. For every input on which no value overflows, each output of the folded model is what
the original gives, up to the rounding of floating-point numbers: as functions of real numbers the
two are the same, but for constants of the folded model that are their exact values rounded once.
For a node with dot products of n terms, computed in arithmetic of unit roundoff u, that means

    |y_folded − y_original| ≤ (2n + 8 + k)·u·A(x)

where A(x) is the same node with the absolute values of its weights, its bias and x, and k is how
far its constants are from their exact values, in units of u and of the terms they are made of; what
underflow has made of them is counted in k, too, or hidden below u² of the largest weight, or the
proof fails.

FROM WHAT. From the two files and the steps of the proof, of which none is believed. The steps say
which nodes are gone, and which map a value carries where a node's constants make it other than it
was; they contain no numbers. The kernel computes every number from the original's own constants, in
float64 with a bound on its error, and exactly where that does not decide. Constants that the
original computes are evaluated as their operators are specified, each rounded once; what a runtime
may round otherwise on the way counts in k.

HOW. The nodes that are left correspond by their places; or as the proof pairs them one by one,
where another tool has given them other names and another order. In one pass over the original, each
value gets a relation to that of the folded model: there is a z with p(z) in the original and q(z)
in the folded model, p and q of the form s·x + t for each channel. Inputs are the same in both. A
node that is gone must be a map a, and its output's p is a∘p. A node that is left obeys a law of its
operator: it lets maps pass, or its constants take them, slot by slot. A node without a law must
read what is the same in both models. So must whoever gives results: outputs, bodies, calls.
Everything else of the two files is compared byte for byte; where nodes are paired one by one, what
attributes mean and constants hold is compared instead, and the rest is only told.

WHAT IS NOT PROVEN. What happens where a value overflows, or falls below the smallest normal number,
inside the model; the sign of a zero; that a runtime computes what the specification says. Files are
read as ONNX's specification has them, and what it leaves open is unknown, and never a yes.

A wrong step can only lead to "invalid" or "not decided".
"""

from __future__ import annotations

from dataclasses import dataclass

from bnfold.graph.index import DEFAULT_DOMAINS, Node, Scope
from bnfold.onnx_io.protos import bodies
from bnfold.proof.kernel.ledger import Known
from bnfold.proof.kernel.meaning import differences
from bnfold.proof.kernel.node_walk import NodeWalk
from bnfold.proof.kernel.order import in_order
from bnfold.proof.kernel.outcome import (
    WHOLE,
    Certificate,
    Finding,
    Frame,
    Outcome,
    doubted,
    verdict_of,
)
from bnfold.proof.kernel.passing import apart
from bnfold.proof.kernel.regions import Correspondence
from bnfold.proof.kernel.structure import Skeleton
from bnfold.proof.laws.absorbing import UnprovenError, WrongError
from bnfold.proof.laws.products.linear import RECURRENT
from bnfold.proof.laws.products.weights import KINDS
from bnfold.proof.numbers.maps import Relation
from bnfold.proof.reading.model import Model
from bnfold.proof.reading.same_constants import same_constant
from bnfold.steps import Proof

_ZERO_IF_ABSENT = {  # which inputs of an operator are zeros where there are none
    "Conv": (2,), "ConvTranspose": (2,), "Gemm": (2,), "GRU": (3, 5), "LSTM": (3, 5, 6, 7),
    "RNN": (3, 5),
}  # fmt: skip
_STATES = (5, 6)  # of a recurrent operator: [directions, batch, hidden]


@dataclass(frozen=True)
class Judgement:
    """What the kernel found."""

    certificate: Certificate
    frame: Frame
    known: Correspondence | None = None  # of the main graphs' values
    certain: bool = False  # if it fails, no other proof could hold

    @property
    def valid(self) -> bool:
        """Whether the proof holds."""
        return {self.certificate.verdict, self.frame.verdict} == {Outcome.VALID}


def judge(original: Model, folded: Model, proof: Proof, loose: float = 0.0) -> Judgement:
    """Check a proof against the two files.

    With `loose`, constants may be as many units u·A off, as those of tools that round more than
    once are.
    """
    try:
        for model in (original, folded):
            _require_one_meaning(model)
        walk = _Walk(original, folded, proof, loose=loose)
    except WrongError as wrong:
        finding = Finding(Outcome.INVALID, WHOLE, str(wrong))
        return Judgement(
            Certificate(Outcome.INVALID, (), (finding,)), Frame(Outcome.INVALID, (finding,))
        )
    return walk.judgement()


def _require_one_meaning(model: Model) -> None:
    """Raises WrongError where one of its names stands for two things.

    That is: ONNX's own operators imported twice, or defined by the model; an attribute twice.
    """
    proto = model.proto
    for imports in (proto.opset_import, *(f.opset_import for f in proto.functions)):
        if len({entry.version for entry in imports if entry.domain in DEFAULT_DOMAINS}) > 1:
            raise WrongError("it imports two versions of ONNX's own operators")
    for scope in model.index.scopes:
        for node in scope.nodes:
            names = [attribute.name for attribute in node.proto.attribute]
            if len(set(names)) < len(names):
                raise WrongError(f"{node.label} says an attribute twice")
    if any(function.domain in DEFAULT_DOMAINS for function in proto.functions):
        raise WrongError("it defines an operator of ONNX's own")
    if any(f"{function.domain}::{function.name}" in KINDS for function in proto.functions):
        raise WrongError("it defines an operator of onnxruntime's own")


class _Walk(NodeWalk):
    """Both models as a whole: their scopes, outputs, and all that no law has judged."""

    # --- the whole -------------------------------------------------------------------------------

    def judgement(self) -> Judgement:
        for old, new in self.pairing.scopes.items():
            if old.parent is None:
                self._scope(old, new)
        if self.pairing.named:
            for said in differences(self.original, self.folded):
                self._say(said, WHOLE)
        elif not (self.findings or self.used.issuperset((*self.carried, *self.taken))):
            self._say(WrongError("the proof gives a node a map that it has no use for"), WHOLE)
        skeleton = Skeleton(self.original, self.folded, self.pairing, self.free, self.changed)
        frame = list(skeleton.findings())
        self._constants(skeleton)
        frame += [
            Finding(Outcome.INVALID, node.label, "the folded model needs it, and does not have it")
            for node in self.pairing.gone
            if (node.scope, node.output) not in self.known and not skeleton.may_be_gone(node)
        ]
        certificate = Certificate(
            verdict_of(self.findings), tuple(self.folds), tuple(self.findings)
        )  # fmt: skip
        found = Frame(verdict_of(frame), tuple(frame))
        doubtful = self.doubtful or len(self.far) > 1
        if doubtful and self.pairing.named:  # nothing is known to be wrong
            certificate, found = doubted(certificate, found)
        certain = certificate.verdict is Outcome.INVALID and not doubtful
        return Judgement(certificate, found, self._known(), certain)

    def _known(self) -> Correspondence:
        """What was found of the main graphs, for those who want to compare values."""
        main = self.original.main
        values = {
            name: None if known is None else (known.folded[1], known.relation.same)
            for (scope, name), known in self.known.items() if scope is main
        }  # fmt: skip
        return Correspondence(self.pairing.partner, self.pairing.gone, values, self.k)

    def _constants(self, skeleton: Skeleton) -> None:
        """Constants that no law has judged must be what they were."""
        for node, slot, other, place in self.constants:
            a, b = node.input(slot), other.input(place)
            if (node, slot) in self.judged:
                continue
            if not a or not b:
                if (a or b) and not (self.pairing.named and self._is_default(node, slot, other)):
                    self._say(WrongError(f"its input {slot} has come or gone"), node.label)
                continue
            if a == b and not self.pairing.named and not skeleton.is_claimed(other.scope, b):
                continue  # the same name, and the same data by the comparison of all tensors
            alike = same_constant(self.original, (node.scope, a), self.folded, (other.scope, b))
            if alike is None:
                self._say(UnprovenError(f"the value of {a!r} is not known"), node.label)
            elif not alike and not self.asks_for_the_same(node, slot, other):
                self._say(WrongError(f"its constant {b!r} is not the same"), node.label)
        for (old, name), (new, theirs) in self.given:
            untouched = not self.pairing.named and not skeleton.is_claimed(new, theirs)
            alike = name == theirs and self.folded.is_constant(new, theirs)
            if not alike or not (
                untouched or same_constant(self.original, (old, name), self.folded, (new, theirs))
            ):
                self._say(UnprovenError(f"the constant output {name!r} is not the same"), WHOLE)

    def _is_default(self, node: Node, slot: int, other: Node) -> bool:
        """Whether a constant that has come or gone is what its absence means: zeros."""
        if slot not in _ZERO_IF_ABSENT.get(node.op, ()):
            return False
        stored = self.original.value_at(node, slot)
        if stored is None:
            stored = self.folded.value_at(other, slot)
        if stored is None or stored.any():
            return False
        if node.op in RECURRENT and slot in _STATES:  # for batches of that size alone
            data = self.original.shapes.input(node, 0)
            batch = data[1] if data is not None and len(data) == 3 else None
            plain = not node.attribute("layout", 0)
            return plain and isinstance(batch, int) and stored.shape[1:2] == (batch,)
        return node.op != "Gemm" or stored.ndim < 2 or len(stored) == 1

    # --- scopes ----------------------------------------------------------------------------------

    def _scope(self, old: Scope, new: Scope, *, passes: bool = False) -> list[Relation | None]:
        """Lead relations through a scope; what its outputs are, of a branch that may pass them."""
        ours, theirs = self.original.inputs(old), self.folded.inputs(new)
        for name, other in zip(ours, theirs, strict=False):
            if self.original.is_constant(old, name):
                continue
            if name != other and old.parent is None and not self.pairing.named:
                self._say(WrongError(f"the input {name!r} is called {other!r}"), WHOLE)
            self.known[old, name] = Known((new, other), self.same)
        for name in old.sparse & new.sparse if not self.pairing.named else ():  # compared as bytes
            self.known[old, name] = Known((new, name), self.same)
        for node in in_order(old):
            self._node(node)
        names = [scope.outputs for scope in (old, new)]
        if len(names[0]) != len(names[1]):
            self._say(WrongError("it has not the same number of outputs"), old.label or WHOLE)
        return [self._output(old, a, new, b, passes) for a, b in zip(*names, strict=False)]

    def _output(
        self, old: Scope, name: str, new: Scope, other: str, passes: bool
    ) -> Relation | None:
        owner, theirs = old.owner(name), new.owner(other)
        assert owner is not None
        assert theirs is not None
        if self.original.is_constant(owner, name):
            self.given.append(((owner, name), (theirs, other)))
            return self.same
        known = self.known.get((owner, name))
        producer = owner.producers.get(name)
        label = producer.label if producer else name
        if known is None:
            self.say_once(self.cause((owner, name)))
        elif known.folded != self.source(theirs, other):
            self._say(WrongError(f"the output {other!r} is made from something else"), label)
        elif passes and owner is old:
            return known.relation
        elif not known.relation.same:
            wrong = WrongError(f"the output {name!r} {apart(known.relation)}", certain=True)
            self._say(wrong, label)
        else:
            return self.same
        return None

    def _body(self, node: Node, other: Node) -> dict[int, Known | Relation]:
        """What the outputs of a node with bodies are: of an If, what they are in both branches."""
        ours, theirs = dict(bodies(node.proto)), dict(bodies(other.proto))
        if ours.keys() != theirs.keys():
            raise WrongError("it has other bodies than in the original")
        ended: list[list[Relation | None]] = []
        for name, old in zip(ours, self.original.index.bodies_of(node), strict=True):
            new = self.pairing.scopes.get(old)
            if new is None or theirs[name] is not new.container:
                raise WrongError("it has other bodies than in the original")
            if len(old.inputs) != len(new.inputs):
                raise WrongError("a body with other inputs")
            ended.append(self._scope(old, new, passes=node.op == "If"))
        if node.op != "If":
            return dict.fromkeys(range(len(node.proto.output)), self.same)
        return {
            place: self._in_all_branches([ends[place] for ends in ended])
            for place in range(min([len(node.proto.output), *map(len, ended)]))
        }

    def _in_all_branches(self, ends: list[Relation | None]) -> Relation:
        """The relation of a value that is made in one of several branches."""
        first = ends[0]
        if first is None or any(end is None for end in ends):
            raise UnprovenError("of what a branch gives nothing is known")
        known = [end for end in ends if end is not None]
        if all(end.same for end in known):
            return self.same
        if not all(end.p.equals(first.p) and end.q.equals(first.q) for end in known):
            raise UnprovenError("its branches give what is not the same in both models")
        return first
