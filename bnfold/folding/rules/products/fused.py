"""Operators of onnxruntime's own that end in an activation: FusedConv and FusedGemm.

A map behind them has to pass the activation first: s·f(x) = f(s·x). One before them has not.
"""

from __future__ import annotations

from bnfold.folding.rules.base import Rule, Step, refuse, refuse_negative_scale, refuse_shift
from bnfold.folding.weights.affine import Affine
from bnfold.folding.weights.draft import Draft
from bnfold.graph.index import Node
from bnfold.reasons import Reason, Refusal

_HOMOGENEOUS = (b"Relu", b"LeakyRelu")
_SUMMAND = 3  # the input of a FusedConv that is added to what the convolution makes


def before_activation(rule: Rule) -> Rule:
    """The rule of the operator without its activation, for a map that may pass that."""

    def fused_up(draft: Draft, node: Node, output: int, a: Affine) -> Step | Refusal:
        if node.op.endswith("Conv") and draft.has(node, _SUMMAND):
            return refuse(Reason.NOT_TRANSPARENT, node, "FusedConv that adds another value")
        activation = node.attribute("activation", b"")
        if activation and activation not in _HOMOGENEOUS:
            name = activation.decode(errors="replace")
            return refuse(Reason.NOT_TRANSPARENT, node, f"the {name} in {node.op}")
        passes = refuse_negative_scale(node, a) or refuse_shift(node, a) if activation else None
        return passes or rule(draft, node, output, a)

    return fused_up
