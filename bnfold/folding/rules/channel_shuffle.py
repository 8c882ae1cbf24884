"""Reshape → Transpose → Reshape: channels that are cut into groups, change places and are joined.

In between a map would vary along several axes at once; behind it is one along an axis again, with
its channels in another order.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from bnfold.folding.rules.base import Demand, Step, same_size
from bnfold.folding.rules.transparent import reshape
from bnfold.folding.weights.affine import Affine
from bnfold.folding.weights.draft import Draft
from bnfold.graph.index import Node, Role
from bnfold.graph.shape_inference import Shape
from bnfold.reasons import Reason, Refusal

_LONGEST = 5  # nodes of a shuffle


@dataclass(frozen=True)
class _Spread:
    """The axes that hold the channels, in a row, and which channel is where on them."""

    axes: tuple[int, ...]
    order: npt.NDArray[np.int64]


def reshape_up(draft: Draft, node: Node, _: int, a: Affine) -> Step | Refusal:
    """A(x′) = (A(x))′ for a Reshape, or for the whole shuffle that it ends."""
    found = reshape(draft, node, a, True)
    if isinstance(found, Affine):
        return Step(demands=(Demand(0, found),))
    if found.reason is Reason.AXIS_LOST:
        for path in _paths_up(draft, node):
            for axis, size in enumerate(draft.shape(path[0], 0) or ()):
                order = _order(draft, path, axis, a) if size == a.channels else None
                if order is not None:
                    before = a.scatter(order, a.channels).along(axis)
                    return Step(demands=(Demand(0, before, tuple(path)),))
    return found


def reshape_down(draft: Draft, node: Node, slot: int, a: Affine) -> Step | Refusal:
    """Likewise, for the shuffle that it begins."""
    if slot != 0:
        return Refusal(Reason.NOT_TRANSPARENT, node.label, f"input {slot} of Reshape")
    found = reshape(draft, node, a, False)
    if isinstance(found, Affine):
        return Step(demands=(Demand(0, found),))
    if found.reason is Reason.AXIS_LOST and a.axis is not None:
        spread = _Spread((a.axis,), np.arange(a.channels))
        for path in _paths_down(draft, node):
            ended = _ended(draft, path, spread)
            if ended is not None:
                behind = a.select(ended.order).along(ended.axes[0])
                return Step(demands=(Demand(0, behind, tuple(path)),))
    return found


def _paths_up(draft: Draft, node: Node) -> Iterator[list[Node]]:
    """What could be a shuffle, from its first node to this one."""
    path = [node]
    while len(path) < _LONGEST:
        producer = draft.producer(node.scope, path[0].input(0))
        if producer is None or producer.op not in ("Reshape", "Transpose"):
            return
        if _only_reader(draft, producer) is not path[0]:
            return
        path.insert(0, producer)
        if producer.op == "Reshape":
            yield path


def _paths_down(draft: Draft, node: Node) -> Iterator[list[Node]]:
    """What could be a shuffle, from this node to its last one."""
    path = [node]
    while len(path) < _LONGEST:
        reader = _only_reader(draft, path[-1])
        if reader is None or reader.op not in ("Reshape", "Transpose"):
            return
        path.append(reader)
        if reader.op == "Reshape":
            yield path


def _only_reader(draft: Draft, node: Node) -> Node | None:
    uses = list(draft.uses(node.scope, node.output))
    alone = len(uses) == 1 and uses[0].role is Role.READ and uses[0].slot == 0
    return uses[0].node if alone else None


def _order(draft: Draft, path: list[Node], axis: int, a: Affine) -> npt.NDArray[np.int64] | None:
    """Which channel along `axis` before the path each one behind it is, along the map's axis."""
    ended = _ended(draft, path, _Spread((axis,), np.arange(a.channels)))
    return ended.order if ended is not None and ended.axes == (a.axis,) else None


def _ended(draft: Draft, path: list[Node], spread: _Spread) -> _Spread | None:
    """Where the channels are behind the path; None where they are not along one axis again."""
    now: _Spread | None = spread
    for node in path:
        shape, out = draft.shape(node, 0), draft.output_shape(node)
        if now is None or shape is None or out is None:
            return None
        now = _transposed(node, now) if node.op == "Transpose" else _reshaped(now, shape, out)
    return now if now is not None and len(now.axes) == 1 else None


def _transposed(node: Node, spread: _Spread) -> _Spread | None:
    perm = node.numbers("perm")
    if perm is None or not {*spread.axes} <= {*perm}:
        return None
    places = [perm.index(axis) for axis in spread.axes]
    turned = sorted(range(len(places)), key=places.__getitem__)
    axes = tuple(places[k] for k in turned)
    return _Spread(axes, spread.order.transpose(turned))


def _reshaped(spread: _Spread, shape: Shape, out: Shape) -> _Spread | None:
    """The same elements in the same order: axes in a row, with as many in front and behind."""
    first, last = spread.axes[0], spread.axes[-1]
    if spread.axes != tuple(range(first, last + 1)):
        return None
    for start in range(len(out)):
        if not same_size(shape[:first], out[:start]):
            continue
        for end in range(start + 1, len(out) + 1):
            dims = [dim for dim in out[start:end] if isinstance(dim, int)]
            fits = len(dims) == end - start and math.prod(dims) == spread.order.size
            if fits and 1 not in dims and same_size(shape[last + 1 :], out[end:]):
                return _Spread(tuple(range(start, end)), spread.order.reshape(dims))
    return None
