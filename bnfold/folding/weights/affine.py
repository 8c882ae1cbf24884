"""Affine(axis, scale, shift): the map y = scale·x + shift, one factor and one summand per channel.

An inference BatchNormalization is such a map, and so is everything that it becomes on its way to
the weights. Knows no ONNX. Each map knows where it comes from (`origin`): the expression over nodes
of the model by which a proof speaks of it.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from bnfold import steps

FloatArray = npt.NDArray[np.float64]


def varying_axes(values: FloatArray) -> list[int]:
    """The axes along which the values are not all the same. No size may be 0."""
    return [axis for axis in range(values.ndim) if np.any(values != values.take([0], axis))]


def line(values: FloatArray, axis: int | None) -> FloatArray:
    """Values that vary along `axis` only, as a vector; along no axis, as a vector of one."""
    if axis is None:
        return values.reshape(-1)[:1]
    return np.moveaxis(values, axis, 0).reshape(values.shape[axis], -1)[:, 0]


@dataclass(frozen=True)
class Affine:
    """y = scale·x + shift along `axis`; `scale` and `shift` are float64 vectors of one length.

    `axis` None: one factor and one summand for all elements, both of length 1.
    """

    axis: int | None
    scale: FloatArray
    shift: FloatArray
    origin: steps.Map = steps.IDENTITY

    @property
    def channels(self) -> int:
        """How many channels the map has."""
        return len(self.scale)

    @property
    def is_identity(self) -> bool:
        """Whether it changes nothing at all."""
        return not self.shifts and bool(np.all(self.scale == 1))

    @property
    def shifts(self) -> bool:
        """Whether it adds anything."""
        return bool(np.any(self.shift))

    @property
    def scales(self) -> bool:
        """Whether it multiplies by anything but 1."""
        return bool(np.any(self.scale != 1))

    @classmethod
    def identity(cls) -> Affine:
        """The map that changes nothing, for every element."""
        return cls(None, np.ones(1), np.zeros(1))

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

    def then(self, after: Affine) -> Affine | None:
        """First this map, then `after`; None where they vary along different axes."""
        if None not in (self.axis, after.axis) and self.axis != after.axis:
            return None
        if 1 not in (self.channels, after.channels) and self.channels != after.channels:
            return None
        # s₂(s₁x + t₁) + t₂  =  (s₂s₁)x + (s₂t₁ + t₂)
        axis = self.axis if self.axis is not None else after.axis
        with np.errstate(over="ignore", invalid="ignore"):  # refused where it is used
            scale = after.scale * self.scale
            shift = after.scale * self.shift + after.shift
            return Affine(axis, scale, shift, steps.then(self.origin, after.origin))

    def scale_only(self) -> Affine:
        """The map without its shift."""
        return replace(self, shift=np.zeros_like(self.shift), origin=steps.scale(self.origin))

    def shift_only(self) -> Affine:
        """The map without its scale."""
        return replace(self, scale=np.ones_like(self.scale), origin=steps.shift(self.origin))

    def shift_first(self) -> Affine | None:
        """The shift that, made before the scale, has the same effect; None where a scale is 0."""
        # s·x + t  =  s·(x + t/s)
        if np.any((self.scale == 0) & (self.shift != 0)):
            return None
        quotient = np.divide(
            self.shift, self.scale, out=np.zeros_like(self.shift), where=self.shift != 0
        )
        return Affine(self.axis, np.ones_like(self.scale), quotient, steps.First(self.origin))

    def negated(self) -> Affine:
        """The map seen through a minus sign: −a(−x) = s·x − t."""
        return replace(self, shift=-self.shift, origin=steps.negated(self.origin))

    def made_by(self, origin: steps.Map) -> Affine:
        """The same numbers, known to come from there."""
        return replace(self, origin=origin)

    def along(self, axis: int) -> Affine:
        """The same vectors along another axis."""
        return replace(self, axis=axis, origin=steps.along(self.origin, axis))

    def uniform_along(self, axis: int, channels: int) -> Affine:
        """A uniform map, written out for each of `channels` along `axis`."""
        return replace(self, axis=axis).select(np.zeros(channels, np.int64))

    def repeated(self, times: int) -> Affine:
        """Each channel spread over `times` consecutive ones, as Flatten does."""
        return self.select(np.arange(self.channels).repeat(times))

    def tiled(self, times: int) -> Affine:
        """All channels in a row, `times` over, as Flatten does where they come last."""
        return self.select(np.tile(np.arange(self.channels), times))

    def select(self, channels: npt.NDArray[np.int64] | slice) -> Affine:
        """The map of some of the channels, in the order given."""
        if isinstance(channels, slice):
            channels = np.arange(self.channels)[channels]
        origin = steps.Take(self.origin, self.axis, steps.Indices(channels))
        return Affine(self.axis, self.scale[channels], self.shift[channels], origin)

    def embed(self, start: int, channels: int) -> Affine:
        """The map as that of channels `start`… of `channels`, with the identity for the others."""
        return self.scatter(np.arange(start, start + self.channels), channels)

    def scatter(self, places: npt.NDArray[np.int64], channels: int) -> Affine:
        """The map as that of some of `channels`, with the identity for the others."""
        scale, shift = np.ones(channels), np.zeros(channels)
        scale[places], shift[places] = self.scale, self.shift
        source = np.full(channels, -1)
        source[places] = np.arange(self.channels)
        origin = steps.Take(self.origin, self.axis, steps.Indices(source))
        return Affine(self.axis, scale, shift, origin)
