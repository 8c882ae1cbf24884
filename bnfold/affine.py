"""Affine(axis, scale, shift): the map y = scale·x + shift, one factor and one summand per channel.

An inference BatchNormalization is such a map, and so is everything that it becomes on its way to
the weights. Knows no ONNX and imports nothing of bnfold.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

FloatArray = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Affine:
    """y = scale·x + shift along `axis`; `scale` and `shift` are float64 vectors of one length."""

    axis: int
    scale: FloatArray
    shift: FloatArray

    @property
    def channels(self) -> int:
        """How many channels the map has."""
        return len(self.scale)

    @classmethod
    def of_batch_norm(
        cls,
        gamma: FloatArray,
        beta: FloatArray,
        mean: FloatArray,
        variance: FloatArray,
        epsilon: float,
    ) -> Affine:
        """The frozen form γ′x + β′ of γ(x−μ)/√(σ²+ε) + β (Ioffe & Szegedy 2015, §3.1).

        All four are float64 vectors of shape [C]; every σ²+ε must be positive.
        """
        # γ(x−μ)/√(σ²+ε) + β  =  γ′x + β′   with   γ′ = γ/√(σ²+ε),   β′ = β − γ′μ
        gamma_prime = gamma / np.sqrt(variance + epsilon)
        beta_prime = beta - gamma_prime * mean
        return cls(axis=1, scale=gamma_prime, shift=beta_prime)
