"""Where an affine map stands: the inference BatchNormalizations of every opset."""

from __future__ import annotations

import math

import numpy as np

from bnfold.affine import Affine
from bnfold.draft import Draft
from bnfold.graph import Node
from bnfold.reasons import Reason, Refusal

BATCH_NORM = "BatchNormalization"
PARAMETERS = ("scale", "bias", "mean", "variance")  # inputs 1 to 4, in the specification's order
DEFAULT_EPSILON = float(np.float32(1e-5))  # attributes are float32


def batch_norm(draft: Draft, node: Node) -> Affine | Refusal:
    """The map that an inference BatchNormalization applies, or why it is none or not constant."""
    mode = _training(node)
    if mode is not None:
        return mode
    epsilon = node.attribute("epsilon", DEFAULT_EPSILON)
    for slot in range(1, 5):
        constant = draft.constant(node, slot)
        if isinstance(constant, Refusal):
            return constant
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


def _training(node: Node) -> Refusal | None:
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
        return Refusal(Reason.SPATIAL_ZERO, label)
    return None
