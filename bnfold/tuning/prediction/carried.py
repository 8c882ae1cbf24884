"""What BatchNormalizations say of the values behind them: means and variances, without any data.

A BatchNormalization makes values of mean β and standard deviation |γ|, channel by channel, as far
as its statistics fit. What follows changes them in a way that can be computed:

    elementwise f     E[f(z)] and Var[f(z)], z ~ N(β, γ²), by a sum over a grid of z
    Conv, Gemm        E = Σ W·E[x] + b over the taps that do not lie in the padding;
                      Var = Σ W²·Var[x], as if channels and pixels were independent
    Add, Mul          of values of one z, by z; of others, as if they were independent

A mean is exact where all pixels weigh alike, as in 1 × 1 convolutions. That z is normal, that
factors are independent and that what lies in the padding is like the rest are assumptions, and each
value says which it rests on; that pixels weigh alike, and what variances rest on, goes unsaid.
(Ioffe and Szegedy, *Batch Normalization*, 2015, §3.1; Nagel et al., *Data-Free Quantization*,
2019, §4.2.)
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from bnfold.folding.weights.draft import Draft
from bnfold.graph.index import Node, Scope
from bnfold.graph.shape_inference import Shape
from bnfold.reasons import Refusal
from bnfold.tuning.moments import FloatArray

NORMAL, INDEPENDENT, BORDERS = "normal", "independent", "borders"
_Z = np.linspace(-6.0, 6.0, 241)
_SHARES = np.exp(-_Z * _Z / 2) / np.exp(-_Z * _Z / 2).sum()


class UnknownMomentsError(Exception):
    """Nothing is known of a value; the message says what stands in the way."""


@dataclass(frozen=True)
class Carried:
    """Means and variances of a value's channels, on axis 1, arrays of C; NaN where not known.

    `table` holds the value for each z of the grid, [C, z], where it is a function of one normal
    value for each channel, and `source` is whose; `assumes` is what the moments rest on.
    """

    mean: FloatArray
    variance: FloatArray
    assumes: frozenset[str] = frozenset()
    source: tuple[Scope, str] | None = None
    table: FloatArray | None = field(default=None, repr=False)

    @classmethod
    def normal(
        cls, mean: FloatArray, variance: FloatArray, source: tuple[Scope, str],
        assumes: frozenset[str] = frozenset(),
    ) -> Carried:  # fmt: skip
        """A normal value."""
        table = mean[:, None] + np.sqrt(variance)[:, None] * _Z
        return cls(mean, variance, assumes, source, table)

    def mapped(self, table: FloatArray, *, linear: bool = False) -> Carried:
        """What a function of the same z is."""
        mean = table @ _SHARES
        variance = np.maximum((table - mean[:, None]) ** 2 @ _SHARES, 0.0)
        assumes = self.assumes if linear else self.assumes | {NORMAL}
        return Carried(mean, variance, assumes, self.source, table)

    def apart(self, mean: FloatArray, variance: FloatArray, *more: str) -> Carried:
        """Other moments, of a value that is no function of z any more."""
        return Carried(mean, variance, self.assumes | {*more})


class Values:
    """The moments of the values of a model that are known so far, and its constants."""

    def __init__(self, draft: Draft) -> None:
        self._draft = draft
        self.known: dict[tuple[Scope, str], Carried | str] = {}  # or what stands in the way

    def of(self, node: Node, slot: int = 0) -> Carried:
        """Those of what a node reads. Raises UnknownMomentsError."""
        owner = node.scope.owner(node.input(slot)) if node.input(slot) else None
        found = self.known.get((owner, node.input(slot))) if owner is not None else None
        if isinstance(found, Carried):
            return found
        raise UnknownMomentsError(found or "nothing is known of the model's inputs")

    def constant(self, node: Node, slot: int) -> FloatArray | None:
        """A stored operand in float64, None where there is none of floats."""
        operand = self._draft.operand(node, slot)
        if isinstance(operand, Refusal):
            return None
        values = self._draft.values(node, slot)
        return values if np.all(np.isfinite(values)) else None

    def shape(self, node: Node, slot: int = 0) -> Shape | None:
        """The shape of what a node reads."""
        return self._draft.shape(node, slot)

    def output_shape(self, node: Node) -> Shape | None:
        """The shape of what it makes."""
        return self._draft.output_shape(node)

    def per_channel(self, node: Node, slot: int, channels: int) -> FloatArray | None:
        """A constant as a number for each channel, None for any other."""
        values, shape = self.constant(node, slot), self.shape(node, 1 - slot)
        if values is None:
            return None
        if values.size == 1:
            return np.full(channels, values.reshape(-1)[0])
        if shape is None or values.size != channels or values.ndim > len(shape):
            return None
        axis = len(shape) - values.ndim
        at = [axis + k for k, size in enumerate(values.shape) if size != 1]
        return values.reshape(-1) if at == [1] else None
