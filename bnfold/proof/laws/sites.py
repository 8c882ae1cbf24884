"""Nodes that are maps themselves: inference BatchNormalizations, and arithmetic with constants."""

from __future__ import annotations

import math

import numpy as np

from bnfold.graph.index import Node
from bnfold.proof.numbers.functions import Functions
from bnfold.proof.numbers.maps import Map
from bnfold.proof.numbers.reals import Real
from bnfold.proof.reading.model import Model
from bnfold.proof.values.operands import Array

ARITHMETIC = ("Add", "Div", "Mul", "Sub")
SITES = ("BatchNormalization", *ARITHMETIC)  # operators that may be maps
TRAINS = "normalises by the statistics of each batch, which no constant does"
DEFAULT_EPSILON = float(np.float32(1e-5))  # attributes are float32


def constant_slot(model: Model, node: Node) -> int | None:
    """Which input of a node of two is a constant, if exactly one is."""
    if len(node.proto.input) != 2 or not all(node.proto.input):
        return None
    constant = [model.is_constant(node.scope, name) for name in node.proto.input]
    return constant.index(True) if sum(constant) == 1 else None


def site(model: Model, functions: Functions, node: Node) -> tuple[int, Map] | None:
    """The slot of a node's data and the map that it applies; None where it is none."""
    if node.op == "BatchNormalization":
        parameters = batch_norm(model, node)
        return None if parameters is None else (0, of_batch_norm(functions, parameters))
    if node.op not in ARITHMETIC or node.scope.opset < 7:
        return None
    slot = constant_slot(model, node)
    found = None if slot is None else per_channel(model, node, slot)
    if slot is None or found is None:
        return None
    axis, values = found
    c = Real.of(values)
    if node.op == "Mul":
        return 1 - slot, Map(functions, axis, functions.scales(c))
    if node.op == "Add":
        return 1 - slot, Map(functions, axis, functions.shifts(c))
    if node.op == "Sub" and slot == 1:
        return 0, Map(functions, axis, functions.shifts(-c))
    if node.op == "Sub":  # c − x
        minus = functions.scales(Real.full(-1.0, len(c)))
        return 1, Map(functions, axis, functions.then(minus, functions.shifts(c)))
    if slot == 1 and np.all(values):
        return 0, Map(functions, axis, functions.scales(c.inverse()))
    return None


def trains(node: Node) -> bool:
    """Whether a BatchNormalization normalises by the statistics of each batch.

    Opset 1 and 6 do unless is_test is set; up to 13 further outputs mean it, from 14 on
    training_mode does.
    """
    if node.op != "BatchNormalization":
        return False
    if node.scope.opset >= 14:
        return bool(node.attribute("training_mode", 0))
    test = node.scope.opset >= 7 or node.attribute("is_test", 0)
    return not test or any(node.proto.output[1:])


Parameters = tuple[Array, Array, Array, Array, float]


def batch_norm(model: Model, node: Node) -> Parameters | None:
    """γ, β, μ, σ² and ε of a BatchNormalization that infers; None for one that does not.

    `spatial` = 0, below opset 9, has statistics for each pixel, if there are any.
    """
    opset = node.scope.opset
    if node.call_attribute() or not node.output or trains(node) or any(node.proto.output[1:]):
        return None
    pixels = model.rank(node.scope, node.input(0)) != 2
    if opset < 9 and pixels and not node.attribute("spatial", 1):
        return None
    found = [model.value_at(node, slot) for slot in range(1, 5)]
    if any(value is None or value.ndim != 1 or value.dtype.kind not in "fV" for value in found):
        return None
    gamma, beta, mean, variance = (_wide(np.asarray(value)) for value in found)
    epsilon = float(node.attribute("epsilon", DEFAULT_EPSILON))
    if len({len(value) for value in (gamma, beta, mean, variance)}) != 1 or not len(gamma):
        return None
    finite = all(np.all(np.isfinite(value)) for value in (gamma, beta, mean, variance))
    if not finite or not math.isfinite(epsilon):
        return None
    if np.any(variance.astype(np.float64) + epsilon <= 0):
        return None
    return gamma, beta, mean, variance, epsilon


def of_batch_norm(functions: Functions, parameters: Parameters) -> Map:
    """γ(x−μ)/√(σ²+ε) + β = s·x + t with s = γ/√(σ²+ε) and t = β − s·μ.

    Without an axis where it does the same to all channels.
    """
    *vectors, epsilon = parameters
    varies = any(np.any(vector != vector[0]) for vector in vectors)
    gamma, beta, mean, variance = (v if varies else v[:1] for v in vectors)
    scale = Real.normalised(gamma, variance, epsilon)
    shift = Real.of(beta) + -(scale * Real.of(mean))
    ids = functions.then(functions.scales(scale), functions.shifts(shift))
    return Map(functions, 1 if varies else None, ids)


def _wide(values: Array) -> Array:
    """The same numbers in float64 if that is how they are stored, and in float32 if not."""
    return np.asarray(values, np.float64 if values.dtype == np.float64 else np.float32)


def per_channel(model: Model, node: Node, slot: int) -> tuple[int | None, Array] | None:
    """The constant at `slot` as a vector along one axis of the result; None where it is more."""
    values = model.value_at(node, slot)
    shape = model.shapes.of(node.scope, node.input(1 - slot))
    if values is None or values.dtype.kind not in "fV" or not values.size:
        return None
    values = _wide(values)
    if not np.all(np.isfinite(values)):
        return None
    if not values.ndim:
        return None, values.reshape(1)
    if shape is None or values.ndim > len(shape):
        return None
    values = values.reshape((1,) * (len(shape) - values.ndim) + values.shape)
    if any(size not in (1, dim) for size, dim in zip(values.shape, shape, strict=True)):
        return None
    varying = [axis for axis in range(values.ndim) if np.any(values != values.take([0], axis))]
    if len(varying) > 1:
        return None
    if not varying:
        return None, values.reshape(-1)[:1]
    return varying[0], np.moveaxis(values, varying[0], 0).reshape(values.shape[varying[0]], -1)[
        :, 0
    ]
