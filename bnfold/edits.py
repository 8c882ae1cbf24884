"""The few kinds of edit a plan is made of, as data. `apply.py` is what carries them out."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from bnfold.affine import FloatArray
from bnfold.graph import Node


@dataclass(frozen=True, eq=False)
class Rescale:
    """The constant v at `node.input[slot]` becomes scale·v + shift.

    `scale` and `shift` broadcast against v reshaped to `view`. `slices` says that the entries of
    `scale` stand for channels of which none may be lost to underflow (weights: a channel that
    becomes all zero; not so for biases).
    """

    node: Node
    slot: int
    view: tuple[int, ...]
    scale: FloatArray
    shift: FloatArray | None = None

    def of(self, values: FloatArray) -> FloatArray:
        """scale·values + shift in float64, in the shape that `values` has.

        Where broadcasting enlarges it (a Gemm's C of shape [] or [M, 1]), in the enlarged shape.
        """
        viewed = values.reshape(self.view) * self.scale
        if self.shift is not None:
            viewed = viewed + self.shift
        return viewed.reshape(values.shape) if viewed.size == values.size else viewed

    def lost(self, before: FloatArray, after: FloatArray) -> int:
        """How many channels held a weight in `before` and hold only zeros in `after`.

        A channel whose scale is 0 (γ = 0, a dead channel) is meant to be zero and does not count.
        """
        axes = tuple(axis for axis, size in enumerate(self.scale.shape) if size == 1)
        was = np.any(before.reshape(self.view) != 0, axis=axes, keepdims=True)
        remains = np.any(after.reshape(self.view) != 0, axis=axes, keepdims=True)
        return int(np.count_nonzero(was & ~remains & (self.scale != 0)))


@dataclass(frozen=True, eq=False)
class Supply:
    """`node.input[slot]`, absent so far, becomes a new constant."""

    node: Node
    slot: int
    values: FloatArray
    dtype: int  # the ONNX element type it is rounded to
    name: str  # wanted; made unique when it is applied


@dataclass(frozen=True, eq=False)
class SetOperator:
    """The node becomes an `op_type` with these attributes dropped and those set."""

    node: Node
    op_type: str
    drop: tuple[str, ...] = ()
    put: Mapping[str, int] = field(default_factory=dict)


@dataclass(frozen=True, eq=False)
class Bypass:
    """The node goes; `producer`, which makes its first input, makes its output instead.

    The surviving name is the removed node's output, so that no reader, in whatever scope, changes.
    """

    node: Node
    producer: Node


Edit = Rescale | Supply | SetOperator | Bypass


def applied(
    edits: Sequence[Rescale | Supply], base: Callable[[], FloatArray] | None = None
) -> FloatArray:
    """What one input holds after `edits`; `base` gives what it holds now, if anything."""
    values = base() if base else np.empty(0)
    for edit in edits:
        values = edit.values if isinstance(edit, Supply) else edit.of(values)
    return values
