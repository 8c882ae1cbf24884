"""Which node of the folded model stands for which node of the original.

By what they read, first of all: a node's inputs, led through the maps that are gone, are those of
its counterpart. Names only tell between several that read the same.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence

import onnx
from onnx import AttributeProto, helper

from bnfold.graph.index import Node, Scope
from bnfold.proof.search.reading.model_view import View

Read = tuple[str | None, ...]  # the names of what is computed; None for constants

_FURTHEST = 8  # maps in a row
_MAPS = ("Add", "BatchNormalization", "Div", "Identity", "Mul", "Sub")
# what may stand in the place of an operator, once maps are gone from around it
_ALSO = {
    "MatMul": ("Gemm",), "Relu": ("Max",), "BatchNormalization": ("Add",),
}  # fmt: skip


class _Alike:
    """Nodes that are of one operator and read the same."""

    def __init__(self) -> None:
        self._nodes: list[Node] = []
        self._by_name: dict[str, list[Node]] = defaultdict(list)
        self._by_output: dict[str, list[Node]] = defaultdict(list)

    def add(self, node: Node) -> None:
        """One more."""
        self._nodes.append(node)
        self._by_output[node.output].append(node)
        if node.proto.name:
            self._by_name[node.proto.name].append(node)

    def of_name(self, node: Node) -> list[Node]:
        """Those of a node's name."""
        return self._by_name.get(node.proto.name, [])

    def of_output(self, node: Node) -> list[Node]:
        """Those that make what it makes."""
        return self._by_output.get(node.output, [])

    def of_what_is_behind(self, node: Node) -> list[Node]:
        """Those that make what maps make behind it."""
        return [other for name in _behind(node) for other in self._by_output.get(name, ())]

    def any_of_them(self, _node: Node) -> list[Node]:
        """All of them."""
        return self._nodes

    CHOICES = (of_name, of_output, of_what_is_behind, any_of_them)


class Counterparts:
    """The nodes of one scope of the folded model, to be found and each taken once."""

    def __init__(self, originals: View, original: Scope, view: View, scope: Scope) -> None:
        self.originals = originals
        self.view = view
        self.original = original
        self.scope = scope
        self.taken: dict[Node, Node] = {}  # by the folded model's node
        self._names = {node.proto.name for node in original.nodes}
        self._by_read: dict[tuple[str, Read], _Alike] = defaultdict(_Alike)
        self._by_name: dict[str, list[Node]] = defaultdict(list)
        for node in scope.nodes:
            self._by_read[node.op, self._read(node)].add(node)
            if node.proto.name:
                self._by_name[node.proto.name].append(node)

    def _read(self, node: Node) -> Read:
        return tuple(
            None if not name or self.view.is_constant(node.scope, name) else name
            for name in trimmed(node.proto.input)
        )

    def find(self, node: Node, read: Read) -> Node | None:
        """The counterpart of the original's `node`, which reads what is called `read` here."""
        for op in (node.op, *_ALSO.get(node.op, ())):
            reads = _possible(node.op, op, read)
            alike = [self._by_read[op, r] for r in reads if (op, r) in self._by_read]
            for choice in _Alike.CHOICES:  # likeliest first: few are looked at
                free = [
                    other for group in alike for other in choice(group, node)
                    if other not in self.taken and not self._belongs(other, node)
                    and (op in (node.op, "Gemm") or _same_place(node, other))
                ]  # fmt: skip
                if free:
                    return self._closest(node, free)
        return None

    def named(self, node: Node) -> Node | None:
        """A node of the same name that is left, though it reads something else."""
        free = [n for n in self._by_name.get(node.proto.name, ()) if n not in self.taken]
        return free[0] if node.proto.name and free else None

    def _belongs(self, other: Node, node: Node) -> bool:
        """Whether its name and its output's say that it stands for another node than `node`."""
        if other.proto.name:
            if other.proto.name == node.proto.name:
                return False
            if other.proto.name in self._names:
                return True
        maker = self.original.producers.get(other.output)
        return maker is not None and maker is not node and maker.op == other.op

    def _shapes(self, view: View, node: Node) -> list[tuple[int, ...]]:
        """The shapes of a node's weights; a bias may come or go."""
        tensors = (view.tensor(node.scope, name) for name in node.proto.input[1:2])
        return [tuple(tensor.dims) for tensor in tensors if tensor is not None]

    def _closest(self, node: Node, free: Sequence[Node]) -> Node:
        if len(free) == 1:
            return free[0]
        behind = set(_behind(node))

        def likeness(other: Node) -> tuple[bool, ...]:
            return (
                bool(node.proto.name) and node.proto.name == other.proto.name,
                node.output == other.output,
                other.output in behind,
                self._shapes(self.view, other) == self._shapes(self.originals, node),
                attributes(node) == attributes(other),
                list(node.proto.input) == list(other.proto.input),
            )

        return max(free, key=likeness)  # the first of the best: nodes keep their order


def _behind(node: Node) -> Iterator[str]:
    """The values that stand behind a node with nothing but maps in between: names it may have."""
    pending = [node.output]
    for _ in range(_FURTHEST):
        if not pending:
            return
        name = pending.pop()
        for use in node.scope.uses.get(name, []):
            if use.node is not None and use.node.op in _MAPS:
                yield use.node.output
                pending.append(use.node.output)


def _possible(before: str, after: str, read: Read) -> list[Read]:
    """What the counterpart may read: a bias may have come, a second operand gone."""
    data = tuple(name for name in read if name is not None)
    if after == "Add" and before != "Add":
        return [(*data, None)]
    if after in ("Conv", "ConvTranspose", "Gemm"):
        if len(read) > 2 and read[2] is not None:
            return [read]  # a bias that is computed stays so
        return list(dict.fromkeys([read, (*read[:2], None), read[:2]]))
    if after == "LayerNormalization":
        return [read, (*read, None)]
    return [read] if before == after else [(*data, None)]


def _same_place(node: Node, other: Node) -> bool:
    named = bool(node.proto.name) and node.proto.name == other.proto.name
    return named or node.output == other.output or other.output in _behind(node)


def trimmed(names: Sequence[str]) -> list[str]:
    """Without the absent inputs at the end."""
    names = list(names)
    while names and not names[-1]:
        names.pop()
    return names


def attributes(node: Node) -> dict[str, bytes]:
    """A node's attributes with the defaults of its operator, but for bodies."""
    found = {}
    try:
        schema = onnx.defs.get_schema(node.proto.op_type, node.scope.opset, node.proto.domain)
    except onnx.defs.SchemaError:
        pass
    else:
        for name, declared in schema.attributes.items():
            if declared.default_value.type != AttributeProto.UNDEFINED:
                found[name] = _value(declared.default_value)
    for attribute in node.proto.attribute:
        if not (attribute.HasField("g") or attribute.graphs):
            found[attribute.name] = _value(attribute)
    return found


def _value(attribute: AttributeProto) -> bytes:
    if attribute.ref_attr_name:
        return b"ref:" + attribute.ref_attr_name.encode()
    value = helper.get_attribute_value(attribute)
    if attribute.type == AttributeProto.TENSOR:
        return bytes(value.SerializeToString(deterministic=True))
    return repr(value).encode()
