"""The rules of the nodes that let a map pass, from one input to one output or back.

f(A(x)) = A′(f(x)). Each rule takes the map on one side of the node and returns it on the other;
`up` says that it comes from the output. Conditions are the same in both directions.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt
from onnx import TensorProto

from bnfold.folding.rules.base import (
    refuse,
    refuse_negative_scale,
    refuse_shift,
    refuse_too_wide,
    same_size,
)
from bnfold.folding.weights.affine import Affine
from bnfold.folding.weights.constants import Constant
from bnfold.folding.weights.draft import Draft, Operand
from bnfold.graph.index import Node, Role
from bnfold.graph.shape_inference import Shape
from bnfold.reasons import Reason, Refusal

Passage: TypeAlias = Callable[[Draft, Node, Affine, bool], Affine | Refusal]


def unchanged(_draft: Draft, _node: Node, a: Affine, _up: bool) -> Affine | Refusal:
    """Identity."""
    return a


def dropout(draft: Draft, node: Node, a: Affine, _up: bool) -> Affine | Refusal:
    """Inference Dropout is the identity; training mode (opset 12 on) is an input."""
    if node.input(2):
        training = draft.constants.find_any(node, 2)
        if not isinstance(training, Constant) or training.array().any():
            return refuse(Reason.NOT_TRANSPARENT, node, "Dropout in training mode")
    if node.scope.opset < 7 and not node.attribute("is_test", 0):
        return refuse(Reason.NOT_TRANSPARENT, node, "Dropout in training mode")
    return a


def positive_homogeneous(_draft: Draft, node: Node, a: Affine, _up: bool) -> Affine | Refusal:
    """Relu, LeakyRelu, Abs: f(s·x) = s·f(x) for s ≥ 0."""
    return refuse_negative_scale(node, a) or refuse_shift(node, a) or a


def negation(_draft: Draft, _node: Node, a: Affine, _up: bool) -> Affine | Refusal:
    """−(s·x + t) = s·(−x) − t."""
    return a.negated()


def triangle(_draft: Draft, node: Node, a: Affine, _up: bool) -> Affine | Refusal:
    """Trilu: what it does not keep is 0, and s·0 = 0."""
    return refuse_shift(node, a) or a


def cumulative_sum(draft: Draft, node: Node, a: Affine, _up: bool) -> Affine | Refusal:
    """Σ s·x = s·Σ x along an axis on which s does not vary."""
    if (shifted := refuse_shift(node, a)) is not None or a.axis is None:
        return shifted or a
    shape, axis = draft.shape(node, 0), draft.constants.find_any(node, 1)
    if shape is None or isinstance(axis, Refusal):
        return refuse(Reason.UNKNOWN_RANK, node)
    if a.axis == int(axis.array().reshape(-1)[0]) % len(shape):
        return refuse(Reason.AXIS_LOST, node)
    return a


def reverse_sequence(_draft: Draft, node: Node, a: Affine, _up: bool) -> Affine | Refusal:
    """Elements change places along one axis, each in its own batch."""
    if a.axis is not None and a.axis == node.attribute("time_axis", 0):
        return refuse(Reason.AXIS_LOST, node)
    return a


def prelu(draft: Draft, node: Node, a: Affine, up: bool) -> Affine | Refusal:
    """Likewise, whatever its slopes are: each element has its own; they must not enlarge x."""
    shape, out = draft.shape(node, 0), draft.output_shape(node)
    if shape is None or out is None or len(shape) != len(out):
        return refuse(Reason.UNKNOWN_RANK, node)
    return positive_homogeneous(draft, node, a, up)


def max_pool(_draft: Draft, node: Node, a: Affine, _up: bool) -> Affine | Refusal:
    """max(s·x + t) = s·max(x) + t for s ≥ 0; padding is −∞, and channels are never mixed."""
    if any(node.proto.output[1:]):
        return refuse(Reason.NOT_TRANSPARENT, node, "MaxPool with indices")
    if _may_see_nothing(node):
        return refuse(Reason.NOT_TRANSPARENT, node, "windows that may lie in the padding")
    return refuse_negative_scale(node, a) or _on_channels(node, a)


def average_pool(_draft: Draft, node: Node, a: Affine, _up: bool) -> Affine | Refusal:
    """mean(s·x + t) = s·mean(x) + t, unless zeros from the padding are averaged in."""
    zeros = _is_padded(node) and node.attribute("count_include_pad", 0)
    exact = not (zeros or node.attribute("ceil_mode", 0) or _may_see_nothing(node))
    shifted = None if exact else refuse_shift(node, a, Reason.ZERO_PADDING)
    return shifted or _on_channels(node, a)


def _may_see_nothing(node: Node) -> bool:
    """Whether a window may see nothing but padding, of which runtimes make anything."""
    return max(node.numbers("dilations") or [1]) > 1 and _is_padded(node)


def _is_padded(node: Node) -> bool:
    same = node.attribute("auto_pad", b"NOTSET") in (b"SAME_UPPER", b"SAME_LOWER")
    return same or any(node.numbers("pads") or ())


def lp_pool(_draft: Draft, node: Node, a: Affine, _up: bool) -> Affine | Refusal:
    """LpPool, GlobalLpPool: ‖s·x‖ = s·‖x‖ for s ≥ 0; the zeros of the padding stay zeros."""
    return refuse_negative_scale(node, a) or refuse_shift(node, a) or _on_channels(node, a)


def global_average_pool(_draft: Draft, node: Node, a: Affine, _up: bool) -> Affine | Refusal:
    """mean(s·x + t) = s·mean(x) + t."""
    return _on_channels(node, a)


def global_max_pool(_draft: Draft, node: Node, a: Affine, _up: bool) -> Affine | Refusal:
    """max(s·x + t) = s·max(x) + t for s ≥ 0."""
    return refuse_negative_scale(node, a) or _on_channels(node, a)


def _on_channels(node: Node, a: Affine) -> Affine | Refusal:
    if a.axis not in (None, 1):
        return refuse(Reason.CHANNEL_AXIS, node, f"1, the map along axis {a.axis}")
    return a


def reduce_mean(draft: Draft, node: Node, a: Affine, up: bool) -> Affine | Refusal:
    """mean(s·x + t) = s·mean(x) + t over axes on which s and t do not vary."""
    return _reduced(draft, node, a, up)


def reduce_max(draft: Draft, node: Node, a: Affine, up: bool) -> Affine | Refusal:
    """max(s·x + t) = s·max(x) + t for s ≥ 0; likewise min."""
    return refuse_negative_scale(node, a) or _reduced(draft, node, a, up)


def reduce_norm(draft: Draft, node: Node, a: Affine, up: bool) -> Affine | Refusal:
    """ReduceL1, ReduceL2: ‖s·x‖ = s·‖x‖ for s ≥ 0."""
    return refuse_negative_scale(node, a) or refuse_shift(node, a) or _reduced(draft, node, a, up)


def reduce_sum(draft: Draft, node: Node, a: Affine, up: bool) -> Affine | Refusal:
    """Σ s·x = s·Σ x."""
    return refuse_shift(node, a) or _reduced(draft, node, a, up)


def _reduced(draft: Draft, node: Node, a: Affine, up: bool) -> Affine | Refusal:
    if a.axis is None:
        return a
    shape = draft.shape(node, 0)
    axes = axes_of(draft, node, "axes", 1, shape)
    if shape is None or isinstance(axes, Refusal):
        return refuse(Reason.UNKNOWN_RANK, node)
    if not axes and not node.attribute("noop_with_empty_axes", 0):
        axes = set(range(len(shape)))
    places = [axis for axis in range(len(shape)) if axis not in axes]
    if node.attribute("keepdims", 1):
        places = list(range(len(shape)))
    return _moved(
        node, a, {axis: place for place, axis in enumerate(places) if axis not in axes}, up
    )


def transpose(draft: Draft, node: Node, a: Affine, up: bool) -> Affine | Refusal:
    """Axes are renumbered: output axis k is input axis perm[k]."""
    shape = draft.shape(node, 0)
    perm = node.numbers("perm")
    if perm is None and shape is None and a.axis is not None:
        return refuse(Reason.UNKNOWN_RANK, node)
    if perm is None:
        perm = list(reversed(range(len(shape or ()))))
    return _moved(node, a, {axis: place for place, axis in enumerate(perm)}, up)


def squeeze(draft: Draft, node: Node, a: Affine, up: bool) -> Affine | Refusal:
    """Axes of size 1 go, the others move up."""
    if a.axis is None:
        return a
    shape = draft.shape(node, 0)
    axes = axes_of(draft, node, "axes", 1, shape)
    if shape is None or isinstance(axes, Refusal):
        return refuse(Reason.UNKNOWN_RANK, node)
    if not axes:
        if None in shape or any(isinstance(dim, str) for dim in shape):
            return refuse(Reason.UNKNOWN_RANK, node)
        axes = {axis for axis, dim in enumerate(shape) if dim == 1}
    kept = [axis for axis in range(len(shape)) if axis not in axes]
    return _moved(node, a, {axis: place for place, axis in enumerate(kept)}, up)


def unsqueeze(draft: Draft, node: Node, a: Affine, up: bool) -> Affine | Refusal:
    """New axes of size 1 appear between the others."""
    if a.axis is None:
        return a
    shape, out = draft.shape(node, 0), draft.output_shape(node)
    axes = axes_of(draft, node, "axes", 1, out)
    if shape is None or isinstance(axes, Refusal):
        return refuse(Reason.UNKNOWN_RANK, node)
    places = [place for place in range(len(shape) + len(axes)) if place not in axes]
    return _moved(node, a, dict(enumerate(places)), up)


def _moved(node: Node, a: Affine, places: dict[int, int], up: bool) -> Affine | Refusal:
    """The map with its axis renumbered; `places` gives the output's axis for the input's."""
    if a.axis is None:
        return a
    if up:
        places = {place: axis for axis, place in places.items()}
    if a.axis not in places:
        return refuse(Reason.AXIS_LOST, node)
    return a.along(places[a.axis])


def reshape(draft: Draft, node: Node, a: Affine, up: bool) -> Affine | Refusal:
    """Reshape, Flatten: the channel axis survives, or is spread over (gathered from) k columns.

    Elements keep their order, so an axis of size C with n elements behind it is the axis of the
    same size with as many behind it, or as many in front, on the other side. It may also be merged
    into one of C·k: with the axes behind it, then channel c becomes columns c·k … c·k + k − 1, or
    with those in front, then it becomes columns c, c + C, c + 2·C …
    """
    if a.axis is None:
        return a
    here, there = draft.shape(node, 0), draft.output_shape(node)
    if up:
        here, there = there, here
    if here is None or there is None:
        return refuse(Reason.UNKNOWN_RANK, node)
    size, axis = here[a.axis], a.axis
    for place, dim in enumerate(there):
        in_front = same_size(here[:axis], there[:place])
        behind = same_size(here[axis + 1 :], there[place + 1 :])
        if dim is not None and dim == size and (in_front or behind):
            return a.along(place)
    for place, dim in enumerate(there):
        if not (isinstance(dim, int) and isinstance(size, int) and min(dim, size) > 1):
            continue
        in_front = same_size(here[:axis], there[:place])
        behind = same_size(here[axis + 1 :], there[place + 1 :])
        if (in_front or behind) and dim % size == 0:
            if (wide := refuse_too_wide(draft, node, dim)) is not None:
                return wide
            spread = a.repeated if in_front else a.tiled
            return spread(dim // size).along(place)
        if (in_front or behind) and size % dim == 0:
            order = np.arange(size).reshape((dim, -1) if in_front else (-1, dim))
            found = agreeing(node, a.along(place), order if in_front else order.T)
            if isinstance(found, Affine):
                return found
    return refuse(Reason.AXIS_LOST, node)


def agreeing(node: Node, a: Affine, members: npt.NDArray[np.int64]) -> Affine | Refusal:
    """One entry for each row of `members`, the entries that must all be the same for that."""
    for vector in (a.scale, a.shift):
        if np.any(vector[members] != vector[members[:, :1]]):
            return refuse(Reason.AXIS_LOST, node)
    return a.select(members[:, 0])


_EXACT_CASTS = {
    (TensorProto.FLOAT16, TensorProto.FLOAT), (TensorProto.FLOAT16, TensorProto.DOUBLE),
    (TensorProto.BFLOAT16, TensorProto.FLOAT), (TensorProto.BFLOAT16, TensorProto.DOUBLE),
    (TensorProto.FLOAT, TensorProto.DOUBLE),
}  # fmt: skip


def cast(draft: Draft, node: Node, a: Affine, up: bool) -> Affine | Refusal:
    """Between float types where no digit is lost: to the same type or, downwards, to a wider one.

    Upwards past a widening Cast the map would be made in the narrower type, whose range may not
    hold it and whose digits do not. Unless all that is made of the value is rounded to that type
    again, as mixed precision has it around a BatchNormalization.
    """
    source = draft.inferred.element_type(node.scope, node.input(0))
    target = node.attribute("to", 0) if node.scope.opset >= 6 else 0  # it was a string before
    widens = (source, target) in _EXACT_CASTS
    if source is not None and (source == target or (widens and not up)):
        return a
    if widens and source is not None and _is_narrowed_again(draft, node, source):
        return a
    if widens:
        kinds = (TensorProto.DataType.Name(kind).lower() for kind in (source, target) if kind)
        return refuse(Reason.NARROWER, node, " instead of ".join(kinds))
    return refuse(Reason.NOT_TRANSPARENT, node, "Cast that rounds, or may round,")


_EACH_ELEMENT = (
    "Add", "BatchNormalization", "Clip", "Div", "Identity", "LeakyRelu", "Mul", "Relu", "Sub",
)  # fmt: skip
_FAR = 16  # nodes between two Casts


def _is_narrowed_again(draft: Draft, cast: Node, kind: int) -> bool:
    """Whether each element of a value, and whatever else is made of it, ends in a Cast to `kind`.

    Other operands on the way must be constants.
    """
    pending, left = [cast], _FAR
    while pending:
        node = pending.pop()
        left -= 1
        uses = list(draft.uses(node.scope, node.output))
        if left < 0 or not uses:
            return False
        for use in uses:
            reader = use.node
            if reader is None or use.role is not Role.READ or any(reader.proto.output[1:]):
                return False
            if reader.op == "Cast" and reader.attribute("to", 0) == kind:
                continue
            others = [k for k, n in enumerate(reader.proto.input) if n and k != use.slot]
            constant = all(isinstance(draft.operand(reader, k), Operand) for k in others)
            if reader.op not in _EACH_ELEMENT or not constant:
                return False
            pending.append(reader)
    return True


def axes_of(
    draft: Draft, node: Node, name: str, slot: int | None, shape: Shape | None
) -> set[int] | Refusal:
    """The axes that an operator names, in an attribute or (newer opsets) in an input."""
    axes: Any = node.numbers(name)
    if axes is None and slot is not None and node.input(slot):
        constant = draft.constants.find_any(node, slot)
        if isinstance(constant, Refusal):
            return constant
        axes = constant.array().ravel().tolist()
    axes = list(axes or [])
    if any(axis < 0 for axis in axes):
        if shape is None:
            return refuse(Reason.UNKNOWN_RANK, node)
        axes = [axis % len(shape) for axis in axes]
    return set(axes)
