"""Whether the statistics that a model has stored fit each other. No data is needed.

What stands before a BatchNormalization says which mean it should have stored (`rules`). The
distance is told in units of what the layer divides by:

    shift = (predicted mean − μ)/√(σ² + ε)          ratio = (predicted variance + ε)/(σ² + ε)

Only the mean decides: the predicted variance takes channels and pixels for independent, which they
are not. Where nothing is assumed, one channel that is off suffices; z is not quite normal, so that
behind activations a few may be. Where that is wrong is listed in docs/tuning.md.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, replace
from enum import Enum
from pathlib import Path

import numpy as np

from bnfold.folding.rules.affine_nodes import DEFAULT_EPSILON, training
from bnfold.folding.weights.draft import Draft
from bnfold.graph.index import BATCH_NORM, Index, Node
from bnfold.onnx_io import model_file
from bnfold.onnx_io.output_paths import PathLike
from bnfold.options import Options
from bnfold.reasons import Refusal
from bnfold.tuning.moments import FloatArray
from bnfold.tuning.prediction.carried import UnknownMomentsError, Values
from bnfold.tuning.prediction.network import carried_moments
from bnfold.tuning.training_mode import assume_inference as put_into_inference

_EXACT = 0.5  # σ that one channel may be off where nothing is assumed
_FAR = 1.0  # σ that a few channels may be off behind activations
_ALIKE = 64  # layers with the same statistics that are looked at
_SHARE = 0.05  # of the channels, which is more than a few


class Consistency(Enum):
    """What a model says of one BatchNormalization's statistics."""

    CONSISTENT = "consistent"
    CONTRADICTS = "contradicts"
    UNKNOWN = "cannot tell"


@dataclass(frozen=True)
class LayerConsistency:
    """One BatchNormalization; arrays of C entries, NaN where nothing is predicted.

    `sentence` says what speaks against its statistics, or why nothing can be told; `assumes` is
    what the prediction rests on: "normal" values, "borders" that look like the rest, "independent"
    factors. `notes` is what is odd but no contradiction.
    """

    node: str
    verdict: Consistency
    sentence: str
    channels: int
    shift: FloatArray
    ratio: FloatArray
    assumes: tuple[str, ...]
    notes: tuple[str, ...]

    @property
    def worst_shift(self) -> float:
        """The largest shift of a channel, NaN where there is none."""
        known = self.shift[np.isfinite(self.shift)]
        return float(np.abs(known).max()) if known.size else float("nan")

    @property
    def median_shift(self) -> float:
        """The median size of the shifts, NaN where there are none."""
        known = self.shift[np.isfinite(self.shift)]
        return float(np.median(np.abs(known))) if known.size else float("nan")


@dataclass(frozen=True)
class ConsistencyResult:
    """All BatchNormalizations of a file, in the order of its nodes."""

    layers: tuple[LayerConsistency, ...]

    @property
    def contradicting(self) -> tuple[LayerConsistency, ...]:
        """Those whose statistics cannot be those of the data that the others were trained on."""
        return tuple(x for x in self.layers if x.verdict is Consistency.CONTRADICTS)


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


def _unknown(node: Node, sentence: str, entry: _Stored | None = None) -> LayerConsistency:
    channels = 0 if entry is None else len(entry.mean)
    nothing = np.full(channels, np.nan)
    notes = () if entry is None else tuple(_notes(entry))
    return LayerConsistency(
        node.label, Consistency.UNKNOWN, sentence, channels, nothing, nothing, (), notes
    )


def _judged(values: Values, entry: _Stored, alike: list[_Stored]) -> LayerConsistency:
    node, against = entry.node, _without_prediction(entry, alike)
    try:
        found = values.of(node)
        if len(found.mean) != len(entry.mean):
            raise UnknownMomentsError("what it reads has other channels")
    except UnknownMomentsError as unknown:
        nothing = _unknown(node, str(unknown), entry)
        if against is None:
            return nothing
        return replace(nothing, verdict=Consistency.CONTRADICTS, sentence=against)
    with np.errstate(all="ignore"):
        wide = entry.variance + entry.epsilon
        shift = (found.mean - entry.mean) / np.sqrt(wide)
        ratio = (found.variance + entry.epsilon) / wide
    against = against or _off(shift, exact=not found.assumes)
    verdict = Consistency.CONSISTENT if against is None else Consistency.CONTRADICTS
    return LayerConsistency(
        node.label, verdict, against or "", len(shift), shift, ratio,
        tuple(sorted(found.assumes)), tuple(_notes(entry)),
    )  # fmt: skip


def _without_prediction(entry: _Stored, alike: list[_Stored]) -> str | None:
    """What cannot be, whatever stands before it; `alike` are those with the same statistics."""
    mean, variance = entry.mean, entry.variance
    if not (np.all(np.isfinite(mean)) and np.all(np.isfinite(variance))):
        return "its statistics are not finite"
    if np.any(variance < 0):
        return f"σ² is negative in {np.count_nonzero(variance < 0)} of {len(variance)} channels"
    if len(mean) > 1 and not np.any(mean) and np.all(variance == 1):
        return "μ is 0 and σ² is 1 in every channel: never updated"
    if not np.any(variance):
        return "σ² is 0 in every channel"
    names = [entry.node.input(slot) for slot in (3, 4)]
    for other in alike[:_ALIKE] if len(mean) > 1 else ():
        if names != [other.node.input(slot) for slot in (3, 4)]:  # else they share them on purpose
            return f"μ and σ² are those of {other.node.label}"
    return None


def _off(shift: FloatArray, *, exact: bool) -> str | None:
    limit = _EXACT if exact else _FAR
    off = np.count_nonzero(~(np.abs(shift) <= limit))
    if not off or (not exact and (off < 2 or off <= _SHARE * len(shift))):
        return None
    worst = int(np.argmax(np.where(np.isfinite(shift), np.abs(shift), np.inf)))
    return (
        f"μ is more than {limit:g} σ off in {off} of {len(shift)} channels, "
        f"{shift[worst]:+.2f} σ in channel {worst}"
    )


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
