"""THE TABLE: which rule gives the shapes of which operator's results."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, TypeAlias

from bnfold.graph.index import Node
from bnfold.proof.reading.dimensions import Shape
from bnfold.proof.reading.regrouped_shapes import (
    constant_of_shape,
    flatten,
    reshape,
    squeeze,
    transpose,
    unsqueeze,
)
from bnfold.proof.reading.shape_numbers import numbers_made
from bnfold.proof.reading.shape_rules import (
    batch_norm,
    broadcast_inputs,
    concat,
    einsum,
    expand,
    gather,
    gemm,
    matmul,
    reduce,
    same,
    slice_parts,
    split,
    tile,
)
from bnfold.proof.reading.window_shapes import (
    conv_transpose,
    depth_to_space,
    global_pool,
    pad,
    recurrent,
    resize,
    window,
)

if TYPE_CHECKING:
    from bnfold.proof.reading.shapes import Shapes

Rule: TypeAlias = Callable[["Shapes", Node], "Sequence[Shape | None]"]

RULES: dict[str, Rule] = {
    **dict.fromkeys(
        (
            "Abs", "Cast", "CastLike", "Ceil", "Celu", "Clip", "Cos",
            "CumSum", "DequantizeLinear", "Dropout", "Elu", "Erf", "Exp", "Floor", "Gelu",
            "GroupNormalization", "HardSigmoid", "HardSwish", "Hardmax", "Identity",
            "InstanceNormalization", "IsNaN", "LRN", "LayerNormalization", "LeakyRelu", "Log",
            "LogSoftmax", "LpNormalization", "MeanVarianceNormalization", "Mish", "Neg", "Not",
            "QuantizeLinear", "Reciprocal", "Relu", "Round", "Selu", "Shrink", "Sigmoid", "Sign",
            "Sin", "Softmax", "Softplus", "Softsign", "Sqrt", "Swish", "Tanh", "ThresholdedRelu",
            "Trilu",
        ),
        same,
    ),
    **dict.fromkeys(
        (
            "Add", "And", "Div", "Equal", "Greater", "GreaterOrEqual", "Less", "LessOrEqual", "Max",
            "Mean", "Min", "Mod", "Mul", "Or", "PRelu", "Pow", "Sub", "Sum", "Where", "Xor",
        ),
        broadcast_inputs,
    ),
    **dict.fromkeys(
        (
            "AveragePool", "Conv", "ConvInteger", "DeformConv", "LpPool", "MaxPool", "QLinearConv",
            "com.microsoft::FusedConv",
        ),
        window,
    ),
    **dict.fromkeys(("MatMul", "MatMulInteger", "QLinearMatMul"), matmul),
    "DynamicQuantizeLinear": lambda shapes, node: [shapes.input(node, 0), (), ()],
    **dict.fromkeys(("GlobalAveragePool", "GlobalLpPool", "GlobalMaxPool"), global_pool),
    **dict.fromkeys(
        (
            "ReduceL1", "ReduceL2", "ReduceLogSum", "ReduceLogSumExp", "ReduceMax", "ReduceMean",
            "ReduceMin", "ReduceProd", "ReduceSum", "ReduceSumSquare",
        ),
        reduce,
    ),
    "BatchNormalization": batch_norm,
    "Concat": concat,
    "ConstantOfShape": constant_of_shape,
    "ConvTranspose": conv_transpose,
    "DepthToSpace": depth_to_space,
    "Einsum": einsum,
    "Expand": expand,
    "Flatten": flatten,
    **dict.fromkeys(("GRU", "LSTM", "RNN"), recurrent),
    **dict.fromkeys(("ScatterElements", "ScatterND"), same),
    "Gather": gather,
    **dict.fromkeys(("Gemm", "com.microsoft::FusedGemm"), gemm),
    "If": lambda shapes, node: shapes.of_branches(node),
    "Pad": pad,
    "Reshape": reshape,
    "Resize": resize,
    "Shape": lambda shapes, node: [(len(numbers_made(shapes, node) or ()),)],
    "Slice": slice_parts,
    "SpaceToDepth": depth_to_space,
    "Split": split,
    "Squeeze": squeeze,
    "Tile": tile,
    "Transpose": transpose,
    "Unsqueeze": unsqueeze,
    "Upsample": resize,
}  # fmt: skip
