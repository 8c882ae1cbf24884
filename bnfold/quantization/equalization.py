"""What became of a model that was equalised, as data."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from bnfold.reasons import Refusal
from bnfold.tuning.tensor_moments.tensors import TensorMoments
from bnfold.verification.comparison import Comparison


@dataclass(frozen=True)
class EqualizedLayer:
    """A linear node: the largest range of its output channels by the median one, before and now."""

    node: str
    before: float
    after: float


@dataclass(frozen=True)
class EqualizedRegion:
    """Values that took scales together, by the first node that makes one; or why they did not.

    `least` and `largest` are the scales that its values were divided by.
    """

    node: str
    values: int
    least: float = 1.0
    largest: float = 1.0
    refusal: Refusal | None = None


@dataclass(frozen=True)
class Equalization:
    """What became of a model whose weights have ranges that are more alike.

    `batch_norms` is how many BatchNormalizations stand between layers, which are better folded.
    `proof` is empty where nothing changed.
    """

    layers: tuple[EqualizedLayer, ...]
    regions: tuple[EqualizedRegion, ...]
    batch_norms: int
    proof: str
    moments: tuple[TensorMoments, ...]  # of the new model, where those of the old one were given

    @property
    def moved(self) -> int:
        """How many regions have other scales."""
        return sum(region.least != region.largest for region in self.regions)


@dataclass(frozen=True)
class EqualizeResult(Equalization):
    """A file that was equalised. `comparison` is None where nothing was, or nothing was checked."""

    model: Path
    comparison: Comparison | None = None
