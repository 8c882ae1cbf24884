"""Values that can only take a scale together: what makes them, and what has to undo it.

A value f that becomes f/s has to be made so, and read so. What is linear takes 1/s or s into its
weights; what s passes, by the folder's own rules, such as a Relu or a pool, hands it on; and an Add
of two values wants the same s from both. So a region grows from what one convolution makes until
nothing but constants are at its borders, or something stands in the way.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from bnfold.folding.rules.base import Rule, Step, refuse
from bnfold.folding.walk.propagation import Propagation
from bnfold.folding.walk.table import DOWN, UP
from bnfold.folding.weights.affine import Affine
from bnfold.folding.weights.draft import Draft, Operand
from bnfold.folding.weights.edits import Carry
from bnfold.graph.index import Index, Node, Role
from bnfold.reasons import Reason, Refusal
from bnfold.steps import Factors
from bnfold.tuning.moments import FloatArray

LINEAR = ("Conv", "ConvTranspose", "Gemm", "MatMul")
_SUMS = ("Add", "Sub", "Sum")
_LARGEST = 1000  # values of one region

Place = tuple[Node, int]  # a node, and which of its outputs or inputs


@dataclass(frozen=True)
class Region:
    """`values` are outputs of nodes, `makers` those of nodes that absorb, `takers` their inputs."""

    axis: int
    channels: int
    values: tuple[Place, ...]
    makers: tuple[Place, ...]
    takers: tuple[Place, ...]

    def map(self, scales: np.ndarray) -> Affine:
        """s·x for its channels."""
        values = np.asarray(scales, np.float64)
        origin = Factors(tuple(values.tolist()), self.axis)
        return Affine(self.axis, values, np.zeros(len(values)), origin)

    def rescale(self, draft: Draft, scales: np.ndarray) -> Refusal | None:
        """Plan that all of its values are divided by s, one number for each channel."""
        start = len(draft.edits)
        s, inverse = self.map(scales), self.map(1 / scales)
        for node, output in self.values:
            draft.add(Carry(node, s.origin, down=True, output=output))
        refusal: Refusal | None = None
        for node, output in self.makers:
            refusal = refusal or Propagation(draft).make(node, output, inverse)
        for node, slot in self.takers:
            refusal = refusal or Propagation(draft).make_up_for(node, slot, s)
        if refusal is not None:
            draft.undo_to(start)
        return refusal


def regions(draft: Draft, index: Index) -> Iterator[tuple[Node, Region | Refusal]]:
    """Those of the main graph, by a linear node that makes one of their values."""
    seen: set[Place] = set()
    for node in index.scopes[0].nodes:
        linear = node.op in LINEAR and any(is_constant(draft, node, slot) for slot in (0, 1))
        if not linear or (node, 0) in seen:
            continue
        shape = draft.output_shape(node)
        axis = len(shape) - 1 if shape is not None and node.op == "MatMul" else 1
        count = shape[axis] if shape is not None and axis < len(shape) else None
        if not isinstance(count, int):
            yield node, refuse(Reason.UNKNOWN_RANK, node)
            continue
        growing = _Growing(draft, axis, count)
        refusal = growing.grow(node)
        seen.update(growing.values)
        yield node, refusal if refusal is not None else growing.done()


def probe(channels: int) -> FloatArray:
    """A number for each channel, from 1 to 1.5, to be sent through rules as scales."""
    return 1 + np.arange(channels) / (2 * channels)


def probed(scales: FloatArray, channels: int) -> npt.NDArray[np.int64]:
    """Which channels the numbers of a probe are that came out somewhere."""
    return np.rint((scales - 1) * 2 * channels).astype(np.int64)


def is_constant(draft: Draft, node: Node, slot: int) -> bool:
    """Whether a node reads a constant there."""
    return bool(node.input(slot)) and isinstance(draft.operand(node, slot), Operand)


class _Growing:
    def __init__(self, draft: Draft, axis: int, channels: int) -> None:
        self.draft, self.axis, self.channels = draft, axis, channels
        self.probe = Affine(axis, probe(channels), np.zeros(channels))
        self.values: dict[Place, None] = {}
        self.makers: dict[Place, None] = {}
        self.takers: dict[Place, None] = {}
        self._pending: list[Place] = []

    def done(self) -> Region:
        return Region(
            self.axis, self.channels, tuple(self.values), tuple(self.makers), tuple(self.takers)
        )

    def grow(self, start: Node) -> Refusal | None:
        self._pending.append((start, 0))
        while self._pending:
            node, output = self._pending.pop()
            if (node, output) in self.values:
                continue
            self.values[node, output] = None
            shape = self.draft.output_shape(node, output)
            if shape is None or len(shape) <= self.axis or shape[self.axis] != self.channels:
                return refuse(Reason.UNKNOWN_RANK, node)
            if len(self.values) > _LARGEST:
                return refuse(Reason.TOO_FAR, node, str(_LARGEST))
            refusal = self._made_by(node, output) or self._read(node, output)
            if refusal is not None:
                return refusal
        return None

    def _made_by(self, node: Node, output: int) -> Refusal | None:
        if self._is_sum(node):
            slots = range(len(node.proto.input))
        else:
            passed = self._passed(UP, node, output)
            if isinstance(passed, Refusal):
                return passed
            if passed is None:
                self.makers[node, output] = None
                return None
            slots = range(passed, passed + 1)
        for slot in slots:
            name = node.input(slot)
            maker = node.scope.producers.get(name)
            if maker is None:
                return refuse(Reason.NO_LINEAR_PRODUCER, node, f"the value {name}")
            self._pending.append((maker, list(maker.proto.output).index(name)))
        return None

    def _read(self, node: Node, output: int) -> Refusal | None:
        name = node.proto.output[output]
        for use in self.draft.uses(node.scope, name):
            reader = use.node
            if reader is not None and reader.op in ("Shape", "Size"):
                continue
            if reader is None or use.role is not Role.READ:
                return refuse(Reason.RESULT, node, name)
            if self._is_sum(reader):
                self._pending.append((reader, 0))
                continue
            passed = self._passed(DOWN, reader, use.slot)
            if isinstance(passed, Refusal):
                return passed
            if passed is None:
                self.takers[reader, use.slot] = None
            else:
                self._pending.append((reader, passed))
        return None

    def _is_sum(self, node: Node) -> bool:
        """Of values of one shape, none of them constant."""
        if node.op not in _SUMS:
            return False
        slots = range(len(node.proto.input))
        ranks = {len(self.draft.shape(node, slot) or ()) for slot in slots}
        return len(ranks) == 1 and not any(is_constant(self.draft, node, slot) for slot in slots)

    def _is_product(self, node: Node) -> bool:
        """Of values, where both factors would carry a scale; or of powers, whose roots round."""
        if node.op in ("Mul", "Div"):
            return not any(is_constant(self.draft, node, slot) for slot in (0, 1))
        return node.op in ("LpPool", "GlobalLpPool") and node.attribute("p", 2) > 2

    def _passed(self, rules: dict[str, Rule], node: Node, place: int) -> int | Refusal | None:
        """Where a map goes on unchanged; None where a node absorbs it, or makes another of it."""
        rule = rules.get(self.draft.op(node))
        if rule is None or node.scope.opset < 7 or self._is_product(node):
            return refuse(Reason.NOT_TRANSPARENT, node, self.draft.op(node))
        step = rule(self.draft, node, place, self.probe)
        if not isinstance(step, Step):
            return step
        same = [d.place for d in step.demands if self._is_probe(d.affine)]
        return same[0] if len(same) == len(step.demands) == 1 and not step.edits else None

    def _is_probe(self, a: Affine) -> bool:
        return a.axis == self.axis and np.array_equal(a.scale, self.probe.scale)
