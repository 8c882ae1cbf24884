"""Which node of another tool's result may stand for which node of the original.

By what they read, first of all: a node's inputs, led through the maps that are gone, are those of
its counterpart. Names only tell between several that read the same. The kernel judges what follows
from it; a wrong guess makes nothing equal that is not.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, field

from bnfold.graph.index import Node, Scope
from bnfold.onnx_io.protos import bodies
from bnfold.proof.kernel.flattened import REGROUPING, flattened
from bnfold.proof.kernel.meaning import attributes
from bnfold.proof.kernel.order import in_order
from bnfold.proof.laws.passing import handed_on, is_idle
from bnfold.proof.laws.sites import ARITHMETIC, SITES, constant_slot
from bnfold.proof.reading.model import Model

Place = tuple[Scope, str]

_FURTHEST = 8  # maps in a row
_TRIED = 8  # nodes that read the same
_ALSO = {  # what may stand in the place of an operator, once maps are gone from around it
    "MatMul": ("Gemm",), "Relu": ("Max",), "BatchNormalization": ("Add",),
}  # fmt: skip


@dataclass
class Alignment:
    """Pairs of nodes, found scope by scope."""

    original: Model
    folded: Model
    partner: dict[Node, Node] = field(default_factory=dict)
    values: dict[Place, Place] = field(default_factory=dict)  # which value is which
    readers: dict[tuple[str, Place], list[Node]] = field(default_factory=dict)
    _first: Counter[tuple[str, Place]] = field(default_factory=Counter)  # that is not taken

    def run(self) -> dict[Node, Node]:
        """The counterparts that were found."""
        found = defaultdict(list)
        for node in self.folded.index.nodes():
            rows = flattened(node)
            read = self._read(self.folded, node)
            for place in dict.fromkeys(
                [*read, *(self._read(self.folded, rows.before) if rows else ())]
            ):
                if place is not None:
                    found[node.op, self._value(place)].append(node)
        self.readers = dict(found)
        outermost = (
            [s for s in model.index.scopes if s.parent is None]
            for model in (self.original, self.folded)
        )
        for old, new in zip(*outermost, strict=False):
            self._scope(old, new)
        products = [other for node, other in self.partner.items() if node.op == "MatMul"]
        found_rows = [flattened(product) for product in products]
        around = {n for row in found_rows if row is not None for n in (row.before, row.after)}
        return {n: other for n, other in self.partner.items() if other not in around}

    def _read(self, model: Model, node: Node) -> list[Place | None]:
        """What a node reads that is computed; None for constants and what is absent."""
        found: list[Place | None] = []
        for name in node.proto.input:
            owner = node.scope.owner(name) if name else None
            constant = owner is None or model.is_constant(owner, name)
            found.append(None if owner is None or constant else (owner, name))
        return found

    def _value(self, place: Place) -> Place:
        return handed_on(self.folded, *place)

    # --- one scope -------------------------------------------------------------------------------

    def _scope(self, old: Scope, new: Scope) -> None:
        names = zip(self.original.inputs(old), self.folded.inputs(new), strict=False)
        for name, theirs in names:
            self.values[old, name] = (new, theirs)
        named = {node.proto.name: node for node in new.nodes if node.proto.name}
        known = {node.proto.name for node in old.nodes}
        taken: set[Node] = set()
        for node in in_order(old):
            if self.original.is_constant(node.scope, node.output):
                same = new.producers.get(node.output)  # where it still is, so that it is not new
                if same is not None and same.op == node.op and same not in taken:
                    taken.add(same)
                    self.partner[node] = same
                continue
            other = self._counterpart(node, new, named, known, taken)
            if other is not None:
                taken.add(other)
                self._pair(node, other)
            elif (through := self._data(node)) is not None:
                value = self.values.get(through)
                if value is not None:
                    self.values[old, node.output] = value

    def _pair(self, node: Node, other: Node) -> None:
        self.partner[node] = other
        for own, name in zip(node.proto.output, other.proto.output, strict=False):
            self.values[node.scope, own] = (other.scope, name)
        if node.op == "MatMul" and (row := flattened(other)) is not None:
            self.values[node.scope, node.output] = (other.scope, row.after.output)
        ours, theirs = dict(bodies(node.proto)), dict(bodies(other.proto))
        for name in ours.keys() & theirs.keys():
            self._scope(self.original.scope_of(ours[name]), self.folded.scope_of(theirs[name]))

    def _data(self, node: Node) -> Place | None:
        """What a node hands on that may be gone: a map of one value, or nothing at all."""
        slot: int | None = None
        if node.op in ("BatchNormalization", *REGROUPING) or is_idle(self.original, node):
            slot = 0
        elif node.op in ARITHMETIC and (constant := constant_slot(self.original, node)) is not None:
            slot = 1 - constant
        read = self._read(self.original, node)
        return None if slot is None or slot >= len(read) else read[slot]

    # --- one node --------------------------------------------------------------------------------

    def _counterpart(
        self, node: Node, new: Scope, named: dict[str, Node], known: set[str], taken: set[Node]
    ) -> Node | None:  # fmt: skip
        here = self._read(self.original, node)
        read = [None if place is None else self.values.get(place, place) for place in here]
        computed = next((self._value(p) for p in read if p is not None), None)
        likely = self._likely(node, new, named)
        again: list[Node] = []  # what was computed twice
        for op in (node.op, *_ALSO.get(node.op, ())):
            fits = [
                other for other in likely
                if other.op == op and (computed is None or self._reads(other, read, op == node.op))
            ]  # fmt: skip
            if computed is not None and op in (node.op, "Gemm"):
                fits += [
                    other for other in self._readers((op, computed), taken)
                    if other.scope is new and self._reads(other, read, op == node.op)
                ]  # fmt: skip
            free = [o for o in fits if o not in taken and not self._belongs(o, node, known)]
            if free:
                return self._closest(node, free)
            again += [other for other in fits if other in taken]
        return self._closest(node, again) if again and self._data(node) is None else None

    def _readers(self, key: tuple[str, Place], taken: set[Node]) -> list[Node]:
        """The next ones of an operator that read a value, and the last ones that are taken."""
        queue, first = self.readers.get(key, []), self._first[key]
        while first < len(queue) and queue[first] in taken:
            first += 1
        self._first[key] = first
        return queue[max(0, first - _TRIED) : first + _TRIED]

    def _likely(self, node: Node, new: Scope, named: dict[str, Node]) -> list[Node]:
        """Those that have its name, or make what it makes, or what maps make behind it."""
        makers = (new.producers.get(name) for name in (node.output, *_behind(node)))
        found = [named.get(node.proto.name), *makers]
        return list(dict.fromkeys(other for other in found if other is not None))

    def _reads(self, other: Node, read: list[Place | None], same: bool) -> bool:
        """Whether a node reads what it should; sizes may have become constants."""
        theirs = self._read(self.folded, other)
        if not same:  # the operator has changed, and its operands with it
            return True
        for slot, place in enumerate(read):
            own = theirs[slot] if slot < len(theirs) else None
            if place is not None and own is not None and self._value(own) != self._value(place):
                return False
            if place is not None and own is None and slot == 0:
                return False
            if place is None and own is not None:
                return False
        return all(own is None for own in theirs[len(read) :])

    def _belongs(self, other: Node, node: Node, known: set[str]) -> bool:
        """Whether its name or its output's says that it stands for another node than `node`."""
        if other.proto.name:
            if other.proto.name == node.proto.name:
                return False
            if other.proto.name in known:
                return True
        maker = node.scope.producers.get(other.output)
        return maker is not None and maker is not node and maker.op == other.op

    def _closest(self, node: Node, free: list[Node]) -> Node:
        if len(free) == 1:
            return free[0]
        behind = set(_behind(node))

        def likeness(other: Node) -> tuple[bool, ...]:
            return (
                bool(node.proto.name) and node.proto.name == other.proto.name,
                node.output == other.output,
                other.output in behind,
                _shapes(self.folded, other) == _shapes(self.original, node),
                attributes(self.original, node) == attributes(self.folded, other),
                list(node.proto.input) == list(other.proto.input),
            )

        return max(free, key=likeness)  # the first of the best: nodes keep their order


def _shapes(model: Model, node: Node) -> list[tuple[int, ...]]:
    """The shapes of a node's weights; a bias may come or go."""
    tensors = (model.tensor(node.scope, name) for name in node.proto.input[1:2])
    return [tuple(tensor.dims) for tensor in tensors if tensor is not None]


def _behind(node: Node) -> Iterator[str]:
    """The values that stand behind a node with nothing but maps in between: names it may have."""
    pending = [node.output]
    for _ in range(_FURTHEST):
        if not pending:
            return
        name = pending.pop()
        for use in node.scope.uses.get(name, []):
            if use.node is not None and use.node.op in (*SITES, "Identity"):
                yield use.node.output
                pending.append(use.node.output)
