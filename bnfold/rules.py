"""THE TABLE: what each operator does with an affine map, in both directions.

A transparent operator is one line in PASS. An operator that absorbs a map, shares it out or changes
it has a rule for each direction in UP and DOWN. How to add one is in RULES.md.
"""

from __future__ import annotations

from bnfold import absorbing, arithmetic, branching, normalizing, passing, quantized, spatial
from bnfold.affine import Affine
from bnfold.draft import Draft
from bnfold.graph import Node
from bnfold.passing import Passage
from bnfold.reasons import Reason, Refusal
from bnfold.rule import Demand, Rule, Step, refuse

# op: f with f(A(x)) = A′(f(x)), from its first input to its first output and back
PASS: dict[str, Passage] = {
    "AveragePool": passing.average_pool,
    "Cast": passing.cast,
    "DepthToSpace": spatial.depth_to_space,
    "Dropout": passing.dropout,
    "Expand": branching.expand,
    "Flatten": passing.reshape,
    "GlobalAveragePool": passing.global_average_pool,
    "GlobalMaxPool": passing.global_max_pool,
    "Identity": passing.unchanged,
    "LeakyRelu": passing.positive_homogeneous,
    "MaxPool": passing.max_pool,
    "PRelu": passing.prelu,
    "ReduceMax": passing.reduce_max,
    "ReduceMean": passing.reduce_mean,
    "ReduceMin": passing.reduce_max,
    "ReduceSum": passing.reduce_sum,
    "Reshape": passing.reshape,
    "Resize": spatial.resize,
    "SpaceToDepth": spatial.space_to_depth,
    "Squeeze": passing.squeeze,
    "Tile": branching.tile,
    "Transpose": passing.transpose,
    "Unsqueeze": passing.unsqueeze,
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
    return _demand(passing.positive_homogeneous(draft, node, a, False))


UP: dict[str, Rule] = {
    **dict.fromkeys(PASS, _pass_up),
    "Add": arithmetic.add_up,
    "BatchNormalization": normalizing.batch_norm_up,
    "Concat": branching.concat_up,
    "Conv": absorbing.conv_up,
    "ConvTranspose": absorbing.conv_transpose_up,
    "DequantizeLinear": quantized.dequantize_up,
    "Div": arithmetic.mul_up,
    "Gather": branching.gather_up,
    "Gemm": absorbing.gemm_up,
    "GroupNormalization": normalizing.group_norm_up,
    "InstanceNormalization": normalizing.instance_norm_up,
    "LayerNormalization": normalizing.layer_norm_up,
    "MatMul": absorbing.matmul_up,
    "Mul": arithmetic.mul_up,
    "Pad": spatial.pad_up,
    "Relu": arithmetic.relu_up,
    "Slice": branching.slice_up,
    "Split": branching.split_up,
    "Sub": arithmetic.add_up,
    "Sum": arithmetic.add_up,
}

DOWN: dict[str, Rule] = {
    **dict.fromkeys(PASS, _pass_down),
    "Add": arithmetic.add_down,
    "BatchNormalization": normalizing.batch_norm_down,
    "Concat": branching.concat_down,
    "Conv": absorbing.conv_down,
    "ConvTranspose": absorbing.conv_transpose_down,
    "Div": arithmetic.mul_down,
    "Gather": branching.gather_down,
    "Gemm": absorbing.gemm_down,
    "MatMul": absorbing.matmul_down,
    "Mul": arithmetic.mul_down,
    "Pad": spatial.pad_down,
    "QuantizeLinear": quantized.quantize_down,
    "Relu": _relu_down,
    "Slice": branching.slice_down,
    "Split": branching.split_down,
    "Sub": arithmetic.add_down,
    "Sum": arithmetic.add_down,
}
