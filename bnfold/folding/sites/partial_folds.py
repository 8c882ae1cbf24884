"""Folds of a chain of which one node stays: its shift, or all of it in one BatchNormalization.

Each plans its edits and says what has taken the rest; None, and nothing planned, where it cannot be
done or gains nothing.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace

import numpy as np

from bnfold.folding.rules.affine_nodes import DEFAULT_EPSILON, affine_map
from bnfold.folding.rules.base import broadcast_along
from bnfold.folding.sites.chains import DraftedChain, Link
from bnfold.folding.walk.propagation import Propagation
from bnfold.folding.weights.affine import Affine
from bnfold.folding.weights.draft import Operand
from bnfold.folding.weights.edits import Carry, Edit, Rescale, SetOperator, Supply
from bnfold.graph.index import BATCH_NORM, Node
from bnfold.reasons import Refusal


@dataclass(frozen=True)
class Partial:
    """The node that stays, and the labels of those that took what went."""

    stays: Node
    into: tuple[str, ...]


class _ImpossibleError(Exception):
    """What was tried cannot be done."""


@contextmanager
def _attempt(chain: DraftedChain) -> Iterator[Propagation]:
    """A walk that is taken back where it cannot be done."""
    propagation = Propagation(chain.draft)
    try:
        yield propagation
    except _ImpossibleError:
        propagation.undo()


def _require(refusal: Refusal | None) -> None:
    if refusal is not None:
        raise _ImpossibleError


def scale_up_shift_stays(chain: DraftedChain, a: Affine) -> Partial | None:
    """s·x + t: the scale goes up; the shift stays in the chain's own Add, or its norm becomes one.

    Nothing is gained where there is but one Add.
    """
    holder = chain.shift_holder()
    if not a.shifts or (holder is not None and len(chain.links) == 1):
        return None
    with _attempt(chain) as walk:
        _require(walk.push_up(chain.first.node, chain.first.slot, a.scale_only()))
        return _staying(chain, walk, holder, a)
    return None


def shift_stays_scale_down(chain: DraftedChain, a: Affine) -> Partial | None:
    """s·x + t = s·(x + t/s): the shift t/s stays likewise; the scale goes down.

    A padded convolution behind it sees zeros, which no scale changes.
    """
    holder = chain.shift_holder()
    before = a.shift_first()
    if not a.shifts or before is None or not np.all(a.scale):
        return None
    if holder is not None and len(chain.links) == 1:
        return None
    with _attempt(chain) as walk:
        found = _staying(chain, walk, holder, before)
        _require(walk.push_down(found.stays, found.stays.output, a.scale_only()))
        return replace(found, into=(*walk.absorbed_by, found.stays.label))
    return None


def _staying(chain: DraftedChain, walk: Propagation, holder: Link | None, a: Affine) -> Partial:
    """All of the chain but the shift of `a` goes.

    Raises _ImpossibleError.
    """
    draft, first, last = chain.draft, chain.first, chain.last
    shape = draft.shape(first.node, first.slot)
    if shape is None and (holder is None or a.axis is not None):  # where is its axis?
        raise _ImpossibleError
    if holder is None and last.node.op != BATCH_NORM:
        raise _ImpossibleError
    if shape is not None and a.axis is not None and shape[a.axis : a.axis + 1] != (a.channels,):
        raise _ImpossibleError  # an Add could make the value larger
    staying = (holder or last).node
    rest = chain.behind()[staying]
    edits = _edits_that_keep_shift(chain, a, holder, len(shape or ()))
    longer = staying.scope.is_function and walk.new_constants() > 0
    if longer or not edits:
        raise _ImpossibleError
    for edit in edits:
        _require(walk.edit(edit))
    draft.add(Carry(staying, rest))
    chain.remove(chain.nodes - {staying})
    return Partial(staying, (*walk.absorbed_by, staying.label))


def _edits_that_keep_shift(
    chain: DraftedChain, a: Affine, holder: Link | None, rank: int
) -> list[Edit]:
    draft, shift = chain.draft, broadcast_along(a.shift, a.axis, rank)
    if holder is not None:
        node, slot = holder.node, 1 - holder.slot
        operand = draft.operand(node, slot)
        assert isinstance(operand, Operand)
        if operand.quantized:  # which could not hold it in a step of its own
            return []
        sign = -1.0 if node.op == "Sub" else 1.0
        zero = broadcast_along(a.shift * 0, a.axis, rank)
        return [Rescale(node, slot, operand.shape, zero, sign * shift)]
    node = chain.last.node
    bias = draft.operand(node, 2)
    dtype = draft.inferred.element_type(node.scope, node.input(0))
    if isinstance(bias, Refusal) or dtype is None:
        return []
    names = tuple(attribute.name for attribute in node.proto.attribute)
    return [
        SetOperator(node, "Add", drop=names, inputs=2),
        Supply(node, 1, shift, dtype, bias.name),
    ]


def merged_into_one(chain: DraftedChain, a: Affine) -> Partial | None:
    """All into one BatchNormalization of the chain; None where it would gain nothing."""
    norms = [link for link in chain.links if link.node.op == BATCH_NORM]
    if len(chain.links) < 2 or not norms or a.axis != 1:
        return None
    draft, kept = chain.draft, norms[0].node
    own = affine_map(draft, kept)
    assert isinstance(own, tuple)
    operands = [draft.operand(kept, slot) for slot in (1, 2)]
    if any(isinstance(operand, Operand) and operand.quantized for operand in operands):
        return None
    # γ/σ̂·(x−μ) + β = s·x + t   for   γ = s·σ̂  and  β = t + s·μ,  with σ̂ as it is
    variance, mean = draft.values(kept, 4), draft.values(kept, 3)
    sigma = np.sqrt(variance + kept.attribute("epsilon", DEFAULT_EPSILON))
    zero = 0 * sigma
    with _attempt(chain) as walk:
        rest = chain.behind()[kept]
        _require(walk.edit(Rescale(kept, 1, sigma.shape, zero, a.scale * sigma)))
        _require(walk.edit(Rescale(kept, 2, sigma.shape, zero, a.shift + a.scale * mean)))
        draft.add(Carry(kept, rest))
        chain.remove(chain.nodes - {kept})
        return Partial(kept, (kept.label,))
    return None
