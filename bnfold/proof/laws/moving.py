"""Operators that move axes and channels: which channel of the input each one of the output is."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import TypeAlias

import numpy as np

from bnfold.graph.index import Node
from bnfold.proof.numbers.maps import Map
from bnfold.proof.numbers.words import Ids
from bnfold.proof.reading.dimensions import Dim, Shape
from bnfold.proof.reading.model import Model
from bnfold.proof.values.moved_values import slices
from bnfold.proof.values.operands import axis_of

Law: TypeAlias = Callable[[Model, Node, int, Map], "Map | str"]

APART = "channels that do not stay apart"
UNKNOWN = "values of unknown shape"
NEGATIVE = "a negative scale"
SHIFTED = "a shift"


def along(a: Map, axis: int) -> Map:
    """The same channels along another axis."""
    return Map(a.functions, axis, a.ids)


def transpose(model: Model, node: Node, _: int, a: Map) -> Map | str:
    """Axes are renumbered."""
    if a.axis is None:
        return a
    perm = node.numbers("perm")
    if perm is None:
        perm = list(range(len(model.shapes.input(node, 0))))[::-1]
    return along(a, perm.index(a.axis))


def squeeze(model: Model, node: Node, _: int, a: Map) -> Map | str:
    """Axes of size 1 go, the others move up."""
    if a.axis is None:
        return a
    shape = model.shapes.input(node, 0)
    axes = model.shapes.axes(node, 1, 13, len(shape))
    if axes == []:  # the specification squeezes none, and runtimes all
        return UNKNOWN
    if axes is None:
        if not all(isinstance(dim, int) for dim in shape):
            return UNKNOWN
        axes = [k for k, dim in enumerate(shape) if dim == 1]
    if a.axis in axes:
        return a.uniform() or APART
    return along(a, a.axis - sum(axis < a.axis for axis in axes))


def unsqueeze(model: Model, node: Node, _: int, a: Map) -> Map | str:
    """New axes of size 1 appear between the others."""
    if a.axis is None:
        return a
    shape, out = model.shapes.input(node, 0), model.shapes.output(node)
    if out is None:
        return UNKNOWN
    axes = model.shapes.axes(node, 1, 13, len(out))
    if axes is None:
        return UNKNOWN
    kept = [k for k in range(len(out)) if k not in axes]
    return along(a, kept[a.axis]) if len(kept) == len(shape) else UNKNOWN


def reshape(model: Model, node: Node, _: int, a: Map) -> Map | str:
    """Elements keep their order: an axis is found again by what stands in front and behind."""
    if a.axis is None:
        return a
    here, there = model.shapes.input(node, 0), model.shapes.output(node)
    if there is None:
        return UNKNOWN
    return regrouped(a, here, there)


def regrouped(a: Map, here: Shape, there: Shape) -> Map | str:
    """A map along an axis of one shape as that along an axis of another of as many elements.

    The axis may be there again; or merged with what is behind it (c becomes c·k … c·k + k − 1) or
    in front of it (c, c + C, c + 2C …); or cut into two, of which one has the map.
    """
    axis = a.axis
    if axis is None:
        return a
    size = here[axis]
    known = all(isinstance(dim, int) for dim in (*here, *there))
    if known and not as_many(here, there):
        return UNKNOWN
    for place, dim in enumerate(there):
        if dim == size and (
            as_many(here[:axis], there[:place])
            or as_many(here[axis + 1 :], there[place + 1 :])
        ):  # fmt: skip
            return along(a, place)
    for place, dim in enumerate(there):
        if not (isinstance(dim, int) and isinstance(size, int) and min(dim, size) > 1):
            continue
        front = as_many(here[:axis], there[:place])
        behind = as_many(here[axis + 1 :], there[place + 1 :])
        if not (front or behind) or len(a) != size:
            continue
        ids = a.ids
        if dim % size == 0:
            many = dim // size
            spread = ids.repeat(many) if front else np.tile(ids, many)
            return Map(a.functions, place, spread)
        if size % dim == 0:
            rows = ids.reshape((dim, -1) if front else (-1, dim))
            rows = rows if front else rows.T
            if a.functions.equal(rows, rows[:, :1]):
                return Map(a.functions, place, rows[:, 0].copy())
    return a.uniform() or APART


def as_many(one: Sequence[Dim], other: Sequence[Dim]) -> bool:
    """Whether two lists of dimensions certainly have as many elements."""

    def size(dims: Sequence[Dim]) -> tuple[int, list[str]]:
        return math.prod(d for d in dims if isinstance(d, int)), sorted(
            d for d in dims if isinstance(d, str)
        )

    return size(one) == size(other)


# --- channels that move --------------------------------------------------------------------------


def _taken(a: Map, places: Ids) -> Map | str:
    if not len(places):
        return "no channels at all"
    return Map(a.functions, a.axis, a.ids[places] if len(a) > 1 else a.ids)


def split(model: Model, node: Node, output: int, a: Map) -> Map | str:
    """Every output has its part."""
    if a.axis is None:
        return a
    shape = model.shapes.input(node, 0)
    if axis_of(node.attribute("axis", 0), len(shape)) != a.axis:
        return a
    sizes = []
    for place in range(len(node.proto.output)):
        out = model.shapes.output(node, place)
        if out is None or not isinstance(out[a.axis], int):
            return UNKNOWN
        sizes.append(int(out[a.axis]))
    if sum(sizes) != shape[a.axis]:
        return UNKNOWN
    start = sum(sizes[:output])
    return _taken(a, np.arange(start, start + sizes[output]))


def slice_channels(model: Model, node: Node, _: int, a: Map) -> Map | str:
    """What is left keeps its part."""
    if a.axis is None:
        return a
    shapes, shape = model.shapes, model.shapes.input(node, 0)
    named = ("starts", "ends", "axes", "steps")
    if node.scope.opset < 10:
        parts = [node.numbers(name) for name in named]
    else:
        parts = [shapes.ints(node, k) for k in range(1, 5)]
        if any(part is None and node.input(k) for k, part in enumerate(parts, 1)):
            axes = parts[2]
            if axes is None or a.axis in [axis_of(axis, len(shape)) for axis in axes]:
                return "a Slice that is not known"
            return a
    if parts[2] is not None:
        axes = [axis_of(axis, len(shape)) for axis in parts[2]]
        if a.axis not in axes:
            return a
        k = axes.index(a.axis)
        parts = [None if part is None else [part[k]] for part in parts]
    elif a.axis >= len(parts[0] or ()):
        return a
    else:
        parts = [None if part is None else [part[a.axis]] for part in parts]
        parts[2] = [a.axis]
    return _taken(a, slices(parts, shape)[a.axis])


def gather(model: Model, node: Node, _: int, a: Map) -> Map | str:
    """Each channel that is gathered keeps its map; axes that are not gathered stay."""
    if a.axis is None:
        return a
    shape, indices = model.shapes.input(node, 0), model.shapes.input(node, 1)
    axis = axis_of(node.attribute("axis", 0), len(shape))
    if a.axis != axis:
        return a if a.axis < axis else along(a, a.axis + len(indices) - 1)
    value = model.value_at(node, 1)
    size = shape[axis]
    if value is None or not isinstance(size, int):
        return a.uniform() or "indices that are not known"
    picked = value.astype(np.int64)
    if np.any((picked < -size) | (picked >= size)) or (len(a) != size):
        return "indices that are out of range"
    ids = a.ids[picked % size]
    if ids.ndim == 0:
        return Map(a.functions, None, ids.reshape(1))
    for place in range(ids.ndim):
        rows = np.moveaxis(ids, place, 0).reshape(ids.shape[place], -1)
        if rows.size and a.functions.equal(rows, rows[:, :1]):
            return Map(a.functions, axis + place, rows[:, 0].copy())
    return APART


def expand(model: Model, node: Node, _: int, a: Map) -> Map | str:
    """Copies along other axes; new axes come in front."""
    if a.axis is None:
        return a
    shape, out = model.shapes.input(node, 0), model.shapes.output(node)
    if out is None:
        return UNKNOWN
    axis = a.axis + len(out) - len(shape)
    if shape[a.axis] == out[axis]:
        return along(a, axis)
    return a.uniform() or APART


def tile(model: Model, node: Node, _: int, a: Map) -> Map | str:
    """Each channel again and again."""
    if a.axis is None:
        return a
    repeats = model.shapes.ints(node, 1) if node.scope.opset >= 6 else None
    if repeats is None:
        return a.uniform() or APART
    return Map(a.functions, a.axis, np.tile(a.ids, repeats[a.axis]))


def depth_to_space(model: Model, node: Node, _: int, a: Map) -> Map | str:
    """[N, C·b², H, W] → [N, C, H·b, W·b]; DCR reads channels as (b², C), CRD as (C, b²)."""
    if a.axis is None:
        return a
    blocks = node.attribute("blocksize", 0) ** 2
    if a.axis != 1 or blocks < 1 or len(a) % blocks:
        return APART
    columns = node.attribute("mode", b"DCR") != b"DCR"
    rows = a.ids.reshape((-1, blocks)) if columns else a.ids.reshape((blocks, -1)).T
    if not a.functions.equal(rows, rows[:, :1]):
        return APART
    return Map(a.functions, 1, rows[:, 0].copy())


def space_to_depth(model: Model, node: Node, _: int, a: Map) -> Map | str:
    """[N, C, H·b, W·b] → [N, C·b², H, W], channels as (b², C)."""
    if a.axis is None:
        return a
    return Map(a.functions, 1, np.tile(a.ids, node.attribute("blocksize", 0) ** 2)) \
        if a.axis == 1 else APART  # fmt: skip
