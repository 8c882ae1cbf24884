"""The few kinds of edit a plan is made of, as data. `apply.py` is what carries them out."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np

from bnfold import steps
from bnfold.folding.weights.affine import Affine, FloatArray, line, varying_axes
from bnfold.graph.index import Node


@dataclass(frozen=True, eq=False)
class Guard:
    """Says that no channel of a constant may be lost to underflow where that could be seen.

    A channel is lost where nothing but zeros is stored of it. Its values are multiplied by inputs
    and added up in sums of `length` terms, to which |`offset`| is added: one number for each
    channel, or one for all. The roundings of such a sum hide what is small beside its offset.
    """

    offset: FloatArray = field(default_factory=lambda: np.zeros(()))
    length: int = 1


@dataclass(frozen=True, eq=False)
class Rescale:
    """The constant v at `node.input[slot]` becomes scale·v + shift.

    `scale` and `shift` broadcast against v reshaped to `view`. Where there is a `guard`, an entry
    of `scale` stands for one of its channels (weights; not so biases). Where `precise` is set, no
    entry may leave the normal numbers: each stands for a whole channel.
    """

    node: Node
    slot: int
    view: tuple[int, ...]
    scale: FloatArray
    shift: FloatArray | None = None
    guard: Guard | None = None
    precise: bool = False

    def of(self, values: FloatArray) -> FloatArray:
        """scale·values + shift in float64, in the shape that `values` has.

        Where broadcasting enlarges it (a Gemm's C of shape [] or [M, 1]), in the enlarged shape.
        """
        with np.errstate(over="ignore", invalid="ignore"):  # refused by name where it is planned
            viewed = values.reshape(self.view) * self.scale
            if self.shift is not None:
                viewed = viewed + self.shift
        return viewed.reshape(values.shape) if viewed.size == values.size else viewed

    def shape_of(self, shape: tuple[int, ...]) -> tuple[int, ...]:
        """The shape that a constant of this shape gets."""
        shift = () if self.shift is None else self.shift.shape
        enlarged = np.broadcast_shapes(self.view, self.scale.shape, shift)
        return shape if math.prod(enlarged) == math.prod(shape) else enlarged

    def as_affine(self, shape: tuple[int, ...]) -> Affine | None:
        """The same as a map along one axis of a constant of this shape; None where it is none."""
        if self.shape_of(shape) != shape or 0 in shape:
            return None
        shift = np.zeros(()) if self.shift is None else self.shift
        view = np.broadcast_shapes(self.view, self.scale.shape, shift.shape)
        both = [np.broadcast_to(v, view).reshape(shape) for v in (self.scale, shift)]
        axes = sorted({axis for values in both for axis in varying_axes(values)})
        if len(axes) > 1:
            return None
        axis = axes[0] if axes else None
        scale, added = (line(values, axis) for values in both)
        return Affine(axis, scale, added)


@dataclass(frozen=True, eq=False)
class Supply:
    """`node.input[slot]` becomes a new constant; what it was, if anything, is not read any more.

    The channels of a `guard` lie along its first axis.
    """

    node: Node
    slot: int
    values: FloatArray
    dtype: int  # the ONNX element type it is rounded to
    name: str  # wanted; made unique when it is applied
    guard: Guard | None = None


@dataclass(frozen=True, eq=False)
class SetOperator:
    """The node becomes an `op_type` with these attributes dropped and those set.

    It reads its first `inputs` inputs, or as many as it did.
    """

    node: Node
    op_type: str
    drop: tuple[str, ...] = ()
    put: Mapping[str, int | float | list[int]] = field(default_factory=dict)
    inputs: int | None = None


@dataclass(frozen=True, eq=False)
class Insert:
    """A new node of two inputs stands between the node and what it reads at `slot`.

    Its second input is a new constant. Names are wanted ones, made unique when it is applied.
    """

    node: Node
    slot: int
    op_type: str
    name: str
    constant: Supply


@dataclass(frozen=True, eq=False)
class Remove:
    """The node goes, and its readers get what it reads at `slot`.

    The surviving name is the removed node's output wherever the value it reads has no other reader,
    so that no reader, in whatever scope, changes.
    """

    node: Node
    slot: int


@dataclass(frozen=True, eq=False)
class Drop:
    """The node goes; nobody reads what it makes any more."""

    node: Node


@dataclass(frozen=True, eq=False)
class Carry:
    """A value is no longer what it was: for the proof, nothing is edited.

    It is `map`(value) instead, or, where `down` is set, the value is `map` of it. The value is an
    `output` of `node`, or, with a `slot`, a constant that the node reads there.
    """

    node: Node
    map: steps.Map
    down: bool = False
    output: int = 0
    slot: int | None = None

    @property
    def value(self) -> tuple[Node, int, int | None]:
        """Which value it is."""
        return self.node, self.output, self.slot


@dataclass(frozen=True, eq=False)
class Scatter:
    """What the node makes has a map along several axes at once, of which no account is kept."""

    node: Node


Edit = Rescale | Supply | SetOperator | Insert | Remove | Drop | Carry | Scatter


def effective(edits: list[Rescale | Supply]) -> list[Rescale | Supply]:
    """The edits of one input from its last Supply on, which makes those before it void."""
    supplies = [place for place, edit in enumerate(edits) if isinstance(edit, Supply)]
    return edits[supplies[-1] :] if supplies else edits
