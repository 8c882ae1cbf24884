"""Steps that may explain two files: which constants have taken the maps of which nodes.

Other tools fold what stands next to each other, so that is what is proposed: the maps of the nodes
that are gone go into whatever stands before them and has changed; what is left of them goes down,
by the laws alone.
"""

from __future__ import annotations

from collections.abc import Mapping

from bnfold import steps
from bnfold.graph.index import Node, Role
from bnfold.proof.laws.passing import is_idle
from bnfold.proof.laws.products.linear import TAKING
from bnfold.proof.laws.scale_and_bias import NORMALISING
from bnfold.proof.laws.sites import SITES, trains
from bnfold.proof.reading.model import Model
from bnfold.proof.reading.same_constants import same_constant
from bnfold.proof.search.alignment import Alignment
from bnfold.steps import Carried, Proof, Ref

_ABSORBING = frozenset({*SITES, *TAKING, "Einsum", *NORMALISING})
_BETWEEN = frozenset(
    {
        "AveragePool", "Cast", "Dropout", "GlobalAveragePool", "GlobalMaxPool", "Identity",
        "LeakyRelu", "MaxPool", "Relu", "Resize", "Upsample",
    }
)  # fmt: skip
_FURTHEST = 100  # nodes behind each other


def proposed(original: Model, folded: Model) -> Proof:
    """A proof that may hold, from the two models alone."""
    partner = Alignment(original, folded).run()
    carried = [
        Carried(_ref(original, node), steps.IDENTITY, _taken_from_behind(original, node, partner))
        for node, other in partner.items()
        if node.op in _ABSORBING
        and (node.op != other.op or _changed(original, node, folded, other))
    ]
    pairs = tuple((_ref(original, a), _ref(folded, b)) for a, b in partner.items())
    return Proof(carried=tuple(carried), pairs=pairs, freeze=original.freeze)


def _ref(model: Model, node: Node) -> Ref:
    return Ref(*model.positions[node])


def _changed(original: Model, node: Node, folded: Model, other: Node) -> bool:
    """Whether a constant is another one, or one has come or gone."""
    for slot in range(max(len(node.proto.input), len(other.proto.input))):
        one, two = node.input(slot), other.input(slot)
        constant = (
            bool(one) and original.is_constant(node.scope, one),
            bool(two) and folded.is_constant(other.scope, two),
        )
        if not any(constant):
            continue
        if not same_constant(original, (node.scope, one), folded, (other.scope, two)):
            return True
    return False


def _taken_from_behind(
    original: Model, node: Node, partner: Mapping[Node, Node]
) -> steps.Map:  # fmt: skip
    """The maps of the nodes behind a node that are gone."""
    total: steps.Map = steps.IDENTITY
    scope, name = node.scope, node.output
    for _ in range(_FURTHEST):
        uses = scope.uses.get(name, [])
        reader = uses[0].node if len(uses) == 1 and uses[0].role is Role.READ else None
        if reader is None:
            break
        if reader not in partner:
            if not is_idle(original, reader):
                if reader.op not in SITES or trains(reader):
                    break
                total = steps.then(total, steps.NodeMap(_ref(original, reader)))
        elif reader.op not in _BETWEEN:
            break
        name = reader.output
    return total
