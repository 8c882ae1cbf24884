"""The moments of a folded model's tensors, by what BatchNormalizations said before they went.

made by a BatchNormalization    mean β, deviation |γ|·√(σ²/(σ² + ε))
read by one                     mean μ, variance σ²: what was seen in training
between two                     what the rules of `prediction` carry on
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np

from bnfold.folding.in_place import fold_in_place
from bnfold.folding.plan import Plan
from bnfold.folding.rules.affine_nodes import training
from bnfold.folding.weights.affine import Affine
from bnfold.folding.weights.draft import Draft
from bnfold.graph.index import BATCH_NORM, Index, Node, Scope
from bnfold.onnx_io import model_file
from bnfold.onnx_io.output_paths import PathLike
from bnfold.options import Options
from bnfold.steps import Proof
from bnfold.tuning.prediction.carried import NORMAL, POOLED, STATIONARY, Carried, Values
from bnfold.tuning.prediction.network import carried_moments
from bnfold.tuning.tensor_moments.correspondence import Place, named, places
from bnfold.tuning.tensor_moments.tensors import TensorMoments


class Watch:
    """Takes the moments while a model is folded: to be told by whoever folds it."""

    def __init__(self) -> None:
        self.tensors: tuple[TensorMoments, ...] = ()
        self._found: list[tuple[Place, TensorMoments]] = []

    def planned(self, index: Index, plan: Plan) -> None:
        """Before a plan is carried out: what is known of the model as it is."""
        values = carried_moments(index, Draft(index, Options()))
        known = _known(index, values)
        for place in places(index, plan):
            there = known.get((place.scope, place.name))
            moved = None if there is None else through(place.map, there)
            if moved is not None:
                self._found.append((place, replace(moved, scope=place.scope.label)))

    def applied(self, index: Index, proof: Proof) -> None:
        """After that: which tensors of the folded model they are of."""
        found = [replace(known, name=name) for known, name in named(index, proof, self._found)]
        order = {
            (node.scope.label, name): place
            for place, node in enumerate(index.nodes()) for name in node.proto.output
        }  # fmt: skip
        self.tensors = tuple(sorted(found, key=lambda t: order.get((t.scope, t.name), -1)))


def _known(index: Index, values: Values) -> dict[tuple[Scope, str], TensorMoments]:
    found: dict[tuple[Scope, str], TensorMoments] = {}
    for (scope, name), carried in values.known.items():
        if isinstance(carried, Carried):
            found[scope, name] = _of_carried(carried)
    norms = [node for node in index.nodes() if node.op == BATCH_NORM]
    for node in norms:
        owner = node.scope.owner(node.input(0)) if node.input(0) else None
        if owner is not None and (stored := _stored(values, node)) is not None:
            place = owner, node.input(0)
            before = values.known.get(place)
            found[place] = _with_ends(stored, before if isinstance(before, Carried) else None)
    for node in norms:
        own = values.known.get((node.scope, node.output))
        if isinstance(own, Carried):
            label = node.proto.name or node.output
            found[node.scope, node.output] = replace(_of_carried(own), batch_norm=label)
    return found


def _of_carried(carried: Carried) -> TensorMoments:
    low, high = carried.ends
    deviation = np.sqrt(carried.variance)
    if POOLED in carried.variance_assumes:  # who knows how alike neighbours are
        deviation = np.full_like(deviation, np.nan)
    return TensorMoments(
        "", "", "", carried.axis, carried.mean, deviation, low, high,
        tuple(sorted(carried.assumes | carried.variance_assumes)),
    )  # fmt: skip


def _with_ends(stored: TensorMoments, carried: Carried | None) -> TensorMoments:
    """The ends that an activation has, such as 0; where these are no guess, else 6 deviations."""
    if carried is None or not carried.assumes | carried.variance_assumes <= {NORMAL, STATIONARY}:
        return stored
    low, high = carried.ends
    return replace(stored, low=low, high=high)


def _stored(values: Values, node: Node) -> TensorMoments | None:
    """What a BatchNormalization has seen of what it reads."""
    mean, variance = values.constant(node, 3), values.constant(node, 4)
    if mean is None or variance is None or training(node) is not None:
        return None
    if mean.ndim != 1 or mean.shape != variance.shape or np.any(variance < 0):
        return None
    return _of_carried(Carried(mean, variance))


def through(a: Affine, of: TensorMoments) -> TensorMoments | None:
    """The moments of a·x + b."""
    if a.axis not in (None, of.axis) or a.channels not in (1, len(of.mean)):
        return None
    with np.errstate(all="ignore"):
        ends = np.stack([a.scale * of.low + a.shift, a.scale * of.high + a.shift])
        return replace(
            of, mean=a.scale * of.mean + a.shift, deviation=np.abs(a.scale) * of.deviation,
            low=ends.min(axis=0), high=ends.max(axis=0),
        )  # fmt: skip


def moments(model: PathLike, *, options: Options | None = None) -> tuple[TensorMoments, ...]:
    """What folding a file forgets, of the tensors that the folded model would have.

    Nothing is written. `options` are those of `optimize`. Raises ModelError, and UsageError for
    names that the model does not have.
    """
    file = model_file.read(Path(model))
    watch = Watch()
    fold_in_place(file.model, file.storage, options, watch=watch)
    return watch.tensors
