"""Whether stored statistics fit the data that a BatchNormalization sees. Pure.

Folding is right as long as μ and σ² describe the data. Per channel, what is compared is

    shift = (mean of the data − μ)/√(σ² + ε)          ratio = (variance of the data + ε)/(σ² + ε)

with the sampling error of both sides. n samples give the data's mean with a standard error of s/√n,
s being how far the means of single samples differ. The stored μ is a moving average of batch means
with momentum m: as good as (1 + m)/(1 − m) batches (the variance of exponential smoothing).
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum

import numpy as np

from bnfold.tuning.moments import FloatArray, Moments

_SURE = 3.0  # standard errors
_LEAST = 8  # samples from which on it is known how much they differ
_DEAD = 1e-3  # times ε: a variance below that is none
_SHARE = 0.05  # of the living channels


class Fit(Enum):
    """What can be said of one BatchNormalization."""

    FITS = "fits"
    DRIFTED = "drifted"
    TOO_LITTLE = "too little data"


@dataclass(frozen=True)
class DriftLimits:
    """From where on a channel has drifted, and what the stored statistics were estimated on.

    `shift` is in units of √(σ² + ε), `ratio` a factor of the variance either way, `batch` the size
    of the batches in training.
    """

    shift: float = 0.25
    ratio: float = 1.5
    batch: int = 32


@dataclass(frozen=True)
class ChannelDrift:
    """One BatchNormalization, channel by channel; arrays of C entries."""

    node: str
    fit: Fit
    samples: int
    channels: int
    dead: int
    drifted: int
    shift: FloatArray
    shift_error: FloatArray
    ratio: FloatArray
    ratio_error: FloatArray  # of the logarithm

    @property
    def worst_shift(self) -> float:
        """The largest |shift| of a living channel."""
        return float(np.nanmax(np.abs(self.shift), initial=0.0))

    @property
    def worst_ratio(self) -> float:
        """The variance ratio furthest from 1."""
        logs = np.log(self.ratio)
        if not np.any(np.isfinite(logs)):
            return 1.0
        return float(self.ratio[np.nanargmax(np.where(np.isfinite(logs), np.abs(logs), -1))])


@dataclass(frozen=True)
class StoredStatistics:
    """The parameters of one BatchNormalization, in float64, and its momentum."""

    node: str
    gamma: FloatArray
    mean: FloatArray
    variance: FloatArray
    epsilon: float
    momentum: float


def drift(stored: StoredStatistics, data: Moments, limits: DriftLimits) -> ChannelDrift:
    """Compare the statistics of the data with the stored ones."""
    scale = stored.variance + stored.epsilon
    dead = (stored.gamma == 0) | (stored.variance <= _DEAD * stored.epsilon)
    averaged = limits.batch * (1 + stored.momentum) / max(1 - stored.momentum, 1e-6)
    parts = 1 / max(data.samples, 1) + 1 / averaged
    shift = (data.mean - stored.mean) / np.sqrt(scale)
    known = np.sqrt(parts) if data.samples >= _LEAST else np.nan
    shift_error = data.mean_deviation * known / np.sqrt(scale)
    now = data.variance + stored.epsilon
    ratio, ratio_error = now / scale, data.variance_deviation * known / now
    told = np.stack([np.abs(shift) / limits.shift, np.abs(np.log(ratio)) / np.log(limits.ratio)])
    error = np.stack([shift_error / limits.shift, ratio_error / np.log(limits.ratio)])
    alive = ~dead
    with np.errstate(invalid="ignore"):
        drifted = alive & np.any(told - _SURE * error > 1, axis=0)
        # the error is as wide as what is looked for, or not known
        unknown = alive & ~drifted & ~np.all(_SURE * error < 1, axis=0)
    living = int(np.count_nonzero(alive))
    count = int(np.count_nonzero(drifted))
    if count and count >= _SHARE * living:
        fit = Fit.DRIFTED
    elif np.count_nonzero(unknown) > living / 2:
        fit = Fit.TOO_LITTLE
    else:
        fit = Fit.FITS
    quiet = np.where(alive, 1.0, np.nan)
    return ChannelDrift(
        stored.node, fit, data.samples, len(scale), int(np.count_nonzero(dead)), count,
        shift * quiet, shift_error * quiet, ratio * quiet, ratio_error * quiet,
    )  # fmt: skip


def severity(found: ChannelDrift) -> tuple[int, float]:
    """What puts the worst first."""
    order = {Fit.DRIFTED: 2, Fit.TOO_LITTLE: 1, Fit.FITS: 0}[found.fit]
    return order, max(found.worst_shift, abs(float(np.log(found.worst_ratio))))
