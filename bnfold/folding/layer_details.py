"""What a report draws of a model: the maps, the weights that take them, what is around a site.

Read from the original and the folded model; nothing here decides anything. Everything is in names
and plain numbers, so that it outlives both.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

import numpy as np

from bnfold.folding.rules.affine_nodes import affine_map
from bnfold.folding.weights.affine import FloatArray
from bnfold.folding.weights.constants import Constant
from bnfold.folding.weights.draft import Draft
from bnfold.graph.index import Index, Node, Role
from bnfold.options import Options
from bnfold.reasons import Refusal
from bnfold.verdict import Verdict

_WEIGHT_SLOTS = {
    "Conv": (1,), "ConvTranspose": (1,), "DeformConv": (1,), "Gemm": (1, 0), "MatMul": (1, 0),
    "com.microsoft::FusedConv": (1,), "com.microsoft::FusedGemm": (1,),
}  # fmt: skip
_REACH = 2  # nodes up and down from a site
_WIDEST = 4  # nodes beside each other


@dataclass(frozen=True)
class Spread:
    """The least, the quartiles and the largest of some finite numbers."""

    low: float
    first: float
    median: float
    third: float
    high: float

    @classmethod
    def of(cls, values: FloatArray) -> Spread | None:
        """None where there are no finite numbers."""
        finite = values[np.isfinite(values)]
        if not finite.size:
            return None
        quartiles = np.quantile(finite, [0, 0.25, 0.5, 0.75, 1], method="nearest")
        return cls(*map(float, quartiles))


@dataclass(frozen=True)
class WeightRange:
    """The least and the largest weight of a node that took maps; None where it had, or has, none.

    What folding does to this range is what quantising the weights afterwards will feel.
    """

    node: str
    before: tuple[float, float] | None
    after: tuple[float, float] | None


@dataclass(frozen=True)
class Neighbour:
    """A node near a site: `column` 0 is the site, negative ones stand before it.

    `op` is "input" or "output" for those of the graph, whose name is the label.
    """

    label: str
    op: str
    column: int


@dataclass(frozen=True)
class Neighbourhood:
    """The nodes around a site, which is the first of them, and the edges between them.

    Edges are pairs of places in `nodes`; `hidden` is how many more nodes read or feed these.
    """

    nodes: tuple[Neighbour, ...]
    edges: tuple[tuple[int, int], ...]
    hidden: int


@dataclass(frozen=True)
class Layer:
    """One site: γ′ and β′ over its channels, the weights that took them, and what is around it.

    `around` is there for sites that were kept.
    """

    scope: str
    output: str
    channels: int
    scale: Spread | None
    shift: Spread | None
    weights: tuple[WeightRange, ...]
    around: Neighbourhood | None


def layers(
    original: Index, folded: Index | None, verdicts: Iterable[Verdict], options: Options
) -> tuple[Layer, ...]:
    """The layers of the verdicts, as far as the original has them; `folded` None: not folded."""
    allowed = Options(freeze_initializers=options.freeze_initializers)
    before = _View(original, allowed)
    after = None if folded is None else _View(folded, allowed)
    return tuple(_layer(before, after, verdict) for verdict in verdicts)


class _View:
    """One model, with its nodes by name."""

    def __init__(self, index: Index, options: Options) -> None:
        self.draft = Draft(index, options)
        self.by_output = {
            (n.scope.label, name): n for n in index.nodes() for name in n.proto.output
        }
        self._by_label: dict[tuple[str, str], list[Node]] = {}
        for node in index.nodes():
            self._by_label.setdefault((node.scope.label, node.label), []).append(node)
        self._ranges: dict[Node, tuple[float, float] | None] = {}

    def weights(self, scope: str, label: str) -> tuple[float, float] | None:
        """The range of the weight of the one node of that name, if it has a constant one."""
        found = self._by_label.get((scope, label), [])
        if len(found) != 1:
            return None
        if found[0] not in self._ranges:  # several sites may fold into one node
            self._ranges[found[0]] = self._range(found[0])
        return self._ranges[found[0]]

    def _range(self, node: Node) -> tuple[float, float] | None:
        for slot in _WEIGHT_SLOTS.get(node.op, ()):
            constant = self.draft.constants.find(node, slot)
            if isinstance(constant, Constant):
                values = constant.array()  # as they are stored: weights are large
                finite = np.isfinite(values)
                low = float(np.min(values, where=finite, initial=np.inf))
                high = float(np.max(values, where=finite, initial=-np.inf))
                return (low, high) if low <= high else None
        return None


def _layer(before: _View, after: _View | None, verdict: Verdict) -> Layer:
    node = before.by_output.get((verdict.scope, verdict.output))
    found = None if node is None else affine_map(before.draft, node)
    affine = None if found is None or isinstance(found, Refusal) else found[1]
    weights = (
        WeightRange(
            into,
            before.weights(verdict.scope, into),
            None if after is None else after.weights(verdict.scope, into),
        )
        for into in verdict.into
    )
    return Layer(
        verdict.scope,
        verdict.output,
        0 if affine is None else affine.channels,
        None if affine is None else Spread.of(affine.scale),
        None if affine is None else Spread.of(affine.shift),
        tuple(weights),
        None if node is None or verdict.folded else _around(node),
    )


def _around(site: Node) -> Neighbourhood:
    """What feeds a site and what reads it, a few nodes far; and who else reads what feeds it."""
    drawing = _Drawing(site)
    above = drawing.spread([site], _feeding, range(-1, -_REACH - 1, -1))
    drawing.spread([site], _reading, range(1, _REACH + 1))
    drawing.spread(above, _reading, range(1))
    return Neighbourhood(tuple(drawing.nodes), tuple(drawing.edges), drawing.hidden)


class _Drawing:
    """A neighbourhood as it is found. Inputs and outputs of the graph stand there as names."""

    def __init__(self, site: Node) -> None:
        self.nodes = [Neighbour(site.label, site.op, 0)]
        self.edges: dict[tuple[int, int], None] = {}
        self.hidden = 0
        self._places: dict[Node | str, int] = {site: 0}

    def spread(
        self, front: list[Node | str], step: Callable[[Node], Iterator[Node | str]], columns: range
    ) -> list[Node | str]:
        """Go on from some nodes, a column at a time; gives what the first column got."""
        first: list[Node | str] | None = None
        for column in columns:
            reached: list[Node | str] = []
            for here in front:
                for other in step(here) if isinstance(here, Node) else ():
                    if other not in self._places and len(reached) == _WIDEST:
                        self.hidden += 1
                    else:
                        self._join(here, other, column, reached, up=step is _feeding)
            first = reached if first is None else first
            front = reached
        return first or []

    def _join(
        self, here: Node | str, other: Node | str, column: int, reached: list[Node | str], *,
        up: bool,
    ) -> None:  # fmt: skip
        if other not in self._places:
            self._places[other] = len(self.nodes)
            self.nodes.append(_neighbour(other, column))
            reached.append(other)
        pair = (self._places[other], self._places[here])
        self.edges[pair if up else pair[::-1]] = None


def _neighbour(other: Node | str, column: int) -> Neighbour:
    if isinstance(other, str):
        return Neighbour(other, "input" if column < 0 else "output", column)  # by where it stands
    return Neighbour(other.label, other.op, column)


def _feeding(node: Node) -> Iterator[Node | str]:
    """The nodes that make what `node` reads, and the inputs among it; constants are left out."""
    for name in dict.fromkeys(node.proto.input):
        owner = node.scope.owner(name) if name else None
        if owner is None or name in owner.initializers or name in owner.sparse:
            continue
        producer = owner.producers.get(name)
        if producer is None:
            yield name
        elif producer.op != "Constant":
            yield producer


def _reading(node: Node) -> Iterator[Node | str]:
    """The nodes that read what `node` makes, and the outputs among it."""
    for name in filter(None, node.proto.output):
        for use in node.scope.uses[name]:
            if use.node is not None:
                yield use.node
            elif use.role is not Role.ANNOTATION:
                yield name
