"""Where an affine map stands: inference BatchNormalizations, and constants that disguise them."""

from __future__ import annotations

import math

import numpy as np

from bnfold.folding.weights.affine import Affine, line, varying_axes
from bnfold.folding.weights.draft import Draft, Operand
from bnfold.graph.index import BATCH_NORM, Node
from bnfold.reasons import Reason, Refusal

ARITHMETIC = ("Add", "Div", "Mul", "Sub")
PARAMETERS = ("scale", "bias", "mean", "variance")  # inputs 1 to 4, in the specification's order
DEFAULT_EPSILON = float(np.float32(1e-5))  # attributes are float32


def affine_map(draft: Draft, node: Node) -> tuple[int, Affine] | Refusal | None:
    """The slot of a node's data and the map it applies to it; None where it applies none.

    A BatchNormalization that is not an inference one, or not constant, gives the Refusal why.
    """
    found = draft.cached(node, _affine_map)
    if not isinstance(found, tuple):
        return found
    slot, a = found
    return slot, a.made_by(draft.own_map(node, slot))


def _affine_map(draft: Draft, node: Node) -> tuple[int, Affine] | Refusal | None:
    op = draft.op(node)
    if op in (BATCH_NORM, *ARITHMETIC) and (wrong := draft.malformed(node)) is not None:
        return wrong if op == BATCH_NORM else None
    if op == BATCH_NORM:
        own = batch_norm(draft, node)
        return own if isinstance(own, Refusal) else (0, own)
    options = draft.options
    if op not in ARITHMETIC or options.only_batch_norm or options.excludes(node.label):
        return None
    if (slot := constant_slot(draft, node)) is None:
        return None
    constant = per_channel(draft, node, slot)
    if constant is None:
        return None
    axis, c = constant.axis, constant.scale
    one, zero = np.ones_like(c), np.zeros_like(c)
    if op == "Mul":
        return 1 - slot, Affine(axis, c, zero)
    if op == "Add":
        return 1 - slot, Affine(axis, one, c)
    if op == "Sub":
        return 1 - slot, Affine(axis, one, -c) if slot == 1 else Affine(axis, -one, c)
    if slot == 1 and np.all(c):
        return 0, Affine(axis, 1 / c, zero)
    return None


def constant_slot(draft: Draft, node: Node) -> int | None:
    """Which input of a two-operand node is a float constant, if exactly one is."""
    if len(node.proto.input) != 2 or not node.output:
        return None
    found = [slot for slot in (0, 1) if isinstance(draft.operand(node, slot), Operand)]
    return found[0] if len(found) == 1 else None


def per_channel(draft: Draft, node: Node, slot: int) -> Affine | None:
    """The constant at `slot` as the scale of a map along one axis of the node's output.

    None where it varies along more than one axis, where it makes the other operand larger (in rank,
    or along an axis whose size is not known to be the same), or holds NaN or infinity. It may be
    stored along more axes than it varies along.
    """
    operand, shape = draft.operand(node, slot), draft.shape(node, 1 - slot)
    if isinstance(operand, Refusal) or node.scope.opset < 7:  # another kind of broadcasting
        return None
    wide = [place for place, dim in enumerate(operand.shape) if dim != 1]
    if shape is None and operand.shape:
        return None
    shape = shape or ()
    ahead = len(shape) - len(operand.shape)  # axes that only the other operand has
    if ahead < 0 or any(shape[place + ahead] != operand.shape[place] for place in wide):
        return None
    values = draft.values(node, slot)
    if not np.all(np.isfinite(values)) or not values.size:
        return None
    varying = varying_axes(values)
    if len(varying) > 1:
        return None
    vector = line(values, varying[0] if varying else None)
    return Affine(varying[0] + ahead if varying else None, vector, np.zeros_like(vector))


def batch_norm(draft: Draft, node: Node) -> Affine | Refusal:
    """The map that an inference BatchNormalization applies, or why it is none or not constant."""
    if draft.options.excludes(node.label):
        return Refusal(Reason.LEFT_OUT, node.label)
    mode = training(node)
    if mode is not None and is_instance_norm(draft, node):
        return Refusal(Reason.INSTANCE_NORM, node.label)
    if mode is not None and mode.reason is Reason.SPATIAL_ZERO:
        shape = draft.shape(node, 0)
        mode = None if shape is not None and len(shape) == 2 else mode  # there are no pixels
    if mode is not None:
        return mode
    epsilon = node.attribute("epsilon", DEFAULT_EPSILON)
    for slot in range(1, 5):
        operand = draft.operand(node, slot)
        if isinstance(operand, Refusal):
            return operand
    gamma, beta, mean, variance = (draft.values(node, slot) for slot in range(1, 5))
    shapes = [gamma.shape, beta.shape, mean.shape, variance.shape]
    if len(set(shapes)) > 1 or gamma.ndim != 1:
        found = ", ".join(f"{n} {list(s)}" for n, s in zip(PARAMETERS, shapes, strict=True))
        return Refusal(Reason.SHAPE_MISMATCH, node.label, f"its parameters have shapes {found}")
    for slot, values in enumerate((gamma, beta, mean, variance), start=1):
        if not np.all(np.isfinite(values)):
            return Refusal(Reason.NOT_FINITE, node.label, node.input(slot))
    if not math.isfinite(epsilon):
        return Refusal(Reason.NOT_FINITE, node.label, "its epsilon")
    if bad := int(np.count_nonzero(variance + epsilon <= 0)):
        detail = f"{bad} of {len(variance)} channels"
        return Refusal(Reason.VARIANCE_NOT_POSITIVE, node.label, detail)
    return Affine.of_batch_norm(gamma, beta, mean, variance, epsilon)


def is_instance_norm(draft: Draft, node: Node) -> bool:
    """Whether a BatchNormalization in training mode sees each channel of each sample as its own.

    Exporters write an InstanceNormalization so: [N, C, …] is reshaped to [1, N·C, …] and back.
    """
    before = node.scope.producers.get(node.input(0))
    readers = [use.node for use in node.scope.uses.get(node.output, ())]
    if before is None or before.op != "Reshape" or not readers:
        return False
    if any(reader is None or reader.op != "Reshape" for reader in readers):
        return False
    shape, merged = draft.shape(before, 0), draft.shape(node, 0)
    if shape is None or merged is None or len(shape) != len(merged) or len(shape) < 3:
        return False
    return merged[0] == 1 and merged[2:] == shape[2:]


def training(node: Node) -> Refusal | None:
    """Why the node is no inference BatchNormalization by the rules of its opset, else None.

    Opset 1 and 6 have is_test (default 0: training). Up to 13 the number of outputs tells, from 14
    on training_mode does. `spatial` exists below opset 9.
    """
    label, opset = node.label, node.scope.opset
    if from_call := node.call_attribute():
        return Refusal(Reason.ATTRIBUTE_FROM_CALL, label, from_call)
    if not node.output:
        return Refusal(Reason.MALFORMED, label, "it has no output")
    if opset >= 14 and node.attribute("training_mode", 0):
        return Refusal(Reason.TRAINING_MODE, label)
    if extra := [name for name in node.proto.output[1:] if name]:
        return Refusal(Reason.TRAINING_OUTPUTS, label, ", ".join(extra))
    if opset < 7 and not node.attribute("is_test", 0):
        return Refusal(Reason.IS_TEST_ZERO, label, str(opset))
    if opset < 9 and not node.attribute("spatial", 1):
        detail = "its statistics differ from pixel to pixel"
        return Refusal(Reason.SPATIAL_ZERO, label, detail)
    return None
