"""BatchNormalizations that stay, or become arithmetic, and the ends of other normalisations."""

from __future__ import annotations

import numpy as np
from onnx import helper

from bnfold.proof.laws.absorbing import (
    Pair,
    Taken,
    UnprovenError,
    WrongError,
    require_constant,
    require_same_growth,
    require_zero,
)
from bnfold.proof.laws.sites import (
    batch_norm,
    of_batch_norm,
)
from bnfold.proof.numbers.correct_rounding import Numbers
from bnfold.proof.numbers.maps import Map, Relation, common_axis
from bnfold.proof.numbers.reals import Real
from bnfold.proof.numbers.rounding import check

NORMALISING = ("GroupNormalization", "InstanceNormalization", "LayerNormalization")


def kept_batch_norm(pair: Pair, relation: Relation, u: Map) -> Taken:
    """γ = s·√(σ²+ε), β = t + s·μ for the map s, t that it has to make with its μ, σ² and ε."""
    e = relation.original_of_folded()
    parameters = batch_norm(pair.original, pair.node)
    if parameters is None:
        raise UnprovenError("a BatchNormalization that is no map")
    total = None if e is None else e.then(of_batch_norm(u.functions, parameters))
    total = total.then(u) if total is not None else None
    if total is None or total.axis not in (None, 1):
        raise UnprovenError("a map along another axis than the channels'")
    kept = batch_norm(pair.folded, pair.other)
    if kept is None:
        raise WrongError("it does not infer any more")
    _, _, mean, variance, epsilon = kept
    wide = total.over(1, len(mean))
    if wide is None:
        raise WrongError("a map of other channels")
    taken = Taken()
    wanted = (
        wide.scale * Real.deviation(variance, epsilon),
        wide.shift + wide.scale * Real.of(mean),
    )
    for slot, value in zip((1, 2), wanted, strict=True):
        stored, before = pair.after(slot), pair.before(slot)
        if stored is None or before is None or stored.dtype != before.dtype:
            raise WrongError("its constants are of another type")
        if stored.shape != mean.shape:
            raise WrongError("its constants are of another shape")
        tally = taken.tally(pair.other.input(slot), slot)
        check(stored, Numbers.of(value), tally, loose=pair.tolerance(slot), added=slot == 2)
    taken.slots.update((3, 4))  # whatever they hold, γ and β go with it
    return taken


def shift_that_stays(pair: Pair, relation: Relation, u: Map) -> Taken:
    """A BatchNormalization of which only the shift is left, as an Add."""
    total = _total(pair, relation, u)
    q = relation.q
    if common_axis(total, q) is False:
        raise UnprovenError("maps along two axes")
    if pair.node.scope.opset < 7 or not total.scale_part().equals(q.scale_part()):
        raise WrongError("an Add that would have to scale")
    along = total if total.axis is not None else q
    return _holds(pair, along, total.shift + -q.shift, added=True)


def written_out(pair: Pair, mul: Pair, relation: Relation, u: Map) -> Taken:
    """A BatchNormalization as a Mul and an Add: (q(z)·c₁) + c₂."""
    total = _of_folded(pair, relation, u)
    taken = _holds(mul, total, total.scale, added=False)
    again = _holds(pair, total, total.shift, added=True)
    for name, tally in again.tallies.items():  # the two may be one constant
        taken.tallies[f"{name} as a shift" if name in taken.tallies else name] = tally
    return taken


def scale_that_stays(pair: Pair, relation: Relation, u: Map) -> Taken:
    """A BatchNormalization without a shift, as a Mul: q(z)·c."""
    first = _of_folded(pair, relation, u)
    require_zero(first.shift, "a Mul that would have to add")
    return _holds(pair, first, first.scale, added=False)


def as_convolution(pair: Pair, relation: Relation, u: Map) -> Taken:
    """A BatchNormalization as a convolution of each channel with one number, and a bias."""
    first, data = _of_folded(pair, relation, u), pair.shape(0)
    weight, bias = (pair.folded.value_at(pair.other, slot) for slot in (1, 2))
    if weight is None or bias is None or data is None or not isinstance(data[1], int):
        raise UnprovenError("a convolution of unknown shape")
    channels = data[1]
    wide = first.over(1, channels)
    plain = pair.other.attribute("group", 1) == channels
    plain &= {a.name for a in pair.other.proto.attribute} == {"group"}
    if not plain or weight.shape != (channels, *(1,) * (len(data) - 1)) or len(data) < 3:
        raise WrongError("a convolution of another kind")
    if wide is None or bias.shape != (channels,):
        raise WrongError("a map of other channels")
    taken = Taken()
    for slot, values, added in ((1, wide.scale, False), (2, wide.shift, True)):
        stored = pair.folded.value_at(pair.other, slot)
        assert stored is not None
        tally = taken.tally(pair.other.input(slot), slot)
        check(stored.reshape(-1), Numbers.of(values), tally, loose=pair.loose, added=added)
    return taken


def _of_folded(pair: Pair, relation: Relation, u: Map) -> Map:
    """What must be made of the folded model's value."""
    e = relation.original_of_folded()
    parameters = batch_norm(pair.original, pair.node)
    if e is None or parameters is None or pair.node.scope.opset < 7:
        raise UnprovenError("a BatchNormalization that is no map")
    first = e.then(of_batch_norm(u.functions, parameters))
    total = first.then(u) if first is not None else None
    if total is None:
        raise UnprovenError("maps along two axes")
    return total


def _total(pair: Pair, relation: Relation, u: Map) -> Map:
    parameters = batch_norm(pair.original, pair.node)
    if parameters is None:
        raise UnprovenError("a BatchNormalization that is no map")
    own = relation.p.then(of_batch_norm(u.functions, parameters))
    total = own.then(u) if own is not None else None
    if total is None:
        raise UnprovenError("maps along two axes")
    return total


def _holds(pair: Pair, total: Map, value: Real, *, added: bool) -> Taken:
    """The second input is a vector along the channels of the data."""
    slot = 1
    stored = pair.folded.value_at(pair.other, slot)
    shape = pair.shape(0)
    if stored is None or shape is None:
        raise UnprovenError("values of unknown shape")
    require_same_growth(shape, (), stored.shape)
    kind = pair.original.element_type(pair.node.scope, pair.node.input(0))
    if kind and helper.tensor_dtype_to_np_dtype(kind) != stored.dtype:
        raise WrongError("its constants are of another type than the data")
    beta = pair.original.value_at(pair.node, 2)
    if not kind and (beta is None or beta.dtype != stored.dtype):
        raise UnprovenError("data of unknown type")
    taken = Taken()
    tally = taken.tally(pair.other.input(slot), slot)
    zero = np.zeros((), stored.dtype)
    none = Real.full(0.0)
    require_constant(
        stored, zero, total.axis, none, value, len(shape), tally, pair.loose, added=added
    )
    return taken


def normalisation(pair: Pair, relation: Relation, u: Map) -> Taken:
    """u_s·(γ·z + β) + u_t = (u_s·γ)·z + (u_s·β + u_t)."""
    node = pair.node
    if not relation.same:
        raise UnprovenError("a normalisation, whose results do not follow what it reads")
    rank = pair.rank(0)
    _require_on_parameters(pair, u, rank)
    gamma, stored = pair.before(1), pair.after(1)
    if gamma is None or stored is None or gamma.shape != stored.shape:
        raise WrongError("its scale is of another shape")
    axis = u.axis
    if axis is not None:
        axis = 0 if node.op != "LayerNormalization" else axis - (rank - gamma.ndim)
        if axis < 0 or (gamma.shape[axis] not in (len(u),) and len(u) > 1):
            raise WrongError("a map of other channels")
    taken = Taken()
    first = taken.tally(pair.other.input(1), 1)
    none = Real.full(0.0)
    require_constant(
        stored, gamma, axis, u.scale, none, gamma.ndim, first, pair.tolerance(1), added=False
    )  # fmt: skip
    beta, new = pair.before(2), pair.after(2)
    if beta is None:
        beta = np.zeros_like(gamma)
    if new is None:
        new = np.zeros_like(gamma)
    if beta.shape != gamma.shape or new.shape != gamma.shape:
        raise UnprovenError("a bias of another shape")
    second = taken.tally(pair.other.input(2) or "bias", 2)
    require_constant(new, beta, axis, u.scale, u.shift, gamma.ndim, second, pair.tolerance(2))
    return taken


def _require_on_parameters(pair: Pair, u: Map, rank: int) -> None:
    node = pair.node
    if u.axis is None:
        return
    if node.op == "LayerNormalization":
        first = node.attribute("axis", -1)
        if u.axis >= (first + rank if first < 0 else first):
            return
    elif u.axis == 1 and (node.op == "InstanceNormalization" or node.scope.opset >= 21):
        return
    raise WrongError("a map along an axis that its scale does not have")
