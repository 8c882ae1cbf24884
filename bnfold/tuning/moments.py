"""Mean and variance of a stream, channel by channel, and how uncertain they are. Pure numpy.

Batches are merged by the formulas of Chan, Golub & LeVeque (*Algorithms for computing the sample
variance*, 1983), in float64: with n values of mean m and sum of squared deviations M, and n₂, m₂,
M₂ of what is added, δ = m₂ − m,

    m ← m + δ·n₂/(n + n₂)          M ← M + M₂ + δ²·n·n₂/(n + n₂)

so that the result does not depend on how the data is cut into batches, but for rounding.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

FloatArray = npt.NDArray[np.float64]


@dataclass(frozen=True)
class SampleMoments:
    """What one batch shows of a value [N, C, …], sample by sample.

    `means` [N, C] over the positions of each sample, `spreads` [N, C] the mean squared deviation
    from these, `positions` how many there are.
    """

    means: FloatArray
    spreads: FloatArray
    positions: int


class Moments:
    """Mean and variance over all positions of all samples, and their sampling errors.

    Positions of one sample are not independent, samples are: the errors come from how samples
    differ. With d the mean of a sample less a pivot and q its second moment about the pivot, its
    mean squared deviation from the mean M = pivot + δ is v = q − 2δ·d + δ².
    """

    def __init__(self) -> None:
        self.samples = 0
        self.values = 0  # of each channel
        self.mean: FloatArray = np.zeros(0)
        self._squares: FloatArray = np.zeros(0)
        self._pivot: FloatArray = np.zeros(0)
        self._centre: FloatArray = np.zeros((2, 0))  # of d and q over the samples
        self._spread: FloatArray = np.zeros((3, 0))  # sums of squared deviations: dd, qq, dq

    def add(self, batch: SampleMoments) -> None:
        """Take another batch in."""
        count = len(batch.means)
        if not count:
            return
        if not self.samples:
            channels = batch.means.shape[1]
            self.mean, self._squares = np.zeros(channels), np.zeros(channels)
            self._pivot = batch.means.mean(axis=0)
            self._centre, self._spread = np.zeros((2, channels)), np.zeros((3, channels))
        self._merge(batch, count * batch.positions)
        self._merge_samples(batch, count)
        self.values += count * batch.positions
        self.samples += count

    def _merge(self, batch: SampleMoments, count: int) -> None:
        mean = batch.means.mean(axis=0)
        squares = batch.positions * (batch.spreads + (batch.means - mean) ** 2).sum(axis=0)
        delta, total = mean - self.mean, self.values + count
        self.mean = self.mean + delta * (count / total)
        self._squares = self._squares + squares + delta**2 * (self.values * count / total)

    def _merge_samples(self, batch: SampleMoments, count: int) -> None:
        d = batch.means - self._pivot
        both = np.stack([d, batch.spreads + d * d])  # [2, N, C]
        centre = both.mean(axis=1)
        off = both - centre[:, None]
        spread = np.stack([(off[0] ** 2).sum(0), (off[1] ** 2).sum(0), (off[0] * off[1]).sum(0)])
        delta, total = centre - self._centre, self.samples + count
        factor = self.samples * count / total
        cross = np.stack([delta[0] ** 2, delta[1] ** 2, delta[0] * delta[1]])
        self._centre = self._centre + delta * (count / total)
        self._spread = self._spread + spread + cross * factor

    @property
    def variance(self) -> FloatArray:
        """The population variance: the mean squared deviation of all values."""
        return self._squares / max(self.values, 1)

    @property
    def mean_deviation(self) -> FloatArray:
        """The standard deviation of one sample's mean; not a number with fewer than two."""
        return np.sqrt(self._per_sample(self._spread[0]))

    @property
    def variance_deviation(self) -> FloatArray:
        """The standard deviation of one sample's mean squared deviation; likewise."""
        delta = self.mean - self._pivot
        dd, qq, dq = (self._per_sample(row) for row in self._spread)
        return np.sqrt(np.maximum(qq + 4 * delta**2 * dd - 4 * delta * dq, 0))

    def _per_sample(self, squares: Any) -> FloatArray:
        if self.samples < 2:
            return np.full(np.shape(squares), np.nan)
        return np.asarray(squares / (self.samples - 1), np.float64)
