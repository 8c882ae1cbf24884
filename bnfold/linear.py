"""Where the output channels stand in the weights of Conv, ConvTranspose, Gemm and MatMul.

The only module that knows kernel layouts.
"""

from __future__ import annotations

import math
from dataclasses import dataclass


@dataclass(frozen=True)
class Layout:
    """How a vector over output channels lies on a weight.

    The weight is reshaped to `view`; the vector, reshaped to `outputs`, broadcasts against it.
    """

    view: tuple[int, ...]
    outputs: tuple[int, ...]

    @property
    def channels(self) -> int:
        """The number of output channels."""
        return math.prod(self.outputs)


def conv(shape: tuple[int, ...], group: int) -> Layout | None:
    """Conv: W is [M, C/group, k₁, k₂, …]. None where the shape is no such weight."""
    if len(shape) < 3 or group < 1 or shape[0] % group:
        return None
    return Layout(view=shape, outputs=(shape[0],) + (1,) * (len(shape) - 1))


def conv_transpose(shape: tuple[int, ...], group: int) -> Layout | None:
    """ConvTranspose: W is [C, M/group, k₁, …]; output channel g·M/group + j is W[g-th block, j].

    None where the shape is no such weight.
    """
    if len(shape) < 3 or group < 1 or shape[0] % group:
        return None
    per_group = shape[1]
    view = (group, shape[0] // group, per_group, math.prod(shape[2:]))
    return Layout(view=view, outputs=(group, 1, per_group, 1))


def matrix(shape: tuple[int, ...], transposed: bool = False) -> Layout | None:
    """The second operand of MatMul or Gemm: [K, N], or [N, K] where transB is set.

    None where it is not of rank 2.
    """
    if len(shape) != 2:
        return None
    return Layout(shape, (shape[0], 1) if transposed else (1, shape[1]))
