"""The rule of each operator: how it changes the moments of what it reads."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from bnfold.graph.index import Node
from bnfold.graph.summed_constants import erf
from bnfold.tuning.prediction.carried import Carried, Values, batch_norm
from bnfold.tuning.prediction.elementwise import (
    binary,
    clip,
    elementwise,
    elu,
    gelu,
    hard_sigmoid,
    logistic,
    prelu,
    selu,
)
from bnfold.tuning.prediction.linear import conv, conv_transpose, matrix
from bnfold.tuning.prediction.movement import (
    added,
    averaged,
    cast,
    concat,
    moved,
    padded,
    resized,
)

# what a node makes of what it reads, for its first output or for each of them
Rule = Callable[[Values, Node], Carried | tuple[Carried, ...]]

RULES: dict[str, Rule] = {
    "Abs": elementwise(lambda x, _: np.abs(x)),
    "Add": binary(np.add),
    "AveragePool": averaged,
    "BatchNormalization": batch_norm,
    "Cast": cast,
    "Clip": clip,
    "Concat": concat,
    "Conv": conv,
    "ConvTranspose": conv_transpose,
    "DepthToSpace": moved,
    "Div": binary(np.divide),
    "Dropout": moved,
    "Elu": elementwise(elu),
    "Erf": elementwise(lambda x, _: erf(x)),
    "Exp": elementwise(lambda x, _: np.exp(x)),
    "Flatten": moved,
    "Gather": moved,
    "Gelu": elementwise(gelu),
    "Gemm": matrix,
    "GlobalAveragePool": averaged,
    "HardSigmoid": elementwise(hard_sigmoid),
    "HardSwish": elementwise(lambda x, _: x * np.clip(x / 6 + 0.5, 0, 1)),
    "Identity": moved,
    "LeakyRelu": elementwise(lambda x, n: np.where(x > 0, x, n.attribute("alpha", 0.01) * x)),
    "MatMul": matrix,
    "Mish": elementwise(lambda x, _: x * np.tanh(np.logaddexp(0, x))),
    "Mul": binary(np.multiply),
    "Neg": elementwise(lambda x, _: -x),
    "PRelu": prelu,
    "Pad": padded,
    "ReduceMean": averaged,
    "Relu": elementwise(lambda x, _: np.maximum(x, 0)),
    "Reshape": moved,
    "Resize": resized,
    "Selu": elementwise(selu),
    "Sigmoid": elementwise(lambda x, _: logistic(x)),
    "Slice": moved,
    "Softplus": elementwise(lambda x, _: np.logaddexp(0, x)),
    "SpaceToDepth": moved,
    "Split": moved,
    "Squeeze": moved,
    "Sub": binary(np.subtract),
    "Sum": added,
    "Tanh": elementwise(lambda x, _: np.tanh(x)),
    "Transpose": moved,
    "Unsqueeze": moved,
    "Upsample": resized,
}
