"""The skeletons of two models: what is not a constant that took maps is byte for byte the same."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from onnx import AttributeProto, GraphProto, NodeProto, TensorProto

from bnfold.graph.index import Node, Scope
from bnfold.onnx_io.protos import is_set, without
from bnfold.proof.kernel.outcome import WHOLE, Finding, Outcome
from bnfold.proof.kernel.pairing import Pairing
from bnfold.proof.reading.model import Model
from bnfold.proof.reading.same_constants import same_data, with_data

_VALUES = (
    "raw_data", "float_data", "double_data", "int32_data", "int64_data", "uint64_data",
    "external_data", "data_location",
)  # fmt: skip


class Skeleton:
    """Compares all that no constant explains.

    `free` are the slots of folded nodes whose constants the laws have judged.
    """

    def __init__(
        self, original: Model, folded: Model, pairing: Pairing, free: set[tuple[Node, int]],
        changed: set[Node],
    ) -> None:  # fmt: skip
        self.original, self.folded = original, folded
        self.pairing = pairing
        self.free = free
        self.changed = changed  # folded nodes whose operator or attributes the laws have judged
        self.claimed = self._claimed()
        self.gone_names = {
            (node.scope, name)
            for node in pairing.gone
            for name in node.proto.output
            if name and not original.is_constant(node.scope, name)
        }
        self.back = {new: old for old, new in pairing.partner.items()}

    def _claimed(self) -> set[tuple[Scope, str]]:
        """The folded model's constants that the laws have judged, and what computes them."""
        found: set[tuple[Scope, str]] = set()
        pending = [(node.scope, node.input(slot)) for node, slot in self.free if node.input(slot)]
        while pending:
            scope, name = pending.pop()
            owner = scope.owner(name)
            if owner is None or (owner, name) in found or not self.folded.is_constant(owner, name):
                continue
            found.add((owner, name))
            maker = owner.producers.get(name)
            if maker is not None:
                pending.extend((maker.scope, read) for read in maker.proto.input if read)
        return found

    def is_claimed(self, scope: Scope, name: str) -> bool:
        """Whether a constant of the folded model was judged by a law, in whole or in part."""
        pending, seen = [(scope, name)], set()
        while pending:
            at, read = pending.pop()
            owner = at.owner(read) if read else None
            if owner is None or (owner, read) in seen:
                continue
            seen.add((owner, read))
            if (owner, read) in self.claimed:
                return True
            maker = owner.producers.get(read)
            if maker is not None and self.folded.is_constant(owner, read):
                pending.extend((maker.scope, n) for n in maker.proto.input if n)
        return False

    def findings(self) -> Iterator[Finding]:
        """All differences that nothing explains."""
        one, two = self.original.proto, self.folded.proto
        yield from self._fields(one, two, ("graph", "functions"), WHOLE)
        yield from self._functions()
        for old, new in self.pairing.scopes.items():
            yield from self._scope(old, new)

    def _functions(self) -> Iterator[Finding]:
        one, two = self.original.proto.functions, self.folded.proto.functions
        for a, b in zip(one, two, strict=False):
            yield from self._fields(a, b, ("node", "value_info"), f"the function {a.name!r}")

    def _scope(self, old: Scope, new: Scope) -> Iterator[Finding]:
        a, b = old.container, new.container
        if isinstance(a, GraphProto) and isinstance(b, GraphProto):
            skipped = ("node", "initializer", "value_info", "input")
            yield from self._fields(
                a, b, skipped, f"the graph {old.label}" if old.label else "the graph"
            )
            declared = (self.original.declared_inputs(old), self.folded.declared_inputs(new))
            if declared[0] != declared[1]:
                yield _wrong("", "the inputs of the graph are not the same")
            yield from self._tensors(old, new)
        places = {node: place for place, node in enumerate(new.nodes)}
        last = -1
        for before in old.nodes:
            after = self.pairing.partner.get(before)
            if after is None:
                continue
            yield from self._node(before, after)
            if places[after] < last:
                yield _wrong(before.label, "it stands in another order")
            last = places[after]
        for node in new.nodes:
            if node in self.pairing.new:
                yield from self._new(node)
        names = set(new.uses)
        infos = {info.name: info for info in b.value_info}
        for info in a.value_info:
            if info.name not in infos and info.name in names:
                yield _wrong("", f"the value_info of {info.name!r} is gone")
            elif info.name in infos and infos.pop(info.name) != info:
                yield _wrong("", f"the value_info of {info.name!r} has changed")
        for name in infos:
            yield _wrong("", f"the value_info of {name!r} is new")

    # --- nodes -----------------------------------------------------------------------------------

    def _node(self, before: Node, after: Node) -> Iterator[Finding]:
        one, two = _bare(before.proto), _bare(after.proto)
        if after in self.changed:
            one.op_type = two.op_type
        if one != two:
            yield _wrong(before.label, f"its {_field(one, two)} has changed")
        fixed = after not in self.changed and not self._judged(after)
        if fixed and not self._same_attributes(before, after):
            yield _wrong(before.label, "its attributes have changed")
        ours, theirs = _trimmed(before.proto.output), _trimmed(after.proto.output)
        if len(ours) != len(theirs):
            yield _wrong(before.label, "it has not the same outputs")
        for own, name in zip(ours, theirs, strict=False):
            if name != own and (before.scope, name) not in self.gone_names:
                yield _wrong(before.label, f"its output {own!r} is called {name!r}")
        fixed = self.folded.is_constant(after.scope, after.output) and not self._judged(after)
        if fixed and list(before.proto.input) != list(after.proto.input):
            yield _wrong(before.label, "it has other inputs than in the original")

    def _judged(self, after: Node) -> bool:
        """Whether a node only computes constants that a law has judged."""
        return (after.scope, after.output) in self.claimed

    def _new(self, node: Node) -> Iterator[Finding]:
        name = node.output
        if node in self.changed:
            return
        if node.op == "Constant" and (node.scope, name) in self.claimed:
            if [a.name for a in node.proto.attribute] != ["value"]:
                yield _wrong(node.label, "the new Constant says more than its value")
            return
        yield _wrong(node.label, "only the folded model has it")

    # --- tensors ---------------------------------------------------------------------------------

    def _tensors(self, old: Scope, new: Scope) -> Iterator[Finding]:
        for name, tensor in old.initializers.items():
            other = new.initializers.get(name)
            if other is None:
                if not self._may_go(old, name):
                    yield _wrong(_initializer(name), "is gone")
                continue
            one, two = _described(tensor), _described(other)
            if (new, name) in self.claimed:
                del one.dims[:], two.dims[:]
            if one != two:
                yield _wrong(_initializer(name), f"its {_field(one, two)} has changed")
            elif (new, name) not in self.claimed and not same_data(
                self.original, tensor, self.folded, other
            ):
                yield _wrong(_initializer(name), "has changed, and no fold uses it")
        for name in new.initializers:
            if name in old.initializers:
                continue
            tensor = new.initializers[name]
            plain = TensorProto(name=name, data_type=tensor.data_type, dims=tensor.dims)
            if (new, name) not in self.claimed:
                yield _wrong(_initializer(name), "is new")
            elif _described(tensor) != plain:
                yield _wrong("", f"the new initializer {name!r} says more than its values")
        order = [name for name in new.initializers if name in old.initializers]
        if order != [name for name in old.initializers if name in new.initializers]:
            yield _wrong("", "the initializers stand in another order")

    def _may_go(self, scope: Scope, name: str) -> bool:
        """Whether only nodes read it that are gone, or whose constants took maps."""
        uses = scope.uses[name]
        return bool(uses) and all(
            use.node is not None and self._lets_go(use.node, use.slot) for use in uses
        )

    def _lets_go(self, node: Node, slot: int) -> bool:
        other = self.pairing.partner.get(node)
        if other is None or (other, slot) in self.free:
            return True
        return self._judged(other)

    def may_be_gone(self, node: Node) -> bool:
        """Whether a node that is gone made only constants that nobody needs any more."""
        uses = [use for name in node.proto.output if name for use in node.scope.uses[name]]
        return all(use.node is not None and self._lets_go(use.node, use.slot) for use in uses)

    # --- messages --------------------------------------------------------------------------------

    def _fields(self, a: Any, b: Any, skipped: tuple[str, ...], what: str) -> Iterator[Finding]:
        """The differences of two messages in all but some fields; unknown fields count, too."""
        one, two = without(a, skipped), without(b, skipped)
        if with_data(self.original, one) != with_data(self.folded, two):
            yield _wrong(WHOLE, f"the {_field(one, two)} of {what} has changed")

    def _same_attributes(self, before: Node, after: Node) -> bool:
        """Whether all are the same but bodies, which are scopes of their own."""
        one, two = (
            [with_data(model, _bare_attribute(a)) for a in node.proto.attribute]
            for model, node in ((self.original, before), (self.folded, after))
        )
        return one == two


def _initializer(name: str) -> str:
    """What a finding is about: not the model as a whole, since another proof may explain it."""
    return f"the initializer {name!r}"


def _wrong(node: str, sentence: str) -> Finding:
    return Finding(Outcome.INVALID, node or WHOLE, sentence)


def _field(one: Any, two: Any) -> str:
    for descriptor in one.DESCRIPTOR.fields:
        name = str(descriptor.name)
        same = getattr(one, name) == getattr(two, name)
        if not same or is_set(one, name) != is_set(two, name):
            return name
    return "unknown fields"


def _bare(node: NodeProto) -> NodeProto:
    return without(node, ("input", "output", "attribute"))


def _bare_attribute(attribute: AttributeProto) -> AttributeProto:
    """Without its bodies, though how many there are shows."""
    if not (attribute.HasField("g") or attribute.graphs):
        return attribute
    bare = AttributeProto()
    bare.CopyFrom(attribute)
    if bare.HasField("g"):
        bare.g.Clear()
    for graph in bare.graphs:
        graph.Clear()
    return bare


def _trimmed(names: Any) -> list[str]:
    """The names without empty ones at the end."""
    found = list(names)
    while found and not found[-1]:
        found.pop()
    return found


def _described(tensor: TensorProto) -> TensorProto:
    return without(tensor, _VALUES)
