"""Where the taps of convolutions stand, and the one kernel that covers several of them."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from bnfold.folding.weights.affine import FloatArray
from bnfold.folding.weights.draft import Draft
from bnfold.graph.index import Node

Numbers = tuple[int, ...]


@dataclass(frozen=True)
class Kernel:
    """The taps of a Conv, axis by axis: tap k reads x at position·stride + k·dilation − begin."""

    group: int
    size: Numbers
    strides: Numbers
    dilations: Numbers
    begins: Numbers
    ends: Numbers

    @property
    def reach(self) -> Numbers:
        """Padding less what the kernel spans: with the strides it settles the size of the output.

        ⌊(n + begin + end − (size − 1)·dilation − 1) / stride⌋ + 1 for every n.
        """
        return tuple(
            begin + end - (size - 1) * dilation
            for size, dilation, begin, end in zip(
                self.size, self.dilations, self.begins, self.ends, strict=True
            )
        )

    @property
    def is_pointwise(self) -> bool:
        """Whether it reads one element at a time, and all of them."""
        plain = {*self.size, *self.strides} == {1}
        return plain and not any((*self.begins, *self.ends))

    @classmethod
    def of_identity(cls, channels: int, axes: int) -> Kernel:
        """One tap in the middle for each channel: what passes x on."""
        one, none = (1,) * axes, (0,) * axes
        return cls(channels, one, one, one, none, none)


def of_conv(draft: Draft, node: Node, weight: Sequence[int]) -> Kernel | None:
    """The kernel of a Conv with a weight of this shape; None where it depends on the input size."""
    size = tuple(weight[2:])
    axes = len(size)
    strides = tuple(draft.numbers(node, "strides") or (1,) * axes)
    dilations = tuple(draft.numbers(node, "dilations") or (1,) * axes)
    pads = tuple(draft.numbers(node, "pads") or (0,) * (2 * axes))
    auto_pad = draft.attribute(node, "auto_pad", b"NOTSET")
    if len(strides) != axes or len(dilations) != axes or len(pads) != 2 * axes:
        return None
    if min((*size, *strides, *dilations), default=0) < 1 or min(pads) < 0:
        return None
    if auto_pad == b"VALID":
        pads = (0,) * (2 * axes)
    elif auto_pad != b"NOTSET":
        if set(strides) != {1}:
            return None
        spans = [(k - 1) * d for k, d in zip(size, dilations, strict=True)]
        less, more = tuple(n // 2 for n in spans), tuple(n - n // 2 for n in spans)
        pads = (*less, *more) if auto_pad == b"SAME_UPPER" else (*more, *less)
    group = draft.attribute(node, "group", 1)
    return Kernel(group, size, strides, dilations, pads[:axes], pads[axes:])


def of_pool(draft: Draft, node: Node, channels: int, axes: int) -> Kernel | None:
    """An AveragePool as a kernel; None where its windows do not all average as many elements."""
    size = tuple(draft.numbers(node, "kernel_shape") or ())
    whole = not any(draft.numbers(node, "pads") or ()) or node.attribute("count_include_pad", 0)
    automatic = node.attribute("auto_pad", b"NOTSET") != b"NOTSET"
    if len(size) != axes or automatic or node.attribute("ceil_mode", 0) or not whole:
        return None
    found = of_conv(draft, node, (channels, 1, *size))
    return None if found is None else replace(found, group=channels)


def composed(inner: Kernel, outer: Kernel) -> Kernel:
    """The kernel that reads x where `outer` reads what `inner` makes.

    Position·s₂·s₁ + (k₂·d₂·s₁ + k₁·d₁) − (b₂·s₁ + b₁) for the taps k₁ and k₂.
    """
    sizes, dilations = [], []
    for axis, stride in enumerate(inner.strides):
        far, near = outer.dilations[axis] * stride, inner.dilations[axis]
        last = (outer.size[axis] - 1) * far + (inner.size[axis] - 1) * near
        steps = [s for s, k in ((far, outer.size[axis]), (near, inner.size[axis])) if k > 1]
        dilation = math.gcd(*steps) or 1
        sizes.append(last // dilation + 1)
        dilations.append(dilation)

    def behind(one: Numbers, other: Numbers) -> Numbers:
        return tuple(a * s + b for a, s, b in zip(other, inner.strides, one, strict=True))

    strides = tuple(a * b for a, b in zip(inner.strides, outer.strides, strict=True))
    group = math.gcd(inner.group, outer.group)
    return Kernel(
        group, tuple(sizes), strides, tuple(dilations), behind(inner.begins, outer.begins),
        behind(inner.ends, outer.ends),
    )  # fmt: skip


def composed_weight(
    first: FloatArray, inner: Kernel, second: FloatArray, outer: Kernel
) -> FloatArray:
    """The weight [M, C/group, …] of `composed`, of the weights of both."""
    whole = composed(inner, outer)
    a, b = (
        embedded(w, k, replace(k, group=whole.group)) for w, k in ((first, inner), (second, outer))
    )
    a = a.reshape(whole.group, -1, *a.shape[1:])
    b = b.reshape(whole.group, -1, *b.shape[1:])
    total = np.zeros((whole.group, b.shape[1], a.shape[2], *whole.size))
    for far in itertools.product(*map(range, outer.size)):
        for near in itertools.product(*map(range, inner.size)):
            at = tuple(
                (k * outer.dilations[axis] * inner.strides[axis] + j * inner.dilations[axis])
                // whole.dilations[axis]
                for axis, (k, j) in enumerate(zip(far, near, strict=True))
            )
            spots: list[Any] = [(..., *taps) for taps in (at, far, near)]
            total[spots[0]] += np.einsum("gmc,gci->gmi", b[spots[1]], a[spots[2]])
    return total.reshape(-1, *total.shape[2:])


def union(kernels: Sequence[Kernel]) -> Kernel | str:
    """The smallest kernel that has the taps of all, or what makes that impossible."""
    first = kernels[0]
    if len({kernel.strides for kernel in kernels}) > 1:
        return "their strides differ"
    if len({kernel.reach for kernel in kernels}) > 1:
        return "their outputs differ in size, or lie elsewhere"
    sizes, dilations, begins, ends = [], [], [], []
    for axis, reach in enumerate(first.reach):
        begin = max(kernel.begins[axis] for kernel in kernels)
        last = max(
            (kernel.size[axis] - 1) * kernel.dilations[axis] - kernel.begins[axis]
            for kernel in kernels
        )
        steps = [begin - kernel.begins[axis] for kernel in kernels]
        steps += [kernel.dilations[axis] for kernel in kernels if kernel.size[axis] > 1]
        dilation = math.gcd(*steps) or 1
        sizes.append((last + begin) // dilation + 1)
        dilations.append(dilation)
        begins.append(begin)
        ends.append(reach + last)
    group = math.gcd(*(kernel.group for kernel in kernels))
    return Kernel(
        group, tuple(sizes), first.strides, tuple(dilations), tuple(begins), tuple(ends)
    )  # fmt: skip


def embedded(weight: FloatArray, own: Kernel, whole: Kernel) -> FloatArray:
    """A weight of the kernel `own`, [M, C/group, …], as one of `whole`, with zeros in between."""
    places: list[slice] = [slice(None)] * 3  # group, outputs and inputs come first
    for axis, size in enumerate(own.size):
        step = whole.dilations[axis]
        start = (whole.begins[axis] - own.begins[axis]) // step
        stride = max(own.dilations[axis] // step, 1)
        places.append(slice(start, start + (size - 1) * stride + 1, stride))
    outputs, inputs = weight.shape[:2]
    parts = own.group // whole.group  # groups of its own in each group of the whole
    blocks = weight.reshape(whole.group, parts, outputs // own.group, inputs, *own.size)
    laid = np.zeros((whole.group, parts, outputs // own.group, parts, inputs, *whole.size))
    for part in range(parts):
        laid[:, part, :, part][tuple(places)] = blocks[:, part]
    return laid.reshape(outputs, parts * inputs, *whole.size)
