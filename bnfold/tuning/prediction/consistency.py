"""Whether the statistics that a model has stored fit each other. No data is needed.

What stands before a BatchNormalization says which mean it should have stored (`rules`). The
distance is told in units of what the layer divides by:

    shift = (predicted mean − μ)/√(σ² + ε)          ratio = (predicted variance + ε)/(σ² + ε)

Where nothing is assumed, one mean that is off suffices; z is not quite normal, so that behind
activations a few may be. The predicted variance takes channels and pixels for independent, which
they are not, so that only another order of magnitude counts. Where that is wrong is listed in
docs/statistics.md.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from bnfold.folding.rules.affine_nodes import DEFAULT_EPSILON, training
from bnfold.folding.weights.draft import Draft
from bnfold.graph.index import BATCH_NORM, Index, Node, Scope
from bnfold.onnx_io import model_file
from bnfold.onnx_io.output_paths import PathLike
from bnfold.options import Options
from bnfold.reasons import Refusal
from bnfold.tuning.moments import FloatArray
from bnfold.tuning.prediction.carried import (
    FILTERED,
    INDEPENDENT,
    NORMAL,
    POOLED,
    STATIONARY,
    Carried,
    UnknownMomentsError,
    Values,
)
from bnfold.tuning.prediction.network import carried_moments
from bnfold.tuning.prediction.verdicts import Consistency, ConsistencyResult, LayerConsistency
from bnfold.tuning.training_mode import assume_inference as put_into_inference

# σ that channels may be off, and the share of them that may be further off, by what is assumed
_LIMITS = {
    "": (0.5, 0.0), STATIONARY: (0.5, 0.05), NORMAL: (1.0, 0.1), INDEPENDENT: (2.0, 0.1),
    POOLED: (2.0, 0.1),
}  # fmt: skip
FARTHEST = 1.0  # σ, what is drawn as fitting
MOST_TIMES = 64.0  # what dependent channels may make of a variance; in 95 trained layers 4.5
_COPIES = ("Cast", "Dropout", "Flatten", "Identity", "Reshape", "Squeeze", "Unsqueeze")
_ENOUGH = 8  # channels of which half are that far off
_ALIKE = 64  # layers with the same statistics that are looked at


@dataclass(frozen=True)
class _Stored:
    node: Node
    gamma: FloatArray
    beta: FloatArray
    mean: FloatArray
    variance: FloatArray
    epsilon: float

    @property
    def statistics(self) -> bytes:
        """μ and σ², to be told from others by."""
        return self.mean.tobytes() + self.variance.tobytes()


def consistency(model: PathLike, *, assume_inference: bool = False) -> ConsistencyResult:
    """Hold what a file's BatchNormalizations have stored against what those before them make.

    Bodies and local functions are looked at as well; with `assume_inference`, so are those in
    training mode. Nothing is run and nothing is written. Raises ModelError.
    """
    file = model_file.read(Path(model))
    index = Index(file.model, file.storage)
    if assume_inference:
        put_into_inference(index, even_dummies=True)
        index = Index(file.model, file.storage)
    return consistency_of(index)


def consistency_of(index: Index) -> ConsistencyResult:
    """The same of a model that has been read."""
    draft = Draft(index, Options())
    values = carried_moments(index, draft)
    found = [_stored(draft, node) for node in index.nodes() if node.op == BATCH_NORM]
    alike = defaultdict(list)
    for entry in found:
        if isinstance(entry, _Stored):
            alike[entry.statistics].append(entry)
    return ConsistencyResult(tuple(
        _judged(values, entry, alike[entry.statistics]) if isinstance(entry, _Stored) else entry
        for entry in found
    ))  # fmt: skip


def _stored(draft: Draft, node: Node) -> _Stored | LayerConsistency:
    if training(node) is not None:
        return _unknown(node, "it takes the statistics of each batch")
    if any(isinstance(draft.operand(node, slot), Refusal) for slot in range(1, 5)):
        return _unknown(node, "its parameters are not constant")
    gamma, beta, mean, variance = (draft.values(node, slot) for slot in range(1, 5))
    if len({v.shape for v in (gamma, beta, mean, variance)}) > 1 or gamma.ndim != 1:
        return _unknown(node, "its parameters have several shapes")
    epsilon = float(node.attribute("epsilon", DEFAULT_EPSILON))
    return _Stored(node, gamma, beta, mean, variance, epsilon)


def _unknown(node: Node, sentence: str) -> LayerConsistency:
    none = np.zeros(0)
    return LayerConsistency(node.label, Consistency.UNKNOWN, sentence, none, none, 0.0, none, none)


def _judged(values: Values, entry: _Stored, alike: list[_Stored]) -> LayerConsistency:
    nothing = np.full(len(entry.mean), np.nan)
    layer = LayerConsistency(
        entry.node.label, Consistency.UNKNOWN, "", entry.mean, entry.variance, entry.epsilon,
        nothing, nothing, notes=tuple(_notes(entry)),
    )  # fmt: skip
    against = _without_prediction(values, entry, alike)
    try:
        found = _predicted(values, entry)
        layer = replace(
            layer, predicted_mean=found.mean, predicted_variance=found.variance,
            assumes=tuple(sorted(found.assumes)), verdict=Consistency.CONSISTENT,
        )  # fmt: skip
        against = against or _off(layer, found) or _of_another_size(layer, found)
        if against is None and _too_doubtful(layer, found):
            raise UnknownMomentsError(_doubtful(found))
    except UnknownMomentsError as unknown:
        layer = replace(layer, sentence=str(unknown), verdict=Consistency.UNKNOWN)
    if against is None:
        return layer
    return replace(layer, verdict=Consistency.CONTRADICTS, sentence=against)


def _predicted(values: Values, entry: _Stored) -> Carried:
    found = values.of(entry.node)
    if found.axis != 1 or len(found.mean) != len(entry.mean):
        raise UnknownMomentsError("what it reads has other channels")
    if not np.any(np.isfinite(found.mean)):
        raise UnknownMomentsError("what is predicted is not finite")
    return found


def _without_prediction(values: Values, entry: _Stored, alike: list[_Stored]) -> str | None:
    """What cannot be, whatever stands before it; `alike` are those with the same statistics."""
    mean, variance = entry.mean, entry.variance
    if not (np.all(np.isfinite(mean)) and np.all(np.isfinite(variance))):
        return "its statistics are not finite"
    if np.any(variance < 0):
        return f"σ² is negative in {np.count_nonzero(variance < 0)} of {len(variance)} channels"
    if not (np.isfinite(entry.epsilon) and entry.epsilon >= 0):
        return f"ε is {entry.epsilon:g}"
    affine = entry.epsilon == 0  # the form that `freeze` writes, which has no statistics
    if len(mean) > 1 and not np.any(mean) and np.all(variance == 1) and not affine:
        return "μ is 0 and σ² is 1 in every channel: never updated"
    if not np.any(variance):
        return "σ² is 0 in every channel"
    for other in alike[:_ALIKE] if len(mean) > 1 and not affine else ():
        same = np.array_equal(entry.gamma, other.gamma) and np.array_equal(entry.beta, other.beta)
        if not (same or _may_share(values, entry.node, other.node)):
            return f"μ and σ² are those of {other.node.label}"
    return None


def _may_share(values: Values, one: Node, other: Node) -> bool:
    """Whether two with other γ or β may well have the same statistics.

    They name the same tensors; or they read the same value, or are not in one graph, as the
    branches of an If are not.
    """
    names = [[node.input(slot) for slot in (3, 4)] for node in (one, other)]
    if one.scope is not other.scope or names[0] == names[1]:
        return True
    read = [_origin(node.scope, node.input(0)) for node in (one, other)]
    try:
        alike = np.array_equal(values.of(one).mean, values.of(other).mean)
    except UnknownMomentsError:
        return read[0] == read[1]
    return read[0] == read[1] or alike


def _origin(scope: Scope, name: str) -> str:
    """The name of the value that copies are of."""
    node = scope.producers.get(name)
    while node is not None and node.op in _COPIES:
        name = node.input(0)
        node = scope.producers.get(name)
    return name


def _off(layer: LayerConsistency, found: Carried) -> str | None:
    limit, few = _limit(found)
    shift = layer.shift
    known = np.where(np.isfinite(shift), _apart(layer, found), 0.0)
    off = np.count_nonzero(known > limit)
    if off <= few * len(shift) or (few and off < 2):
        return None
    worst = int(np.argmax(known))
    return (
        f"μ is more than {limit:g} σ off in {off} of {len(shift)} channels, "
        f"{shift[worst]:+.2f} σ in channel {worst}"
    )


def _limit(found: Carried) -> tuple[float, float]:
    return max(_LIMITS[a] for a in found.assumes | {""})


def _apart(layer: LayerConsistency, found: Carried) -> FloatArray:
    """How many σ the mean is off at least: in units of the larger of stored and predicted ones."""
    with np.errstate(all="ignore"):
        wide = np.fmax(layer.variance, layer.predicted_variance) + layer.epsilon
        off = np.abs(layer.predicted_mean - layer.mean) - found.doubts - np.abs(found.leans)
        return np.asarray(np.nan_to_num(off / np.sqrt(wide), nan=0.0))


def _doubt(layer: LayerConsistency, found: Carried) -> FloatArray:
    """How many σ nobody could tell."""
    with np.errstate(all="ignore"):
        known = found.doubts + np.abs(found.leans)
        return np.asarray(known / np.sqrt(layer.variance + layer.epsilon))


def _doubtful(found: Carried) -> str:
    if np.any(found.doubts):
        return "how many pixels its padding reaches is not known"
    return "that values are not quite normal adds up"


def _too_doubtful(layer: LayerConsistency, found: Carried) -> bool:
    """Whether more than half of the channels could be off without anybody's telling."""
    return bool(np.mean(_doubt(layer, found) > _limit(found)[0]) > 0.5)


def _of_another_size(layer: LayerConsistency, found: Carried) -> str | None:
    if found.variance_assumes & {POOLED, FILTERED}:  # neighbours are alike, who knows how much
        return None
    ratio = layer.ratio
    alive = layer.variance > layer.epsilon
    known = ratio[np.isfinite(ratio) & (ratio > 0) & alive]
    median = float(np.median(known)) if len(known) >= _ENOUGH else 1.0
    if 1 / MOST_TIMES <= median <= MOST_TIMES:
        return None
    times, than = (median, "less") if median > 1 else (1 / median, "more")
    return f"σ² is {times:,.0f} times {than} than predicted in half of {len(known)} channels"


def _notes(entry: _Stored) -> Iterator[str]:
    gamma, beta, channels = entry.gamma, entry.beta, len(entry.gamma)
    if np.all(gamma == 1) and not np.any(beta):
        yield "γ is 1 and β is 0 throughout: never trained"
    if dead := np.count_nonzero(gamma == 0):
        yield f"γ is 0 in {dead} of {channels} channels"
    if constant := np.count_nonzero(entry.variance <= entry.epsilon):
        yield f"σ² is below ε in {constant} of {channels} channels"
    readers = [use.node for use in entry.node.scope.uses[entry.node.output]]
    if readers and all(node is not None and node.op == "Relu" for node in readers):
        silent = np.count_nonzero((beta + 3 * np.abs(gamma) < 0) & (gamma != 0))
        if silent:
            yield f"the Relu behind it is 0 in {silent} of {channels} channels"
