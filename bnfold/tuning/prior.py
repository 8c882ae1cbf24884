"""How much stored statistics count beside those of few samples. Pure numpy.

What is written is (N·stored + n·estimated)/(N + n) of n samples (Schneider et al., *Improving
Robustness Against Common Corruptions by Covariate Shift Adaptation*, 2020, arXiv:2006.16971, §3).
N is the one under which samples that were held out are the likeliest, as normal values, all layers
and channels together:

    −log p = ½ Σ (log σ² + (v + (m − μ)²)/σ²)

with their mean m and variance v. Stored statistics alone are among the choices, so that what is
written is never less likely than these.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from bnfold.tuning.drift import StoredStatistics
from bnfold.tuning.moments import Moments

_SHARES = (0.0, *(f / (1 + f) for f in 2.0 ** np.arange(-5, 8)), 1.0)  # N/(N + n)


def likeliest_prior(layers: Sequence[tuple[StoredStatistics, Moments, Moments]]) -> float | None:
    """N, by what is stored, estimated, and held out, of each layer; None for N = ∞.

    Without layers nothing speaks for other statistics.
    """
    if not layers:
        return None
    best = min(_SHARES, key=lambda share: (_surprise(layers, share), -share))
    samples = max(kept.samples for _, kept, _ in layers)
    return None if best == 1 else best / (1 - best) * samples


def _surprise(layers: Sequence[tuple[StoredStatistics, Moments, Moments]], share: float) -> float:
    total = 0.0
    for old, kept, held in layers:
        mean = share * old.mean + (1 - share) * kept.mean
        variance = share * old.variance + (1 - share) * kept.variance + old.epsilon
        spread = held.variance + old.epsilon + (held.mean - mean) ** 2
        total += float(np.sum(np.log(variance) + spread / variance)) / 2
    return total
