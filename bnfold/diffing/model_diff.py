"""What changed from one model to another: node by node, tensor by tensor, field by field.

Says what is in the files and judges nothing: no rule of folding is known here. Nodes are matched by
their names, and those without one by operator and output, or by operator and what they read.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from google.protobuf.message import Message
from onnx import (
    AttributeProto,
    FunctionProto,
    GraphProto,
    ModelProto,
    NodeProto,
    TensorProto,
    ValueInfoProto,
    helper,
)

from bnfold.diffing.tensor_diff import StoredTensor, differences, settled, type_of
from bnfold.onnx_io import model_file
from bnfold.onnx_io.output_paths import PathLike
from bnfold.onnx_io.protos import bodies, is_set, without
from bnfold.onnx_io.tensor_storage import Storage

ADDED, REMOVED, CHANGED = "added", "removed", "changed"
_LONGEST = 60  # letters of a value that is told
_LISTED = {  # fields that hold named things, and the field with the name
    "input": "name", "output": "name", "value_info": "name", "opset_import": "domain",
    "metadata_props": "key", "quantization_annotation": "tensor_name",
}  # fmt: skip


@dataclass(frozen=True)
class Change:
    """One thing that is not the same.

    `kind` is "node", "tensor" or the name of a field of the graph or model, `what` "added",
    "removed" or "changed". `scope` is "" for the main graph, else the path of bodies, or the
    function. `details` are sentences.
    """

    kind: str
    what: str
    name: str
    scope: str = ""
    details: tuple[str, ...] = ()


@dataclass(frozen=True)
class Difference:
    """All changes, and how much of the original there is that did not change."""

    changes: tuple[Change, ...]
    same_nodes: int
    same_tensors: int

    @property
    def same(self) -> bool:
        """Whether the models are the same; where their bytes stand in which files is no matter."""
        return not self.changes


def diff(original: PathLike, folded: PathLike) -> Difference:
    """What changed from one file to the other. Raises ModelError where one cannot be read."""
    one, two = (model_file.read(Path(path)) for path in (original, folded))
    comparing = _Comparing(one.storage, two.storage)
    changes = list(comparing.model(one.model, two.model))
    if not changes and not comparing.same(one.model, two.model):
        changes = [Change("something else", CHANGED, "")]  # as a second entry of one name
    return Difference(tuple(changes), comparing.same_nodes, comparing.same_tensors)


class _Comparing:
    """Two models whose tensors are in two storages."""

    def __init__(self, one: Storage, two: Storage) -> None:
        self.one, self.two = one, two
        self.same_nodes = 0
        self.same_tensors = 0

    def model(self, old: Any, new: Any) -> Iterator[Change]:
        """All changes."""
        yield from self._graph(old.graph, new.graph, "")
        before, after = (
            {(f.domain, f.name, f.overload): f for f in model.functions} for model in (old, new)
        )
        for key in dict.fromkeys((*before, *after)):
            label = f"function {key[0]}::{key[1]}" + (f":{key[2]}" if key[2] else "")
            if key not in before or key not in after:
                yield Change("function", ADDED if key in after else REMOVED, label)
            else:
                yield from self._nodes(before[key].node, after[key].node, label)
                yield from self._fields(before[key], after[key], ("node",), label)
        yield from self._fields(old, new, ("graph", "functions"), "")

    def same(self, old: ModelProto, new: ModelProto) -> bool:
        """Whether nothing at all has changed, also in what names do not tell apart."""
        return self._same(old, new)

    def _graph(self, old: GraphProto, new: GraphProto, scope: str) -> Iterator[Change]:
        yield from self._nodes(old.node, new.node, scope)
        yield from self._initializers(old, new, scope)
        yield from self._fields(old, new, ("node", "initializer"), scope)

    # --- nodes -----------------------------------------------------------------------------------

    def _nodes(
        self, old: Iterable[NodeProto], new: Iterable[NodeProto], scope: str
    ) -> Iterator[Change]:
        before, after = list(old), list(new)
        partners = _partners(before, after)
        for place, node in enumerate(before):
            if place not in partners:
                yield Change("node", REMOVED, _label(node), scope, (node.op_type,))
                continue
            other = after[partners[place]]
            if details := tuple(self._node(node, other)):
                yield Change("node", CHANGED, _label(node), scope, details)
            else:
                self.same_nodes += 1
            yield from self._bodies(node, other, scope)
        found = set(partners.values())
        for place, node in enumerate(after):
            if place not in found:
                yield Change("node", ADDED, _label(node), scope, (node.op_type,))
        order = list(partners.values())
        if order != sorted(order):
            yield Change("order", CHANGED, "nodes", scope)

    def _bodies(self, old: NodeProto, new: NodeProto, scope: str) -> Iterator[Change]:
        inner = dict(bodies(new))
        for attribute, graph in bodies(old):
            path = f"{_label(old)}.{attribute}"
            path = f"{scope}/{path}" if scope else path
            if attribute in inner:
                yield from self._graph(graph, inner.pop(attribute), path)
            else:
                yield Change("body", REMOVED, path)
        for attribute in inner:
            yield Change("body", ADDED, f"{_label(new)}.{attribute}")

    def _node(self, old: NodeProto, new: NodeProto) -> Iterator[str]:
        for field in ("name", "op_type", "domain", "overload", "doc_string"):
            one, two = getattr(old, field), getattr(new, field)
            if one != two:
                yield f"{field}: {_value_text(one)} → {_value_text(two)}"
        for field in ("input", "output"):
            yield from _slots(field, list(getattr(old, field)), list(getattr(new, field)))
        one, two = ({a.name: a for a in node.attribute} for node in (old, new))
        for name in dict.fromkeys((*one, *two)):
            if name not in two:
                yield f"attribute {name} = {_value(one[name])} is gone"
            elif name not in one:
                yield f"attribute {name} = {_value(two[name])} is new"
            elif one[name].HasField("t") and two[name].HasField("t"):
                told = [*self._tensor(one[name].t, two[name].t)]
                if told or not self._same_but(one[name], two[name], ("t",)):
                    yield f"attribute {name}: {'; '.join(told) or 'not the same'}"
            elif not self._same_attribute(one[name], two[name]):
                yield f"attribute {name}: {_value(one[name])} → {_value(two[name])}"
        skipped = ("name", "op_type", "domain", "overload", "doc_string", "input", "output")
        for change in self._fields(old, new, (*skipped, "attribute"), ""):
            yield f"{change.kind} {change.name}".strip()

    def _same_attribute(self, one: AttributeProto, two: AttributeProto) -> bool:
        return self._same_but(one, two, ("g", "graphs"))  # bodies are told by themselves

    # --- fields ----------------------------------------------------------------------------------

    def _fields(self, old: Any, new: Any, skipped: Iterable[str], scope: str) -> Iterator[Change]:
        """The differences of two messages in all but some fields, unknown ones among them."""
        done = set(skipped)
        for descriptor in old.DESCRIPTOR.fields:
            field = descriptor.name
            one, two = getattr(old, field), getattr(new, field)
            if field in done:
                continue
            if self._same(one, two):
                if is_set(old, field) != is_set(new, field):
                    details = tuple("set" if is_set(m, field) else "not set" for m in (old, new))
                    yield Change(
                        field, CHANGED, "", scope, (f"{' → '.join(details)}, its default",)
                    )
                continue
            if field in _LISTED and not isinstance(old, FunctionProto | NodeProto):
                yield from self._named(field, one, two, scope)
            else:
                plain = isinstance(one, str | int)
                details = (f"{_value_text(one)} → {_value_text(two)}",) if plain else ()
                yield Change(field, CHANGED, "", scope, details)
        if not self._same_but(old, new, [field.name for field in old.DESCRIPTOR.fields]):
            yield Change("unknown fields", CHANGED, "", scope)

    def _named(self, field: str, old: Any, new: Any, scope: str) -> Iterator[Change]:
        key = _LISTED[field]
        before, after = ({getattr(e, key): e for e in entries} for entries in (old, new))
        found = False
        for name in dict.fromkeys((*before, *after)):
            if name not in before or name not in after:
                found = True
                yield Change(field, ADDED if name in after else REMOVED, name, scope)
            elif not self._same(before[name], after[name]):
                found = True
                told = (_shown(entries[name]) for entries in (before, after))
                yield Change(field, CHANGED, name, scope, (" → ".join(told),))
        if not found:
            yield Change("order", CHANGED, field, scope)

    def _same(self, one: Any, two: Any) -> bool:
        """Whether two values of a field are the same, wherever their large tensors are."""
        if isinstance(one, Message):
            return settled(one, self.one) == settled(two, self.two)
        if hasattr(one, "add"):  # a list of messages
            return len(one) == len(two) and all(map(self._same, one, two))
        return bool(one == two)

    def _same_but(self, old: Any, new: Any, skipped: Iterable[str]) -> bool:
        fields = tuple(skipped)
        return self._same(without(old, fields), without(new, fields))

    # --- tensors ---------------------------------------------------------------------------------

    def _initializers(self, old: GraphProto, new: GraphProto, scope: str) -> Iterator[Change]:
        before, after = ({t.name: t for t in graph.initializer} for graph in (old, new))
        for name, tensor in before.items():
            if name not in after:
                yield Change("tensor", REMOVED, name, scope, (type_of(tensor),))
            elif details := tuple(self._tensor(tensor, after[name])):
                yield Change("tensor", CHANGED, name, scope, details)
            else:
                self.same_tensors += 1
        for name, tensor in after.items():
            if name not in before:
                yield Change("tensor", ADDED, name, scope, (type_of(tensor),))
        order = [name for name in after if name in before]
        if order != [name for name in before if name in after]:
            yield Change("order", CHANGED, "tensors", scope)

    def _tensor(self, old: TensorProto, new: TensorProto) -> Iterator[str]:
        return differences(StoredTensor(old, self.one), StoredTensor(new, self.two))


def _partners(old: list[NodeProto], new: list[NodeProto]) -> dict[int, int]:
    """Which node of the second list stands for which of the first, by place."""
    keys: tuple[Callable[[NodeProto], Any], ...] = (
        lambda node: node.name or None,
        lambda node: (node.op_type, *node.input, "", *node.output),
        lambda node: (node.op_type, *node.output),
        lambda node: (node.op_type, *node.input),
        lambda node: (node.op_type, node.input[0]) if node.input else None,
        lambda node: node.output[0] if not node.name and node.output else None,
    )
    partners: dict[int, int] = {}
    taken: set[int] = set()
    for key in keys:
        one = _groups(old, key, set(partners))
        two = _groups(new, key, taken)
        for value, places in one.items():
            if len(places) == len(two.get(value, ())):
                partners.update(zip(places, two[value], strict=True))
                taken.update(two[value])
    return dict(sorted(partners.items()))


def _groups(
    nodes: list[NodeProto], key: Callable[[NodeProto], Any], without: set[int]
) -> dict[Any, list[int]]:
    """The places of those that have a key, by their keys."""
    places: dict[Any, list[int]] = {}
    for place, node in enumerate(nodes):
        if place not in without and (value := key(node)) is not None:
            places.setdefault(value, []).append(place)
    return places


def _slots(field: str, old: list[str], new: list[str]) -> Iterator[str]:
    for slot in range(max(len(old), len(new))):
        one = old[slot] if slot < len(old) else ""
        two = new[slot] if slot < len(new) else ""
        if one != two:
            yield f"{field} {slot}: {one or 'none'} → {two or 'none'}"


# --- words ---------------------------------------------------------------------------------------


def _label(node: NodeProto) -> str:
    return node.name or f"{node.op_type}→{next(iter(filter(None, node.output)), '')}"


def _shown(entry: Any) -> str:
    """What an entry says beside its name."""
    if isinstance(entry, ValueInfoProto):
        return helper.printable_value_info(entry).removeprefix(f"%{entry.name}")
    parts = [(field.name, value) for field, value in entry.ListFields()][1:]
    return ", ".join(
        _value_text(value) if len(parts) == 1 else f"{n} {_value_text(value)}" for n, value in parts
    )


def _value(attribute: AttributeProto) -> str:
    if attribute.HasField("t"):
        return f"tensor {type_of(attribute.t)}"
    try:
        return _value_text(helper.get_attribute_value(attribute))
    except ValueError:
        return "a value of an unknown type"


def _value_text(value: Any) -> str:
    if isinstance(value, bytes):
        value = value.decode(errors="replace")
    text = (
        repr(list(value))
        if hasattr(value, "__len__") and not isinstance(value, str)
        else repr(value)
    )
    return text if len(text) <= _LONGEST else f"{text[: _LONGEST - 1]}…"
