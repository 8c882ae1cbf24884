"""The algebra: which operators f let a map pass, f(A(x)) = A′(f(x)), and what A′ is.

One law per operator, used in whatever direction it is needed. What a law asks of the map stands in
its row; where the channels go is found by experiment (`flow`) or is plain: on the axis of channels.
Written apart from the folder's rules, and sharing nothing with them.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
from onnx import TensorProto

from bnfold.graph.index import Node
from bnfold.graph.shape_inference import Shape
from bnfold.proof.numbers.reals import Real, joined
from bnfold.proof.search.laws.channel_flow import Indices, flow, origin
from bnfold.proof.search.numbers.maps import Map, identity
from bnfold.proof.search.reading.affine_nodes import is_idle
from bnfold.proof.search.reading.model_view import View


@dataclass(frozen=True)
class Law:
    """What an operator asks of a map, and how it moves channels.

    `order`: no scale may be negative. `linear`: no shift, as far as `linear` says of the node.
    `stays`: whether the channels along an axis stay what and where they are; None: it is tried.
    `passes`: whether any map passes at all; None: it does.
    """

    stays: Callable[[View, Node, int, int], bool] | None = None
    passes: Callable[[View, Node], bool] | None = None
    order: bool = False
    linear: Callable[[View, Node], bool] | None = None

    def objection(self, view: View, node: Node, a: Map) -> str:
        """What of the map the operator does not let pass, "" for nothing."""
        if self.passes is not None and not self.passes(view, node):
            return "an operator that is no law for it"
        if self.order and not a.keeps_order:
            return "a negative scale"
        if self.linear is not None and self.linear(view, node) and a.shifts:
            return "a shift"
        return ""


def _always(_view: View, _node: Node) -> bool:
    return True


def _drops(view: View, node: Node) -> bool:
    """Whether a Dropout may put zeros in the place of values."""
    return not is_idle(view, node)


_WIDTH: dict[int, int] = {
    TensorProto.BFLOAT16: 8, TensorProto.FLOAT16: 11, TensorProto.FLOAT: 24, TensorProto.DOUBLE: 53,
}  # fmt: skip


def _widens(view: View, node: Node) -> bool:
    """Whether a Cast keeps every number: from a float type to one that has all of its numbers."""
    before, after = view.element_type(node.scope, node.input(0)), node.attribute("to", 0)
    if before == after and before in _WIDTH:
        return True
    wide = after in (TensorProto.FLOAT, TensorProto.DOUBLE)
    return wide and _WIDTH.get(before or 0, 99) < _WIDTH[int(after)]


def _pools_values(_view: View, node: Node) -> bool:
    """Whether every window of a pool has a value in it, and not padding alone."""
    kernel = node.numbers("kernel_shape") or []
    pads = node.numbers("pads") or [0] * (2 * len(kernel))
    same = node.attribute("auto_pad", b"NOTSET") in (b"SAME_UPPER", b"SAME_LOWER")
    dilated = any(d != 1 for d in node.numbers("dilations") or ())
    wide = any(pad >= k for pad, k in zip(pads, [*kernel, *kernel], strict=False))
    return not wide and not (dilated and (same or any(pads)))


def _keeps_channels(view: View, node: Node, axis: int, output: int) -> bool:
    """Whether a Resize or Upsample leaves an axis alone; a scale that rounds to 1 does not."""
    if not _stays(view, node, axis, output):
        return False
    if node.attribute("keep_aspect_ratio_policy", b"stretch") != b"stretch":
        return False
    slot = 1 if node.op == "Upsample" or node.scope.opset < 11 else 2
    scales = node.numbers("scales") if node.op == "Upsample" and node.scope.opset < 9 else None
    if scales is None and node.input(slot):
        array = view.array(node.scope, node.input(slot))
        if array is None:
            return False
        scales = array.reshape(-1).tolist()
    if not scales:
        return True  # by sizes, which `_stays` has compared
    rank = view.rank(node.scope, node.input(0)) or 0
    axes = [a % rank for a in node.numbers("axes") or range(rank)]
    return bool(dict(zip(axes, scales, strict=False)).get(axis, 1.0) == 1.0)


def _uncropped(_view: View, node: Node) -> bool:
    """Whether a Resize makes its output of its input alone."""
    mode = node.attribute("coordinate_transformation_mode", b"half_pixel")
    return bool(mode != b"tf_crop_and_resize")


def _averages_zeros(_view: View, node: Node) -> bool:
    same = node.attribute("auto_pad", b"NOTSET") in (b"SAME_UPPER", b"SAME_LOWER")
    padded = same or any(node.numbers("pads") or ())
    return bool(padded and node.attribute("count_include_pad", 0)) or bool(
        node.attribute("ceil_mode", 0)
    )


def _stays(view: View, node: Node, axis: int, output: int) -> bool:
    """Channels stay where they are, provided that none are added or lost."""
    before = view.shape(node.scope, node.input(0))
    after = view.shape(node.scope, node.proto.output[output])
    if before is None or after is None or len(before) != len(after) or axis >= len(before):
        return False
    return isinstance(before[axis], int) and after[axis] == before[axis]


def _second(view: View, node: Node, axis: int, _output: int) -> bool:
    """Pools reduce everything behind axis 1, along which channels stay apart."""
    before = view.shape(node.scope, node.input(0))
    return axis == 1 and before is not None and len(before) > 2


_HOMOGENEOUS = Law(_stays, order=True, linear=_always)
_MOVES = Law()

LAWS: dict[str, Law] = {
    "AveragePool": Law(_second, passes=_pools_values, linear=_averages_zeros),
    "Cast": Law(_stays, passes=_widens),
    "DepthToSpace": _MOVES,
    "Dropout": Law(_stays, linear=_drops),
    "Expand": _MOVES,
    "Flatten": _MOVES,
    "Gather": _MOVES,
    "GlobalAveragePool": Law(_second),
    "GlobalMaxPool": Law(_second, order=True),
    "Identity": Law(_stays),
    "LeakyRelu": _HOMOGENEOUS,
    "MaxPool": Law(_second, passes=_pools_values, order=True),
    "PRelu": _HOMOGENEOUS,
    "ReduceMax": Law(order=True),
    "ReduceMean": _MOVES,
    "ReduceMin": Law(order=True),
    "ReduceSum": Law(linear=_always),
    "Relu": _HOMOGENEOUS,
    "Reshape": _MOVES,
    "Resize": Law(_keeps_channels, passes=_uncropped),
    "Slice": _MOVES,
    "SpaceToDepth": _MOVES,
    "Split": _MOVES,
    "Squeeze": _MOVES,
    "Tile": _MOVES,
    "Transpose": _MOVES,
    "Unsqueeze": _MOVES,
    "Upsample": Law(_keeps_channels),
}


def carried(view: View, node: Node, a: Map, output: int = 0) -> Map | str:
    """The map on an output that stands for `a` on the first input; or what does not let it pass."""
    law = LAWS[node.op]
    if a.is_identity:
        return identity()
    if refused := law.objection(view, node, a):
        return refused
    if a.axis is None:
        return a
    if law.stays is not None:
        return a if law.stays(view, node, a.axis, output) else "channels that do not stay apart"
    if (place := _kept_axes(view, node).get(a.axis)) is not None:
        return replace(a, axis=place)
    found = flow(view, node, 0, a.axis, _classes(a), output)
    if found is None or np.any(found[1] < 0):
        return "channels that do not stay apart"
    axis, places = found
    return Map(axis, *(v.spread(len(a)).take(places) for v in (a.scale, a.shift)))


def pulled(view: View, node: Node, a: Map, output: int = 0) -> Map | None:
    """The map on the first input that would give `a` on the output; None where there is none.

    Channels that do not reach the output get the identity.
    """
    law = LAWS[node.op]
    if a.is_identity or law.objection(view, node, a):
        return identity() if a.is_identity else None
    whole = node.op == "Gather" and not view.is_constant(node.scope, node.input(1))
    if a.axis is None and (whole or node.op not in ("Split", "Slice", "Gather")):
        return a
    if law.stays is not None:
        return a if a.axis is not None and law.stays(view, node, a.axis, output) else None
    for kept, place in _kept_axes(view, node).items():
        if place == a.axis:
            return replace(a, axis=kept)
    before = view.shape(node.scope, node.input(0)) or ()
    after = view.shape(node.scope, node.proto.output[output]) or ()
    if node.op.startswith("Reduce"):
        return _reduced_back(view, node, a, before)
    if a.axis is not None:
        found = origin(view, node, a.axis, _classes(a), output)
    else:  # a part of the channels, all by one map
        sizes = [s for s, t in zip(before, after, strict=False) if s != t]
        axes = [k for k, (s, t) in enumerate(zip(before, after, strict=False)) if s != t]
        if len(axes) != 1 or not isinstance(sizes[0], int) or not isinstance(after[axes[0]], int):
            return None
        labels = np.zeros(int(after[axes[0]] or 0), np.int64)
        found = origin(view, node, axes[0], labels, output)
    if found is None:
        return None
    axis, places = found
    both = [
        joined([v.spread(len(a)), Real.full(nothing)]).take(np.where(places < 0, len(a), places))
        for v, nothing in ((a.scale, 1.0), (a.shift, 0.0))
    ]
    return Map(axis, *both)


def _kept_axes(view: View, node: Node) -> dict[int, int]:
    """Where axes of a Gather or Expand stand that it keeps, whatever its second input holds."""
    before, second = (view.shape(node.scope, node.input(slot)) for slot in (0, 1))
    after = view.shape(node.scope, node.output)
    if not before or second is None or after is None:
        return {}
    if node.op == "Gather":  # the axis that it gathers along becomes those of the indices
        joined_bytes, more = node.attribute("axis", 0) % len(before), len(second) - 1
        axes = (axis for axis in range(len(before)) if axis != joined_bytes)
        return {axis: axis if axis < joined_bytes else axis + more for axis in axes}
    added = len(after) - len(before)
    if node.op != "Expand" or added < 0:
        return {}
    both = enumerate(zip(before, after[added:], strict=True))
    return {axis: axis + added for axis, (size, to) in both if isinstance(size, int) and size == to}


def _reduced_back(view: View, node: Node, a: Map, before: Shape) -> Map | None:
    """The axis of the input that the map's axis of the output is."""
    for axis, size in enumerate(before):
        if size == len(a) and isinstance(size, int):
            found = flow(view, node, 0, axis, np.arange(size))
            if found is not None and found[0] == a.axis and np.array_equal(
                found[1], np.arange(size)
            ):  # fmt: skip
                return Map(axis, a.scale, a.shift)
    return None


def _classes(a: Map) -> Indices:
    """For each channel the first one that has the same map."""
    both = np.stack([v.spread(len(a)).value for v in (a.scale, a.shift)])
    _, first, which = np.unique(both, axis=1, return_index=True, return_inverse=True)
    return np.asarray(first[which.reshape(-1)], np.int64)
