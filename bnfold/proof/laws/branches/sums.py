"""Sums of convolutions of one value, and the one convolution that stands for them.

y = Σ scaleⱼ·(Kⱼ∗x) + shift, where a branch without a convolution is x itself, and one of several
behind each other is put together (composition). One convolution that
reads x at the same places stands for the sum, with x = e(x′) and its output u(y), exactly if it has

    W′ = u_s·(Σ scaleⱼ·Kⱼ)·e_s          b′ = u_s·(shift + Σ scaleⱼ·Kⱼ·e_t) + u_t
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np

from bnfold.graph.index import Node, Role
from bnfold.proof.laws.absorbing import Pair, Taken, UnprovenError, WrongError
from bnfold.proof.laws.branches.composition import Taps, composed, dirac, pool, response
from bnfold.proof.laws.branches.geometry import Geometry, geometry_of
from bnfold.proof.laws.passing import is_idle
from bnfold.proof.laws.products.weights import Lost, weight_of
from bnfold.proof.laws.sites import site
from bnfold.proof.numbers.correct_rounding import Numbers
from bnfold.proof.numbers.functions import Functions
from bnfold.proof.numbers.maps import Map
from bnfold.proof.numbers.reals import Real, Sum, plus, times
from bnfold.proof.numbers.rounding import check
from bnfold.proof.reading.model import Model
from bnfold.proof.values.operands import Array

GEOMETRY = ("auto_pad", "dilations", "group", "kernel_shape", "pads", "strides")  # which may change
_JOINS = ("Add", "Sub", "Sum")
_MOST = 1000  # nodes of one sum
_MOST_WITHIN = 64  # branches of a sum that a convolution reads


@dataclass(frozen=True)
class _Branch:
    """scale·(taps∗x); without taps, scale·x."""

    scale: Real
    taps: Taps | None
    geometry: Geometry | None


@dataclass(frozen=True)
class _Form:
    """Σ of branches by their convolutions, and a shift for each channel, or one for all.

    A convolution of what another one makes goes by both.
    """

    by_node: dict[object, _Branch]
    shift: Real

    @property
    def branches(self) -> list[_Branch]:
        return list(self.by_node.values())

    def scaled(self, scale: Real, shift: Real) -> _Form:
        branches = {
            node: replace(branch, scale=scale * branch.scale)
            for node, branch in self.by_node.items()
        }
        return _Form(branches, scale * self.shift + shift)

    def plus(self, other: _Form) -> _Form:
        branches = dict(self.by_node)
        for node, branch in other.by_node.items():
            own = branches.get(node)
            scale = branch.scale if own is None else own.scale + branch.scale
            branches[node] = replace(branch, scale=scale)
        return _Form(branches, self.shift + other.shift)


class BranchSum:
    """What the root of a sum makes of a source. Raises UnprovenError where it is no such sum."""

    def __init__(
        self, model: Model, functions: Functions, root: Node, source: tuple[Any, str],
        gone: set[Node],
    ) -> None:  # fmt: skip
        """`gone` are the nodes that the folded model does not have."""
        self.model, self.functions = model, functions
        self.root, self.source = root, source
        self.nodes: dict[Node, None] = {}
        self._known: dict[str, _Form] = {}
        self.form = self._of(root.output, 0)
        self._require_inside(gone)

    def _require_inside(self, gone: set[Node]) -> None:
        """Nothing else reads what is inside, and all of it but one convolution is gone."""
        for node in self.nodes:
            for name in node.proto.output if node is not self.root else ():
                for use in self.root.scope.uses[name] if name else ():
                    inside = use.role is Role.READ and use.node in self.nodes
                    if not inside and use.node not in gone:
                        raise WrongError(f"{name!r} is read outside the sum")

    def _of(self, name: str, depth: int) -> _Form:
        if name not in self._known:
            if depth > _MOST or len(self.nodes) > _MOST:
                raise UnprovenError("a sum of too many branches")
            self._known[name] = self._found(name, depth + 1)
        return self._known[name]

    def _found(self, name: str, depth: int) -> _Form:
        one, zero = Real.full(1.0), Real.full(0.0)
        scope = self.root.scope
        if (scope.owner(name), name) == self.source:
            return _Form({None: _Branch(one, None, None)}, zero)
        node = scope.producers.get(name)
        if node is None or node.output != name:
            raise UnprovenError("a sum of values that are not of one source")
        self.nodes[node] = None
        if node.op in ("Conv", "AveragePool"):
            if node.op == "Conv" and (scope.owner(node.input(0)), node.input(0)) == self.source:
                return self._convolution(node)
            return self._composed(node, self._of(node.input(0), depth))
        at = site(self.model, self.functions, node)
        if at is not None:
            slot, a = at
            if a.axis not in (None, 1):
                raise UnprovenError("a map along another axis than the channels'")
            return _fit(self._of(node.input(slot), depth), a).scaled(a.scale, a.shift)
        if node.op in ("Identity", "Dropout") and is_idle(self.model, node):
            return self._of(node.input(0), depth)
        if node.op not in _JOINS or (node.op != "Sum" and node.scope.opset < 7):
            raise UnprovenError(f"a {node.op} in a sum of branches")
        total = _Form({}, zero)
        for slot, read in enumerate(node.proto.input):
            part = self._of(read, depth)
            if node.op == "Sub" and slot == 1:
                part = part.scaled(Real.full(-1.0), zero)
            lengths = {len(v) for f in (total, part) for v in _vectors(f)} - {1}
            if len(lengths) > 1:
                raise UnprovenError("branches of different channels")
            total = total.plus(part)
        return total

    def _convolution(self, node: Node) -> _Form:
        geometry, weight = geometry_of(self.model, node)
        branch = _Branch(Real.full(1.0), Taps.of(weight), geometry)
        return _Form({node: branch}, self._bias(node, weight))

    def _bias(self, node: Node, weight: Array) -> Real:
        bias = self.model.value_at(node, 2) if node.input(2) else np.zeros(1, weight.dtype)
        quantized = self.model.is_quantized(node.scope, node.input(1))
        if bias is None or bias.shape not in ((1,), weight.shape[:1]) or quantized:
            raise UnprovenError("a bias that is no constant")
        return Real.of(bias)

    def _composed(self, node: Node, inner: _Form) -> _Form:
        """A convolution or pool of a sum is the sum of those of its branches."""
        if len(inner.by_node) > _MOST_WITHIN:
            raise UnprovenError("a sum of too many branches")
        shape = self.model.shapes.of(node.scope, node.input(0))
        if shape is None or len(shape) < 3 or not isinstance(shape[1], int):
            raise UnprovenError("values of unknown shape")
        channels, axes = shape[1], len(shape) - 2
        if node.op == "Conv":
            geometry, weight = geometry_of(self.model, node)
            outer, scale = (geometry, Taps.of(weight)), Real.full(1.0)
            bias = self._bias(node, weight)
        else:
            outer, bias = pool(node, channels, axes), Real.full(0.0)
            scale = Real.full(float(np.prod(outer[0].size))).inverse()
        if any((*outer[0].begins, *outer[0].ends)) and np.any(inner.shift.magnitude):
            raise UnprovenError("a bias where zeros are read from the padding")
        branches: dict[object, _Branch] = {}
        for key, branch in inner.by_node.items():
            own = dirac(channels, axes)
            if branch.taps is not None and branch.geometry is not None:
                own = branch.geometry, branch.taps
            whole, taps = composed(own, branch.scale, outer)
            branches[node, key] = _Branch(scale, taps, whole)
        # what its parts were before they cancelled excuses nothing here
        made = response(outer[1], outer[0].group, replace(inner.shift, before=None))
        return _Form(branches, scale * made + bias)


def _vectors(form: _Form) -> list[Real]:
    return [form.shift, *(branch.scale for branch in form.branches)]


def _fit(form: _Form, a: Map) -> _Form:
    if len({len(a), *(len(vector) for vector in _vectors(form))} - {1}) > 1:
        raise UnprovenError("branches of different channels")
    return form


def stands_for(total: BranchSum, pair: Pair, e: Map, u: Map) -> Taken:
    """Check the one convolution against the sum."""
    whole, stored = geometry_of(pair.folded, pair.other)
    inputs = stored.shape[1] * whole.group
    inner, outer = e.over(1, inputs), u.over(1, len(stored))
    if inner is None or outer is None:
        raise UnprovenError("a map along another axis than the channels'")
    if inner.shifts and (any(whole.begins) or any(whole.ends)):
        raise WrongError("a shift where zeros are read from the padding")
    merged = _Merged(total.form, stored, whole, inner, outer)
    for branch in total.form.branches:
        merged.lay(branch)
    return merged.checked(pair)


class _Merged:
    """The weight and the bias that one convolution needs."""

    def __init__(self, form: _Form, stored: Array, whole: Geometry, e: Map, u: Map) -> None:
        self.form, self.stored, self.whole = form, stored, whole
        self.e, self.u = (e.scale, e.shift), (u.scale, u.shift)
        self.shifts = e.shifts
        self.inputs = stored.shape[1] * whole.group
        self.value = np.zeros(stored.shape)
        self.magnitude = np.zeros(stored.shape)
        steps = [b.scale.steps + (b.taps.steps if b.taps else 0) for b in form.branches]
        self.steps = max(steps) + len(form.branches) + 1

    def lay(self, branch: _Branch) -> None:
        """Add a branch to what is needed."""
        shape, whole = self.stored.shape, self.whole
        own, weight = self._of_branch(branch)
        if weight.kind is not None and weight.kind != self.stored.dtype:
            raise WrongError("its weight is of another type")
        fits = own.strides == whole.strides and own.reach == whole.reach
        if not fits or len(weight.value) != shape[0] or weight.shape[1] * own.group != self.inputs:
            raise WrongError("it does not read what its branches read")
        if len(branch.scale) not in (1, shape[0]) or own.group % whole.group:
            raise WrongError("its groups are not those of its branches")
        scale = branch.scale.spread(shape[0])
        rows, columns = self._columns(own.group, weight.shape[1])
        for tap in itertools.product(*map(range, own.size)):
            at = own.place(tap, whole)
            if at is None:
                raise WrongError("it does not read what its branches read")
            picked: Any = (slice(None), slice(None), *tap)
            spot: Any = (rows, columns, *at)
            self.value[spot] += weight.value[picked] * scale.value[:, None]
            self.magnitude[spot] += weight.magnitude[picked] * scale.magnitude[:, None]

    def _of_branch(self, branch: _Branch) -> tuple[Geometry, Taps]:
        if branch.geometry is None or branch.taps is None:
            return self._dirac
        return branch.geometry, branch.taps

    @cached_property
    def _dirac(self) -> tuple[Geometry, Taps]:
        return dirac(self.inputs, len(self.whole.size))

    def _columns(self, group: int, count: int) -> tuple[Any, Any]:
        """Where the weights [M, count] of so many groups stand in the whole weight."""
        outputs, width = self.stored.shape[:2]
        rows = np.arange(outputs)
        first = rows // (outputs // group) * count  # the first input channel that it reads
        own = rows // (outputs // self.whole.group) * width  # and of its group in the whole
        return rows[:, None], (first - own)[:, None] + np.arange(count)

    @cached_property
    def _channels(self) -> Any:
        """The input channel of each entry [M, C/group] of the whole weight."""
        outputs, width = self.stored.shape[:2]
        return (np.arange(outputs) // (outputs // self.whole.group) * width)[:, None] + np.arange(
            width
        )

    def checked(self, pair: Pair) -> Taken:
        """Hold the stored weight and bias against what is needed."""
        ones = (1,) * (self.stored.ndim - 2)
        (e, _), (u, u_shift) = self.e, self.u
        width = self.stored.shape[1]

        def sides(one: Array, two: Array) -> Array:
            inner = one[self._channels].reshape(-1, width, *ones)
            return np.asarray(two.reshape(-1, 1, *ones) * inner)

        def exact(index: tuple[int, ...]) -> Sum:
            inner = e.exact(int(self._channels[index[:2]]))
            return times(times(u.exact(index[0]), self._exact(index)), inner)

        taken = Taken(int(np.prod(self.stored.shape[1:])))
        numbers = Numbers(
            self.value * sides(e.value, u.value),
            self.magnitude * sides(e.magnitude, u.magnitude),
            self.steps + u.steps + e.steps + 2, exact,
        )  # fmt: skip
        errors = np.zeros(self.stored.shape)
        tally = taken.tally(pair.other.input(1), 1)
        check(self.stored, numbers, tally, loose=pair.loose, errors=errors)
        shift = self.form.shift.spread(len(self.stored))
        if self.shifts:
            taps = Taps(self.value, self.magnitude, self.steps, self._exact, self.stored.dtype)
            shift = shift + response(taps, self.whole.group, self.e[1])
        bias = pair.folded.value_at(pair.other, 2) if pair.other.input(2) else None
        stored = np.zeros(len(self.stored), self.stored.dtype) if bias is None else bias
        if stored.shape != (len(self.stored),) or stored.dtype != self.stored.dtype:
            raise WrongError("its bias is of another shape or type")
        tally = taken.tally(pair.other.input(2) or "bias", 2)
        check(stored, Numbers.of(u * shift + u_shift), tally, loose=pair.loose, added=True)
        if np.any(errors):
            self._lost(pair, errors, np.abs(numbers.value)).judge(
                weight_of(pair.folded, pair.other, None), np.abs(stored.astype(np.float64)), 1.0,
                taken.tallies[pair.other.input(1)],
            )  # fmt: skip
        return taken

    def _lost(self, pair: Pair, errors: Array, exact: Array) -> Lost:
        lost = Lost.none(weight_of(pair.folded, pair.other, None))
        for index in map(tuple, np.argwhere(errors).tolist()):
            channels = (index[0], int(self._channels[index[:2]]))
            lost.add(channels, float(errors[index]), float(exact[index]))
        return lost

    def _exact(self, index: tuple[int, ...]) -> Sum:
        """One entry of the sum of the branches."""
        row, column, *tap = index
        channel = int(self._channels[row, column])
        total: Sum = ()
        for branch in self.form.branches:
            own, weight = self._of_branch(branch)
            first = row // (len(weight.value) // own.group) * weight.shape[1]
            if not first <= channel < first + weight.shape[1]:
                continue
            scale = branch.scale.exact(row if len(branch.scale) > 1 else 0)
            for place in itertools.product(*map(range, own.size)):
                if own.place(place, self.whole) == tuple(tap):
                    entry = weight.exact((row, channel - first, *place))
                    total = plus(total, times(scale, entry))
        return total
