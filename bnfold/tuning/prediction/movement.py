"""How operators change moments that move, join, cut or average what they read.

Where channels go is what the folder's rules say: the numbers 1, 2, … are sent through a node as the
scales of a map, and come out where their channels lie.
"""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
from onnx import TensorProto

from bnfold.folding.walk.table import DOWN
from bnfold.folding.weights.affine import Affine
from bnfold.graph.index import Node
from bnfold.graph.shape_inference import Shape
from bnfold.reasons import Refusal
from bnfold.tuning.moments import FloatArray
from bnfold.tuning.prediction.carried import (
    INDEPENDENT,
    NORMAL,
    NOTHING,
    POOLED,
    STATIONARY,
    Carried,
    UnknownMomentsError,
    Values,
)
from bnfold.tuning.prediction.linear import Window

_FLOATS = (TensorProto.FLOAT, TensorProto.FLOAT16, TensorProto.BFLOAT16, TensorProto.DOUBLE)
_CHOOSE = ("Slice", "Gather", "Split", "SpaceToDepth")  # not all pixels, where not by channels
_SPREAD = frozenset({INDEPENDENT})
_IN_PLACE = ("Identity", "Dropout", "Cast")
_POOLED = frozenset({POOLED})


def moved(values: Values, node: Node) -> tuple[Carried, ...]:
    """The same numbers elsewhere, for each output."""
    found = values.of(node)
    numbered = Affine(found.axis, np.arange(1.0, len(found.mean) + 1), np.zeros(len(found.mean)))
    step = DOWN[node.op](values.draft, node, 0, numbered)
    if isinstance(step, Refusal) or step.edits or not step.demands:
        raise UnknownMomentsError(f"{node.label} stands in between")
    made: dict[int, Carried] = {}
    for demand in step.demands:
        channels, axis = demand.affine.scale - 1, demand.affine.axis
        if axis is None:
            raise UnknownMomentsError(f"{node.label} stands in between")
        made[demand.place] = _at(found, channels, axis, node)
    return tuple(made[place] for place in sorted(made))


def _at(found: Carried, channels: np.ndarray, axis: int, node: Node) -> Carried:
    some = found.selected(channels, axis)
    if len(channels) > len(found.mean) and node.op not in ("Gather", "SpaceToDepth"):
        raise UnknownMomentsError(f"{node.label} makes channels of pixels, which may differ")
    if node.op in _IN_PLACE:  # while x and its Transpose are no functions of one z
        return replace(some, source=found.source)
    if node.op in _CHOOSE and len(channels) >= len(found.mean):
        return _stationary(some, some.variance)
    return some


def _stationary(found: Carried, variance: FloatArray) -> Carried:
    """The same means, of other pixels."""
    return found.apart(
        found.mean, variance, STATIONARY, of_variance=NOTHING, doubt=found.doubt, lean=found.lean
    )


def cast(values: Values, node: Node) -> tuple[Carried, ...]:
    """Between floating-point types."""
    if node.attribute("to", 0) not in _FLOATS:
        raise UnknownMomentsError(f"{node.label} makes other numbers of them")
    return moved(values, node)


def resized(values: Values, node: Node) -> Carried:
    """Pixels that are copied keep their variance; those that are interpolated lose some."""
    (found,) = moved(values, node)
    if node.attribute("coordinate_transformation_mode", b"") == b"tf_crop_and_resize":
        raise UnknownMomentsError(f"{node.label} may look beyond what it reads")
    copied = node.attribute("mode", b"nearest") == b"nearest"
    variance = found.variance if copied else np.full_like(found.variance, np.nan)
    return _stationary(found, variance)


def averaged(values: Values, node: Node) -> Carried:
    """Means stay; of n pixels, 1/n of the variance is left where they are independent.

    An unknown number of pixels is taken for a large one.
    """
    (found,) = moved(values, node)
    assumes: tuple[str, ...] = ()
    count: int | None = None
    if node.op == "AveragePool":
        kernel = node.numbers("kernel_shape") or []
        pads = Window.of(node, len(kernel)).pads
        partial = pads is None or any(pads) or node.attribute("ceil_mode", 0)
        if partial and node.attribute("count_include_pad", 0):
            raise UnknownMomentsError(f"{node.label} averages zeros of its padding")
        assumes, count = (STATIONARY,), math.prod(kernel)
    else:
        count = _ratio(values.shape(node), values.output_shape(node))
    variance = found.variance / count if count else np.zeros_like(found.variance)
    if NORMAL in found.assumes:  # what is left of the deviation is small beside what it is off
        assumes += (POOLED,)
    made = found.apart(
        found.mean, variance, *assumes, of_variance=_POOLED, doubt=found.doubt, lean=found.lean
    )  # fmt: skip
    return replace(made, known_ends=found.ends)  # no average lies beyond them


def _ratio(before: Shape | None, after: Shape | None) -> int | None:
    """How many numbers become one; what is not known on both sides is the batch."""
    if before is None or after is None:
        return None
    many, few = ([size for size in shape if isinstance(size, int)] for shape in (before, after))
    unknown = [[s for s in shape if not isinstance(s, int)] for shape in (before, after)]
    if unknown[0] != unknown[1] or not math.prod(few):
        return None
    return math.prod(many) // math.prod(few)


def padded(values: Values, node: Node) -> Carried:
    """A share of constant pixels; other modes repeat pixels that are there."""
    found = values.of(node)
    before, after = values.shape(node), values.output_shape(node)
    axes = 0 if before is None else len(before) - 2
    if found.axis != 1 or before is None or after is None or before[:2] != after[:2]:
        raise UnknownMomentsError(f"{node.label} pads more than pixels")
    mode = node.attribute("mode", b"constant")
    if mode != b"constant":
        return _stationary(found, found.variance)
    few, many = (
        [size for size in shape[2:] if isinstance(size, int) and size > 0]
        for shape in (before, after)
    )
    constant = np.full(1, node.attribute("value", 0.0))
    stored = values.constant(node, 2) if node.input(2) else constant
    if len(few) < axes or len(many) < axes or stored is None or stored.size != 1:
        raise UnknownMomentsError(f"{node.label} pads by an unknown share")
    share, value = min(math.prod(few) / math.prod(many), 1.0), float(stored.reshape(-1)[0])
    off = (found.mean - value) ** 2
    return found.apart(
        share * found.mean + (1 - share) * value,
        share * (found.variance + (1 - share) * off), STATIONARY, of_variance=NOTHING,
        doubt=share * found.doubts + (1 - share) * np.abs(found.mean - value), lean=found.lean,
    )  # fmt: skip


def concat(values: Values, node: Node) -> Carried:
    """Channels side by side; of parts that share their channels nothing is told."""
    shape = values.shape(node)
    axis = node.attribute("axis", 1)
    parts = [values.of(node, slot) for slot in range(len(node.proto.input))]
    axes = {part.axis for part in parts}
    if shape is None or axes != {axis % len(shape)}:
        raise UnknownMomentsError(f"{node.label} joins no channels")
    mean, variance = (np.concatenate([getattr(p, n) for p in parts]) for n in ("mean", "variance"))
    joined = replace(parts[0], mean=mean, variance=variance, source=None, table=None)
    return replace(
        joined,
        assumes=NOTHING.union(*(p.assumes for p in parts)),
        variance_assumes=NOTHING.union(*(p.variance_assumes for p in parts)),
        doubt=np.concatenate([p.doubts for p in parts]),
        lean=np.concatenate([p.leans for p in parts]),
        known_ends=None,
    )


def added(values: Values, node: Node) -> Carried:
    """Sum, of any number of values; variances are told of different ones only."""
    parts = [values.of(node, slot) for slot in range(len(node.proto.input))]
    shapes = [values.shape(node, slot) for slot in range(len(parts))]
    ranks = {None if shape is None else len(shape) for shape in shapes}
    if len({(p.axis, len(p.mean)) for p in parts}) > 1 or len(ranks) > 1 or None in ranks:
        raise UnknownMomentsError(f"{node.label} broadcasts channels")
    if len(parts) == 1:
        return parts[0]
    variance = np.sum([p.variance for p in parts], axis=0)
    if len({p.source for p in parts}) < len(parts):
        variance = np.full_like(variance, np.nan)
    mean = np.sum([p.mean for p in parts], axis=0)
    assumes = NOTHING.union(*(p.assumes for p in parts))
    spread = NOTHING.union(*(p.variance_assumes for p in parts))
    doubt, lean = (np.sum([getattr(p, n) for p in parts], axis=0) for n in ("doubts", "leans"))
    return parts[0].apart(
        mean, variance, *assumes, of_variance=spread | _SPREAD, doubt=doubt, lean=lean
    )  # fmt: skip
