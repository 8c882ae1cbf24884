"""Where input and output channels stand in the weights of Conv, ConvTranspose, Gemm and MatMul.

The only module that knows kernel layouts.
"""

from __future__ import annotations

import math
from dataclasses import dataclass


@dataclass(frozen=True)
class Layout:
    """How vectors over output and over input channels lie on a weight.

    The weight is reshaped to `view`; a vector, reshaped to `outputs` or `inputs`, broadcasts
    against it. The axes on which neither has a size are those of the kernel.
    """

    view: tuple[int, ...]
    outputs: tuple[int, ...]
    inputs: tuple[int, ...]

    @property
    def output_channels(self) -> int:
        """The number of output channels."""
        return math.prod(self.outputs)

    @property
    def input_channels(self) -> int:
        """The number of input channels."""
        return math.prod(self.inputs)


def conv(shape: tuple[int, ...], group: int) -> Layout | None:
    """Conv: W is [M, C/group, k₁, k₂, …]; output channel o belongs to group o // (M/group).

    None where the shape is no such weight.
    """
    if len(shape) < 3 or min(shape) < 1 or group < 1 or shape[0] % group:
        return None
    outputs, inputs = shape[0] // group, shape[1]
    view = (group, outputs, inputs, math.prod(shape[2:]))
    return Layout(view, (group, outputs, 1, 1), (group, 1, inputs, 1))


def conv_transpose(shape: tuple[int, ...], group: int) -> Layout | None:
    """ConvTranspose: W is [C, M/group, k₁, …]; input channel i belongs to group i // (C/group).

    None where the shape is no such weight.
    """
    if len(shape) < 3 or min(shape) < 1 or group < 1 or shape[0] % group:
        return None
    inputs, outputs = shape[0] // group, shape[1]
    view = (group, inputs, outputs, math.prod(shape[2:]))
    return Layout(view, (group, 1, outputs, 1), (group, inputs, 1, 1))


def right_matrix(shape: tuple[int, ...], transposed: bool = False) -> Layout | None:
    """The second operand of MatMul or Gemm: [K, N], or [N, K] where transB is set.

    None where it is not of rank 2.
    """
    if len(shape) != 2 or min(shape) < 1:
        return None
    first, second = (shape[0], 1), (1, shape[1])
    return Layout(shape, first, second) if transposed else Layout(shape, second, first)


def left_matrix(shape: tuple[int, ...]) -> Layout | None:
    """The first operand of MatMul: [M, K]. None where it is not of rank 2."""
    return right_matrix(shape, transposed=True)
