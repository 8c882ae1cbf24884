"""Where the taps of convolutions stand, and the one kernel that covers several of them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

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
