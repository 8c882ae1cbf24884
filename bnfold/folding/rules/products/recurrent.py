"""LSTM, GRU and RNN: their input weights take a map that stands before them."""

from __future__ import annotations

import numpy as np

from bnfold.folding.rules.base import Step, channels, refuse, refuse_misshapen_weight
from bnfold.folding.weights.affine import Affine
from bnfold.folding.weights.draft import Draft, Operand
from bnfold.folding.weights.edits import Edit, Guard, Rescale, Supply
from bnfold.graph.index import Node
from bnfold.reasons import Reason, Refusal

RECURRENT = ("GRU", "LSTM", "RNN")


def recurrent_down(draft: Draft, node: Node, slot: int, a: Affine) -> Step | Refusal:
    """W·(s·x + t) + b_w  =  (W·s)·x + (b_w + W·t), in every step and gate.

    W is [directions, gates·hidden, inputs]; B is [directions, 2·gates·hidden], first b_w, then the
    bias of the recurrent side, which stays.
    """
    if slot != 0:
        return refuse(Reason.NOT_TRANSPARENT, node, f"input {slot} of {node.op}")
    weight, shape = draft.operand(node, 1), draft.shape(node, 0)
    if isinstance(weight, Refusal):
        return weight
    if weight.quantized or len(weight.shape) != 3:
        return refuse_misshapen_weight(node, weight)
    if shape is None or len(shape) != 3:
        return refuse(Reason.UNKNOWN_RANK, node)
    own = channels(a, node, 2, weight.shape[2])
    if isinstance(own, Refusal):
        return own
    guard = Guard(np.zeros(()), weight.shape[2])
    edits: list[Edit] = [Rescale(node, 1, weight.shape, own.scale, guard=guard)]
    bias = draft.operand(node, 3) if draft.has(node, 3) else None
    if isinstance(bias, Operand) and bias.shape != (weight.shape[0], 2 * weight.shape[1]):
        return refuse_misshapen_weight(node, bias)
    if not own.shifts:
        return Step(tuple(edits))
    added = draft.values(node, 1) @ own.shift
    both = np.concatenate([added, np.zeros_like(added)], axis=1)
    if bias is None:
        supplied = Supply(node, 3, both, weight.dtype, f"{weight.name}_bias")
        return Step((*edits, supplied))
    if isinstance(bias, Refusal):
        return bias
    if bias.quantized:
        return refuse_misshapen_weight(node, bias)
    return Step((*edits, Rescale(node, 3, bias.shape, np.ones(()), both)))
