"""The algebra: which operators f let a map pass, f(A(x)) = A′(f(x)), and what A′ is.

One law per operator, used in whatever direction it is needed. What a law asks of the map stands in
its row; where the channels go is found by experiment (`flow`) or is plain: on the axis of channels.
Written apart from the folder's rules, and sharing nothing with them.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from bnfold.check.exact import Real
from bnfold.check.flow import flow
from bnfold.check.maps import Map, identity
from bnfold.check.view import View
from bnfold.graph import Node


@dataclass(frozen=True)
class Law:
    """What an operator asks of a map, and how it moves channels.

    `order`: no scale may be negative. `linear`: no shift, as far as `linear` says of the node.
    """

    moves: Callable[[View, Node, int, int, int], tuple[int | None, np.ndarray] | None] | None = None
    order: bool = False
    linear: Callable[[View, Node], bool] | None = None

    def objection(self, view: View, node: Node, a: Map) -> str:
        """What of the map the operator does not let pass, "" for nothing."""
        if self.order and not a.keeps_order:
            return "a negative scale"
        if self.linear is not None and self.linear(view, node) and a.shifts:
            return "a shift"
        return ""


def _always(_view: View, _node: Node) -> bool:
    return True


def _averages_zeros(_view: View, node: Node) -> bool:
    same = node.attribute("auto_pad", b"NOTSET") in (b"SAME_UPPER", b"SAME_LOWER")
    padded = same or any(node.numbers("pads") or ())
    return bool(padded and node.attribute("count_include_pad", 0)) or bool(
        node.attribute("ceil_mode", 0)
    )


def _experiment(view: View, node: Node, slot: int, axis: int, output: int):  # type: ignore[no-untyped-def]
    return flow(view, node, slot, axis, output)


def _stays(view: View, node: Node, _slot: int, axis: int, output: int):  # type: ignore[no-untyped-def]
    """Channels stay where they are, provided that none are added or lost."""
    before = view.shape(node.scope, node.input(0))
    after = view.shape(node.scope, node.proto.output[output])
    if before is None or after is None or len(before) != len(after) or axis >= len(before):
        return None
    size = before[axis]
    return (axis, np.arange(size)) if isinstance(size, int) and after[axis] == size else None


def _second(view: View, node: Node, _slot: int, axis: int, _output: int):  # type: ignore[no-untyped-def]
    """Pools reduce everything behind axis 1, along which channels stay apart."""
    before = view.shape(node.scope, node.input(0))
    if axis != 1 or before is None or len(before) < 3 or not isinstance(before[1], int):
        return None
    return 1, np.arange(before[1])


def _crops(_view: View, node: Node) -> bool:
    return bool(node.attribute("coordinate_transformation_mode", b"") == b"tf_crop_and_resize")


_HOMOGENEOUS = Law(_stays, order=True, linear=_always)
_MOVES = Law(_experiment)

LAWS: dict[str, Law] = {
    "AveragePool": Law(_second, linear=_averages_zeros),
    "Cast": Law(_stays),
    "DepthToSpace": _MOVES,
    "Dropout": Law(_stays),
    "Expand": _MOVES,
    "Flatten": _MOVES,
    "Gather": _MOVES,
    "GlobalAveragePool": Law(_second),
    "GlobalMaxPool": Law(_second, order=True),
    "Identity": Law(_stays),
    "LeakyRelu": _HOMOGENEOUS,
    "MaxPool": Law(_second, order=True),
    "PRelu": _HOMOGENEOUS,
    "ReduceMax": Law(_experiment, order=True),
    "ReduceMean": Law(_experiment),
    "ReduceMin": Law(_experiment, order=True),
    "ReduceSum": Law(_experiment, linear=_always),
    "Relu": _HOMOGENEOUS,
    "Reshape": _MOVES,
    "Resize": Law(_stays, linear=_crops),
    "Slice": _MOVES,
    "SpaceToDepth": _MOVES,
    "Split": _MOVES,
    "Squeeze": _MOVES,
    "Tile": _MOVES,
    "Transpose": _MOVES,
    "Unsqueeze": _MOVES,
    "Upsample": Law(_stays),
}


def carried(view: View, node: Node, a: Map, output: int = 0) -> Map | str:
    """The map on an output that stands for `a` on the first input; or what does not let it pass."""
    if a.is_identity:
        return identity()
    law = LAWS[node.op]
    if refused := law.objection(view, node, a):
        return refused
    if a.axis is None:
        return a
    found = _flow(view, node, law, a.axis, output)
    if found is None or np.any(found[1] < 0):
        return "channels that do not stay apart"
    axis, places = found
    moved = a.take(places, 0 if axis is None else axis)
    return Map(axis, moved.scale, moved.shift)


def pulled(view: View, node: Node, a: Map, output: int = 0) -> Map | None:
    """The map on the first input that would give `a` on the output; None where there is none.

    Channels that do not reach the output get the identity.
    """
    law = LAWS[node.op]
    if a.is_identity or law.objection(view, node, a):
        return identity() if a.is_identity else None
    before = view.shape(node.scope, node.input(0))
    if a.axis is None and node.op not in ("Split", "Slice", "Gather"):
        return a
    for axis, size in enumerate(before or ()):
        if not isinstance(size, int):
            continue
        found = _flow(view, node, law, axis, output)
        if found is None or found[0] != a.axis or np.any(found[1] < 0):
            continue
        places = found[1]
        if len(a) not in (1, len(places)):
            continue
        whole = _scattered(a, places, size, axis)
        if whole is not None:
            return whole
    return None


def _flow(view: View, node: Node, law: Law, axis: int, output: int):  # type: ignore[no-untyped-def]
    """Reductions are tried twice: what is the greatest and the least of its entries is them all."""
    assert law.moves is not None
    if node.op.startswith("Reduce"):
        from bnfold.check.flow import reduced

        return reduced(view, node, axis)
    return law.moves(view, node, 0, axis, output)


def _scattered(a: Map, places: np.ndarray, size: int, axis: int) -> Map | None:
    where = np.full(size, -1, np.int64)
    for entry, place in enumerate(places):
        if where[place] < 0:
            where[place] = entry if len(a) > 1 else 0
        else:
            one, two = (
                Map(None, v.scale.take(np.array([e])), v.shift.take(np.array([e])))
                for v, e in ((a.over(0, len(places)), int(where[place])),
                             (a.over(0, len(places)), entry if len(a) > 1 else 0))
            )  # fmt: skip
            if not one.near(two):
                return None
    from bnfold.check.exact import joined

    count = len(a)
    nothing = (Real.full(1.0), Real.full(0.0))
    index = np.where(where < 0, count, where)
    scale, shift = (
        joined([v.spread(count), n]).take(index)
        for v, n in zip((a.scale, a.shift), nothing, strict=True)
    )
    return Map(axis, scale, shift)
