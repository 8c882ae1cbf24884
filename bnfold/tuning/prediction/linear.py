"""How linear operators change the moments of what they read."""

from __future__ import annotations

import functools
import itertools
import math
from dataclasses import dataclass, replace

import numpy as np

from bnfold.graph.index import Node
from bnfold.graph.shape_inference import Shape
from bnfold.reasons import Refusal
from bnfold.tuning.moments import FloatArray
from bnfold.tuning.prediction.carried import (
    FILTERED,
    INDEPENDENT,
    NOTHING,
    STATIONARY,
    Carried,
    UnknownMomentsError,
    Values,
)

_MOST = 1 << 24  # weights that are summed up in float64 at once
_SUMS = frozenset({INDEPENDENT})
_FILTER = frozenset({FILTERED})
_FEW = 8  # channels that a window sums over, so that it is a filter of neighbours
_SIZES = (512, 4, 3, 2, 1)  # how many pixels there may be where nobody says


@dataclass(frozen=True)
class Window:
    """How a kernel slides over a value: numbers for each axis of pixels, `pads` as ONNX has them.

    `pads` is None where they follow from the sizes (`auto_pad`).
    """

    strides: list[int]
    dilations: list[int]
    pads: list[int] | None

    @classmethod
    def of(cls, node: Node, axes: int) -> Window:
        """That of a node. Raises ValueError where it cannot be."""
        strides = node.numbers("strides") or [1] * axes
        dilations = node.numbers("dilations") or [1] * axes
        pads: list[int] | None = node.numbers("pads") or [0] * (2 * axes)
        auto = node.attribute("auto_pad", b"NOTSET")
        if min(strides + dilations) < 1 or not len(strides) == len(dilations) == axes:
            raise ValueError("strides")
        if auto == b"VALID":
            pads = [0] * (2 * axes)
        elif auto != b"NOTSET":
            pads = None
        if pads is not None and len(pads) != 2 * axes:
            raise ValueError("pads")
        return cls(strides, dilations, pads)


def conv(values: Values, node: Node) -> Carried:
    """Sums over the channels of a group and the taps of a window."""
    found, weight, bias = _operands(values, node)
    groups = int(node.attribute("group", 1))
    window = Window.of(node, weight.ndim - 2)
    kernel, shape = weight.shape[2:], values.shape(node)
    before = _padded(values, node, weight.ndim - 2)
    if before is not None and window.pads is not None:  # a Pad is so much more padding
        found, shape, more = before
        pads = [one + other for one, other in zip(window.pads, more, strict=True)]
        window = replace(window, pads=pads)
    fits = groups > 0 and weight.shape[1] * groups == len(found.mean)
    if not fits or weight.shape[0] % groups or bias.size not in (1, weight.shape[0]):
        raise UnknownMomentsError(f"{node.label} reads other channels")
    all_alike = math.prod(kernel) == 1 and set(window.strides) == {1}
    exact = all_alike and window.pads is not None and not any(window.pads)
    shares = _inside(window, kernel, shape)
    means = [_per_group(weight * share, found.mean, groups) for share in shares]
    doubt = _per_group(np.abs(weight), found.doubts, groups)
    for mean in means[1:]:
        doubt = np.maximum(doubt, np.abs(mean - means[0]))
    of_few = weight.shape[1] < _FEW and math.prod(kernel) > 1
    return found.apart(
        means[0] + bias, _per_group(weight * weight * shares[0], found.variance, groups),
        *(() if exact else (STATIONARY,)), of_variance=_SUMS | (_FILTER if of_few else NOTHING),
        doubt=doubt, lean=_per_group(weight * shares[0], found.leans, groups),
    )  # fmt: skip


def _padded(
    values: Values, node: Node, axes: int
) -> tuple[Carried, Shape | None, list[int]] | None:
    """What a Pad with zeros in front of a convolution reads, its shape, and by how much it pads."""
    pad = node.scope.producers.get(node.input(0))
    if pad is None or pad.op != "Pad" or pad.attribute("mode", b"constant") != b"constant":
        return None
    pads = pad.numbers("pads")
    if pads is None:
        found = values.draft.constants.find_any(pad, 1)
        pads = None if isinstance(found, Refusal) else found.values().reshape(-1).tolist()
    value = values.constant(pad, 2) if pad.input(2) else np.full(1, pad.attribute("value", 0.0))
    if pads is None or pad.input(3) or len(pads) != 2 * (axes + 2) or value is None or value.any():
        return None
    amounts = [int(amount) for amount in pads]
    if any(amounts[:2] + amounts[axes + 2 : axes + 4]) or min(amounts) < 0:
        return None
    return values.of(pad), values.shape(pad), amounts[2 : axes + 2] + amounts[axes + 4 :]


def _operands(values: Values, node: Node) -> tuple[Carried, FloatArray, FloatArray]:
    """What is read, the weight and the bias."""
    found, weight = values.of(node), values.constant(node, 1)
    bias = values.constant(node, 2) if node.input(2) else np.zeros(1)
    if weight is None or bias is None or weight.ndim < 3 or weight.size > _MOST:
        raise UnknownMomentsError(f"{node.label} has no constant weight")
    if found.axis != 1:
        raise UnknownMomentsError(f"{node.label} reads other channels")
    return found, weight, bias


def _per_group(weight: FloatArray, each: FloatArray, groups: int) -> FloatArray:
    """Sums over taps and the channels of a group: weight [M, C/groups, …], each [C]."""
    rows = weight.reshape(*weight.shape[:2], -1).sum(axis=2).reshape(groups, -1, weight.shape[1])
    return np.asarray(np.einsum("goi,gi->go", rows, each.reshape(groups, -1)).reshape(-1))


def _inside(
    window: Window, kernel: tuple[int, ...], shape: Shape | None
) -> list[FloatArray | float]:
    """The share of windows of which each tap is not in the padding.

    Where no size is known, for many pixels first, and then for few: the more there are, the less
    they see of the padding.
    """
    pads = [size // 2 for size in kernel] * 2 if window.pads is None else window.pads
    if not any(pads):
        return [1.0]
    axes = []
    for axis, size in enumerate(_sizes(shape, len(kernel))):
        counts = _SIZES if size is None else (size,)
        shares = [_share(window, kernel, axis, pads, count) for count in counts]
        axes.append([share for share in shares if share is not None])
    return [
        functools.reduce(np.multiply.outer, shares, np.ones(()))
        for shares in itertools.product(*axes)
    ]


def _share(
    window: Window, kernel: tuple[int, ...], axis: int, pads: list[int], count: int
) -> FloatArray | None:
    """Along one axis of `count` pixels; None where no window fits."""
    before, after = pads[axis], pads[axis + len(kernel)]
    reach = (kernel[axis] - 1) * window.dilations[axis]
    windows = (count + before + after - reach - 1) // window.strides[axis] + 1
    if windows < 1:
        return None
    taps = [tap * window.dilations[axis] - before for tap in range(kernel[axis])]
    inside = [_steps(windows, window.strides[axis], tap, count) for tap in taps]
    return np.array([number / windows for number in inside])


def _steps(count: int, stride: int, start: int, end: int) -> int:
    """How many of start, start + stride, … (`count` of them) lie in 0 … end − 1."""
    first = max(0, -(start // stride))
    last = min(count - 1, (end - 1 - start) // stride)
    return max(0, last - first + 1)


def _sizes(shape: Shape | None, axes: int) -> list[int | None]:
    """How many pixels there are along each axis; None where that is not known."""
    if shape is None:
        return [None] * axes
    if len(shape) != 2 + axes:
        raise ValueError("rank")
    return [size if isinstance(size, int) and size > 0 else None for size in shape[2:]]


def conv_transpose(values: Values, node: Node) -> Carried:
    """What each tap adds, by the share of pixels that it reaches.

    The pixels between strides have means of their own, so that no variance is told.
    """
    found, weight, bias = _operands(values, node)
    groups = int(node.attribute("group", 1))
    if groups < 1 or weight.shape[0] != len(found.mean) or weight.shape[0] % groups:
        raise UnknownMomentsError(f"{node.label} reads other channels")
    axes = weight.ndim - 2
    window = Window.of(node, axes)
    before, after = (_sizes(s, axes) for s in (values.shape(node), values.output_shape(node)))
    more = node.numbers("output_padding") or [0] * axes
    if window.pads is None or node.numbers("output_shape") or len(more) != axes:
        raise UnknownMomentsError(f"{node.label} has a padding that follows from its sizes")
    share = np.ones(())
    for axis, size in enumerate(weight.shape[2:]):
        few = before[axis] or _SIZES[0]
        taps = [tap * window.dilations[axis] - window.pads[axis] for tap in range(size)]
        reach = (few - 1) * window.strides[axis] + taps[-1] + 1
        many = after[axis] or max(1, reach - window.pads[axis + axes] + more[axis])
        reached = [_steps(few, window.strides[axis], tap, many) / many for tap in taps]
        share = np.multiply.outer(share, np.array(reached))
    total = (weight * share).reshape(*weight.shape[:2], -1).sum(axis=2)  # [C, M/groups]
    rows = total.reshape(groups, -1, weight.shape[1])
    mean = np.einsum("gio,gi->go", rows, found.mean.reshape(groups, -1)).reshape(-1)
    if bias.size not in (1, len(mean)):
        raise UnknownMomentsError(f"{node.label} has a bias for other channels")
    doubts = found.doubts.reshape(groups, -1)
    doubt = np.einsum("gio,gi->go", np.abs(rows), doubts).reshape(-1)
    lean = np.einsum("gio,gi->go", rows, found.leans.reshape(groups, -1)).reshape(-1)
    nothing = np.full_like(mean, np.nan)
    return found.apart(
        mean + bias, nothing, STATIONARY, of_variance=_SUMS, doubt=doubt, lean=lean
    )  # fmt: skip


def matrix(values: Values, node: Node) -> Carried:
    """Products of rows with a matrix: Gemm, and MatMul of any rank along its last axis."""
    if values.constant(node, 0) is not None:
        raise UnknownMomentsError(f"{node.label} is a constant times a value")
    found, weight = values.of(node), values.constant(node, 1)
    shape = values.shape(node)
    if weight is None or weight.ndim != 2 or weight.size > _MOST or shape is None:
        raise UnknownMomentsError(f"{node.label} is no product with a constant matrix")
    gemm = node.op == "Gemm"
    if gemm and node.attribute("transB", 0):
        weight = weight.T
    turned = gemm and (node.attribute("transA", 0) or len(shape) != 2)
    if turned or found.axis != len(shape) - 1 or weight.shape[0] != len(found.mean):
        raise UnknownMomentsError(f"{node.label} reads other channels")
    alpha, beta = (float(node.attribute(a, 1.0)) if gemm else 1.0 for a in ("alpha", "beta"))
    bias = values.constant(node, 2) if gemm and node.input(2) else np.zeros(1)
    n = weight.shape[1]
    if bias is None or (bias.size > 1 and bias.shape not in ((n,), (1, n))):
        raise UnknownMomentsError(f"{node.label} has a bias for more than channels")
    mean = alpha * (found.mean @ weight) + beta * bias.reshape(-1)
    variance = alpha**2 * (found.variance @ weight**2)
    doubt = abs(alpha) * (found.doubts @ np.abs(weight))
    lean = alpha * (found.leans @ weight)
    return found.apart(mean, variance, of_variance=_SUMS, doubt=doubt, lean=lean)
