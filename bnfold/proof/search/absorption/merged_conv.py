"""Whether one convolution stands for a sum of them (`branches`).

It must read x at the same places, and hold there the sum of what the branches hold: with x = e(x′),

    W′ = u_s·(Σ scaleⱼ·Kⱼ)·e_s          b′ = u_s·(shift + Σ scaleⱼ·Kⱼ·e_t) + u_t
"""

from __future__ import annotations

import itertools
from collections.abc import Collection
from typing import Any

import numpy as np

from bnfold.graph.index import Node
from bnfold.onnx_io.protos import Array
from bnfold.proof.numbers.correct_rounding import Numbers, Tally, compare
from bnfold.proof.numbers.reals import Real, Sum, plus, rational, times
from bnfold.proof.search.absorption.branch_sums import Branch, Form, Geometry, geometry_of
from bnfold.proof.search.absorption.candidates import Candidate, best, fitting
from bnfold.proof.search.absorption.linear_constants import Absorption
from bnfold.proof.search.numbers.maps import Map
from bnfold.proof.search.reading.linear_nodes import Linear, linear
from bnfold.proof.search.reading.model_view import View


def stands_for(
    form: Form, e: Map, view: View, node: Node, candidates: list[Candidate],
    present: Collection[str], loose: float,
) -> Absorption | None:  # fmt: skip
    """Whether a Conv of x′ is the sum; None where it cannot be, whatever it holds."""
    folded, whole = linear(view, node), geometry_of(view, node)
    if folded is None or whole is None or folded.quantized or e.axis not in (None, 1):
        return None
    if len(e) not in (1, folded.inputs) or (e.shifts and folded.pads):
        return None
    total = _Total(form, folded, whole, e.over(1, folded.inputs))
    if not all(total.lay(branch) for branch in form.branches):
        return None
    choices = fitting(candidates, 1, folded.channels)
    return best(choices, present, lambda candidate: total.held_against(candidate, loose))


class _Total:
    """The weight and the shift that one convolution needs."""

    def __init__(self, form: Form, folded: Linear, whole: Geometry, e: Map) -> None:
        self.form, self.folded, self.whole, self.e = form, folded, whole, e
        self.value = np.zeros(folded.weight.shape)
        self.magnitude = np.zeros(folded.weight.shape)
        self.steps = max(b.scale.steps for b in form.branches) + len(form.branches) + 1

    def lay(self, branch: Branch) -> bool:
        """Add a branch to what is needed; whether there is a place for all its taps."""
        shape, whole = self.folded.weight.shape, self.whole
        outputs, inputs = shape[0], self.folded.inputs
        own, weight = branch.geometry, branch.weight
        if len(branch.scale) not in (1, outputs):
            return False
        if own is None or weight is None:
            own, weight = self._dirac()
        elif weight.dtype != self.folded.weight.dtype:
            return False
        if own.strides != whole.strides or own.reach != whole.reach or len(weight) != outputs:
            return False
        if weight.shape[1] * own.group != inputs or own.group % whole.group:
            return False
        scale = branch.scale.spread(outputs)
        for tap in itertools.product(*map(range, own.size)):
            at = own.place(tap, whole)
            if at is None:
                return False
            picked: Any = (slice(None), slice(None), *tap)
            taps = weight[picked].astype(np.float64)
            rows, columns = self._columns(own.group, weight.shape[1])
            spot: Any = (rows, columns, *at)
            self.value[spot] += taps * scale.value[:, None]
            self.magnitude[spot] += np.abs(taps) * scale.magnitude[:, None]
        return True

    def _dirac(self) -> tuple[Geometry, Array]:
        """X itself as a convolution: one tap in the middle for each channel."""
        axes, channels = len(self.whole.size), self.folded.inputs
        one, none = (1,) * axes, (0,) * axes
        return Geometry(channels, one, one, one, none, none), np.ones((channels, 1, *one))

    def _channel(self, row: int, column: int) -> int:
        """The input channel of an entry of the whole weight."""
        outputs, width = self.folded.weight.shape[:2]
        return int(row // (outputs // self.whole.group) * width + column)

    def _columns(self, group: int, count: int) -> tuple[Any, Any]:
        """Where the weights [M, count] of so many groups stand in the whole weight."""
        outputs, width = self.folded.weight.shape[:2]
        rows = np.arange(outputs)
        first = rows // (outputs // group) * count  # the first input channel that it reads
        own = rows // (outputs // self.whole.group) * width  # and of its group in the whole
        return rows[:, None], (first - own)[:, None] + np.arange(count)

    def held_against(self, candidate: Candidate, loose: float) -> Absorption:
        """What is found of the weight and the bias, if that is the map behind them."""
        u, e, folded = candidate.map, self.e, self.folded
        ones = (1,) * (folded.weight.ndim - 2)
        width = folded.weight.shape[1]
        channels = [[self._channel(row, i) for i in range(width)] for row in range(len(self.value))]
        before, after = (
            u_side.reshape(-1, 1, *ones) * e_side[np.array(channels)].reshape(-1, width, *ones)
            for u_side, e_side in (
                (u.scale.value, e.scale.value), (u.scale.magnitude, e.scale.magnitude),
            )
        )  # fmt: skip
        result = Absorption(candidate, folded.length)

        def exact(index: tuple[int, ...]) -> Sum:
            inner = e.scale.exact(self._channel(*index[:2]))
            return times(times(u.scale.exact(index[0]), self._exact(index)), inner)

        steps = self.steps + u.scale.steps + e.scale.steps + 2
        numbers = Numbers(self.value * before, self.magnitude * after, steps, exact)
        compare(folded.weight, numbers, result.tallies.setdefault(folded.name, Tally()), loose)
        shift = self.form.shift.spread(folded.channels)
        if e.shifts:
            shift = shift + self._response()
        tally = result.tallies.setdefault(folded.bias_name or "bias", Tally())
        none = np.zeros(folded.channels, folded.weight.dtype)
        stored = none if folded.bias is None else folded.bias
        compare(stored, Numbers.of(u.scale * shift + u.shift), tally, loose)
        return result

    def _response(self) -> Real:
        """Σ scaleⱼ·Kⱼ·e_t for each output channel."""
        t, width = self.e.shift, self.folded.weight.shape[1]
        rows = range(len(self.value))
        channels = np.array([[self._channel(row, i) for i in range(width)] for row in rows])

        def exact(row: int) -> Sum:
            total: Sum = ()
            for index in itertools.product(*map(range, self.value.shape[1:])):
                entry = times(self._exact((row, *index)), t.exact(self._channel(row, index[0])))
                total = plus(total, entry)
            return total

        sums = (v.reshape(*v.shape[:2], -1).sum(axis=2) for v in (self.value, self.magnitude))
        value, magnitude = (
            (v * side[channels]).sum(axis=1)
            for v, side in zip(sums, (t.value, t.magnitude), strict=True)
        )
        steps = self.steps + t.steps + self.folded.length + 1
        return Real(value, magnitude, steps, exact)

    def _exact(self, index: tuple[int, ...]) -> Sum:
        """One entry of the sum of the branches."""
        row, column, *tap = index
        channel = self._channel(row, column)
        total: Sum = ()
        for branch in self.form.branches:
            own, weight = branch.geometry, branch.weight
            if own is None or weight is None:
                own, weight = self._dirac()
            first = row // (len(weight) // own.group) * weight.shape[1]
            if not first <= channel < first + weight.shape[1]:
                continue
            scale = branch.scale.exact(row if len(branch.scale) > 1 else 0)
            for place in itertools.product(*map(range, own.size)):
                if own.place(place, self.whole) == tuple(tap):
                    entry = rational(float(weight[(row, channel - first, *place)]))
                    total = plus(total, times(scale, entry))
        return total
