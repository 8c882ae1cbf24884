"""The frame: whatever no fold explains is byte for byte what it was.

A fold may take nodes that apply maps, change the constants of the nodes that took them, rename a
value to the name of one that is gone, and let go of what nobody reads any more. Names, order, doc
strings, metadata, types and every other tensor stay, fields that we do not know included.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from onnx import GraphProto, NodeProto, TensorProto

from bnfold.graph.index import Node, Scope
from bnfold.onnx_io.data_files import FileRange
from bnfold.onnx_io.protos import is_set
from bnfold.proof.kernel.outcome import Finding, Frame, Outcome, verdict_of
from bnfold.proof.search.pairs import Pairs
from bnfold.proof.search.reading.model_view import View, alike

WHOLE = "the model"  # at which differences stand that no node has
_CHUNK = 1 << 22  # bytes that are compared at a time
_VALUES = (
    "raw_data", "float_data", "double_data", "int32_data", "int64_data", "uint64_data",
    "external_data", "data_location",
)  # fmt: skip


def frame(original: View, folded: View, pairs: Pairs) -> Frame:
    """Compare all that the pairs of nodes do not explain."""
    findings = list(_Frame(original, folded, pairs).findings())
    return Frame(verdict_of(findings), tuple(findings))


class _Frame:
    def __init__(self, original: View, folded: View, pairs: Pairs) -> None:
        self.original = original
        self.folded = folded
        self.pairs = pairs
        self.back = {new: old for old, new in pairs.nodes.items()}
        self.gone = set(pairs.gone)
        self.claimed = self._claimed()
        self.lost = self._unread()
        self.renamed = {name for node in pairs.gone for name in node.proto.output if name}

    def _claimed(self) -> set[tuple[Scope, str]]:
        """The constants that were folded into, and what computes them, by where they are.

        Whoever else reads one of these is compared by its value.
        """
        claimed: set[tuple[Scope, str]] = set()
        pending = [
            (node.scope, name)
            for node, names in self.pairs.taken.items()
            for name in names
            if name in node.proto.input
        ]
        while pending:
            scope, name = pending.pop()
            owner = scope.owner(name) if name else None
            if owner is None or (owner, name) in claimed:
                continue
            claimed.add((owner, name))
            maker = owner.producers.get(name)
            if maker is not None:
                pending.extend((maker.scope, read) for read in maker.proto.input)
        return claimed

    def _for_taken(self, node: Node | None) -> bool:
        """Whether a node of the folded model took maps, or computes constants of one that did."""
        return node in self.pairs.taken or (
            node is not None and any((node.scope, n) in self.claimed for n in node.proto.output)
        )

    def findings(self) -> Iterator[Finding]:
        one, two = self.original.model, self.folded.model
        yield from _fields(one, two, ("graph", "functions"), "the model")
        if list(one.functions) != list(two.functions):
            yield _wrong("", "the local functions are not the same")
        for old, new in self.pairs.scopes:
            yield from self._scope(old, new)

    def _scope(self, old: Scope, new: Scope) -> Iterator[Finding]:
        a, b = old.container, new.container
        assert isinstance(a, GraphProto)
        assert isinstance(b, GraphProto)
        skipped = ("node", "initializer", "value_info", "input")
        yield from _fields(a, b, skipped, f"the graph {old.label}" if old.label else "the graph")
        lost = {name for scope, name in self.lost if scope is old}
        yield from self._inputs(old, new, a, b)
        yield from self._nodes(old, new, lost)
        yield from self._tensors(old, new, lost)
        names = set(new.uses)
        infos = {info.name: info for info in b.value_info}
        for info in a.value_info:
            if info.name not in infos and info.name in names:
                yield _wrong("", f"the value_info of {info.name!r} is gone")
            elif info.name in infos and infos.pop(info.name) != info:
                yield _wrong("", f"the value_info of {info.name!r} has changed")
        for name in infos:
            yield _wrong("", f"the value_info of {name!r} is new")

    def _inputs(self, old: Scope, new: Scope, a: GraphProto, b: GraphProto) -> Iterator[Finding]:
        listed = self.original.index.ir_version < 4  # every initializer is an input there
        one = [v for v in a.input if not (listed and v.name in old.initializers)]
        two = [v for v in b.input if not (listed and v.name in new.initializers)]
        if one != two:
            yield _wrong("", "the inputs of the graph are not the same")

    # --- nodes -----------------------------------------------------------------------------------

    def _unread(self) -> set[tuple[Scope, str]]:
        """Values of the original that only nodes read which are gone, or whose constants changed.

        Constants that feed such values alone are among them, in whatever scope.
        """
        nodes: set[Node] = set(self.gone)
        found: set[tuple[Scope, str]] = set()
        for scope, _ in reversed(self.pairs.scopes):  # bodies are behind what they are in
            for node in reversed(scope.nodes):
                if node in self.pairs.nodes or node in self.gone:
                    continue
                uses = [use for name in node.proto.output if name for use in scope.uses[name]]
                if all(use.node in nodes or self._took(use.node) for use in uses):
                    nodes.add(node)
                    found.update((scope, name) for name in node.proto.output if name)
            for name in (*scope.initializers, *scope.sparse):
                uses = scope.uses[name]
                if uses and all(use.node in nodes or self._took(use.node) for use in uses):
                    found.add((scope, name))
        return found

    def _took(self, node: Node | None) -> bool:
        return node is not None and self.pairs.nodes.get(node) in self.pairs.taken

    def _nodes(self, old: Scope, new: Scope, lost: set[str]) -> Iterator[Finding]:
        position = {node: place for place, node in enumerate(old.nodes)}
        by_output = {node.output: node for node in old.nodes if node.output}
        last = -1
        kept = set()
        for node in new.nodes:
            before = self.back.get(node) or by_output.get(node.output)
            if before is None:
                if node in self.pairs.taken:  # which the walk has come by
                    continue
                readers = {use.node for name in node.proto.output if name for use in new.uses[name]}
                if not self._makes_constants(node) or not all(map(self._for_taken, readers)):
                    yield _wrong(node.label, "it is new")
                continue
            kept.add(before)
            if position[before] < last:
                yield _wrong(node.label, "it stands at another place among the nodes")
            last = max(last, position[before])
            yield from self._node(before, node)
        for node in old.nodes:
            if node not in kept and node not in self.gone and not lost.issuperset(
                filter(None, node.proto.output)
            ):  # fmt: skip
                yield _wrong(node.label, "it is gone, and no fold took it")

    def _makes_constants(self, node: Node) -> bool:
        return node.op == "Constant" or self.folded.is_constant(node.scope, node.output)

    def _node(self, before: Node, node: Node) -> Iterator[Finding]:
        took = node in self.pairs.taken
        one, two = _bare(before.proto), _bare(node.proto)
        if took or self.back.get(node) is before or self._for_taken(node):
            one.op_type = two.op_type = ""  # what may stand in its place, the walk knows
        if one != two:
            yield _wrong(before.label, f"its {_field(one, two)} has changed")
        old, new = (_attributes(n.proto) for n in (before, node))
        constant = self._makes_constants(node) and self._for_taken(node)
        if old != new and not constant and before.op == node.op and not took:
            yield _wrong(before.label, "its attributes have changed")
        for place, name in enumerate(node.proto.output):
            own = before.proto.output[place] if place < len(before.proto.output) else ""
            if name != own and name not in self.renamed:
                yield _wrong(before.label, f"its output {own!r} is called {name!r}")
        if not took and not constant:
            for own, name in zip(before.proto.input, node.proto.input, strict=False):
                constant_now = self.folded.is_constant(node.scope, name) if name else own == ""
                if (
                    own != name
                    and constant_now
                    and not self._same_constant(before, own, node, name)
                ):
                    yield _wrong(before.label, f"it reads {name!r} instead of {own!r}")

    def _same_constant(self, before: Node, own: str, node: Node, name: str) -> bool:
        """Whether a constant has only got another name: a copy of one that took a map elsewhere."""
        one = self.original.array(before.scope, own) if own else None
        two = self.folded.array(node.scope, name) if name else None
        return one is not None and two is not None and alike(one, two)

    # --- tensors ---------------------------------------------------------------------------------

    def _tensors(self, old: Scope, new: Scope, lost: set[str]) -> Iterator[Finding]:
        for name, tensor in old.initializers.items():
            other = new.initializers.get(name)
            if other is None:
                if name not in lost:
                    yield _wrong("", f"the initializer {name!r} is gone")
                continue
            one, two = _described(tensor), _described(other)
            if (new, name) in self.claimed:
                del one.dims[:], two.dims[:]
            if one != two:
                yield _wrong("", f"the {_field(one, two)} of initializer {name!r} has changed")
            elif (new, name) not in self.claimed and not _same_data(
                self.original, tensor, self.folded, other
            ):
                yield _wrong("", f"the initializer {name!r} has changed, which no fold read")
        for name in new.initializers:
            if name in old.initializers:
                continue
            nodes = {use.node for use in new.uses[name]}
            if not nodes or not all(map(self._for_taken, nodes)):
                yield _wrong("", f"the initializer {name!r} is new")
        order = [name for name in new.initializers if name in old.initializers]
        if order != [name for name in old.initializers if name in new.initializers]:
            yield _wrong("", "the initializers stand in another order")


def _wrong(node: str, sentence: str) -> Finding:
    return Finding(Outcome.INVALID, node, sentence)


def _fields(a: Any, b: Any, skipped: tuple[str, ...], what: str) -> Iterator[Finding]:
    """The differences of two messages in all but some fields; unknown fields are compared, too."""
    one, two = type(a)(), type(b)()
    one.CopyFrom(a)
    two.CopyFrom(b)
    for field in skipped:
        one.ClearField(field)
        two.ClearField(field)
    if one.SerializeToString(deterministic=True) != two.SerializeToString(deterministic=True):
        yield _wrong(WHOLE, f"the {_field(one, two)} of {what} has changed")


def _field(one: Any, two: Any) -> str:
    for field in one.DESCRIPTOR.fields:
        name = str(field.name)
        same = getattr(one, name) == getattr(two, name)
        if not same or is_set(one, name) != is_set(two, name):
            return name
    return "unknown fields"


def _bare(node: NodeProto) -> NodeProto:
    bare = NodeProto()
    bare.CopyFrom(node)
    for field in ("input", "output", "attribute"):
        bare.ClearField(field)
    return bare


def _attributes(node: NodeProto) -> list[bytes]:
    return [
        a.SerializeToString(deterministic=True)
        for a in node.attribute
        if not (a.HasField("g") or a.graphs)
    ]


def _described(tensor: TensorProto) -> TensorProto:
    bare = TensorProto()
    bare.CopyFrom(tensor)
    for field in _VALUES:
        bare.ClearField(field)
    return bare


def _same_data(one: View, a: TensorProto, two: View, b: TensorProto) -> bool:
    sources = [view.storage.source(tensor) for view, tensor in ((one, a), (two, b))]
    if all(isinstance(source, FileRange) for source in sources):
        first, second = sources
        assert isinstance(first, FileRange)
        assert isinstance(second, FileRange)
        return len(first) == len(second) and all(
            (first.read(at, min(at + _CHUNK, len(first)))
             == second.read(at, min(at + _CHUNK, len(first)))).all()
            for at in range(0, len(first), _CHUNK)
        )  # fmt: skip
    if not any(sources):
        return a == b
    return one.storage.array(a).tobytes() == two.storage.array(b).tobytes()
