"""Operators on constants whose result depends on the order of sums: in float64, rounded once.

Weight standardisation and weight normalisation are made of them: reductions, and normalisations by
what they find. Runtimes add in orders of their own, so what these give differs by roundings; the
proof counts them. Where much more was added than is left, or a square leaves the type's range,
runtimes agree on little, so that there is no value. Beside them the operators on constants that
pick or cut off numbers.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import ml_dtypes
import numpy as np
from onnx import NodeProto, helper

from bnfold.onnx_io.protos import Array

_MOST = 1 << 26  # multiplications of one product
_CANCELLED = 2.0**14  # how many times more may be added than is left, in types above float16
_FLOATS = ("float16", "bfloat16", "float32", "float64")
Operands = Sequence[Array | None]


class _Call:
    """One node with the values that it reads."""

    def __init__(self, node: NodeProto, opset: int, operands: Operands) -> None:
        self.opset = opset
        self.operands = operands
        self.attributes = {a.name: helper.get_attribute_value(a) for a in node.attribute}
        self.outputs = [name for name in node.output if name]

    def get(self, name: str, default: Any = None) -> Any:
        return self.attributes.get(name, default)

    def has(self, slot: int) -> bool:
        return slot < len(self.operands) and self.operands[slot] is not None

    def value(self, slot: int) -> Array:
        """An operand as it is. Raises ValueError where there is none."""
        found = self.operands[slot] if slot < len(self.operands) else None
        if found is None:
            raise ValueError(f"no operand {slot}")
        return found

    def wide(self, slot: int) -> Array:
        """Likewise, floating-point numbers in float64."""
        found = self.value(slot)
        if found.dtype.name not in _FLOATS:
            raise ValueError(f"operand {slot} is {found.dtype.name}")
        return found.astype(np.float64)


def evaluate(node: NodeProto, opset: int, operands: Operands) -> Array | None:
    """The first output of a node of `SUMMING`, in the type of its first operand.

    None where it has no such value, or one that the specification leaves open.
    """
    call = _Call(node, opset, operands)
    try:
        dtype = call.value(1 if node.op_type == "Where" else 0).dtype
        if dtype.name not in _FLOATS:
            return None
        with np.errstate(all="ignore"):
            result = np.asarray(SUMMING[node.op_type](call))
            known = _is_known(node, opset, operands, result, dtype)
            return result.astype(dtype) if known else None
    except (ValueError, IndexError, TypeError):
        return None


def _is_known(
    node: NodeProto, opset: int, operands: Operands, result: Array, dtype: np.dtype[Any]
) -> bool:
    """Whether runtimes agree on a result but for some roundings: not much more was added."""
    if node.op_type not in _ADDING:
        return True
    sizes = [None if v is None or v.dtype.name not in _FLOATS else np.abs(v) for v in operands]
    own = [v if size is None else size for v, size in zip(operands, sizes, strict=True)]
    parts = np.asarray(SUMMING[node.op_type](_Call(node, opset, own)))
    if node.op_type in _PRODUCTS:  # whose small entries stand beside large ones
        parts, result = parts.max(initial=0), np.abs(result).max(initial=0)
    most = 16.0 if dtype.name in ("float16", "bfloat16") else _CANCELLED
    return bool(np.all(parts <= most * np.abs(result)))


# --- reductions ----------------------------------------------------------------------------------


def _reduction(
    of: Callable[[Array, tuple[int, ...], bool], Array], since: int, *, squares: bool = False
) -> Any:
    """A reduction whose axes are an input `since` an opset."""

    def rule(call: _Call) -> Array:
        x = call.wide(0)
        named = call.get("axes")
        if call.opset >= since:
            named = call.value(1).reshape(-1).tolist() if call.has(1) else None
        if not named and call.opset >= since and call.get("noop_with_empty_axes", 0):
            raise ValueError("nothing is reduced, and may be squared all the same")
        axes = tuple(range(x.ndim)) if not named else tuple(int(axis) for axis in named)
        if squares:
            x = _squared(x, axes, call.value(0).dtype)
        return of(x, axes, bool(call.get("keepdims", 1)))

    return rule


def _squared(x: Array, axes: tuple[int, ...], dtype: np.dtype[Any]) -> Array:
    """x², to be added over axes. Raises ValueError where the type's range takes some of that."""
    edges = _limits(dtype)
    square = x * x
    total, lost = (_total(v, axes) for v in (square, np.where(square < edges[0], square, 0)))
    if np.any(total > edges[1]) or np.any(lost > 2.0**-24 * total):
        raise ValueError("squares beyond the range of the type")
    return np.asarray(square)


def _limits(dtype: np.dtype[Any]) -> tuple[float, float]:
    """The least normal and the largest number of a type."""
    found: Any = ml_dtypes.finfo(dtype)  # type: ignore[no-untyped-call]
    return float(found.smallest_normal), float(found.max)


def _total(x: Array, axes: tuple[int, ...], keep: bool = True) -> Array:
    return np.asarray(x.sum(axis=axes, keepdims=keep))


def _mean(x: Array, axes: tuple[int, ...], keep: bool = True) -> Array:
    axes = tuple(axis % x.ndim for axis in axes)
    count = math.prod(x.shape[axis] for axis in axes)
    if not count:
        raise ValueError("a mean of nothing")
    return np.asarray(_total(x, axes, keep) / count)


def _largest(x: Array, axes: tuple[int, ...], keep: bool) -> Array:
    return np.asarray(x.max(axis=axes, keepdims=keep))


def _least(x: Array, axes: tuple[int, ...], keep: bool) -> Array:
    return np.asarray(x.min(axis=axes, keepdims=keep))


# --- normalisations ------------------------------------------------------------------------------


def _standardised(x: Array, axes: tuple[int, ...], epsilon: float) -> Array:
    """(x − mean)/√(variance + ε), with the variance of the population."""
    mean = _mean(x, axes)
    apart = x - mean
    variance = _mean(apart * apart, axes)
    if np.any(mean * mean > _CANCELLED * variance):
        raise ValueError("a spread that the roundings of the mean hide")
    return np.asarray(apart / np.sqrt(variance + epsilon))


def _along(vector: Array, x: Array, axis: int) -> Array:
    if vector.shape != (x.shape[axis],):
        raise ValueError("a parameter for each channel")
    return vector.reshape([-1 if place == axis else 1 for place in range(x.ndim)])


def _batch_norm(call: _Call) -> Array:
    """By the statistics of x in training mode, else by those that are given."""
    x = call.wide(0)
    if x.ndim < 2 or call.opset < 9:
        raise ValueError("an opset with a mode for each pixel")
    scale, bias, mean, variance = (_along(call.wide(slot), x, 1) for slot in range(1, 5))
    epsilon = float(call.get("epsilon", np.float32(1e-5)))
    trains = call.get("training_mode", 0) if call.opset >= 14 else len(call.outputs) > 1
    if trains:
        axes = tuple(axis for axis in range(x.ndim) if axis != 1)
        return np.asarray(_standardised(x, axes, epsilon) * scale + bias)
    return np.asarray((x - mean) / np.sqrt(variance + epsilon) * scale + bias)


def _instance_norm(call: _Call) -> Array:
    x = call.wide(0)
    if x.ndim < 3:
        raise ValueError("no pixels")
    own = _standardised(x, tuple(range(2, x.ndim)), float(call.get("epsilon", np.float32(1e-5))))
    return own * _along(call.wide(1), x, 1) + _along(call.wide(2), x, 1)


def _layer_norm(call: _Call) -> Array:
    x = call.wide(0)
    first = call.get("axis", -1) % x.ndim
    axes = tuple(range(first, x.ndim))
    own = _standardised(x, axes, float(call.get("epsilon", np.float32(1e-5)))) * call.wide(1)
    return own + call.wide(2) if call.has(2) else own


def _group_norm(call: _Call) -> Array:
    """Scale and bias are those of groups below opset 21, and of channels from then on."""
    x, groups = call.wide(0), int(call.get("num_groups"))
    scale, bias = call.wide(1), call.wide(2)
    if call.opset < 21:
        scale, bias = (v.repeat(x.shape[1] // groups) for v in (scale, bias))
    rows = x.reshape(x.shape[0], groups, -1)
    own = _standardised(rows, (2,), float(call.get("epsilon", np.float32(1e-5)))).reshape(x.shape)
    return own * _along(scale, x, 1) + _along(bias, x, 1)


def _lp_norm(call: _Call) -> Array:
    x, axis, p = call.wide(0), call.get("axis", -1), call.get("p", 2)
    power = np.abs(x) if p == 1 else _squared(x, (axis,), call.value(0).dtype)
    norm = _total(power, (axis,)) if p == 1 else np.sqrt(_total(power, (axis,)))
    if p not in (1, 2) or np.any(norm == 0):
        raise ValueError("a division by 0")
    return np.asarray(x / norm)


# --- products ------------------------------------------------------------------------------------


def _product(call: _Call) -> Array:
    a, b = call.wide(0), call.wide(1)
    if not a.ndim or not b.ndim or a.size * b.shape[-1] > _MOST:
        raise ValueError("too large a product")
    return np.asarray(a @ b)


def _einsum(call: _Call) -> Array:
    equation = call.get("equation", b"").decode()
    operands = [call.wide(slot) for slot in range(len(call.operands))]
    letters: dict[str, int] = {}
    terms = equation.replace(" ", "").split("->")[0].split(",")
    if "." in equation or len(terms) != len(operands):
        raise ValueError("an equation with axes that have no letter")
    for term, operand in zip(terms, operands, strict=True):
        letters.update(zip(term, operand.shape, strict=True))
    if math.prod(map(float, letters.values())) > _MOST:
        raise ValueError("too large a product")
    return np.asarray(np.einsum(equation.replace(" ", ""), *operands))


# --- what picks numbers --------------------------------------------------------------------------


def _all(of: Callable[[Array, Array], Array]) -> Any:
    def rule(call: _Call) -> Array:
        total = call.wide(0)
        for slot in range(1, len(call.operands)):
            total = np.asarray(of(total, call.wide(slot)))
        return total

    return rule


def _clip(call: _Call) -> Array:
    x = call.wide(0)
    most = _limits(call.value(0).dtype)[1]  # which are the defaults
    if call.opset < 11:
        low, high = call.get("min", -most), call.get("max", most)
    else:
        low, high = (
            float(call.wide(slot)) if call.has(slot) else edge
            for slot, edge in ((1, -most), (2, most))
        )
    if not low <= high:
        raise ValueError("bounds that are none")
    return np.asarray(np.minimum(np.maximum(x, low), high))


def _where(call: _Call) -> Array:
    condition = call.value(0)
    if condition.dtype.kind != "b":
        raise ValueError("a condition that is none")
    return np.where(condition, call.wide(1), call.wide(2))


def erf(x: Array) -> Array:
    """The error function of each number."""
    return np.array([math.erf(v) for v in x.reshape(-1).tolist()]).reshape(x.shape)


_PRODUCTS = ("Einsum", "MatMul")
_ADDING = (*_PRODUCTS, "ReduceMean", "ReduceSum", "Sum")

SUMMING: dict[str, Callable[[_Call], Array]] = {
    "Abs": lambda call: np.abs(call.wide(0)),
    "BatchNormalization": _batch_norm,
    "Clip": _clip,
    "Einsum": _einsum,
    "Erf": lambda call: erf(call.wide(0)),
    "Exp": lambda call: np.exp(call.wide(0)),
    "GroupNormalization": _group_norm,
    "InstanceNormalization": _instance_norm,
    "LayerNormalization": _layer_norm,
    "LpNormalization": _lp_norm,
    "MatMul": _product,
    "Max": _all(np.maximum),
    "Min": _all(np.minimum),
    "ReduceL1": _reduction(lambda x, axes, keep: _total(np.abs(x), axes, keep), 18),
    "ReduceL2": _reduction(lambda s, axes, keep: np.sqrt(_total(s, axes, keep)), 18, squares=True),
    "ReduceMax": _reduction(_largest, 18),
    "ReduceMean": _reduction(_mean, 18),
    "ReduceMin": _reduction(_least, 18),
    "ReduceSum": _reduction(_total, 13),
    "ReduceSumSquare": _reduction(_total, 18, squares=True),
    "Sum": _all(np.add),
    "Tanh": lambda call: np.tanh(call.wide(0)),
    "Where": _where,
}
