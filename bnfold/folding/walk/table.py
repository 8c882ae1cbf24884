"""THE TABLE: what each operator does with an affine map, in both directions.

A transparent operator is one line in PASS. An operator that absorbs a map, shares it out or changes
it has a rule for each direction in UP and DOWN. How to add one is in RULES.md.
"""

from __future__ import annotations

from bnfold.folding.rules import (
    channel_shuffle,
    elementwise,
    normalization,
    quantization,
    slicing,
    spatial,
    transparent,
)
from bnfold.folding.rules.base import Demand, Rule, Step, refuse
from bnfold.folding.rules.products import convolution, einsum, fused, gemm_and_matmul, recurrent
from bnfold.folding.rules.transparent import Passage
from bnfold.folding.weights.affine import Affine
from bnfold.folding.weights.draft import Draft
from bnfold.graph.index import Node
from bnfold.reasons import Reason, Refusal

# op: f with f(A(x)) = A′(f(x)), from its first input to its first output and back
PASS: dict[str, Passage] = {
    "Abs": transparent.positive_homogeneous,
    "AveragePool": transparent.average_pool,
    "Cast": transparent.cast,
    "CumSum": transparent.cumulative_sum,
    "DepthToSpace": spatial.depth_to_space,
    "Dropout": transparent.dropout,
    "Expand": slicing.expand,
    "Flatten": transparent.reshape,
    "GlobalAveragePool": transparent.global_average_pool,
    "GlobalLpPool": transparent.lp_pool,
    "GlobalMaxPool": transparent.global_max_pool,
    "Identity": transparent.unchanged,
    "LeakyRelu": transparent.positive_homogeneous,
    "LpPool": transparent.lp_pool,
    "MaxPool": transparent.max_pool,
    "Neg": transparent.negation,
    "PRelu": transparent.prelu,
    "ReduceL1": transparent.reduce_norm,
    "ReduceL2": transparent.reduce_norm,
    "ReduceMax": transparent.reduce_max,
    "ReduceMean": transparent.reduce_mean,
    "ReduceMin": transparent.reduce_max,
    "ReduceSum": transparent.reduce_sum,
    "Reshape": transparent.reshape,
    "Resize": spatial.resize,
    "ReverseSequence": transparent.reverse_sequence,
    "SpaceToDepth": spatial.space_to_depth,
    "Squeeze": transparent.squeeze,
    "Tile": slicing.tile,
    "Transpose": transparent.transpose,
    "Trilu": transparent.triangle,
    "Unsqueeze": transparent.unsqueeze,
    "Upsample": spatial.resize,
}


def _pass_up(draft: Draft, node: Node, _: int, a: Affine) -> Step | Refusal:
    return _demand(PASS[draft.op(node)](draft, node, a, True))


def _pass_down(draft: Draft, node: Node, slot: int, a: Affine) -> Step | Refusal:
    if slot != 0:
        return refuse(Reason.NOT_TRANSPARENT, node, f"input {slot} of {draft.op(node)}")
    return _demand(PASS[draft.op(node)](draft, node, a, False))


def _demand(a: Affine | Refusal) -> Step | Refusal:
    return a if isinstance(a, Refusal) else Step(demands=(Demand(0, a),))


def _relu_down(draft: Draft, node: Node, _: int, a: Affine) -> Step | Refusal:
    return _demand(transparent.positive_homogeneous(draft, node, a, False))


PRODUCTS = frozenset(
    {
        *recurrent.RECURRENT, "Conv", "ConvTranspose", "DeformConv", "Einsum", "Gemm", "MatMul",
        "com.microsoft::FusedConv", "com.microsoft::FusedGemm",
    }
)  # fmt: skip

UP: dict[str, Rule] = {
    **dict.fromkeys(PASS, _pass_up),
    "Add": elementwise.add_up,
    "BatchNormalization": normalization.batch_norm_up,
    "Concat": slicing.concat_up,
    "Conv": convolution.conv_up,
    "ConvTranspose": convolution.conv_transpose_up,
    "DeformConv": convolution.conv_up,
    "DequantizeLinear": quantization.dequantize_up,
    "Div": elementwise.mul_up,
    "Einsum": einsum.einsum_up,
    "Gather": slicing.gather_up,
    "Gemm": gemm_and_matmul.gemm_up,
    "GroupNormalization": normalization.group_norm_up,
    "InstanceNormalization": normalization.instance_norm_up,
    "LayerNormalization": normalization.layer_norm_up,
    "MatMul": gemm_and_matmul.matmul_up,
    "Mul": elementwise.mul_up,
    "Pad": spatial.pad_up,
    "Relu": elementwise.relu_up,
    "Reshape": channel_shuffle.reshape_up,
    "Slice": slicing.slice_up,
    "Split": slicing.split_up,
    "Sub": elementwise.add_up,
    "Sum": elementwise.add_up,
    "com.microsoft::FusedConv": fused.fused_conv_up,
    "com.microsoft::FusedGemm": fused.fused_gemm_up,
}

DOWN: dict[str, Rule] = {
    **dict.fromkeys(PASS, _pass_down),
    "Add": elementwise.add_down,
    "BatchNormalization": normalization.batch_norm_down,
    "Concat": slicing.concat_down,
    "Conv": convolution.conv_down,
    "ConvTranspose": convolution.conv_transpose_down,
    "DeformConv": convolution.deform_conv_down,
    "Div": elementwise.mul_down,
    "Einsum": einsum.einsum_down,
    "Gather": slicing.gather_down,
    **dict.fromkeys(recurrent.RECURRENT, recurrent.recurrent_down),
    "Gemm": gemm_and_matmul.gemm_down,
    "MatMul": gemm_and_matmul.matmul_down,
    "Mul": elementwise.mul_down,
    "Pad": spatial.pad_down,
    "QuantizeLinear": quantization.quantize_down,
    "Relu": _relu_down,
    "Reshape": channel_shuffle.reshape_down,
    "Slice": slicing.slice_down,
    "Split": slicing.split_down,
    "Sub": elementwise.add_down,
    "Sum": elementwise.add_down,
    "com.microsoft::FusedConv": convolution.conv_down,
    "com.microsoft::FusedGemm": gemm_and_matmul.gemm_down,
}
