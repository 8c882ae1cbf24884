"""What BatchNormalizations say of the values behind them: means and variances, without any data.

A BatchNormalization makes values of mean β and variance γ²·σ²/(σ² + ε), channel by channel, as far
as its statistics fit. What follows changes them in a way that can be computed:

    elementwise f     E[f(z)] and Var[f(z)], z normal, by a sum over a grid of z
    Conv, Gemm        E = Σ W·E[x] + b over the taps that do not lie in the padding;
                      Var = Σ W²·Var[x], as if channels and pixels were independent
    Add, Mul          of values of one z, by z; of others, as if they were independent

What is assumed on the way is kept, for means and for variances apart, since a mean of linear
operators needs no variance:

    normal            z is normal
    stationary        all pixels weigh alike: those at the border, which padding lets windows see
                      less often, those that strides leave out
    independent       channels, pixels and branches do not depend on each other
    pooled            of n pixels that were averaged, 1/n of the variance is left
    filtered          so it is of neighbours that a depthwise kernel sums up; for variances only

(Ioffe and Szegedy, *Batch Normalization*, 2015, §3.1; Nagel et al., *Data-Free Quantization*,
2019, §4.2.)
"""

from __future__ import annotations

from collections.abc import Hashable
from dataclasses import dataclass, field, replace

import numpy as np

from bnfold.folding.rules.affine_nodes import DEFAULT_EPSILON, training
from bnfold.folding.weights.draft import Draft
from bnfold.graph.index import Node, Scope
from bnfold.graph.shape_inference import Shape
from bnfold.reasons import Refusal
from bnfold.tuning.moments import FloatArray

NORMAL, STATIONARY, INDEPENDENT = "normal", "stationary", "independent"
POOLED = "pooled"
FILTERED = "filtered"
NOTHING: frozenset[str] = frozenset()
LEAN = 0.2  # of a deviation, what E[f(z)] is off for uniform, exponential or two-peaked z
_WIDEST = 1 << 16  # channels whose values are tabulated
_BROADCASTS = 7  # the opset from which on shapes broadcast as in numpy
REACH = 6.0  # deviations of z that tables reach to
_Z = np.linspace(-REACH, REACH, 241)
_SHARES = np.exp(-_Z * _Z / 2) / np.exp(-_Z * _Z / 2).sum()


class UnknownMomentsError(Exception):
    """Nothing is known of a value; the message says what stands in the way."""


@dataclass(frozen=True)
class Carried:
    """Means and variances of a value's channels, on `axis`, arrays of C; NaN where not known.

    The means are known to ±`doubt`, which is 0 but where nobody says how many pixels there are, and
    may be off by about `lean`, since values are not quite normal: by a share of their deviation, of
    one sign, so that it adds up where weights are all of one sign and where pixels are averaged.
    `assumes` is what the means rest on, `variance_assumes` what the variances do. `source` is the
    normal value z that this one is a function of, itself where `table` is None, else by `table`:
    what it is for each z of the grid, [C, z].
    """

    mean: FloatArray
    variance: FloatArray
    axis: int = 1
    assumes: frozenset[str] = NOTHING
    variance_assumes: frozenset[str] = NOTHING
    doubt: FloatArray | float = 0.0
    lean: FloatArray | float = 0.0
    source: Hashable = None
    table: FloatArray | None = field(default=None, repr=False)
    known_ends: tuple[FloatArray, FloatArray] | None = None  # where the table is gone

    @property
    def ends(self) -> tuple[FloatArray, FloatArray]:
        """The least and the largest that values of z within 6 deviations make."""
        if self.known_ends is not None:
            return self.known_ends
        if POOLED in self.variance_assumes:  # who knows how alike neighbours are
            nothing = np.full_like(self.mean, np.nan)
            return nothing, nothing
        if self.table is not None:
            return self.table.min(axis=1), self.table.max(axis=1)
        deviation = REACH * np.sqrt(self.variance)
        return self.mean - deviation, self.mean + deviation

    def without_table(self) -> Carried:
        """What stays when nobody reads the value any more: tables take megabytes."""
        return replace(self, table=None, source=None, known_ends=self.ends)

    @property
    def doubts(self) -> FloatArray:
        """The doubt of each channel."""
        return np.broadcast_to(np.asarray(self.doubt, np.float64), self.mean.shape)

    @property
    def leans(self) -> FloatArray:
        """The lean of each channel."""
        return np.broadcast_to(np.asarray(self.lean, np.float64), self.mean.shape)

    @property
    def can_be_tabulated(self) -> bool:
        """Whether its variances are known, and not too many."""
        return len(self.mean) <= _WIDEST and bool(np.all(np.isfinite(self.variance)))

    def tabulated(self, node: Node) -> Carried:
        """The same with a table; a value without one is taken for normal. For `node`, to blame."""
        if self.table is not None:
            return self
        if len(self.mean) > _WIDEST:
            raise UnknownMomentsError(f"{node.label} reads {len(self.mean):,} channels")
        if not self.can_be_tabulated:
            raise UnknownMomentsError(f"the variance that {node.label} reads is not known")
        table = self.mean[:, None] + np.sqrt(self.variance)[:, None] * _Z
        return replace(self, table=table)

    def mapped(self, table: FloatArray, *, linear: bool = False) -> Carried:
        """What another function of the same z is."""
        mean = table @ _SHARES
        variance = np.maximum((table - mean[:, None]) ** 2 @ _SHARES, 0.0)
        made = replace(self, mean=mean, variance=variance, table=table, known_ends=None)
        if linear:
            return made
        both = self.assumes | self.variance_assumes | {NORMAL}
        steepest = self._steepest(table)
        return replace(
            made, assumes=both, variance_assumes=both, doubt=self.doubts * steepest,
            lean=np.abs(self.leans) * steepest + LEAN * np.sqrt(variance),
        )  # fmt: skip

    def _steepest(self, table: FloatArray) -> FloatArray:
        """The steepest slope of a function of this value, which may be shifted; at least 1."""
        if self.table is None or not (np.any(self.doubt) or np.any(self.lean)):
            return np.ones(len(self.mean))
        steps = np.abs(np.diff(self.table, axis=1))
        changes = np.abs(np.diff(table, axis=1))
        slopes = np.divide(changes, steps, out=np.zeros_like(steps), where=steps > 0)
        return np.asarray(np.maximum(slopes.max(axis=1), 1.0))

    def apart(
        self, mean: FloatArray, variance: FloatArray, *more: str, of_variance: frozenset[str],
        doubt: FloatArray | float, lean: FloatArray | float,
    ) -> Carried:  # fmt: skip
        """Other moments, of a value that is no function of z any more; it assumes `more`."""
        assumes = self.assumes | {*more}
        spread = assumes | self.variance_assumes | of_variance
        return Carried(mean, variance, self.axis, assumes, spread, doubt, lean)

    def selected(self, channels: FloatArray, axis: int) -> Carried:
        """Those of some channels, which now lie on `axis`: another value, of no z that is known."""
        at = channels.astype(np.int64)
        return replace(
            self, mean=self.mean[at], variance=self.variance[at], axis=axis,
            table=None if self.table is None else self.table[at],
            doubt=self.doubts[at], lean=self.leans[at],
            source=None, known_ends=None,
        )  # fmt: skip


class Values:
    """The moments of the values of a model that are known so far, and its constants."""

    def __init__(self, draft: Draft) -> None:
        self.draft = draft
        self.known: dict[tuple[Scope, str], Carried | str] = {}  # or what stands in the way

    def of(self, node: Node, slot: int = 0) -> Carried:
        """Those of what a node reads. Raises UnknownMomentsError."""
        name = node.input(slot)
        owner = node.scope.owner(name) if name else None
        if owner is None:
            raise UnknownMomentsError(f"{node.label} reads nothing there")
        found = self.known.get((owner, name))
        if isinstance(found, Carried):
            return found if found.source is not None else replace(found, source=(owner, name))
        if found is None and name in owner.producers:
            found = "the nodes are not in the order in which they compute"
        raise UnknownMomentsError(found or "nothing is known of the model's inputs")

    def constant(self, node: Node, slot: int) -> FloatArray | None:
        """A stored operand in float64, None where there is none of floats."""
        operand = self.draft.operand(node, slot)
        if isinstance(operand, Refusal):
            return None
        values = self.draft.values(node, slot)
        return values if np.all(np.isfinite(values)) else None

    def shape(self, node: Node, slot: int = 0) -> Shape | None:
        """The shape of what a node reads."""
        return self.draft.shape(node, slot)

    def output_shape(self, node: Node) -> Shape | None:
        """The shape of what it makes."""
        return self.draft.output_shape(node)

    def per_channel(self, node: Node, slot: int, of: Carried) -> FloatArray | None:
        """A constant as a number for each channel of what stands at the other slot, else None."""
        values, shape = self.constant(node, slot), self.shape(node, 1 - slot)
        if values is None:
            return None
        if values.size == 1 and (
            values.ndim < 2 or (shape is not None and values.ndim <= len(shape))
        ):
            return np.full(len(of.mean), values.reshape(-1)[0])
        if shape is None or values.ndim > len(shape) or node.scope.opset < _BROADCASTS:
            return None
        offset = len(shape) - values.ndim
        at = [offset + k for k, size in enumerate(values.shape) if size != 1]
        return values.reshape(-1) if at == [of.axis] and values.size == len(of.mean) else None


def batch_norm(values: Values, node: Node) -> Carried:
    """What a BatchNormalization makes, whatever it reads, as far as its statistics fit."""
    gamma, beta = values.constant(node, 1), values.constant(node, 2)
    if gamma is None or beta is None or gamma.ndim != 1 or gamma.shape != beta.shape:
        raise UnknownMomentsError(f"{node.label} has no constant γ and β")
    return Carried(beta, gamma * gamma * _left_by_epsilon(values, node, len(gamma)))


def _left_by_epsilon(values: Values, node: Node, channels: int) -> FloatArray | float:
    """σ²/(σ² + ε), the variance of what is normalised.

    It is 1 for the statistics of a batch; and where what is stored cannot be, and so is not what
    the layers behind were trained with.
    """
    variance = values.constant(node, 4)
    if variance is None or training(node) is not None or variance.shape != (channels,):
        return 1.0
    if np.any(variance < 0) or not np.any(variance):
        return 1.0
    epsilon = float(node.attribute("epsilon", DEFAULT_EPSILON))
    return np.divide(variance, variance + epsilon, out=np.zeros(channels), where=variance > 0)
