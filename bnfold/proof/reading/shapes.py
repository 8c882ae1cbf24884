"""The shapes of a model's values, by the specification; what it does not tell is unknown.

The kernel's own: onnx.shape_inference is not asked, and what a file declares of its own values is
not believed, but for the sizes of the main graph's inputs, which a runtime holds callers to. A
dimension is a number, or a symbol ("?7") for a size that nobody knows, so that values that have a
size in common can be seen to have it. Symbols of the file are no such: no runtime holds two
dimensions of one name to one size. Integers that shapes are computed with are
followed as far as they are made of dimensions.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from onnx import GraphProto

from bnfold.graph.index import Node, Scope
from bnfold.proof.reading.dimensions import LONGEST, Dim, Shape, UnknownShapeError
from bnfold.proof.reading.shape_numbers import computed
from bnfold.proof.reading.shape_table import RULES
from bnfold.proof.values.operands import axis_of

if TYPE_CHECKING:
    from bnfold.proof.reading.model import Model


class Shapes:
    """What is known of the values of one model, found in the order of its nodes."""

    def __init__(self, model: Model) -> None:
        self.model = model
        self._shapes: dict[tuple[Scope, str], Shape | None] = {}
        self._numbers: dict[tuple[Scope, str], tuple[Dim, ...] | None] = {}
        self._symbols = itertools.count()
        main = model.index.scopes[0]
        assert isinstance(main.container, GraphProto)
        for value in main.container.input:
            kind = value.type.tensor_type
            dims = kind.shape.dim
            if value.name not in main.initializers and len(dims):  # scalars are not held to be one
                self._shapes[main, value.name] = tuple(
                    d.dim_value if d.HasField("dim_value") and d.dim_value >= 0 else self.new()
                    for d in dims
                )

    def new(self) -> str:
        """A dimension of which nothing is known."""
        return f"?{next(self._symbols)}"

    # --- asked -----------------------------------------------------------------------------------

    def of(self, scope: Scope, name: str) -> Shape | None:
        """The dimensions of a value read in a scope; None where not even their number is known."""
        owner = scope.owner(name) if name else None
        if owner is None:
            return None
        key = (owner, name)
        if key not in self._shapes:
            tensor = self.model.tensor(owner, name)
            if tensor is not None:
                self._shapes[key] = tuple(tensor.dims)
            elif (node := owner.producers.get(name)) is not None:
                self._infer(node)
            elif (whole := self.model.scanned(owner, name)) is not None:
                self._shapes[key] = _slice(self.of(whole[0], whole[1]), whole[2])
            self._shapes.setdefault(key, None)
        return self._shapes[key]

    def input(self, node: Node, slot: int) -> Shape:
        """The shape of an input of a node. Raises UnknownShapeError where it is not known."""
        found = self.of(node.scope, node.input(slot))
        if found is None:
            raise UnknownShapeError
        return found

    def output(self, node: Node, place: int = 0) -> Shape | None:
        """The shape of an output of a node."""
        outputs = node.proto.output
        return self.of(node.scope, outputs[place]) if place < len(outputs) else None

    def numbers(self, node: Node, slot: int) -> tuple[Dim, ...] | None:
        """The integers at an input, some of them dimensions; None where that is all unknown."""
        name = node.input(slot)
        owner = node.scope.owner(name) if name else None
        if owner is None:
            return None
        key = (owner, name)
        if key not in self._numbers:
            self._numbers[key] = None
            value = self.model.value(owner, name)
            if value is not None and value.dtype.kind in "iu" and value.size <= LONGEST:
                self._numbers[key] = tuple(int(v) for v in value.reshape(-1))
            elif value is None and (maker := owner.producers.get(name)) is not None:
                self._numbers[key] = computed(self, maker)
        return self._numbers[key]

    def ints(self, node: Node, slot: int) -> list[int] | None:
        """Likewise, where all of them are known."""
        found = self.numbers(node, slot)
        if found is None or not all(isinstance(v, int) for v in found):
            return None
        return [int(v) for v in found]

    def axes(self, node: Node, slot: int, since: int, rank: int) -> list[int] | None:
        """The axes that a node names, in an attribute or, `since` that opset, in an input.

        None where it names none. Raises UnknownShapeError where they are not known.
        """
        if node.scope.opset < since or slot < 0:
            named = node.numbers("axes")
        elif not node.input(slot):
            named = None
        elif (named := self.ints(node, slot)) is None:
            raise UnknownShapeError
        try:
            axes = None if named is None else [axis_of(axis, rank) for axis in named]
        except ValueError as error:
            raise UnknownShapeError from error
        if axes is not None and len({*axes}) < len(axes):  # runtimes make of it what they will
            raise UnknownShapeError
        return axes

    # --- found -----------------------------------------------------------------------------------

    def _infer(self, node: Node) -> None:
        """All nodes that this one needs first, without recursion: graphs are deep."""
        stack = [node]
        opened: set[Node] = set()
        while stack:
            top = stack[-1]
            key = (top.scope, top.output)
            if key in self._shapes:
                stack.pop()
                continue
            waiting = []
            for scope, name in self._needed(top) if top not in opened else ():
                owner = scope.owner(name) if name else None
                maker = owner.producers.get(name) if owner is not None else None
                if maker is not None and (maker.scope, maker.output) not in self._shapes:
                    waiting.append(maker)
            opened.add(top)
            if waiting:
                stack.extend(waiting)
                continue
            stack.pop()
            tensor = self.model.tensor(top.scope, top.output)
            if tensor is not None:  # of a Constant
                self._shapes[key] = tuple(tensor.dims)
                continue
            rule = RULES.get(top.op)
            found: Sequence[Shape | None] = ()
            if rule is not None and not top.call_attribute():
                try:
                    found = rule(self, top)
                except (UnknownShapeError, ValueError, IndexError, TypeError, ZeroDivisionError):
                    found = ()
            for place, name in enumerate(top.proto.output):
                if name or place == 0:
                    shape = found[place] if place < len(found) else None
                    self._shapes.setdefault((top.scope, name), shape)

    def _needed(self, node: Node) -> Iterator[tuple[Scope, str]]:
        """The values whose shapes say that of what the node makes."""
        yield from ((node.scope, name) for name in node.proto.input)
        for body in self.model.index.bodies_of(node) if node.op == "If" else ():
            yield from ((body, name) for name in body.outputs)

    def of_branches(self, node: Node) -> list[Shape | None]:
        """What both branches of an If make, as far as they are alike."""
        bodies = self.model.index.bodies_of(node)
        ends = [[self.of(body, name) for name in body.outputs] for body in bodies]
        return [self._alike(list(shapes)) for shapes in zip(*ends, strict=True)]

    def _alike(self, shapes: list[Shape | None]) -> Shape | None:
        known = [shape for shape in shapes if shape is not None]
        if len(known) < len(shapes) or len({len(shape) for shape in known}) != 1:
            return None
        dims = (set(several) for several in zip(*known, strict=True))
        return tuple(next(iter(d)) if len(d) == 1 else self.new() for d in dims)


def _slice(whole: Shape | None, axis: int) -> Shape | None:
    """The shape of one slice along an axis."""
    if whole is None or not -len(whole) <= axis < len(whole):
        return None
    axis %= len(whole)
    return whole[:axis] + whole[axis + 1 :]
