"""Constants made by operators that add up: their values, and how many roundings runtimes may make.

Each is computed in float64 and rounded once to its type. A runtime adds in an order of its own, in
its own precision: what it gives is as many roundings off, in units u of the terms that were added,
as `roundings` says. Where much more was added than is left of it, or a square leaves the range of
the type, that says nothing of the result, which is then not known.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import ml_dtypes
import numpy as np

from bnfold.graph.index import Node
from bnfold.proof.values.operands import (
    FLOATS,
    MOST,
    Array,
    Operands,
    UnknownValueError,
    axis_of,
    get,
    has,
    ints,
    require_bounded,
)

Rule = Callable[[Node, Operands], Array]
_LEFT = 2.0**-14  # of what was added, at least; in 16-bit floats a sixteenth
_EPSILON = float(np.float32(1e-5))


def _number(operands: Operands, slot: int) -> Array:
    value = get(operands, slot)
    if value.dtype.name not in FLOATS:
        raise UnknownValueError
    return value.astype(np.float64)


def _rounded(result: Array, like: Array) -> Array:
    return np.asarray(result).astype(like.dtype)


# --- sums over axes ------------------------------------------------------------------------------


def _reduced(of: Callable[[Array], Array], since: int, mean: bool = False) -> Rule:
    """Σ f(x) or its mean, over axes that are an input `since` an opset."""

    def rule(node: Node, operands: Operands) -> Array:
        total, count = _summed(of(_number(operands, 0)), node, operands, since)
        return _rounded(total / count if mean else total, get(operands, 0))

    return rule


def _summed(x: Array, node: Node, operands: Operands, since: int) -> tuple[Array, int]:
    axes = _axes(node, operands, since, x.ndim)
    count = math.prod(x.shape[axis] for axis in axes)
    if not count:
        raise UnknownValueError
    return x.sum(axis=axes, keepdims=bool(node.attribute("keepdims", 1))), count


def _axes(node: Node, operands: Operands, since: int, rank: int) -> tuple[int, ...]:
    named = node.numbers("axes")
    if node.scope.opset >= since:
        named = ints(operands, 1) if has(operands, 1) else None
        if not named and node.attribute("noop_with_empty_axes", 0):
            raise UnknownValueError
    if not named:
        return tuple(range(rank))
    return tuple(axis_of(int(axis), rank) for axis in named)


def _length(node: Node, operands: Operands) -> Array:
    """√Σx²."""
    return _rounded(np.sqrt(_sum_of_squares(node, operands)), get(operands, 0))


def _squares(node: Node, operands: Operands) -> Array:
    """Σx²."""
    return _rounded(_sum_of_squares(node, operands), get(operands, 0))


def _sum_of_squares(node: Node, operands: Operands) -> Array:
    square = _number(operands, 0) ** 2
    like = get(operands, 0)
    total, small = (_summed(v, node, operands, 18)[0] for v in (square, _subnormal(square, like)))
    _require_in_range(total, small, like)
    return total


def _limits(like: Array) -> tuple[float, float]:
    """The least normal and the largest number of an array's type."""
    found: Any = ml_dtypes.finfo(like.dtype)  # type: ignore[no-untyped-call]
    return float(found.smallest_normal), float(found.max)


def _subnormal(square: Array, like: Array) -> Array:
    return np.where(square < _limits(like)[0], square, 0.0)


def _require_in_range(total: Array, small: Array, like: Array) -> None:
    """Neither overflow nor underflow may show in a sum of squares, of which `small` underflow."""
    if not np.all(total <= _limits(like)[1]) or np.any(small > 2.0**-24 * total):
        raise UnknownValueError


def _extreme(most: bool) -> Rule:
    def rule(node: Node, operands: Operands) -> Array:
        x = _number(operands, 0)
        axes, keep = _axes(node, operands, 18, x.ndim), bool(node.attribute("keepdims", 1))
        found = x.max(axis=axes, keepdims=keep) if most else x.min(axis=axes, keepdims=keep)
        return _rounded(found, get(operands, 0))

    return rule


# --- normalisation -------------------------------------------------------------------------------


def _normal(x: Array, axes: tuple[int, ...], node: Node) -> Array:
    """(x − μ)/√(σ² + ε) with the mean and the variance over these axes."""
    count = math.prod(x.shape[axis] for axis in axes)
    if not count:
        raise UnknownValueError
    mean = x.sum(axis=axes, keepdims=True) / count
    away = x - mean
    variance = (away * away).sum(axis=axes, keepdims=True) / count
    if np.any(variance < _LEFT * mean * mean):
        raise UnknownValueError
    return np.asarray(away / np.sqrt(variance + float(node.attribute("epsilon", _EPSILON))))


def _beside(operands: Operands, slot: int, x: Array) -> Array:
    """A parameter for each channel, on axis 1."""
    vector = _number(operands, slot)
    if x.ndim < 2 or vector.shape != (x.shape[1],):
        raise UnknownValueError
    return vector.reshape([-1 if axis == 1 else 1 for axis in range(x.ndim)])


def _batch_norm(node: Node, operands: Operands) -> Array:
    x, opset = _number(operands, 0), node.scope.opset
    gamma, beta, mean, variance = (_beside(operands, slot, x) for slot in range(1, 5))
    if opset < 9:
        raise UnknownValueError
    trains = node.attribute("training_mode", 0) if opset >= 14 else any(node.proto.output[1:])
    if trains:
        own = _normal(x, tuple(axis for axis in range(x.ndim) if axis != 1), node)
    else:
        own = (x - mean) / np.sqrt(variance + float(node.attribute("epsilon", _EPSILON)))
    return _rounded(own * gamma + beta, get(operands, 0))


def _instance_norm(node: Node, operands: Operands) -> Array:
    x = _number(operands, 0)
    own = _normal(x, tuple(range(2, x.ndim)), node) if x.ndim > 2 else None
    if own is None:
        raise UnknownValueError
    return _rounded(own * _beside(operands, 1, x) + _beside(operands, 2, x), get(operands, 0))


def _layer_norm(node: Node, operands: Operands) -> Array:
    x = _number(operands, 0)
    first = axis_of(node.attribute("axis", -1), x.ndim)
    own = _normal(x, tuple(range(first, x.ndim)), node) * _number(operands, 1)
    own = own + _number(operands, 2) if has(operands, 2) else own
    return _rounded(own, get(operands, 0))


def _group_norm(node: Node, operands: Operands) -> Array:
    """Parameters are those of groups below opset 21, of channels from then on."""
    x, groups = _number(operands, 0), node.attribute("num_groups", 0)
    if x.ndim < 3 or groups < 1 or x.shape[1] % groups:
        raise UnknownValueError
    own = _normal(x.reshape(len(x), groups, -1), (2,), node).reshape(x.shape)
    each = x.shape[1] // groups if node.scope.opset < 21 else 1
    gamma, beta = (_number(operands, slot).repeat(each) for slot in (1, 2))
    rows = (gamma, beta)
    return _rounded(
        own * _beside((None, *rows), 1, x) + _beside((None, *rows), 2, x), get(operands, 0)
    )


def _unit_length(node: Node, operands: Operands) -> Array:
    """x/Σ|x| or x/√Σx² along one axis."""
    x, p = _number(operands, 0), node.attribute("p", 2)
    axis = axis_of(node.attribute("axis", -1), x.ndim)
    if p not in (1, 2):
        raise UnknownValueError
    total = (np.abs(x) if p == 1 else x * x).sum(axis=axis, keepdims=True)
    if np.any(total == 0):
        raise UnknownValueError
    if p == 2:
        like = get(operands, 0)
        _require_in_range(total, _subnormal(x * x, like).sum(axis=axis, keepdims=True), like)
    return _rounded(x / (total if p == 1 else np.sqrt(total)), get(operands, 0))


# --- products ------------------------------------------------------------------------------------


def _matmul(node: Node, operands: Operands) -> Array:
    a, b = _number(operands, 0), _number(operands, 1)
    if not a.ndim or not b.ndim or a.size * b.shape[-1] > MOST:
        raise UnknownValueError
    return _rounded(a @ b, get(operands, 0))


def _einsum(node: Node, operands: Operands) -> Array:
    equation = node.attribute("equation", b"").decode().replace(" ", "")
    values = [_number(operands, slot) for slot in range(len(operands))]
    terms = equation.split("->")[0].split(",")
    if "." in equation or len(terms) != len(values):
        raise UnknownValueError
    sizes: dict[str, int] = {}
    for term, value in zip(terms, values, strict=True):
        sizes |= dict(zip(term, value.shape, strict=True))
    if math.prod(map(float, sizes.values())) > MOST:
        raise UnknownValueError
    return _rounded(np.asarray(np.einsum(equation, *values)), get(operands, 0))


# --- numbers that are picked, or changed one by one ----------------------------------------------


def _together(of: Callable[[Array, Array], Array]) -> Rule:
    def rule(node: Node, operands: Operands) -> Array:
        values = [_number(operands, slot) for slot in range(len(operands))]
        shape = np.broadcast_shapes(*(value.shape for value in values))
        require_bounded(math.prod(map(float, shape)), operands)
        total = values[0]
        for value in values[1:]:
            total = np.asarray(of(total, value))
        return _rounded(total, get(operands, 0))

    return rule


def _each(of: Callable[[Array], Array]) -> Rule:
    return lambda node, operands: _rounded(of(_number(operands, 0)), get(operands, 0))


def _clip(node: Node, operands: Operands) -> Array:
    x = _number(operands, 0)
    most = _limits(get(operands, 0))[1]  # infinities are cut off by default
    low, high = node.attribute("min", -most), node.attribute("max", most)
    if node.scope.opset >= 11:
        low = _number(operands, 1).item() if has(operands, 1) else -most
        high = _number(operands, 2).item() if has(operands, 2) else most
    if not low <= high:
        raise UnknownValueError
    return _rounded(np.minimum(np.maximum(x, low), high), get(operands, 0))


def _where(node: Node, operands: Operands) -> Array:
    condition, one, two = (get(operands, slot) for slot in range(3))
    if condition.dtype.kind != "b" or one.dtype != two.dtype or one.dtype.name not in FLOATS:
        raise UnknownValueError
    shape = np.broadcast_shapes(condition.shape, one.shape, two.shape)
    require_bounded(math.prod(map(float, shape)), operands)
    return np.where(condition, one, two)


def _erf(x: Array) -> Array:
    return np.array([math.erf(value) for value in x.reshape(-1).tolist()]).reshape(x.shape)


# --- what is left of what was added --------------------------------------------------------------


def _sum(rule: Rule, *, whole: bool = False) -> Rule:
    """A rule whose result must not be small beside that of the operands' absolute values.

    `whole`: the largest elements count, as others may well be small.
    """

    def checked(node: Node, operands: Operands) -> Array:
        found = rule(node, operands)
        sizes = [v if v is None or v.dtype.name not in FLOATS else abs(v) for v in operands]
        parts, left = rule(node, sizes).astype(np.float64), abs(found.astype(np.float64))
        if whole:
            parts, left = parts.max(initial=0), left.max(initial=0)
        if not np.all(left >= (1 / 16 if found.dtype.itemsize == 2 else _LEFT) * parts):
            raise UnknownValueError
        return found

    return checked


RULES: dict[str, Rule] = {
    "Abs": _each(np.abs),
    "BatchNormalization": _batch_norm,
    "Clip": _clip,
    "Einsum": _sum(_einsum, whole=True),
    "Erf": _each(_erf),
    "Exp": _each(np.exp),
    "GroupNormalization": _group_norm,
    "InstanceNormalization": _instance_norm,
    "LayerNormalization": _layer_norm,
    "LpNormalization": _unit_length,
    "MatMul": _sum(_matmul, whole=True),
    "Max": _together(np.maximum),
    "Min": _together(np.minimum),
    "ReduceL1": _reduced(np.abs, 18),
    "ReduceL2": _length,
    "ReduceMax": _extreme(most=True),
    "ReduceMean": _sum(_reduced(np.array, 18, mean=True)),
    "ReduceMin": _extreme(most=False),
    "ReduceSum": _sum(_reduced(np.array, 13)),
    "ReduceSumSquare": _squares,
    "Sum": _sum(_together(np.add)),
    "Tanh": _each(np.tanh),
    "Where": _where,
}
_EXACT = frozenset({"Abs", "Clip", "Max", "Min", "ReduceMax", "ReduceMin", "Where"})
_FUNCTIONS = 4  # roundings of an Exp, Tanh or Erf


def roundings(node: Node, operands: Operands, result: Array) -> int:
    """How many roundings a runtime may make for an element of a node's result.

    Those of a sum of n terms, whatever their order, are n; a normalisation has two sums behind each
    other. 0 for operators that are not of these, which every runtime rounds alike.
    """
    if node.op not in RULES or node.op in _EXACT:
        return 0
    if node.op in ("Erf", "Exp", "Tanh"):
        return _FUNCTIONS
    x = get(operands, 0)
    if node.op in ("BatchNormalization", "LayerNormalization"):
        statistics = get(operands, 1).size if node.op == "BatchNormalization" else 1
        return 2 * (x.size // max(statistics, 1) + 4)
    if node.op in ("GroupNormalization", "InstanceNormalization"):
        return 2 * (math.prod(x.shape[1:]) + 4)
    if node.op == "MatMul":
        return int(x.shape[-1]) + 1
    if node.op == "LpNormalization":
        return int(x.shape[axis_of(node.attribute("axis", -1), x.ndim)]) + 4
    return sum(value.size for value in operands if value is not None) // max(result.size, 1) + 4
