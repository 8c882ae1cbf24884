"""How elementwise operators change the moments of what they read."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace

import numpy as np

from bnfold.graph.index import Node
from bnfold.graph.shape_inference import Shape
from bnfold.graph.summed_constants import erf
from bnfold.tuning.moments import FloatArray
from bnfold.tuning.prediction.carried import (
    INDEPENDENT,
    NOTHING,
    Carried,
    UnknownMomentsError,
    Values,
)

Rule = Callable[[Values, Node], Carried]


def elementwise(function: Callable[[FloatArray, Node], FloatArray]) -> Rule:
    """The rule of an operator of one value."""

    def rule(values: Values, node: Node) -> Carried:
        found = values.of(node).tabulated(node)
        return found.mapped(np.asarray(function(_table(found), node), np.float64))

    return rule


def _table(found: Carried) -> FloatArray:
    assert found.table is not None  # it was tabulated
    return found.table


def logistic(x: FloatArray) -> FloatArray:
    """1/(1 + e⁻ˣ)."""
    return np.asarray(1 / (1 + np.exp(-x)))


def gelu(x: FloatArray, node: Node) -> FloatArray:
    """By the error function, or by tanh."""
    if node.attribute("approximate", b"none") == b"tanh":
        return np.asarray(0.5 * x * (1 + np.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3))))
    return np.asarray(0.5 * x * (1 + erf(x / math.sqrt(2))))


def hard_sigmoid(x: FloatArray, node: Node) -> FloatArray:
    """αx + β between 0 and 1."""
    return np.clip(node.attribute("alpha", 0.2) * x + node.attribute("beta", 0.5), 0, 1)


def elu(x: FloatArray, node: Node) -> FloatArray:
    """α(eˣ − 1) below 0."""
    return np.where(x > 0, x, node.attribute("alpha", 1.0) * np.expm1(np.minimum(x, 0)))


def selu(x: FloatArray, node: Node) -> FloatArray:
    """γ times the Elu."""
    alpha = node.attribute("alpha", 1.67326319217681884765625)
    gamma = node.attribute("gamma", 1.05070102214813232421875)
    return np.asarray(gamma * np.where(x > 0, x, alpha * np.expm1(np.minimum(x, 0))))


def clip(values: Values, node: Node) -> Carried:
    """Bounds are attributes before opset 11, constants since."""
    low: float | None = node.attribute("min", -math.inf)
    high: float | None = node.attribute("max", math.inf)
    if node.scope.opset >= 11:
        low, high = (_bound(values, node, slot) for slot in (1, 2))
    found = values.of(node).tabulated(node)
    return found.mapped(np.clip(_table(found), low, high))


def _bound(values: Values, node: Node, slot: int) -> float | None:
    if not node.input(slot):
        return -math.inf if slot == 1 else math.inf
    bound = values.constant(node, slot)
    if bound is None or bound.size != 1:
        raise UnknownMomentsError(f"{node.label} has bounds that are no constants")
    return float(bound.reshape(-1)[0])


def prelu(values: Values, node: Node) -> Carried:
    """A slope for each channel below 0."""
    found = values.of(node).tabulated(node)
    slope = values.per_channel(node, 1, found)
    if slope is None:
        raise UnknownMomentsError(f"{node.label} has a slope for more than channels")
    table = _table(found)
    return found.mapped(np.where(table > 0, table, slope[:, None] * table))


# --- of two values -------------------------------------------------------------------------------

Binary = Callable[[FloatArray, FloatArray], FloatArray]


def binary(function: Binary) -> Rule:
    """The rule of an operator of a value and a constant, or of two values."""

    def rule(values: Values, node: Node) -> Carried:
        for slot in (0, 1):
            if values.constant(node, slot) is not None:
                return _with_constant(values, node, slot, function)
        one, two = values.of(node, 0), values.of(node, 1)
        shapes = [values.shape(node, slot) for slot in (0, 1)]
        if one.axis != two.axis or not _alike(shapes, node) or len(one.mean) != len(two.mean):
            raise UnknownMomentsError(f"{node.label} broadcasts channels")
        if one.source == two.source:
            return _of_one_source(one, two, node, function)
        if node.op == "Mul":
            return _product(one, two, shapes, node)
        return _sum(one, two, node, function)

    return rule


def _alike(shapes: list[Shape | None], node: Node) -> bool:
    """Whether two shapes are known to have as many axes, or to be the same before opset 7."""
    first, second = shapes
    if first is None or second is None or len(first) != len(second):
        return False
    return node.scope.opset >= 7 or first == second


def _with_constant(values: Values, node: Node, slot: int, function: Binary) -> Carried:
    found = values.of(node, 1 - slot)
    c = values.per_channel(node, slot, found)
    if c is None or (node.op == "Div" and slot and not np.all(c)):
        raise UnknownMomentsError(f"{node.label} has a constant for more than channels")

    def applied(x: FloatArray, c: FloatArray) -> FloatArray:
        return function(x, c) if slot else function(c, x)

    if node.op == "Div" and not slot:
        return _quotient(found.tabulated(node), c[:, None], node)
    scale = applied(np.ones_like(c), c) - applied(np.zeros_like(c), c)
    doubt, lean = np.abs(scale) * found.doubt, scale * found.lean
    if found.can_be_tabulated:
        found = found.tabulated(node)
        made = found.mapped(applied(_table(found), c[:, None]), linear=True)
        return replace(made, doubt=doubt, lean=lean)
    variance = scale * scale * found.variance
    mean = applied(found.mean, c)
    return found.apart(mean, variance, of_variance=NOTHING, doubt=doubt, lean=lean)


def _quotient(found: Carried, c: FloatArray, node: Node) -> Carried:
    table = _table(found)
    if np.any(table.min(axis=1) <= 0) and np.any(table.max(axis=1) >= 0):
        raise UnknownMomentsError(f"{node.label} divides by what may be 0")
    return found.mapped(c / table)


def _of_one_source(one: Carried, two: Carried, node: Node, function: Binary) -> Carried:
    """f(z) and g(z), such as x·Sigmoid(x) and x + Relu(x), are taken together."""
    doubt, lean = one.doubts + two.doubts, function(one.leans, two.leans)
    if not one.can_be_tabulated and node.op in ("Add", "Sub"):  # means need no z
        mean = function(one.mean, two.mean)
        nothing = np.full_like(mean, np.nan)
        return one.apart(mean, nothing, *two.assumes, of_variance=NOTHING, doubt=doubt, lean=lean)
    first, second = one.tabulated(node), two.tabulated(node)
    if node.op == "Div":
        return _quotient(second, _table(first), node)
    made = first.mapped(function(_table(first), _table(second)), linear=node.op in ("Add", "Sub"))
    return replace(
        made, assumes=made.assumes | two.assumes,
        variance_assumes=made.variance_assumes | two.variance_assumes,
        doubt=np.maximum(doubt, made.doubt),
    )  # fmt: skip


def _product(one: Carried, two: Carried, shapes: list[Shape | None], node: Node) -> Carried:
    """A gate: one number for each channel of an image, and all pixels of that channel.

    Such a number is made of averages, so that no pixel weighs much in it. Of two values with as
    many pixels, one may be computed from the other pixel by pixel, as in x·Sigmoid(Conv(x)).
    """
    gates = [_has_one_pixel(shape, one.axis) for shape in shapes]
    if sum(gates) != 1:
        raise UnknownMomentsError(f"{node.label} multiplies what may depend on each other")
    second = (one.variance + one.mean**2) * (two.variance + two.mean**2)
    mean = one.mean * two.mean
    lean = one.mean * two.leans + two.mean * one.leans
    doubt = (np.abs(one.mean) + one.doubt) * (np.abs(two.mean) + two.doubt) - np.abs(mean)
    return one.apart(
        mean, second - mean**2, INDEPENDENT, *two.assumes,
        of_variance=two.variance_assumes, doubt=doubt, lean=lean,
    )  # fmt: skip


def _has_one_pixel(shape: Shape | None, axis: int) -> bool:
    rest = () if shape is None else shape[1:axis] + shape[axis + 1 :]
    return shape is not None and all(size == 1 for size in rest)


def _sum(one: Carried, two: Carried, node: Node, function: Binary) -> Carried:
    if node.op == "Div":
        raise UnknownMomentsError(f"{node.label} divides by a value")
    return one.apart(
        function(one.mean, two.mean), one.variance + two.variance, *two.assumes,
        of_variance=two.variance_assumes | {INDEPENDENT}, doubt=one.doubts + two.doubts,
        lean=function(one.leans, two.leans),
    )  # fmt: skip
