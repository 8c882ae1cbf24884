"""Where a convolution reads its input, axis by axis.

Tap k of a kernel reads x at position·stride + k·dilation − begin.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from bnfold.graph.index import Node
from bnfold.proof.laws.absorbing import UnprovenError
from bnfold.proof.reading.model import Model
from bnfold.proof.values.operands import Array


@dataclass(frozen=True)
class Geometry:
    """Where a convolution reads, axis by axis."""

    group: int
    size: tuple[int, ...]
    strides: tuple[int, ...]
    dilations: tuple[int, ...]
    begins: tuple[int, ...]
    ends: tuple[int, ...]

    @property
    def reach(self) -> tuple[int, ...]:
        """What settles the size of the output for every size of the input."""
        axes = zip(self.begins, self.ends, self.size, self.dilations, strict=True)
        return tuple(b + e - (k - 1) * d for b, e, k, d in axes)

    def place(self, tap: Sequence[int], whole: Geometry) -> tuple[int, ...] | None:
        """The tap of `whole` that reads where this one's `tap` does; None where there is none."""
        found = []
        for axis, k in enumerate(tap):
            reads = k * self.dilations[axis] - self.begins[axis] + whole.begins[axis]
            at, rest = divmod(reads, whole.dilations[axis])
            if rest or not 0 <= at < whole.size[axis]:
                return None
            found.append(at)
        return tuple(found)


def geometry_of(model: Model, node: Node) -> tuple[Geometry, Array]:
    """Where a Conv reads, and its weight. Raises UnprovenError where its input's size decides."""
    weight = model.value_at(node, 1)
    if node.op != "Conv" or weight is None or weight.ndim < 3 or not weight.size:
        raise UnprovenError("a convolution that is not known")
    axes = weight.ndim - 2
    strides, dilations = (tuple(node.numbers(n) or (1,) * axes) for n in ("strides", "dilations"))
    pads = tuple(node.numbers("pads") or (0,) * (2 * axes))
    automatic = node.attribute("auto_pad", b"NOTSET")
    if automatic == b"VALID":
        pads = (0,) * (2 * axes)
    elif automatic != b"NOTSET":
        if any(stride != 1 for stride in strides):
            raise UnprovenError("padding that depends on the size of the input")
        spans = [(k - 1) * d for k, d in zip(weight.shape[2:], dilations, strict=True)]
        halves = [(span // 2, span - span // 2) for span in spans]
        order = (0, 1) if automatic == b"SAME_UPPER" else (1, 0)
        pads = tuple(half[side] for side in order for half in halves)
    if len(strides) != axes or len(dilations) != axes or len(pads) != 2 * axes:
        raise UnprovenError("a convolution of another rank than its weight")
    group = node.attribute("group", 1)
    if min(*strides, *dilations, group) < 1 or weight.shape[0] % group:
        raise UnprovenError("a convolution that is not known")
    begins, ends = pads[:axes], pads[axes:]
    return Geometry(group, weight.shape[2:], strides, dilations, begins, ends), weight
