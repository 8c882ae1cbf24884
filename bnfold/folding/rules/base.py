"""What a rule is, and what the rules share. `table` lists them all.

A rule sees one node and its constants through a draft, and returns a Step or a Refusal. It changes
nothing, and nothing else carries out what it says, so what is planned and what is done cannot drift
apart.

*Up*: a map stands on an output of the node and must be made by the node instead. *Down*: a map
stood before an input of the node and is no longer made; the node must make up for it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np

from bnfold.folding.weights.affine import Affine
from bnfold.folding.weights.draft import Draft, Operand
from bnfold.folding.weights.edits import Edit
from bnfold.graph.index import Node
from bnfold.reasons import Reason, Refusal


@dataclass(frozen=True)
class Demand:
    """A map still owed: to an input of the node (up) or to an output (down), by its number.

    Where several nodes let it pass only together, `through` are all of them, from the first to the
    last; the place is the first one's (up) or the last one's (down).
    """

    place: int
    affine: Affine
    through: tuple[Node, ...] = ()


@dataclass(frozen=True)
class Step:
    """What one node does: edits, and the demands it passes on. Without demands: absorbed.

    Where a demand cannot be met, `otherwise` gives what to do instead, if there is anything.
    """

    edits: tuple[Edit, ...] = ()
    demands: tuple[Demand, ...] = ()
    otherwise: Callable[[], Step] | None = None


# (draft, node, number of the output or input that the map stands at, the map)
Rule: TypeAlias = Callable[[Draft, Node, int, Affine], Step | Refusal]


def refuse(reason: Reason, node: Node, detail: str = "") -> Refusal:
    """A refusal that blames `node`."""
    return Refusal(reason, node.label, detail)


def channels(a: Affine, node: Node, axis: int, count: int) -> Affine | Refusal:
    """The map with one entry for each of `count` channels along `axis`."""
    if a.axis is None:
        return a.uniform_along(axis, count)
    if a.axis != axis:
        return refuse(Reason.CHANNEL_AXIS, node, f"{axis}, the map along axis {a.axis}")
    if a.channels != count:
        return refuse(
            Reason.SHAPE_MISMATCH, node, f"it has {count} channels, and the map has {a.channels}"
        )
    return a


def refuse_too_wide(draft: Draft, node: Node, count: int) -> Refusal | None:
    """Refuses a map of more channels than a model of this size could hold anywhere."""
    if count <= draft.budget.widest:
        return None
    return refuse(Reason.TOO_LARGE, node, f"a map of {count:,} channels")


def refuse_negative_scale(node: Node, a: Affine) -> Refusal | None:
    """Refuses a map that turns the order of numbers around."""
    if negative := int(np.count_nonzero(a.scale < 0)):
        return refuse(Reason.NEGATIVE_SCALE, node, f"{negative} of {a.channels} scales are < 0")
    return None


def refuse_shift(node: Node, a: Affine, reason: Reason = Reason.SHIFT) -> Refusal | None:
    """Refuses a map that adds anything."""
    if shifted := int(np.count_nonzero(a.shift)):
        return refuse(reason, node, f"{shifted} of {a.channels} shifts are not 0")
    return None


def refuse_misshapen_weight(node: Node, operand: Operand) -> Refusal:
    """The refusal of a constant whose shape does not fit its node."""
    detail = f"its weight {operand.name} has shape {list(operand.shape)}, which does not fit it"
    return refuse(Reason.SHAPE_MISMATCH, node, detail)


def broadcast_along(vector: np.ndarray, axis: int | None, rank: int) -> np.ndarray:
    """A vector along `axis` of a value of `rank` axes, so that it broadcasts against the value."""
    return vector.reshape(()) if axis is None else vector.reshape((-1,) + (1,) * (rank - axis - 1))


def all_known(dims: Sequence[int | str | None]) -> bool:
    """Whether each dimension has a number or a symbol."""
    return None not in dims


def same_size(one: Sequence[int | str | None], other: Sequence[int | str | None]) -> bool:
    """Whether two products of dimensions are certainly equal, symbols included."""
    if not (all_known(one) and all_known(other)):
        return False

    def size(dims: Sequence[int | str | None]) -> tuple[int, list[str]]:
        numbers = [dim for dim in dims if isinstance(dim, int)]
        return int(np.prod(numbers, dtype=object)), sorted(d for d in dims if isinstance(d, str))

    return size(one) == size(other)
