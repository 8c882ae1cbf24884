"""What was folded, as the steps of a proof: taken from the edits, nothing is worked out again."""

from __future__ import annotations

from collections.abc import Collection, Mapping

from bnfold import steps
from bnfold.folding.plan import Plan
from bnfold.folding.weights.carried_maps import relation_of
from bnfold.folding.weights.edits import Carry, Drop, Insert, Remove, Scatter
from bnfold.graph.index import Node
from bnfold.steps import Carried, Merged, Proof, Ref, Taken

_ABSORBING = frozenset(
    {
        "Add", "BatchNormalization", "Conv", "ConvTranspose", "DeformConv", "Div",
        "Einsum", "GRU", "Gemm",
        "GroupNormalization", "InstanceNormalization", "LSTM", "LayerNormalization", "MatMul",
        "Mul", "RNN", "Sub", "com.microsoft::FusedConv", "com.microsoft::FusedGemm",
    }
)  # fmt: skip


_PASSING_ON = ("Einsum", "MatMul")  # a shift, which has no place in them


def written(
    refs: Mapping[Node, Ref], plan: Plan, removed: Collection[Node], new: Collection[Ref]
) -> Proof:  # fmt: skip
    """The proof of a plan that was carried out.

    `refs` name the nodes of the model as it was, `removed` are those that went, and `new` are the
    places in the folded model of those that came.
    """
    carries: dict[tuple[Node, int, int | None], list[Carry]] = {}
    edited: dict[Node, None] = {}
    for edit in plan.edits:
        if isinstance(edit, Carry):
            carries.setdefault(edit.value, []).append(edit)
        if isinstance(edit, Carry) and edit.value != (edit.node, 0, None):
            continue
        # a product whose weight stays what it is makes another value of a shift that it reads
        if (
            not isinstance(edit, Carry | Drop | Insert | Remove | Scatter)
            or edit.node.op in _PASSING_ON
        ):
            edited[edit.node] = None
    carried = []
    for node in edited:
        if node not in removed and node.op in _ABSORBING:
            p, q = relation_of(carries.get((node, 0, None), ()))
            carried.append(Carried(refs[node], p, q))
    taken = []
    for (node, _, slot), some in carries.items():
        if slot is not None and node not in removed and node.op not in _ABSORBING:
            total: steps.Map = steps.IDENTITY
            for carry in some:
                total = steps.then(total, carry.map)
            taken.append(Taken(refs[node], slot, total))
    return Proof(
        gone=tuple(sorted((refs[node] for node in removed), key=lambda ref: (ref.scope, ref.node))),
        new=tuple(new), carried=tuple(carried), taken=tuple(taken),
        merged=tuple(
            Merged(refs[merge.root], refs[merge.into], tuple(refs[node] for node in merge.nodes))
            for merge in plan.merges if merge.into is not None
        ),
    )  # fmt: skip
