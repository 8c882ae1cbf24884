"""The affine maps that stand in a model as nodes of their own, read without the folder's help."""

from __future__ import annotations

import math

import numpy as np

from bnfold.graph.index import Node
from bnfold.onnx_io.protos import Array
from bnfold.proof.numbers.reals import Real
from bnfold.proof.search.numbers.maps import Map
from bnfold.proof.search.reading.model_view import View

DEFAULT_EPSILON = float(np.float32(1e-5))


def site(view: View, node: Node) -> tuple[int, Map] | None:
    """The slot of a node's data, and the map y = s·x + t that it applies; None where it is none."""
    if node.op == "BatchNormalization":
        parameters = batch_norm(view, node)
        return None if parameters is None else (0, of_batch_norm(*parameters))
    if node.op not in ("Add", "Sub", "Mul", "Div") or len(node.proto.input) != 2:
        return None
    constant = [view.is_constant(node.scope, name) for name in node.proto.input]
    if sum(constant) != 1 or node.scope.opset < 7:
        return None
    slot = constant.index(True)
    found = per_channel(view, node, slot)
    if found is None:
        return None
    axis, c = found
    one, zero = Real.full(1.0, len(c)), Real.full(0.0, len(c))
    if node.op == "Mul":
        return 1 - slot, Map(axis, c, zero)
    if node.op == "Add":
        return 1 - slot, Map(axis, one, c)
    if node.op == "Sub":
        return 1 - slot, Map(axis, one, -c) if slot == 1 else Map(axis, -one, c)
    return (0, Map(axis, c.inverse(), zero)) if slot == 1 and np.all(c.value) else None


def is_idle(view: View, node: Node) -> bool:
    """Whether an Identity, Cast or Dropout gives what it is given."""
    if node.op == "Cast":
        source = view.element_type(node.scope, node.input(0))
        return source is not None and source == node.attribute("to", 0)
    if node.op == "Dropout":
        training = view.array(node.scope, node.input(2)) if node.input(2) else None
        inert = not node.input(2) or (training is not None and not training.any())
        return inert and (node.scope.opset >= 7 or bool(node.attribute("is_test", 0)))
    return True


def batch_norm(view: View, node: Node) -> tuple[Array, Array, Array, Array, float] | None:
    """γ, β, μ, σ² and ε of a BatchNormalization that infers; None for one that does not.

    Opset 1 and 6 train unless is_test is set; up to 13 further outputs mean training, from 14 on
    training_mode does. `spatial` = 0, below opset 9, has statistics per pixel.
    """
    opset = node.scope.opset
    if node.call_attribute() or not node.output or any(node.proto.output[1:]):
        return None
    if opset >= 14 and node.attribute("training_mode", 0):
        return None
    if opset < 7 and not node.attribute("is_test", 0):
        return None
    if opset < 9 and not node.attribute("spatial", 1):
        return None
    found = [view.array(node.scope, node.input(slot)) for slot in range(1, 5)]
    if any(value is None or value.ndim != 1 for value in found):
        return None
    gamma, beta, mean, variance = (np.asarray(value, np.float64) for value in found)
    epsilon = float(node.attribute("epsilon", DEFAULT_EPSILON))
    if len({len(value) for value in (gamma, beta, mean, variance)}) != 1:
        return None
    finite = all(np.all(np.isfinite(value)) for value in (gamma, beta, mean, variance))
    if not finite or not math.isfinite(epsilon) or np.any(variance + epsilon <= 0):
        return None
    return gamma, beta, mean, variance, epsilon


def of_batch_norm(gamma: Array, beta: Array, mean: Array, variance: Array, epsilon: float) -> Map:
    """γ(x−μ)/√(σ²+ε) + β = s·x + t with s = γ/√(σ²+ε) and t = β − s·μ.

    Where all channels have the same numbers, as in an untrained network, it is a map of no axis.
    """
    parameters = (gamma, beta, mean, variance)
    if len(gamma) > 1 and all(np.all(vector == vector[0]) for vector in parameters):
        one = of_batch_norm(gamma[:1], beta[:1], mean[:1], variance[:1], epsilon)
        return Map(None, one.scale, one.shift)
    scale = Real.normalised(gamma, variance, epsilon)
    return Map(1, scale, Real.of(beta) + -(scale * Real.of(mean)))


def per_channel(view: View, node: Node, slot: int) -> tuple[int | None, Real] | None:
    """The constant at `slot` as a vector along one axis of the result; None where it is more."""
    values = view.array(node.scope, node.input(slot))
    shape = view.shape(node.scope, node.input(1 - slot))
    if values is None or values.dtype.kind not in "fV" or not values.size:
        return None
    values = np.asarray(values, np.float64)
    if not np.all(np.isfinite(values)):
        return None
    if values.ndim and (shape is None or values.ndim > len(shape)):
        return None
    rank = len(shape or ())
    values = values.reshape((1,) * (rank - values.ndim) + values.shape) if values.ndim else values
    if any(size not in (1, dim) for size, dim in zip(values.shape, shape or (), strict=False)):
        return None
    varying = [
        axis for axis in range(values.ndim) if np.any(values != values.take([0], axis))
    ]  # fmt: skip
    if len(varying) > 1:
        return None
    if not varying:
        return None, Real.of(values.reshape(-1)[:1])
    (axis,) = varying
    return axis, Real.of(np.moveaxis(values, axis, 0).reshape(values.shape[axis], -1)[:, 0])
