"""What must be the same in two models whose nodes correspond as a proof says, one by one.

The opsets that operators are read by, the names and order of inputs and outputs, the defaults of
inputs that callers may leave out, functions, names that mean one thing in every scope; and what the
attributes of two nodes say, whether in so many words or by default.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping

import onnx
from onnx import AttributeProto, ModelProto, ValueInfoProto, helper

from bnfold.graph.index import DEFAULT_DOMAINS, Node, Scope
from bnfold.proof.laws.absorbing import UnprovenError, WrongError
from bnfold.proof.reading.model import Model
from bnfold.proof.reading.same_constants import with_data
from bnfold.proof.values.operands import same_array

_MESSAGES = (
    AttributeProto.TENSOR, AttributeProto.TENSORS, AttributeProto.SPARSE_TENSOR,
    AttributeProto.SPARSE_TENSORS,
)  # fmt: skip


def differences(original: Model, folded: Model) -> Iterator[WrongError | UnprovenError]:
    """What keeps two models from being compared, or shows that they differ."""
    one, two = original.proto, folded.proto
    opsets = [_opsets(model) for model in (one, two)]
    for domain in sorted(opsets[0].keys() & opsets[1].keys()):
        old, new = (versions[domain] for versions in opsets)
        if old != new:
            yield UnprovenError(f"opset {old} of {domain or 'ONNX'} became {new}")
    for domain in sorted(opsets[0].keys() ^ opsets[1].keys()):
        nodes = (node for model in (original, folded) for node in model.index.nodes())
        if any(_domain(node.proto.domain) == domain for node in nodes):
            yield UnprovenError(f"only one of the models imports {domain or 'ONNX'}")
    inputs = [model.declared_inputs(model.main) for model in (original, folded)]
    outputs = [list(model.graph.output) for model in (one, two)]
    for what, declared in (("inputs", inputs), ("outputs", outputs)):
        ours, theirs = ([value.name for value in values] for values in declared)
        if ours != theirs:
            sentence = f"the {what} {', '.join(ours)} became {', '.join(theirs)}"
            yield WrongError(sentence, certain=True)
    for a, b in zip(*inputs, strict=False):
        if not _alike(a, b):
            yield UnprovenError(f"the input {a.name!r} is of another type or shape")
    yield from _defaults(original, folded)
    if list(one.functions) != list(two.functions):
        yield UnprovenError("the local functions are not the same")
    if any(function.overload for function in one.functions):
        yield UnprovenError("functions with overloads, which are not told apart here")
    before, after = (
        {name for scope in model.index.scopes for name in _shadowing(scope)}
        for model in (original, folded)
    )
    for name in sorted(after - before):
        yield UnprovenError(f"{name!r} of a body now hides one around it")


def _opsets(model: ModelProto) -> dict[str, int]:
    return {_domain(entry.domain): entry.version for entry in model.opset_import}


def _domain(name: str) -> str:
    """The name of a domain; ONNX's own has two."""
    return "" if name in DEFAULT_DOMAINS else name


def _alike(one: ValueInfoProto, other: ValueInfoProto) -> bool:
    """Whether two inputs are of one type, and no size is another number."""
    if not (one.type.HasField("tensor_type") and other.type.HasField("tensor_type")):
        return one.type == other.type
    a, b = one.type.tensor_type, other.type.tensor_type
    if a.elem_type != b.elem_type or len(a.shape.dim) != len(b.shape.dim):
        return False
    pairs = zip(a.shape.dim, b.shape.dim, strict=True)
    return all(
        x.dim_value == y.dim_value
        for x, y in pairs if x.HasField("dim_value") and y.HasField("dim_value")
    )  # fmt: skip


def _defaults(original: Model, folded: Model) -> Iterator[WrongError]:
    """Inputs with a value that holds where the caller gives none."""
    if original.index.ir_version < 4:
        return
    for name in original.main.inputs:
        one, two = (model.main.initializers.get(name) for model in (original, folded))
        if one is None and two is None:
            continue
        same = one is not None and two is not None and same_array(
            original.storage.array(one), folded.storage.array(two)
        )  # fmt: skip
        if not same:
            sentence = f"the default of the input {name!r} has changed"
            yield WrongError(sentence, certain=True)


def _shadowing(scope: Scope) -> set[str]:
    """Names of a body that the scopes around it define as well."""
    own = {*scope.producers, *scope.initializers, *scope.inputs}
    found: set[str] = set()
    outer = scope.parent
    while outer is not None:
        found |= own & {*outer.producers, *outer.initializers, *outer.inputs}
        outer = outer.parent
    return found


def attributes(model: Model, node: Node) -> dict[str, bytes]:
    """A node's attributes with the defaults of its operator, but for bodies."""
    found = {}
    try:
        own = node.proto.domain in DEFAULT_DOMAINS  # others may be the model's functions
        schema = onnx.defs.get_schema(node.proto.op_type, node.scope.opset) if own else None
    except onnx.defs.SchemaError:
        schema = None
    if schema is not None:
        for name, declared in schema.attributes.items():
            if declared.default_value.type != AttributeProto.UNDEFINED:
                found[name] = _value(model, declared.default_value)
    for attribute in node.proto.attribute:
        if not (attribute.HasField("g") or attribute.graphs):
            found[attribute.name] = _value(model, attribute)
    return found


def _value(model: Model, attribute: AttributeProto) -> bytes:
    if attribute.ref_attr_name:
        return b"ref:" + attribute.ref_attr_name.encode()
    value = helper.get_attribute_value(attribute)
    if attribute.type in _MESSAGES:
        return with_data(model, attribute)
    return repr((attribute.type, value)).encode()


def changed_attribute(
    one: Mapping[str, bytes], two: Mapping[str, bytes], allowed: Collection[str] = ()
) -> str | None:
    """The first attribute that is another one, but for those that are `allowed` to change."""
    names = sorted({*one, *two} - {*allowed})
    return next((name for name in names if one.get(name) != two.get(name)), None)


def may_change(node: Node, other: Node, ours: set[str], theirs: set[str]) -> set[str]:
    """The attributes that may be others where a law has judged a node and what stands for it."""
    ops = (node.op, other.op)
    if ops == ("Gemm", "Gemm"):
        return {"beta"}
    if ops == ("BatchNormalization", "BatchNormalization"):
        return {"epsilon"}  # with which its constants were judged
    if ops == ("MatMul", "Gemm"):  # which are those of a product
        old = {"broadcast"} if other.scope.opset < 7 else set()
        return {"alpha", "beta", "transA", "transB"} | old
    if ops == ("BatchNormalization", "Conv"):  # whose law has read them
        return ours | theirs
    return ours if node.op != other.op else set()


def changed_between(original: Model, node: Node, folded: Model, other: Node) -> str | None:
    """The first attribute that a node of the folded model has another of."""
    return changed_attribute(attributes(original, node), attributes(folded, other))
