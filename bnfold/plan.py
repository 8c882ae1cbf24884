"""Sites × rules → a plan: edits as data, and one verdict for every BatchNormalization.

Sites are taken from the last to the first. A BatchNormalization behind another one is thereby
merged into it before that one looks for a weight, and each weight meets the whole chain at once.
Planning reads the graph and changes nothing. It is linear in the nodes: a demand goes from a value
to the node that makes it, and each site asks once.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from bnfold.constants import Constants
from bnfold.draft import Draft
from bnfold.edits import Bypass, Edit
from bnfold.graph import Index, Node, Role
from bnfold.reasons import Reason, Refusal
from bnfold.rules import UP, Demand
from bnfold.sites import BATCH_NORM, batch_norm


@dataclass(frozen=True)
class Verdict:
    """What becomes of one BatchNormalization, in names only: it outlives the model."""

    site: str  # the node's name, or its operator and output where it has none
    op: str
    scope: str  # "" for the main graph, else the path of bodies, or the function
    output: str
    into: tuple[str, ...] = ()  # the nodes that took it; empty if it is kept
    refusal: Refusal | None = None

    @property
    def folded(self) -> bool:
        """Whether the node is gone."""
        return self.refusal is None


@dataclass(frozen=True)
class Plan:
    """Edits in the order in which they are to be applied, and the verdicts in graph order."""

    edits: tuple[Edit, ...]
    verdicts: tuple[Verdict, ...]
    constants: Constants = field(repr=False)  # as they were found, for those who apply the edits


def plan(index: Index) -> Plan:
    """Decide for every BatchNormalization of every scope whether and where it folds."""
    draft = Draft(index)
    sites = [node for node in index.nodes() if node.op == BATCH_NORM]
    verdicts = [_verdict(draft, node) for node in reversed(sites)]
    return Plan(tuple(draft.edits), tuple(reversed(verdicts)), draft.constants)


def _verdict(draft: Draft, node: Node) -> Verdict:
    place = (node.label, node.op, node.scope.label, node.output)
    affine = batch_norm(draft, node)
    if isinstance(affine, Refusal):
        return Verdict(*place, refusal=affine)
    fold = _Fold(draft)
    refusal = fold.raise_(Demand(node, 0, affine))
    if refusal is not None:
        return Verdict(*place, refusal=refusal)
    producer = node.scope.producers[node.input(0)]
    draft.commit([*fold.edits, Bypass(node, producer)])
    return Verdict(*place, into=tuple(fold.into))


class _Fold:
    """One walk from a site towards the weights: what it would edit, and which nodes absorb it."""

    def __init__(self, draft: Draft) -> None:
        self.draft = draft
        self.edits: list[Edit] = []
        self.into: list[str] = []

    def raise_(self, demand: Demand) -> Refusal | None:
        """Move the demand up through the node that makes its value; None means all is absorbed."""
        reader, affine = demand.node, demand.affine
        name = reader.input(demand.slot)
        producer = reader.scope.producers.get(name)
        rule = UP.get(producer.op) if producer else None
        if producer is None or rule is None or producer.output != name:
            return Refusal(Reason.NOT_LINEAR, reader.label, _what_stands_there(reader, name))
        if (refusal := _not_private(producer, name, demand)) is not None:
            return refusal
        if from_call := producer.call_attribute():
            return Refusal(Reason.ATTRIBUTE_FROM_CALL, producer.label, from_call)
        step = rule(self.draft, producer, affine)
        if isinstance(step, Refusal):
            return step
        for edit in step.edits:
            if (refusal := self.draft.objection(edit)) is not None:
                return refusal
        self.edits.extend(step.edits)
        if not step.demands:
            self.into.append(producer.label)
        for following in step.demands:
            if (refusal := self.raise_(following)) is not None:
                return refusal
        return None


def _not_private(producer: Node, name: str, demand: Demand) -> Refusal | None:
    """A value may change only if the demand's own node is all that ever reads it."""
    for use in producer.scope.uses[name]:
        if use.node is demand.node and use.slot == demand.slot and use.role is Role.READ:
            continue
        if use.role is Role.OUTPUT:
            return Refusal(Reason.GRAPH_OUTPUT, producer.label, name)
        if use.role is Role.ANNOTATION:
            return Refusal(Reason.ANNOTATED, producer.label, name)
        if use.role is Role.CAPTURE:
            where = use.node.scope.label if use.node else "a body"
            return Refusal(Reason.CAPTURED, producer.label, where)
        assert use.node is not None
        return Refusal(Reason.ANOTHER_READER, producer.label, use.node.label)
    return None


def _what_stands_there(reader: Node, name: str) -> str:
    scope = reader.scope
    if (producer := scope.producers.get(name)) is not None:
        return f"{producer.op} {producer.label}"
    owner = scope.owner(name)
    if owner is not None and owner is not scope:
        return f"{name}, a value of the graph around this body,"
    if name in scope.initializers:
        return f"the constant {name}"
    return f"the {'argument' if scope.is_function else 'graph input'} {name}"
