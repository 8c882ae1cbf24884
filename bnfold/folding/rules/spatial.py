"""The rules of Pad, Resize, DepthToSpace and their kin: channels keep apart, positions do not."""

from __future__ import annotations

import numpy as np

from bnfold.folding.rules.base import Demand, Step, refuse, refuse_too_wide
from bnfold.folding.rules.transparent import agreeing
from bnfold.folding.weights.affine import Affine
from bnfold.folding.weights.constants import Constant
from bnfold.folding.weights.draft import Draft
from bnfold.folding.weights.edits import Supply
from bnfold.graph.index import Node
from bnfold.reasons import Reason, Refusal


def pad_up(draft: Draft, node: Node, _: int, a: Affine) -> Step | Refusal:
    """A(Pad(x, c)) = Pad(A(x), A(c))."""
    return _pad(draft, node, a, up=True)


def pad_down(draft: Draft, node: Node, _: int, a: Affine) -> Step | Refusal:
    """Pad(A(x), c) = A(Pad(x, c′)) with A(c′) = c."""
    return _pad(draft, node, a, up=False)


def _pad(draft: Draft, node: Node, a: Affine, *, up: bool) -> Step | Refusal:
    shape = draft.shape(node, 0)
    if shape is None or node.scope.opset < 2:
        return refuse(Reason.UNKNOWN_RANK, node)
    padded = _padded_axes(draft, node, len(shape))
    if isinstance(padded, Refusal):
        return padded
    if a.axis in padded:
        return refuse(Reason.CHANNEL_AXIS, node, f"padding on axis {a.axis}, as the map has")
    passed = Step(demands=(Demand(0, a),))
    if node.attribute("mode", b"constant") != b"constant" or not padded:
        return passed
    value = _pad_value(draft, node)
    if isinstance(value, Refusal):
        return value
    if np.all(a.scale * value + a.shift == value):
        return passed
    if not up and not np.all(a.scale):
        return refuse(Reason.ZERO_PADDING, node, "some scales are 0")
    wanted = a.scale * value + a.shift if up else (value - a.shift) / a.scale
    dtype = draft.inferred.element_type(node.scope, node.input(0))
    if np.any(wanted != wanted[0]) or dtype is None or node.scope.opset < 11:
        return refuse(Reason.ZERO_PADDING, node, "each channel would need a value of its own")
    supplied = Supply(node, 2, np.array(wanted[0]), dtype, f"{node.output}_value")
    return Step((supplied,), (Demand(0, a),))


def _padded_axes(draft: Draft, node: Node, rank: int) -> set[int] | Refusal:
    pads = node.numbers("pads")
    if pads is None:
        constant = draft.constants.find_any(node, 1)
        if isinstance(constant, Refusal):
            return constant
        pads = constant.array().ravel().tolist()
    axes = list(range(rank))
    if node.input(3):
        named = draft.constants.find_any(node, 3)
        if isinstance(named, Refusal):
            return named
        axes = [int(axis) % max(rank, 1) for axis in named.array().ravel()]
    if len(pads) != 2 * len(axes) or not rank:
        return refuse(Reason.SHAPE_MISMATCH, node, "its pads do not fit its input")
    return {axis for k, axis in enumerate(axes) if pads[k] or pads[k + len(axes)]}


def _pad_value(draft: Draft, node: Node) -> float | Refusal:
    if not draft.has(node, 2):
        return float(node.attribute("value", 0.0))
    operand = draft.operand(node, 2)
    if isinstance(operand, Refusal):
        return operand
    values = draft.values(node, 2)
    if values.size != 1:
        return refuse(Reason.SHAPE_MISMATCH, node, f"its value has shape {list(values.shape)}")
    return float(values.ravel()[0])


def resize(draft: Draft, node: Node, a: Affine, _up: bool) -> Affine | Refusal:
    """Each output is a mean of inputs of its own channel, with weights that sum to 1."""
    if node.attribute("coordinate_transformation_mode", b"") == b"tf_crop_and_resize":
        return refuse(Reason.NOT_TRANSPARENT, node, "Resize with tf_crop_and_resize")
    if node.attribute("keep_aspect_ratio_policy", b"stretch") != b"stretch":
        return refuse(Reason.NOT_TRANSPARENT, node, "Resize that keeps the aspect ratio")
    if a.axis is None:
        return a
    shape, out = draft.shape(node, 0), draft.output_shape(node)
    if shape is None:
        return refuse(Reason.UNKNOWN_RANK, node)
    # the scales stand in the order in which the attribute names the axes
    axes = [axis % len(shape) for axis in node.numbers("axes") or range(len(shape))]
    if a.axis not in axes:
        return a
    scales = node.numbers("scales")
    slot = 1 if node.op == "Upsample" or node.scope.opset < 11 else 2
    if scales is None and node.input(slot):
        constant = draft.constants.find_any(node, slot)
        if isinstance(constant, Constant):
            scales = constant.array().ravel().tolist()
    if scales:
        unscaled = len(scales) == len(axes) and scales[axes.index(a.axis)] == 1
    else:  # by sizes
        dim = shape[a.axis]
        unscaled = out is not None and dim is not None and out[a.axis] == dim
    if unscaled:
        return a
    return refuse(Reason.CHANNEL_AXIS, node, f"resizing on axis {a.axis}, as the map has")


def depth_to_space(draft: Draft, node: Node, a: Affine, up: bool) -> Affine | Refusal:
    """[N, C·b², H, W] → [N, C, H·b, W·b]; DCR reads channels as (b, b, C), CRD as (C, b, b)."""
    blocks = node.attribute("blocksize", 0) ** 2
    return _regrouped(
        draft, node, a, blocks, dcr=node.attribute("mode", b"DCR") == b"DCR", spread=up
    )


def space_to_depth(draft: Draft, node: Node, a: Affine, up: bool) -> Affine | Refusal:
    """[N, C, H·b, W·b] → [N, C·b², H, W], channels as (b, b, C)."""
    return _regrouped(draft, node, a, node.attribute("blocksize", 0) ** 2, dcr=True, spread=not up)


def _regrouped(
    draft: Draft, node: Node, a: Affine, blocks: int, *, dcr: bool, spread: bool
) -> Affine | Refusal:
    """From C channels to C·b² of them (`spread`), or back where all of a channel's agree."""
    if a.axis is None:
        return a
    if a.axis != 1 or blocks < 1 or (not spread and a.channels % blocks):
        return refuse(Reason.CHANNEL_AXIS, node, f"1, the map along axis {a.axis}")
    if spread:
        count = a.channels
        if (wide := refuse_too_wide(draft, node, count * blocks)) is not None:
            return wide
        return a.select(
            np.tile(np.arange(count), blocks) if dcr else np.arange(count).repeat(blocks)
        )
    count = a.channels // blocks
    order = np.arange(a.channels).reshape((blocks, count) if dcr else (count, blocks))
    # row c: the channels that become channel c
    return agreeing(node, a, order.T if dcr else order)
