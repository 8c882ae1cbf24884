"""Frozen BatchNormalization: the affine map it is at inference, written out.

    γ·(x − μ)/√(σ² + ε) + β  =  γ′·x + β′      γ′ = γ/√(σ² + ε)      β′ = β − γ′·μ

Fine-tuning on few or different data must not touch μ and σ², which describe the population the
network was trained on (He et al. 2016 freeze them so for detection; PyTorch calls the module
FrozenBatchNorm2d). γ′ and β′ are what is left to learn. `bnfold optimize` folds either form.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from onnx import TensorProto

from bnfold.folding.plan import Plan
from bnfold.folding.rules.affine_nodes import batch_norm
from bnfold.folding.sites.written_out import as_mul_add
from bnfold.folding.weights.affine import Affine
from bnfold.folding.weights.draft import Draft
from bnfold.folding.weights.edits import Edit, Guard, Insert, SetOperator, Supply
from bnfold.graph.index import BATCH_NORM, Index, Node
from bnfold.options import FrozenForm, Options
from bnfold.reasons import Refusal
from bnfold.verdict import Verdict


@dataclass(frozen=True)
class FrozenNode:
    """One BatchNormalization that was frozen, and what its γ′ and β′ are called."""

    site: str
    gamma_prime: str
    beta_prime: str


def plan_freezing(index: Index, form: FrozenForm) -> Plan:
    """Edits that freeze every inference BatchNormalization, as `form` says, and a verdict for each.

    Reads the graph and changes nothing.
    """
    draft = Draft(index, Options())
    edits: list[Edit] = []
    verdicts = []
    for node in list(index.nodes()):
        if node.op != BATCH_NORM:
            continue
        found = _edits(draft, node, form)
        if not isinstance(found, Refusal):
            edits += found
        refusal = found if isinstance(found, Refusal) else None
        verdicts.append(
            Verdict(node.label, node.op, node.scope.label, node.output, refusal=refusal)
        )
    return Plan(tuple(edits), tuple(verdicts), draft.constants)


def frozen(plan: Plan) -> Iterator[FrozenNode]:
    """What was frozen, with the names that γ′ and β′ have got. To be asked after it was applied."""
    inserted = {edit.node for edit in plan.edits if isinstance(edit, Insert)}
    makers = {
        name: node.proto
        for scope in {node.scope for node in inserted}
        for node in scope.nodes
        for name in node.proto.output
    }
    for node in dict.fromkeys(edit.node for edit in plan.edits):
        site = node.proto.name or node.output
        gamma, beta = node.input(1), node.input(2)
        if node in inserted:
            gamma, beta = makers[node.input(0)].input[1], node.input(1)
        yield FrozenNode(site, gamma, beta)


def _edits(draft: Draft, node: Node, form: FrozenForm) -> list[Edit] | Refusal:
    own = batch_norm(draft, node)
    if isinstance(own, Refusal):
        return own
    edits = (
        _as_batch_norm(draft, node, own)
        if form == "batchnorm"
        else as_mul_add(draft, node, own, both=True)
    )
    if isinstance(edits, Refusal):
        return edits
    for edit in edits:
        values = edit.constant if isinstance(edit, Insert) else edit
        if (objection := draft.refusal_of(values)) is not None:
            return objection
    return edits


def _as_batch_norm(draft: Draft, node: Node, own: Affine) -> list[Edit]:
    """The same map with mean 0, variance 1 and ε = 0, each in the type that it had."""
    base = node.proto.name or node.output
    zeros, ones = np.zeros_like(own.scale), np.ones_like(own.scale)
    edits: list[Edit] = []
    for slot, (name, values) in enumerate(
        (
            ("gamma_prime", own.scale), ("beta_prime", own.shift), ("mean", zeros),
            ("variance", ones),
        ),
        start=1,
    ):  # fmt: skip
        operand = draft.operand(node, slot)
        assert not isinstance(operand, Refusal), "batch_norm has read it"
        kind = TensorProto.FLOAT if operand.quantized else operand.dtype
        guard = Guard(own.shift) if slot == 1 else None
        edits.append(Supply(node, slot, values, kind, f"{base}.{name}", guard=guard))
    return [*edits, SetOperator(node, BATCH_NORM, put={"epsilon": 0.0})]
