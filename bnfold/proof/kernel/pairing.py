"""Which node of the folded model stands for which one of the original.

By their places: those of the folded model, without those that the proof says are new, are those of
the original, without those that it says are gone. Or as the proof says, node by node; what it does
not name is gone or new, and several nodes of the original may have become one. Nothing is matched
by likeness.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field

from bnfold.graph.index import DEFAULT_DOMAINS, Node, Scope
from bnfold.onnx_io.protos import bodies
from bnfold.proof.laws.absorbing import WrongError
from bnfold.proof.reading.model import Model
from bnfold.steps import Proof, Ref


@dataclass
class Pairing:
    """Which node of the original is which of the folded model.

    `named`: the proof says so, and names, order and metadata count for nothing.
    """

    partner: dict[Node, Node] = field(default_factory=dict)
    gone: set[Node] = field(default_factory=set)
    new: set[Node] = field(default_factory=set)
    scopes: dict[Scope, Scope] = field(default_factory=dict)
    named: bool = False


def paired(original: Model, folded: Model, proof: Proof) -> Pairing:
    """Pair the nodes. Raises WrongError where they do not come out even."""
    if proof.pairs is not None:
        return _as_named(original, folded, proof.pairs)
    result = Pairing()
    result.gone.update(_node(original, ref) for ref in proof.gone)
    result.new.update(_node(folded, ref) for ref in proof.new)
    gone_scopes = {scope for scope in original.index.scopes if _inside(scope, result.gone)}
    ours = [scope for scope in original.index.scopes if scope not in gone_scopes]
    theirs = folded.index.scopes
    if len(ours) != len(theirs):
        raise WrongError("the models have not the same bodies and functions")
    for old, new in zip(ours, theirs, strict=True):
        result.scopes[old] = new
        before = [node for node in old.nodes if node not in result.gone]
        after = [node for node in new.nodes if node not in result.new]
        if len(before) != len(after):
            raise WrongError(
                f"{len(before)} nodes should be left of {old.label or 'the graph'}, and there are "
                f"{len(after)}"
            )
        result.partner.update(zip(before, after, strict=True))
    return result


def _node(model: Model, ref: Ref) -> Node:
    node = model.node(ref.scope, ref.node)
    if node is None:
        raise WrongError("the proof speaks of a node that is not there")
    return node


def _inside(scope: Scope, gone: set[Node]) -> bool:
    owners = {id(a.g) for node in gone for a in node.proto.attribute if a.HasField("g")}
    while scope is not None and scope.parent is not None:
        if id(scope.container) in owners:
            return True
        scope = scope.parent
    return False


def _as_named(
    original: Model, folded: Model, pairs: tuple[tuple[Ref, Ref], ...]
) -> Pairing:  # fmt: skip
    result = Pairing(named=True)
    for one, other in pairs:
        node, stands_for_it = _node(original, one), _node(folded, other)
        if node in result.partner:
            raise WrongError("the proof says two things of one node")
        result.partner[node] = stands_for_it
    outermost = [[s for s in m.index.scopes if s.parent is None] for m in (original, folded)]
    if len(outermost[0]) != len(outermost[1]):
        raise WrongError("the models have not the same functions")
    result.scopes.update(zip(*outermost, strict=True))
    for node, partner in result.partner.items():
        theirs = dict(bodies(partner.proto))
        for name, body in bodies(node.proto):
            if name in theirs:
                result.scopes[original.scope_of(body)] = folded.scope_of(theirs[name])
    result.gone.update(n for n in original.index.nodes() if n not in result.partner)
    there = set(result.partner.values())
    if len(there) < len(result.partner):
        _require_repeatable(result.partner)
    result.new.update(n for n in folded.index.nodes() if n not in there)
    for node, partner in result.partner.items():
        if result.scopes.get(node.scope) is not partner.scope:
            raise WrongError("a node that has moved to another body")
    return result


_RANDOM = frozenset(
    {
        "Bernoulli", "Dropout", "Multinomial", "RandomNormal", "RandomNormalLike", "RandomUniform",
        "RandomUniformLike",
    }
)  # fmt: skip


def _require_repeatable(partner: dict[Node, Node]) -> None:
    """Raises WrongError where nodes became one that may give other values each time."""
    count = Counter(partner.values())
    for node, other in partner.items():
        own = node.proto.domain in DEFAULT_DOMAINS and not any(bodies(node.proto))
        if count[other] > 1 and (not own or node.op in _RANDOM):
            raise WrongError(f"{node.label} became one with another {node.op}")
