"""What is known of one tensor, as data."""

from __future__ import annotations

from dataclasses import dataclass

from bnfold.tuning.moments import FloatArray


@dataclass(frozen=True)
class TensorMoments:
    """One tensor of the folded model; arrays of C numbers along `axis`, NaN where not known.

    `batch_norm` is the BatchNormalization that made its value, or "" where none did; `mean` and
    `deviation` are then its β and |γ|, as the tensor now holds them. `low` and `high` are the ends
    of what n deviations of the last normal value before it make. `assumes` is what the mean rests
    on, as in `consistency`. `scope` is the body that the tensor is in, "" for the main graph.
    """

    name: str
    scope: str
    batch_norm: str
    axis: int
    mean: FloatArray
    deviation: FloatArray
    low: FloatArray
    high: FloatArray
    assumes: tuple[str, ...]
