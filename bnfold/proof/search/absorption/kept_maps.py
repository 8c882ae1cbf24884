"""A map that is a node in both models: what the folded one's constants must be."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

import numpy as np
from onnx import helper

from bnfold.graph.index import Node
from bnfold.onnx_io.protos import Array
from bnfold.proof.search.absorption import linear_constants
from bnfold.proof.search.absorption.candidates import Candidate, best
from bnfold.proof.search.absorption.linear_constants import Absorption
from bnfold.proof.search.absorption.other_constants import grow_alike
from bnfold.proof.search.numbers.maps import Map, identity, quotient
from bnfold.proof.search.reading import affine_nodes
from bnfold.proof.search.reading.model_view import View


def nearest(
    folded: View, other: Node, own: Map, q: Map, candidates: list[Candidate],
    present: Collection[str], loose: float,
) -> Absorption | None:  # fmt: skip
    """The candidate u for which the kept node holds u∘own, with the fewest wrong numbers.

    `present` are the names of nodes that the folded model still has.
    """

    def check(candidate: Candidate) -> Absorption | None:
        whole = own.then(candidate.map)
        total = quotient(whole, q) if whole is not None else None
        return None if total is None else _holds(folded, other, total, candidate, loose)

    return best(candidates, present, check)


def _holds(
    folded: View, other: Node, total: Map, candidate: Candidate, loose: float
) -> Absorption | None:
    if other.op == "BatchNormalization":
        parameters = affine_nodes.batch_norm(folded, other)
        if parameters is None or total.axis not in (None, 1):
            return None
        names = (other.input(1), other.input(2))
        dtypes = [folded.array(other.scope, name) for name in names]
        assert dtypes[0] is not None
        assert dtypes[1] is not None
        if len(total) not in (1, len(parameters[0])):
            return None
        return linear_constants.batch_norm(
            parameters, names, (dtypes[0].dtype, dtypes[1].dtype), total, candidate, loose
        )
    slot = next(s for s in (0, 1) if folded.is_constant(other.scope, other.input(s)))
    stored = folded.array(other.scope, other.input(slot))
    rank = folded.rank(other.scope, other.input(1 - slot))
    if stored is None or rank is None:
        return None
    zero = np.zeros((), stored.dtype)
    name = other.input(slot)
    if other.op == "Add" and not total.scales:
        value = total.shift
    elif other.op == "Sub" and slot == 1 and not total.scales:
        value = -total.shift
    elif other.op == "Mul" and not total.shifts:
        value = total.scale
    elif other.op == "Div" and slot == 1 and not total.shifts and np.all(total.scale.value):
        value = total.scale.inverse()
    else:
        return None
    lifted = stored.reshape((1,) * (rank - stored.ndim) + stored.shape)
    return linear_constants.constant(lifted, zero, total.axis, value, value, name, candidate, loose)


def written_out(
    folded: View, mul: Node, add: Node, a: Map, site: str, loose: float
) -> Absorption | None:
    """Whether Mul and then Add, each by a constant at its second input, hold the map `a`."""
    if mul.scope.opset < 7:
        return None
    if (mul.op, add.op) != ("Mul", "Add") or len(folded.main.uses.get(mul.output, ())) > 1:
        return None
    chosen = Candidate(identity(), (site,))
    result = Absorption(chosen, 1)
    for node, value in ((mul, a.scale), (add, a.shift)):
        stored = folded.array(node.scope, node.input(1))
        shape = folded.shape(node.scope, node.input(0))
        if stored is None or shape is None or not grow_alike(shape, (), stored.shape):
            return None
        lifted = stored.reshape((1,) * (len(shape) - stored.ndim) + stored.shape)
        zero = np.zeros((), stored.dtype)
        found = linear_constants.constant(
            lifted, zero, a.axis, value, value, node.input(1), chosen, loose
        )
        if found is None:
            return None
        result.tallies.update(found.tallies)
    return result


def repadded(
    original: View, folded: View, node: Node, other: Node, u: Map, loose: float
) -> Absorption | None:
    """A Pad that has another value: it must be u(c) in every channel, c being what it was."""
    values = [_padding(view, n) for view, n in ((original, node), (folded, other))]
    before, after = values
    if before is None or after is None or before.size != 1 or after.size != 1:
        return None
    along = 0 if len(u) > 1 else None
    name = other.input(2) or "value"
    one = (after.reshape(()), before.reshape(()))
    return linear_constants.constant(*one, along, u.scale, u.shift, name, Candidate(u), loose)


def paddings(view: View, node: Node) -> dict[int, tuple[int, int]] | None:
    """How much a Pad adds before and behind each axis; None where that is not known."""
    rank = view.rank(node.scope, node.input(0))
    widths = node.numbers("pads")
    axes: Any = range(rank or 0)
    if node.scope.opset >= 11:
        array = view.array(node.scope, node.input(1))
        widths = None if array is None else array.reshape(-1).tolist()
        if node.input(3):
            chosen = view.array(node.scope, node.input(3))
            axes = [] if chosen is None else chosen.reshape(-1).tolist()
    if rank is None or widths is None or len(widths) != 2 * len(axes):
        return None
    both = zip(widths[: len(axes)], widths[len(axes) :], strict=True)
    return {int(k) % rank: (int(b), int(e)) for k, (b, e) in zip(axes, both, strict=True)}


def _padding(view: View, node: Node) -> Array | None:
    """What a Pad puts around its input."""
    if node.scope.opset < 11:
        return np.asarray(node.attribute("value", 0.0), np.float32)
    if node.input(2):
        return view.array(node.scope, node.input(2))
    kind = view.element_type(node.scope, node.input(0))
    return None if kind is None else np.zeros((), helper.tensor_dtype_to_np_dtype(kind))


def raised(folded: View, other: Node, u: Map, loose: float) -> Absorption | None:
    """A Relu that has become a Max: what it is compared with must be u(0)."""
    slots = [s for s, name in enumerate(other.proto.input) if folded.is_constant(other.scope, name)]
    if len(other.proto.input) != 2 or len(slots) != 1:
        return None
    name = other.input(slots[0])
    stored = folded.array(other.scope, name)
    shape = folded.shape(other.scope, other.input(1 - slots[0]))
    if stored is None or shape is None or not grow_alike(shape, (), stored.shape):
        return None
    lifted = stored.reshape((1,) * (len(shape) - stored.ndim) + stored.shape)
    zero = np.zeros((), stored.dtype)
    return linear_constants.constant(
        lifted, zero, u.axis, u.scale, u.shift, name, Candidate(u), loose
    )
