"""Operators of onnxruntime's own that end in an activation: FusedConv and FusedGemm.

A map behind them has to pass the activation first: s·f(x) = f(s·x). One before them has not.
"""

from __future__ import annotations

from bnfold.folding.rules.base import Step, refuse, refuse_negative_scale, refuse_shift
from bnfold.folding.rules.products import convolution, gemm_and_matmul
from bnfold.folding.weights.affine import Affine
from bnfold.folding.weights.draft import Draft
from bnfold.graph.index import Node
from bnfold.reasons import Reason, Refusal

_HOMOGENEOUS = (b"Relu", b"LeakyRelu")
_SUMMAND = 3  # the input of a FusedConv that is added to what the convolution makes


def fused_conv_up(draft: Draft, node: Node, output: int, a: Affine) -> Step | Refusal:
    """f(W∗x + b): as a Conv, where the map may pass f, and nothing else is added."""
    if draft.has(node, _SUMMAND):
        return refuse(Reason.NOT_TRANSPARENT, node, "FusedConv that adds another value")
    return _stopped(node, a) or convolution.conv_up(draft, node, output, a)


def fused_gemm_up(draft: Draft, node: Node, output: int, a: Affine) -> Step | Refusal:
    """f(α·A·B + β·C): as a Gemm, likewise."""
    return _stopped(node, a) or gemm_and_matmul.gemm_up(draft, node, output, a)


def _stopped(node: Node, a: Affine) -> Refusal | None:
    """Why a map does not pass what the operator ends in; None where it does."""
    activation = node.attribute("activation", b"")
    if not activation:
        return None
    if activation not in _HOMOGENEOUS:
        name = activation.decode(errors="replace")
        return refuse(Reason.NOT_TRANSPARENT, node, f"the {name} in {node.op}")
    return refuse_negative_scale(node, a) or refuse_shift(node, a)
