"""Constants that a model computes, evaluated as the operators' specification says.

The kernel's own: neither ONNX's reference implementation nor a runtime is asked. Operators of which
the result does not depend on who computes it: those that move data, and arithmetic that IEEE 754
rounds correctly. (Pow may differ by an ulp from one runtime to the next, and is there for the
square roots that exporters write with it.) And those of `summed_values`, which count what runtimes
may make of them. What is not here has no value.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np

from bnfold.graph.index import Node
from bnfold.proof.values import moved_values, summed_values
from bnfold.proof.values.operands import (
    FLOATS,
    GROWTH,
    MOST,
    Array,
    Operands,
    UnknownValueError,
    axis_of,
    get,
    has,
    require_bounded,
)


def evaluate(node: Node, operands: Operands) -> Array | None:
    """The first output of a node of constants; None where it is not known.

    `operands` are the values of its inputs in order, None for those that are absent.
    """
    rule = RULES.get(node.op)
    if rule is None or node.call_attribute():
        return None
    largest = max((a.size for a in operands if a is not None), default=0)
    try:
        with np.errstate(all="ignore"):
            result = np.asarray(rule(node, operands))
    except (UnknownValueError, ValueError, IndexError, TypeError, OverflowError, ZeroDivisionError):
        return None
    return result if result.size <= max(MOST, GROWTH * largest) else None


# --- arithmetic ---------------------------------------------------------------------------------


def _two(function: Callable[[Array, Array], Array]) -> Callable[[Node, Operands], Array]:
    def rule(node: Node, operands: Operands) -> Array:
        one, two = get(operands, 0), get(operands, 1)
        if node.scope.opset < 7 or one.dtype != two.dtype or one.dtype.kind == "b":
            raise UnknownValueError
        shape = np.broadcast_shapes(one.shape, two.shape)
        require_bounded(math.prod(map(float, shape)), operands)
        return function(one, two)

    return rule


def _one(function: Callable[[Array], Array]) -> Callable[[Node, Operands], Array]:
    def rule(node: Node, operands: Operands) -> Array:
        value = get(operands, 0)
        if value.dtype.name not in FLOATS or node.scope.opset < 6:
            raise UnknownValueError
        return function(value)

    return rule


def _divide(one: Array, two: Array) -> Array:
    if one.dtype.kind not in "iu":
        return np.asarray(one / two)
    if np.any(two == 0):
        raise UnknownValueError
    if np.any((two == -1) & (one == np.iinfo(one.dtype).min)):  # no such number
        raise UnknownValueError
    quotient = np.abs(one) // np.abs(two)  # towards zero
    return np.asarray(quotient * np.sign(one) * np.sign(two), one.dtype)


def _pow(node: Node, operands: Operands) -> Array:
    one, two = get(operands, 0), get(operands, 1)
    if node.scope.opset < 7 or one.dtype.name not in FLOATS or two.dtype.name not in FLOATS:
        raise UnknownValueError
    return np.asarray(np.power(one, two.astype(one.dtype)), one.dtype)


# --- quantised constants ------------------------------------------------------------------------


def _dequantize(node: Node, operands: Operands) -> Array:
    """(q − z)·k in the type of k."""
    q, k = get(operands, 0), get(operands, 1)
    kind = np.dtype(k.dtype)
    if kind.name not in FLOATS or node.attribute("output_dtype", 0):
        raise UnknownValueError
    exact = np.float64 if q.dtype.itemsize >= 4 else np.float32
    wide = q.astype(exact)
    if has(operands, 2):
        wide = wide - _spread(node, get(operands, 2), q.shape).astype(exact)
    difference = wide.astype(np.float32) if kind.name != "float64" else wide
    scale = _spread(node, k, q.shape)
    if kind.name == "float32":
        return np.asarray(difference * scale, np.float32)
    return np.asarray(difference.astype(np.float64) * scale.astype(np.float64)).astype(kind)


def _spread(node: Node, parameter: Array, shape: tuple[int, ...]) -> Array:
    """A scale or zero point beside what it belongs to: one, one per channel, or blocks."""
    if parameter.size == 1:
        return parameter.reshape(())
    axis = axis_of(node.attribute("axis", 1), len(shape))
    block = node.attribute("block_size", 0)
    if block > 0:
        return parameter.repeat(block, axis).take(range(shape[axis]), axis)
    if parameter.shape != (shape[axis],):
        raise UnknownValueError
    return parameter.reshape([-1 if place == axis else 1 for place in range(len(shape))])


def _quantize(node: Node, operands: Operands) -> Array:
    """The nearest integer to x/k, ties to even, plus z, saturated."""
    x, k = get(operands, 0), get(operands, 1)
    if x.dtype != np.float32 or k.dtype != np.float32:
        raise UnknownValueError
    if node.attribute("output_dtype", 0) or node.attribute("precision", 0):
        raise UnknownValueError
    zero = get(operands, 2) if has(operands, 2) else np.zeros((), np.uint8)
    if zero.dtype.name not in ("int8", "uint8", "int16", "uint16"):
        raise UnknownValueError
    limits = np.iinfo(zero.dtype)
    moved = np.rint(x / _spread(node, k, x.shape)) + _spread(node, zero, x.shape).astype(np.int64)
    return np.asarray(np.clip(moved, limits.min, limits.max), zero.dtype)


RULES: dict[str, Callable[[Node, Operands], Array]] = {
    **summed_values.RULES,
    "Add": _two(np.add),
    "Cast": moved_values.cast,
    "Concat": moved_values.concat,
    "ConstantOfShape": moved_values.constant_of_shape,
    "DequantizeLinear": _dequantize,
    "Div": _two(_divide),
    "Expand": moved_values.expand,
    "Flatten": moved_values.flatten,
    "Gather": moved_values.gather,
    "Identity": moved_values.identity,
    "Mul": _two(np.multiply),
    "Neg": _one(np.negative),
    "Pow": _pow,
    "QuantizeLinear": _quantize,
    "Reciprocal": _one(lambda x: np.asarray(1 / x, x.dtype)),
    "Reshape": moved_values.reshape,
    "Shape": moved_values.shape,
    "Slice": moved_values.slice_value,
    "Sqrt": _one(np.sqrt),
    "Squeeze": moved_values.squeeze,
    "Sub": _two(np.subtract),
    "Tile": moved_values.tile,
    "Transpose": moved_values.transpose,
    "Unsqueeze": moved_values.unsqueeze,
}
