"""Shapes of what slides over pixels, enlarges or shrinks; and of sequences."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from bnfold.graph.index import Node
from bnfold.proof.reading.dimensions import Dim, Shape, UnknownShapeError, unknown
from bnfold.proof.values.operands import axis_of

if TYPE_CHECKING:
    from bnfold.proof.reading.shapes import Shapes


def window(shapes: Shapes, node: Node) -> Sequence[Shape | None]:
    """Conv and pools: the channels, and as many pixels as windows fit."""
    shape = shapes.input(node, 0)
    if "Conv" in node.op:
        weight = shapes.input(node, 3 if node.op == "QLinearConv" else 1)
        channels: Dim = weight[0]
        kernel: list[int] | None = [d if isinstance(d, int) else unknown() for d in weight[2:]]
    else:
        channels = shape[1]
        kernel = node.numbers("kernel_shape")
    axes = len(shape) - 2
    if kernel is None or len(kernel) != axes or axes < 1:
        raise UnknownShapeError
    strides = node.numbers("strides") or [1] * axes
    dilations = node.numbers("dilations") or [1] * axes
    pads = node.numbers("pads") or [0] * (2 * axes)
    auto = node.attribute("auto_pad", b"NOTSET")
    pixels: list[Dim] = []
    for k, size in enumerate(shape[2:]):
        reach = dilations[k] * (kernel[k] - 1) + 1
        pad = 0 if auto == b"VALID" else pads[k] + pads[k + axes]
        if auto in (b"SAME_UPPER", b"SAME_LOWER"):
            pixels.append(-(-size // strides[k]) if isinstance(size, int) else shapes.new())
        elif node.attribute("ceil_mode", 0):
            pixels.append(shapes.new())  # runtimes differ in whether the last window counts
        elif isinstance(size, int):
            fits = (size + pad - reach) // strides[k] + 1
            pixels.append(fits if fits > 0 else unknown())
        elif pad + 1 == reach and strides[k] == 1:
            pixels.append(size)
        else:
            pixels.append(shapes.new())
    return [(shape[0], channels, *pixels)] * len(node.proto.output)


def conv_transpose(shapes: Shapes, node: Node) -> Sequence[Shape | None]:
    """As many pixels as windows reach."""
    shape, weight = shapes.input(node, 0), shapes.input(node, 1)
    channels = weight[1]
    if not isinstance(channels, int):
        raise UnknownShapeError
    out = channels * node.attribute("group", 1)
    plain = not node.numbers("output_shape") and node.attribute("auto_pad", b"NOTSET") == b"NOTSET"
    axes = len(shape) - 2
    strides = node.numbers("strides") or [1] * axes
    dilations = node.numbers("dilations") or [1] * axes
    pads = node.numbers("pads") or [0] * (2 * axes)
    more = node.numbers("output_padding") or [0] * axes
    pixels: list[Dim] = []
    for k, (size, kernel) in enumerate(zip(shape[2:], weight[2:], strict=True)):
        if plain and isinstance(size, int) and isinstance(kernel, int):
            reach = dilations[k] * (kernel - 1) + 1
            pixels.append(strides[k] * (size - 1) + more[k] + reach - pads[k] - pads[k + axes])
        else:
            pixels.append(shapes.new())
    return [(shape[0], out, *pixels)]


def global_pool(shapes: Shapes, node: Node) -> Sequence[Shape | None]:
    """One pixel."""
    shape = shapes.input(node, 0)
    return [(*shape[:2], *(1 for _ in shape[2:]))]


def pad(shapes: Shapes, node: Node) -> Sequence[Shape | None]:
    """Larger by what is padded."""
    shape = shapes.input(node, 0)
    widths = pad_widths(shapes, node, len(shape))
    if widths is None:
        return [tuple(shapes.new() for _ in shape)]
    result: list[Dim] = []
    for dim, (before, behind) in zip(shape, widths, strict=True):
        more = before + behind
        result.append(dim + more if isinstance(dim, int) else dim if not (before or behind) else
                      shapes.new())  # fmt: skip
    return [tuple(result)]


def pad_widths(shapes: Shapes, node: Node, rank: int) -> list[tuple[int, int]] | None:
    """How much a Pad adds before and behind each axis; None where that is not known."""
    if node.scope.opset < 11:
        pads = node.numbers("pads" if node.scope.opset >= 2 else "paddings")
        axes: list[int] | None = list(range(rank))
    else:
        pads = shapes.ints(node, 1)
        axes = shapes.ints(node, 3) if node.input(3) else list(range(rank))
    if pads is None or axes is None or len(pads) != 2 * len(axes):
        return None
    found = [(0, 0)] * rank
    for k, named in enumerate(axes):
        axis = axis_of(named, rank)
        found[axis] = (int(pads[k]), int(pads[k + len(axes)]))
    return found


def resize(shapes: Shapes, node: Node) -> Sequence[Shape | None]:
    """Scaled, or what is asked for."""
    shape = shapes.input(node, 0)
    factors = resize_factors(shapes, node, len(shape))
    result: list[Dim] = []
    for dim, (scale, size) in zip(shape, factors, strict=True):
        if scale == 1:
            result.append(dim)
        elif scale is not None and isinstance(dim, int):
            sizes = {math.floor(dim * scale), math.floor(np.float32(dim) * np.float32(scale))}
            result.append(sizes.pop() if len(sizes) == 1 else shapes.new())
        else:
            result.append(size if size is not None else shapes.new())
    return [tuple(result)]


def resize_factors(shapes: Shapes, node: Node, rank: int) -> list[tuple[float | None, Dim | None]]:
    """For each axis the scale of a Resize or Upsample, and the size that it asks for."""
    axes = [axis_of(axis, rank) for axis in node.numbers("axes") or range(rank)]
    found: list[tuple[float | None, Dim | None]] = [(None, None)] * rank
    for k in range(rank):
        if k not in axes:
            found[k] = (1.0, None)
    if node.attribute("keep_aspect_ratio_policy", b"stretch") != b"stretch":
        return [(None, None)] * rank
    slot = 1 if node.op == "Upsample" or node.scope.opset < 11 else 2
    scales = node.numbers("scales")
    if scales is None and node.input(slot):
        value = shapes.model.value_at(node, slot)
        scales = None if value is None else [float(v) for v in value.reshape(-1)]
    if scales is not None and len(scales) == len(axes):
        for axis, scale in zip(axes, scales, strict=True):
            found[axis] = (float(scale), None)
        return found
    if node.op == "Resize" and node.scope.opset >= 11 and node.input(3):
        sizes = shapes.numbers(node, 3)
        if sizes is not None and len(sizes) == len(axes):
            for axis, size in zip(axes, sizes, strict=True):
                found[axis] = (None, size)
    return found


def depth_to_space(shapes: Shapes, node: Node) -> Sequence[Shape | None]:
    """Channels become pixels, or the other way."""
    batch, channels, *pixels = shapes.input(node, 0)
    block = node.attribute("blocksize", 0)
    if len(pixels) != 2 or block < 1:
        raise UnknownShapeError
    out: Dim = shapes.new()
    if isinstance(channels, int):
        out = channels // block**2 if node.op == "DepthToSpace" else channels * block**2
    scaled: list[Dim] = [
        (p * block if node.op == "DepthToSpace" else p // block) if isinstance(p, int)
        else shapes.new() for p in pixels
    ]  # fmt: skip
    return [(batch, out, *scaled)]


def recurrent(shapes: Shapes, node: Node) -> Sequence[Shape | None]:
    """Steps, directions, batch and hidden size."""
    steps, batch, _ = shapes.input(node, 0)
    directions, hidden = shapes.input(node, 2)[0], shapes.input(node, 2)[2]
    if node.attribute("layout", 0):
        return [(steps, batch, directions, hidden)]
    last = (directions, batch, hidden)
    return [(steps, directions, batch, hidden), last, last]
