"""What is said of a BatchNormalization's statistics: the results of `consistency`."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum

import numpy as np

from bnfold.folding.layer_details import Spread
from bnfold.tuning.moments import FloatArray


class Consistency(Enum):
    """What a model says of one BatchNormalization's statistics."""

    CONSISTENT = "consistent"
    CONTRADICTS = "contradicts"
    UNKNOWN = "cannot tell"


@dataclass(frozen=True)
class LayerSummary:
    """One BatchNormalization, as reports show it: spreads over the channels, None where unknown."""

    node: str
    verdict: Consistency
    sentence: str
    assumes: tuple[str, ...]
    notes: tuple[str, ...]
    shift: Spread | None
    ratio: Spread | None


@dataclass(frozen=True)
class LayerConsistency:
    """One BatchNormalization; arrays of C entries, NaN where nothing is predicted.

    `sentence` says what speaks against its statistics, or why nothing can be told; `assumes` is
    what the predicted mean rests on: "normal" values, "stationary", "independent" or
    "pooled" ones.
    `notes` is what is odd but no contradiction.
    """

    node: str
    verdict: Consistency
    sentence: str
    mean: FloatArray
    variance: FloatArray
    epsilon: float
    predicted_mean: FloatArray
    predicted_variance: FloatArray
    assumes: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()

    @property
    def channels(self) -> int:
        """How many it has; 0 where its parameters are not known."""
        return len(self.mean)

    @property
    def shift(self) -> FloatArray:
        """(predicted mean − μ)/√(σ² + ε)."""
        with np.errstate(all="ignore"):
            return (self.predicted_mean - self.mean) / np.sqrt(self.variance + self.epsilon)

    @property
    def ratio(self) -> FloatArray:
        """(predicted variance + ε)/(σ² + ε)."""
        with np.errstate(all="ignore"):
            return (self.predicted_variance + self.epsilon) / (self.variance + self.epsilon)

    @property
    def summary(self) -> LayerSummary:
        """The same without every channel."""
        return LayerSummary(
            self.node, self.verdict, self.sentence, self.assumes, self.notes,
            Spread.of(self.shift), Spread.of(self.ratio),
        )  # fmt: skip

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

    @property
    def summaries(self) -> tuple[LayerSummary, ...]:
        """All layers without every channel."""
        return tuple(layer.summary for layer in self.layers)
