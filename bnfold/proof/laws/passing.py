"""Operators that let a map pass from their first input to an output: f(a(x)) = a′(f(x)).

Each law gives a′, or says in words what does not pass. Where an operator moves channels, the law
says which channel of the input each channel of the output is.
"""

from __future__ import annotations

import math
from collections.abc import Callable

from onnx import TensorProto

from bnfold.graph.index import Node, Scope
from bnfold.proof.laws import moving
from bnfold.proof.laws.moving import APART, NEGATIVE, SHIFTED, UNKNOWN, Law, along
from bnfold.proof.numbers.maps import Map
from bnfold.proof.reading.model import Model
from bnfold.proof.reading.shape_rules import reduced_axes
from bnfold.proof.reading.window_shapes import pad_widths, resize_factors
from bnfold.proof.values.operands import axis_of


def _unchanged(_m: Model, _n: Node, _o: int, a: Map) -> Map | str:
    """f(x) = x."""
    return a


def _dropout(model: Model, node: Node, output: int, a: Map) -> Map | str:
    return a if output == 0 and is_idle(model, node) else "a Dropout that drops"


def is_idle(model: Model, node: Node) -> bool:
    """Whether an Identity, Cast or Dropout gives what it is given."""
    if node.op == "Cast":
        source = model.element_type(node.scope, node.input(0))
        return node.scope.opset >= 6 and source != 0 and source == node.attribute("to", 0)
    if node.op == "Dropout":
        if node.scope.opset < 7:
            return bool(node.attribute("is_test", 0))
        if node.scope.opset < 12 or not node.input(2):
            return True
        training = model.value_at(node, 2)
        return training is not None and not training.any()
    return node.op == "Identity"


def handed_on(
    model: Model, scope: Scope, name: str, through: Callable[[Node], bool] = lambda _: True
) -> tuple[Scope, str]:  # fmt: skip
    """The value itself, of which nodes that change nothing hand on copies."""
    maker = scope.producers.get(name)
    while maker is not None and maker.output == name and through(maker) and is_idle(model, maker):
        owner = scope.owner(maker.input(0)) if maker.input(0) else None
        if owner is None:
            break
        scope, name = owner, maker.input(0)
        maker = scope.producers.get(name)
    return scope, name


_WIDER = {
    (TensorProto.FLOAT16, TensorProto.FLOAT), (TensorProto.FLOAT16, TensorProto.DOUBLE),
    (TensorProto.BFLOAT16, TensorProto.FLOAT), (TensorProto.BFLOAT16, TensorProto.DOUBLE),
    (TensorProto.FLOAT, TensorProto.DOUBLE),
}  # fmt: skip


def _cast(model: Model, node: Node, _: int, a: Map) -> Map | str:
    """A cast to a type that holds every number of the other changes none."""
    kinds = (model.element_type(node.scope, node.input(0)), node.attribute("to", 0))
    return a if is_idle(model, node) or kinds in _WIDER else "a Cast that rounds"


def _homogeneous(_m: Model, _n: Node, _o: int, a: Map) -> Map | str:
    """f(s·x) = s·f(x) for s ≥ 0."""
    if not a.keeps_order:
        return NEGATIVE
    return SHIFTED if a.shifts else a


def _negated(_m: Model, _n: Node, _o: int, a: Map) -> Map | str:
    """−(s·x + t) = s·(−x) − t."""
    return a.with_ids(a.functions.negated(a.ids))


def _triangle(_m: Model, _n: Node, _o: int, a: Map) -> Map | str:
    """What a Trilu does not keep is 0, and s·0 = 0."""
    return SHIFTED if a.shifts else a


def _cumulative(model: Model, node: Node, _: int, a: Map) -> Map | str:
    """Σ s·x = s·Σ x along an axis on which s does not vary."""
    if a.shifts or a.axis is None:
        return SHIFTED if a.shifts else a
    axes = model.value_at(node, 1)
    if axes is None or axes.size != 1:
        return UNKNOWN
    axis = axis_of(int(axes.reshape(-1)[0]), len(model.shapes.input(node, 0)))
    return APART if a.axis == axis else a


def _reversed(_m: Model, node: Node, _o: int, a: Map) -> Map | str:
    """Elements change places along one axis, each in its own batch."""
    return APART if a.axis is not None and a.axis == node.attribute("time_axis", 0) else a


def _lp_pool(_m: Model, node: Node, _o: int, a: Map) -> Map | str:
    """‖s·x‖ = s·‖x‖ for s ≥ 0; the zeros of the padding stay zeros."""
    if not a.keeps_order or a.shifts:
        return SHIFTED if a.shifts else NEGATIVE
    return _pooled(a)


def _reduce_norm(model: Model, node: Node, _: int, a: Map) -> Map | str:
    """Likewise over axes."""
    if not a.keeps_order or a.shifts:
        return SHIFTED if a.shifts else NEGATIVE
    return _reduced(model, node, a)


def _prelu(model: Model, node: Node, output: int, a: Map) -> Map | str:
    """Likewise, with slopes of its own for each element; they must not make the value larger."""
    shape, out = model.shapes.of(node.scope, node.input(0)), model.shapes.output(node)
    slope = model.shapes.of(node.scope, node.input(1))
    if a.axis is None and slope is not None:
        return _homogeneous(model, node, output, a)
    if shape is None or out is None or len(shape) != len(out):
        return UNKNOWN
    if out[a.axis or 0] != shape[a.axis or 0]:
        return APART
    return _homogeneous(model, node, output, a)


def _max_pool(model: Model, node: Node, output: int, a: Map) -> Map | str:
    """max(s·x + t) = s·max(x) + t for s ≥ 0; padding never counts."""
    if output:
        return "a pool that gives indices"
    if _may_see_nothing(node):
        return EMPTY
    return _pooled(a) if a.keeps_order else NEGATIVE


def _average_pool(_: Model, node: Node, _o: int, a: Map) -> Map | str:
    """mean(s·x + t) = s·mean(x) + t, unless zeros from the padding are among what is averaged."""
    zeros = _is_padded(node) and node.attribute("count_include_pad", 0)
    zeros = zeros or _may_see_nothing(node)
    if (zeros or node.attribute("ceil_mode", 0)) and a.shifts:
        return "a shift where zeros of the padding are averaged in"
    return _pooled(a)


EMPTY = "windows that may lie in the padding altogether"


def _may_see_nothing(node: Node) -> bool:
    """Whether a window may see nothing but padding, for which runtimes give anything."""
    return max(node.numbers("dilations") or [1]) > 1 and _is_padded(node)


def _is_padded(node: Node) -> bool:
    same = node.attribute("auto_pad", b"NOTSET") in (b"SAME_UPPER", b"SAME_LOWER")
    return same or any(node.numbers("pads") or ())


def _global_average_pool(_m: Model, _n: Node, _o: int, a: Map) -> Map | str:
    return _pooled(a)


def _global_max_pool(_m: Model, _n: Node, _o: int, a: Map) -> Map | str:
    return _pooled(a) if a.keeps_order else NEGATIVE


def _pooled(a: Map) -> Map | str:
    return a if a.axis in (None, 0, 1) else APART


def _reduce_mean(model: Model, node: Node, _: int, a: Map) -> Map | str:
    """mean(s·x + t) = s·mean(x) + t."""
    return _reduced(model, node, a)


def _reduce_max(model: Model, node: Node, _: int, a: Map) -> Map | str:
    """max(s·x + t) = s·max(x) + t for s ≥ 0; likewise min."""
    return _reduced(model, node, a) if a.keeps_order else NEGATIVE


def _reduce_sum(model: Model, node: Node, _: int, a: Map) -> Map | str:
    """Σ s·x = s·Σ x."""
    return SHIFTED if a.shifts else _reduced(model, node, a)


def _reduced(model: Model, node: Node, a: Map) -> Map | str:
    if a.axis is None:
        return a
    shape = model.shapes.input(node, 0)
    axes = reduced_axes(model.shapes, node, len(shape))
    if a.axis in axes:
        return APART
    if node.attribute("keepdims", 1):
        return a
    return along(a, a.axis - sum(axis < a.axis for axis in axes))


def _resize(model: Model, node: Node, _: int, a: Map) -> Map | str:
    """Each output is a mean of inputs of its own channel, with weights that sum to 1."""
    if node.attribute("coordinate_transformation_mode", b"") == b"tf_crop_and_resize":
        return "a Resize that may read beyond the border"
    if node.attribute("keep_aspect_ratio_policy", b"stretch") != b"stretch":
        return "a Resize of unknown factors"
    if a.axis is None:
        return a
    shape, out = model.shapes.input(node, 0), model.shapes.output(node)
    scale, size = resize_factors(model.shapes, node, len(shape))[a.axis]
    if scale == 1 or (scale is None and size is not None and size == shape[a.axis]):
        return a
    return APART if out is not None else UNKNOWN


def _pad(model: Model, node: Node, _: int, a: Map) -> Map | str:
    """Copies of what is there pass every map; what is padded must be what the map makes of it."""
    shape = model.shapes.input(node, 0)
    widths = pad_widths(model.shapes, node, len(shape))
    if widths is None:
        return "padding that is not known"
    if a.axis is not None and any(widths[a.axis]):
        return "padding of the channels"
    if node.attribute("mode", b"constant") != b"constant" or not any(map(any, widths)):
        return a
    value = pad_value(model, node)
    if value is None:
        return "padding that is not known"
    if value == 0 and not a.shifts:
        return a
    if math.isinf(value) and a.keeps_order and a.keeps_apart:  # s·∞ + t = ∞ for s > 0
        return a
    return "a map that changes what is padded"


def pad_value(model: Model, node: Node) -> float | None:
    """What a Pad puts around its input."""
    if node.scope.opset < 11:
        return node.attribute("value", 0.0)
    if not node.input(2):
        return 0.0
    value = model.value_at(node, 2)
    return float(value.reshape(-1)[0]) if value is not None and value.size == 1 else None


LAWS: dict[str, Law] = {
    "Abs": _homogeneous,
    "AveragePool": _average_pool,
    "Cast": _cast,
    "CumSum": _cumulative,
    "DepthToSpace": moving.depth_to_space,
    "Dropout": _dropout,
    "Expand": moving.expand,
    "Flatten": moving.reshape,
    "Gather": moving.gather,
    "GlobalAveragePool": _global_average_pool,
    "GlobalLpPool": _lp_pool,
    "GlobalMaxPool": _global_max_pool,
    "Identity": _unchanged,
    "LeakyRelu": _homogeneous,
    "LpPool": _lp_pool,
    "MaxPool": _max_pool,
    "Neg": _negated,
    "PRelu": _prelu,
    "Pad": _pad,
    "ReduceL1": _reduce_norm,
    "ReduceL2": _reduce_norm,
    "ReduceMax": _reduce_max,
    "ReduceMean": _reduce_mean,
    "ReduceMin": _reduce_max,
    "ReduceSum": _reduce_sum,
    "Relu": _homogeneous,
    "Reshape": moving.reshape,
    "Resize": _resize,
    "ReverseSequence": _reversed,
    "Slice": moving.slice_channels,
    "SpaceToDepth": moving.space_to_depth,
    "Split": moving.split,
    "Squeeze": moving.squeeze,
    "Tile": moving.tile,
    "Transpose": moving.transpose,
    "Trilu": _triangle,
    "Unsqueeze": moving.unsqueeze,
    "Upsample": _resize,
}


def passed(model: Model, node: Node, output: int, a: Map) -> Map | str:
    """The map on an output that stands for `a` on the first input; or what does not pass."""
    law = LAWS.get(node.op)
    if law is None:
        return f"{node.op}, which lets no map pass"
    if node.call_attribute():
        return "an attribute that only a call gives"
    try:
        found = law(model, node, output, a)
        one = a.uniform() if isinstance(found, str) and a.axis is not None else None
        return found if one is None else law(model, node, output, one)
    except (ValueError, IndexError, TypeError, LookupError):
        return UNKNOWN
