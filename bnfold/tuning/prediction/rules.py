"""How operators change the moments of what they read."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
from onnx import TensorProto

from bnfold.graph.index import Node
from bnfold.graph.shape_inference import Shape
from bnfold.graph.summed_constants import erf
from bnfold.tuning.moments import FloatArray
from bnfold.tuning.prediction.carried import (
    BORDERS,
    INDEPENDENT,
    NORMAL,
    Carried,
    UnknownMomentsError,
    Values,
)

_MOST = 1 << 24  # weights that are summed up in float64 at once
_FLOATS = (TensorProto.FLOAT, TensorProto.FLOAT16, TensorProto.BFLOAT16, TensorProto.DOUBLE)
_WIDEST = 1 << 16  # channels whose values are tabulated

Rule = Callable[[Values, Node], Carried]


def _batch_norm(values: Values, node: Node) -> Carried:
    """Whatever it reads, as far as its statistics fit."""
    gamma, beta = values.constant(node, 1), values.constant(node, 2)
    if gamma is None or beta is None or gamma.ndim != 1 or gamma.shape != beta.shape:
        raise UnknownMomentsError(f"{node.label} has no constant γ and β")
    if len(gamma) > _WIDEST:
        raise UnknownMomentsError(f"{node.label} has {len(gamma)} channels")
    return Carried.normal(beta, gamma * gamma, (node.scope, node.output))


def _table(values: Values, node: Node) -> tuple[Carried, FloatArray]:
    """What is read, and its values as a function of some normal value."""
    found = values.of(node)
    if found.table is not None:
        return found, found.table
    if not np.all(np.isfinite(found.variance)) or len(found.mean) > _WIDEST:
        raise UnknownMomentsError(f"the variance that {node.label} reads is not known")
    source = (node.scope, node.input(0))
    made = Carried.normal(found.mean, found.variance, source, found.assumes | {NORMAL})
    assert made.table is not None
    return made, made.table


def _elementwise(function: Callable[[FloatArray, Node], FloatArray]) -> Rule:
    def rule(values: Values, node: Node) -> Carried:
        found, table = _table(values, node)
        with np.errstate(over="ignore"):
            return found.mapped(np.asarray(function(table, node), np.float64))

    return rule


def _logistic(x: FloatArray) -> FloatArray:
    return np.asarray(1 / (1 + np.exp(-x)))


def _gelu(x: FloatArray, node: Node) -> FloatArray:
    if node.attribute("approximate", b"none") == b"tanh":
        return np.asarray(0.5 * x * (1 + np.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3))))
    return np.asarray(0.5 * x * (1 + erf(x / math.sqrt(2))))


def _hard_sigmoid(x: FloatArray, node: Node) -> FloatArray:
    return np.clip(node.attribute("alpha", 0.2) * x + node.attribute("beta", 0.5), 0, 1)


def _elu(x: FloatArray, node: Node) -> FloatArray:
    return np.where(x > 0, x, node.attribute("alpha", 1.0) * np.expm1(np.minimum(x, 0)))


def _selu(x: FloatArray, node: Node) -> FloatArray:
    alpha = node.attribute("alpha", 1.67326319217681884765625)
    gamma = node.attribute("gamma", 1.05070102214813232421875)
    return np.asarray(gamma * np.where(x > 0, x, alpha * np.expm1(np.minimum(x, 0))))


def _clip(values: Values, node: Node) -> Carried:
    low: float | None = node.attribute("min", -math.inf)
    high: float | None = node.attribute("max", math.inf)
    if node.scope.opset >= 11:
        low, high = (_bound(values, node, slot) for slot in (1, 2))
    found, table = _table(values, node)
    return found.mapped(np.clip(table, low, high))


def _bound(values: Values, node: Node, slot: int) -> float | None:
    if not node.input(slot):
        return -math.inf if slot == 1 else math.inf
    bound = values.constant(node, slot)
    if bound is None or bound.size != 1:
        raise UnknownMomentsError(f"{node.label} has bounds that are no constants")
    return float(bound.reshape(-1)[0])


def _prelu(values: Values, node: Node) -> Carried:
    found, table = _table(values, node)
    slope = values.per_channel(node, 1, len(found.mean))
    if slope is None:
        raise UnknownMomentsError(f"{node.label} has a slope for more than channels")
    return found.mapped(np.where(table > 0, table, slope[:, None] * table))


def _binary(function: Callable[[FloatArray, FloatArray], FloatArray]) -> Rule:
    """Of a value and a constant, or of two values."""

    def rule(values: Values, node: Node) -> Carried:
        for slot in (0, 1):
            if values.constant(node, slot) is not None:
                return _with_constant(values, node, slot, function)
        one, two = values.of(node, 0), values.of(node, 1)
        shapes = [values.shape(node, slot) for slot in (0, 1)]
        ranks = {None if shape is None else len(shape) for shape in shapes}
        if len(one.mean) != len(two.mean) or len(ranks) > 1 or None in ranks:
            raise UnknownMomentsError(f"{node.label} broadcasts channels")
        assumes = one.assumes | two.assumes
        if one.table is not None and two.table is not None and one.source == two.source:
            made = function(one.table, two.table)
            return Carried(one.mean, one.variance, assumes, one.source).mapped(made)
        if node.op == "Div":
            raise UnknownMomentsError(f"{node.label} divides by a value")
        mean = function(one.mean, two.mean)
        if node.op == "Mul":
            second = (one.variance + one.mean**2) * (two.variance + two.mean**2)
            return Carried(mean, second - mean**2, assumes | {INDEPENDENT})
        return Carried(mean, one.variance + two.variance, assumes)  # the mean needs no more

    return rule


def _with_constant(
    values: Values, node: Node, slot: int,
    function: Callable[[FloatArray, FloatArray], FloatArray],
) -> Carried:  # fmt: skip
    found = values.of(node, 1 - slot)
    c = values.per_channel(node, slot, len(found.mean))
    if c is None or (node.op == "Div" and (slot == 0 or not np.all(c))):
        raise UnknownMomentsError(f"{node.label} has a constant for more than channels")

    def applied(x: FloatArray, c: FloatArray) -> FloatArray:
        return function(x, c) if slot else function(c, x)

    if found.table is not None:
        return found.mapped(applied(found.table, c[:, None]), linear=True)
    scale = applied(np.ones_like(c), c) - applied(np.zeros_like(c), c)
    return found.apart(applied(found.mean, c), scale * scale * found.variance)


# --- linear operators ----------------------------------------------------------------------------


def _conv(values: Values, node: Node) -> Carried:
    found, weight = values.of(node), values.constant(node, 1)
    bias = values.constant(node, 2) if node.input(2) else np.zeros(1)
    if weight is None or bias is None or weight.ndim < 3 or weight.size > _MOST:
        raise UnknownMomentsError(f"{node.label} has no constant weight")
    groups = int(node.attribute("group", 1))
    fits = groups > 0 and weight.shape[1] * groups == len(found.mean)
    if not fits or weight.shape[0] % groups or bias.size not in (1, weight.shape[0]):
        raise UnknownMomentsError(f"{node.label} reads other channels")
    share, assumes = _inside(values, node, weight.shape[2:])
    shared = weight * share
    mean, variance = (
        _per_group(w.reshape(*w.shape[:2], -1).sum(axis=2), v, groups)
        for w, v in ((shared, found.mean), (weight * shared, found.variance))
    )
    return found.apart(mean + bias, variance, *assumes)


def _per_group(weight: FloatArray, each: FloatArray, groups: int) -> FloatArray:
    rows = weight.reshape(groups, -1, weight.shape[1])
    return np.asarray(np.einsum("goi,gi->go", rows, each.reshape(groups, -1)).reshape(-1))


def _inside(
    values: Values, node: Node, kernel: tuple[int, ...]
) -> tuple[FloatArray | float, tuple[str, ...]]:
    """The share of windows of which each tap is not in the padding."""
    axes = len(kernel)
    pads = node.numbers("pads") or [0] * (2 * axes)
    auto = node.attribute("auto_pad", b"NOTSET")
    if auto in (b"NOTSET", b"VALID") and (auto == b"VALID" or not any(pads)):
        return 1.0, ()
    sizes = [_sizes(shape, axes) for shape in (values.shape(node), values.output_shape(node))]
    strides = node.numbers("strides") or [1] * axes
    dilations = node.numbers("dilations") or [1] * axes
    before, after = sizes
    if auto != b"NOTSET" or before is None or after is None or len(pads) != 2 * axes:
        return 1.0, (BORDERS,)
    share = np.ones(())
    for axis in range(axes):
        taps = np.arange(kernel[axis]) * dilations[axis] - pads[axis]
        places = np.arange(after[axis]) * strides[axis] + taps[:, None]
        share = np.multiply.outer(share, ((places >= 0) & (places < before[axis])).mean(axis=1))
    return share, (BORDERS,)


def _sizes(shape: Shape | None, axes: int) -> list[int] | None:
    """The sizes of a value's pixels; None where they are not known, or there are none."""
    if shape is None or len(shape) != 2 + axes:
        return None
    found = [size for size in shape[2:] if isinstance(size, int) and size > 0]
    return found if len(found) == axes else None


def _matrix(values: Values, node: Node) -> Carried:
    found, weight = values.of(node), values.constant(node, 1)
    shape = values.shape(node)
    if weight is None or weight.ndim != 2 or shape is None or len(shape) != 2:
        raise UnknownMomentsError(f"{node.label} is no product with a constant matrix")
    gemm = node.op == "Gemm"
    if gemm and node.attribute("transB", 0):
        weight = weight.T
    if (gemm and node.attribute("transA", 0)) or weight.shape[0] != len(found.mean):
        raise UnknownMomentsError(f"{node.label} reads other channels")
    alpha, beta = (float(node.attribute(a, 1.0)) if gemm else 1.0 for a in ("alpha", "beta"))
    bias = values.constant(node, 2) if gemm and node.input(2) else np.zeros(1)
    n = weight.shape[1]
    if bias is None or (bias.size > 1 and bias.shape not in ((n,), (1, n))):
        raise UnknownMomentsError(f"{node.label} has a bias for more than channels")
    mean = alpha * (found.mean @ weight) + beta * bias.reshape(-1)
    return found.apart(mean, alpha**2 * (found.variance @ weight**2))


# --- what moves or averages ----------------------------------------------------------------------


def _same(values: Values, node: Node) -> Carried:
    return values.of(node)


def _cast(values: Values, node: Node) -> Carried:
    if node.attribute("to", 0) not in _FLOATS:
        raise UnknownMomentsError(f"{node.label} makes other numbers of them")
    return values.of(node)


def _average(values: Values, node: Node) -> Carried:
    """Means stay; how much variance is left depends on how alike neighbours are."""
    found = values.of(node)
    padded = any(node.numbers("pads") or ())
    if padded and node.attribute("count_include_pad", 0):
        raise UnknownMomentsError(f"{node.label} averages zeros of its padding")
    more = (BORDERS,) if padded else ()
    return found.apart(found.mean, np.full_like(found.mean, np.nan), *more)


def _flattened(values: Values, node: Node) -> Carried:
    """[N, C, …] to [N, C·…]: each channel as often as it has pixels."""
    found, shape, out = values.of(node), values.shape(node), values.output_shape(node)
    pixels = [size for size in (shape or ())[2:] if isinstance(size, int)]
    rows = out is not None and shape is not None and len(out) == 2 and out[0] == shape[0]
    if not rows or len(pixels) < len((shape or ())[2:]):
        raise UnknownMomentsError(f"{node.label} stands in between")
    count = math.prod(pixels)
    if count * len(found.mean) > _MOST:
        raise UnknownMomentsError(f"{node.label} has too many numbers")
    return found.apart(np.repeat(found.mean, count), np.repeat(found.variance, count))


def _concat(values: Values, node: Node) -> Carried:
    shape = values.shape(node)
    axis = node.attribute("axis", 1)
    if axis != 1 and (shape is None or axis + len(shape) != 1):
        raise UnknownMomentsError(f"{node.label} joins no channels")
    parts = [values.of(node, slot) for slot in range(len(node.proto.input))]
    mean, variance = (np.concatenate([getattr(p, n) for p in parts]) for n in ("mean", "variance"))
    return Carried(mean, variance, frozenset().union(*(p.assumes for p in parts)))


RULES: dict[str, Rule] = {
    "Abs": _elementwise(lambda x, _: np.abs(x)),
    "Add": _binary(np.add),
    "AveragePool": _average,
    "BatchNormalization": _batch_norm,
    "Cast": _cast,
    "Clip": _clip,
    "Concat": _concat,
    "Conv": _conv,
    "Div": _binary(np.divide),
    "Dropout": _same,
    "Elu": _elementwise(_elu),
    "Erf": _elementwise(lambda x, _: erf(x)),
    "Flatten": _flattened,
    "Gelu": _elementwise(_gelu),
    "Gemm": _matrix,
    "GlobalAveragePool": _average,
    "HardSigmoid": _elementwise(_hard_sigmoid),
    "HardSwish": _elementwise(lambda x, _: x * np.clip(x / 6 + 0.5, 0, 1)),
    "Identity": _same,
    "LeakyRelu": _elementwise(lambda x, n: np.where(x > 0, x, n.attribute("alpha", 0.01) * x)),
    "MatMul": _matrix,
    "Mish": _elementwise(lambda x, _: x * np.tanh(np.logaddexp(0, x))),
    "Mul": _binary(np.multiply),
    "Neg": _elementwise(lambda x, _: -x),
    "PRelu": _prelu,
    "Relu": _elementwise(lambda x, _: np.maximum(x, 0)),
    "Reshape": _flattened,
    "Selu": _elementwise(_selu),
    "Sigmoid": _elementwise(lambda x, _: _logistic(x)),
    "Softplus": _elementwise(lambda x, _: np.logaddexp(0, x)),
    "Sub": _binary(np.subtract),
    "Tanh": _elementwise(lambda x, _: np.tanh(x)),
}
