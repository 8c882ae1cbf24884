"""New μ and σ² for BatchNormalizations, as edits. For those who estimate and those who write."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import numpy as np

from bnfold.folding.apply import apply
from bnfold.folding.plan import Plan
from bnfold.folding.rules.affine_nodes import DEFAULT_EPSILON, batch_norm
from bnfold.folding.weights.draft import Draft
from bnfold.folding.weights.edits import Edit, Rescale, Supply
from bnfold.graph.holders import Holders
from bnfold.graph.index import BATCH_NORM, Index, Node
from bnfold.options import Options
from bnfold.reasons import Reason, Refusal
from bnfold.tuning.drift import StoredStatistics
from bnfold.tuning.moments import FloatArray

_MOMENTUM = 0.9  # the default of ONNX

Place = tuple[int, str]  # a BatchNormalization: the number of its scope, and its output
Estimates = Mapping[Place, tuple[FloatArray, FloatArray]]  # mean and variance


def place_of(node: Node) -> Place:
    """What stays the same of a node when its model is read again."""
    return node.scope.number, node.output


def norms(index: Index) -> tuple[list[tuple[Node, StoredStatistics]], list[Refusal]]:
    """The inference BatchNormalizations with constant statistics, in bodies and functions too.

    And why others are left alone.
    """
    draft, holders = Draft(index, Options()), Holders(index)
    found, refused = [], []
    for node in index.nodes():
        if node.op != BATCH_NORM:
            continue
        entry = _norm(draft, node)
        if isinstance(entry, Refusal):
            refused.append(entry)
        elif not holders.can_be_lifted(node.scope):
            refused.append(Refusal(Reason.OTHER_GRAPH, node.label, node.scope.label))
        else:
            found.append((node, entry))
    return found, refused


def _norm(draft: Draft, node: Node) -> StoredStatistics | Refusal:
    own = batch_norm(draft, node)
    if isinstance(own, Refusal):
        return own
    gamma, _, mean, variance = (draft.values(node, slot) for slot in range(1, 5))
    epsilon = float(node.attribute("epsilon", DEFAULT_EPSILON))
    momentum = float(node.attribute("momentum", _MOMENTUM))
    return StoredStatistics(node.label, gamma, mean, variance, epsilon, momentum)


def assign_statistics(index: Index, estimates: Estimates) -> list[Refusal]:
    """Write new statistics into the model, in place; only μ and σ² change.

    Gives the refusals of those that their type cannot hold, which stay as they were.
    """
    draft = Draft(index, Options())
    edits: list[Edit] = []
    refused = []
    for node in index.nodes():
        if node.op == BATCH_NORM and place_of(node) in estimates:
            own = list(_edits(draft, node, *estimates[place_of(node)]))
            objection = next(filter(None, map(draft.refusal_of, own)), None)
            if objection is not None:
                refused.append(objection)
            else:
                edits += own
    apply(index, Plan(tuple(edits), (), draft.constants))
    return refused


def _edits(draft: Draft, node: Node, mean: FloatArray, variance: FloatArray) -> Iterator[Edit]:
    for slot, values in ((3, mean), (4, variance)):
        operand = draft.operand(node, slot)
        assert not isinstance(operand, Refusal), "batch_norm has read it"
        if np.all(np.isfinite(draft.values(node, slot))):
            yield Rescale(node, slot, values.shape, np.zeros_like(values), values)
        else:
            yield Supply(node, slot, values, operand.dtype, operand.name)
