"""The maps that a proof speaks of, computed from the original's own numbers."""

from __future__ import annotations

import numpy as np

from bnfold import steps
from bnfold.proof.laws.absorbing import UnprovenError, WrongError
from bnfold.proof.laws.products import einsum
from bnfold.proof.laws.products.weights import alpha_of, response_of, weight_of
from bnfold.proof.laws.sites import TRAINS, site, trains
from bnfold.proof.numbers.functions import Functions
from bnfold.proof.numbers.maps import Map
from bnfold.proof.numbers.reals import Real
from bnfold.proof.reading.model import Model

_DEEPEST = 200  # expressions within each other
_WIDEST = 1 << 24  # channels of one map


class Expressions:
    """Evaluates the expressions of one proof, each once."""

    def __init__(self, original: Model) -> None:
        self.original = original
        self.functions = Functions()
        self.identity = Map.identity(self.functions)
        self._sites: dict[steps.Ref, tuple[int, Map] | None] = {}
        self._known: dict[int, Map] = {}

    def site(self, ref: steps.Ref) -> tuple[int, Map]:
        """The slot and the map of a node. Raises WrongError where it applies none."""
        found = self.site_or_none(ref)
        if found is None:
            node = self.original.node(ref.scope, ref.node)
            label = "a node that is not there" if node is None else node.label
            if node is not None and trains(node):
                raise WrongError(f"{label} {TRAINS}", certain=True)
            raise WrongError(f"{label} applies no map that is known")
        return found

    def site_or_none(self, ref: steps.Ref) -> tuple[int, Map] | None:
        """Likewise; None where it applies none."""
        if ref not in self._sites:
            node = self.original.node(ref.scope, ref.node)
            found = None if node is None else site(self.original, self.functions, node)
            self._sites[ref] = found
        return self._sites[ref]

    def map(self, a: steps.Map, depth: int = 0) -> Map:
        """The map that an expression stands for. Raises WrongError where it is none."""
        if isinstance(a, steps.Identity):
            return self.identity
        if id(a) not in self._known:
            if depth > _DEEPEST:
                raise WrongError("a map that is made of itself too often")
            try:
                self._known[id(a)] = self._map(a, depth + 1).simplest()
            except (ValueError, IndexError) as error:
                raise UnprovenError(f"a map that there is not: {error}") from error
        return self._known[id(a)]

    def _map(self, a: steps.Map, depth: int) -> Map:
        functions = self.functions
        if isinstance(a, steps.NodeMap):
            return self.site(a.node)[1]
        if isinstance(a, steps.Then):
            return self._one_behind_the_other([self.map(part, depth) for part in a.maps])
        if isinstance(a, steps.Response):
            return self._response(a, depth)
        if isinstance(a, steps.Factors):
            return self._factors(a)
        assert not isinstance(a, steps.Identity)
        of = self.map(a.of, depth)
        if isinstance(a, steps.Scale):
            return of.scale_part()
        if isinstance(a, steps.Shift):
            return of.shift_part()
        if isinstance(a, steps.First):
            return of.with_ids(functions.first(of.ids))
        if isinstance(a, steps.Negated):
            return of.with_ids(functions.negated(of.ids))
        if isinstance(a, steps.Inverse):
            return of.with_ids(functions.inverse(of.ids))
        if isinstance(a, steps.Along | steps.Take) and a.axis is not None and a.axis < 0:
            raise WrongError("a map along an axis that is not there")
        if isinstance(a, steps.Along):
            return of if of.axis is None else Map(functions, a.axis, of.ids)
        assert isinstance(a, steps.Take)
        places = a.indices.places
        if not len(places) or len(places) > _WIDEST or np.any(places < -1):
            raise WrongError("channels that there are not")
        picked = of.ids[np.zeros_like(places) if len(of) == 1 else np.maximum(places, 0)]
        ids = np.where(places < 0, 0, picked)
        return Map(functions, a.axis, ids)

    def _factors(self, a: steps.Factors) -> Map:
        values = np.array(a.values, np.float64)
        if not len(values) or a.axis < 0 or not np.all(np.isfinite(values) & (values != 0)):
            raise WrongError("factors that are no map that can be undone")
        return Map(self.functions, a.axis, self.functions.scales(Real.of(values)))

    def _one_behind_the_other(self, maps: list[Map]) -> Map:
        """In any order that works: those along one axis may leave nothing that varies along it."""
        left = [self.identity]
        for part in maps:
            joined = left[-1].then(part)
            left[-1:] = [left[-1], part] if joined is None else [joined]
        while len(left) > 1:
            joined = left[-2].then(left[-1])
            if joined is None:
                raise UnprovenError("maps along two axes")
            left[-2:] = [joined]
        return left[0]

    def _response(self, a: steps.Response, depth: int) -> Map:
        node = self.original.node(a.node.scope, a.node.node)
        if node is None:
            raise WrongError("a node that is not there")
        if node.op == "Einsum":
            return einsum.response(self.original, node, self.map(a.of, depth), a.axis)
        rank = len(self.original.shapes.of(node.scope, node.input(1 - a.slot)) or ())
        weight = weight_of(self.original, node, rank if node.op == "MatMul" else None)
        shift = self.map(a.of, depth).over(weight.data_axis, weight.inputs)
        if shift is None or weight.slot != a.slot:
            raise UnprovenError("a map along another axis than the channels'")
        made = response_of(weight, shift.shift, alpha_of(node))
        return Map(self.functions, weight.out_axis, self.functions.shifts(made))
