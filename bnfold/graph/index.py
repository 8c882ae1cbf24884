"""Who makes and who reads each value, in the main graph, in every body and in every function.

An `Index` is built once, in one pass over the nodes, and is not changed by planning. It holds
`Node` and `Scope` wrappers because protobuf messages can neither be hashed nor compared by
identity; the messages themselves stay the single source of truth.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from enum import Enum
from functools import cached_property
from graphlib import CycleError, TopologicalSorter
from typing import Any, TypeAlias, TypeVar

import onnx
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

from bnfold.errors import ModelError
from bnfold.onnx_io.protos import bodies, captured
from bnfold.onnx_io.tensor_storage import Storage

DEFAULT_DOMAINS = ("", "ai.onnx")  # the specification's two spellings of one domain


_TYPES = frozenset(TensorProto.DataType.values())

T = TypeVar("T", int, float, bytes)
_KINDS: dict[type, tuple[int, ...]] = {
    int: (AttributeProto.INT,),
    float: (AttributeProto.FLOAT,),
    bytes: (AttributeProto.STRING,),
}


class Role(Enum):
    """In what way a value is used."""

    READ = "read"  # by a node of the value's own scope
    OUTPUT = "output"  # it is an output of its graph or function
    CAPTURE = "capture"  # by a node, or as an output, of a body inside
    ANNOTATION = "annotation"  # by quantization_annotation or training_info


@dataclass(frozen=True)
class Use:
    """One use of a value. `node` is None where no node reads it (OUTPUT, ANNOTATION)."""

    role: Role
    node: Node | None = None
    slot: int = -1


@dataclass(eq=False)
class Node:
    """One node of one scope, compared and hashed by identity."""

    proto: NodeProto
    scope: Scope

    @property
    def op(self) -> str:
        """The operator's name; with its domain in front unless that is ONNX's own."""
        domain = self.proto.domain
        return (
            self.proto.op_type if domain in DEFAULT_DOMAINS else f"{domain}::{self.proto.op_type}"
        )

    @cached_property
    def label(self) -> str:
        """What to call the node in a sentence: its name, or its operator and first output."""
        if self.proto.name:
            return self.proto.name
        first = next((name for name in self.proto.output if name), "")
        return f"{self.op}→{first}"

    def input(self, slot: int) -> str:
        """The name of input `slot`, "" where it is absent (left out or given as "")."""
        return self.proto.input[slot] if slot < len(self.proto.input) else ""

    @property
    def output(self) -> str:
        """The name of the first output."""
        return self.proto.output[0] if self.proto.output else ""

    def attribute(self, name: str, default: T) -> T:
        """The value of attribute `name`, `default` where it is not set.

        Raises ModelError where it is not of the type that `default` has.
        """
        return default if (value := self._attribute(name, _KINDS[type(default)])) is None else value

    def numbers(self, name: str) -> list[Any] | None:
        """The value of a list attribute, of INTS or FLOATS; None where it is not set."""
        value = self._attribute(name, (AttributeProto.INTS, AttributeProto.FLOATS))
        return None if value is None else list(value)

    def _attribute(self, name: str, kinds: tuple[int, ...]) -> Any:
        for attribute in self.proto.attribute:
            if attribute.name == name:
                if attribute.type not in kinds:
                    raise _invalid(f"attribute {name!r} of node {self.label!r} is of a wrong type")
                return helper.get_attribute_value(attribute)
        return None

    def call_attribute(self) -> str:
        """The name of an attribute that only the function's call gives, "" if there is none."""
        return next((a.name for a in self.proto.attribute if a.ref_attr_name), "")


Container: TypeAlias = GraphProto | FunctionProto


@dataclass(eq=False)
class Scope:
    """The main graph, the body of an If, Loop or Scan, or a local function."""

    container: Container
    parent: Scope | None
    label: str  # "" for the main graph, else the path of bodies that leads to it
    opset: int  # of ONNX's own domain
    number: int  # its place in Index.scopes: depth first, functions after the main graph
    nodes: list[Node] = field(default_factory=list)
    producers: dict[str, Node] = field(default_factory=dict)
    initializers: dict[str, TensorProto] = field(default_factory=dict)
    sparse: set[str] = field(default_factory=set)
    inputs: list[str] = field(default_factory=list)
    uses: dict[str, list[Use]] = field(default_factory=dict)
    inner_names: set[str] = field(default_factory=set)  # what the bodies inside define

    @property
    def outputs(self) -> list[str]:
        """The names of what it gives, in order."""
        if isinstance(self.container, GraphProto):
            return [value.name for value in self.container.output]
        return list(self.container.output)

    @property
    def is_function(self) -> bool:
        """Whether this is the body of a local function, which has no initializers."""
        return isinstance(self.container, FunctionProto)

    @property
    def in_function(self) -> bool:
        """Whether this is the body of a local function, or a body inside one."""
        return self.is_function or (self.parent is not None and self.parent.in_function)

    @property
    def is_main(self) -> bool:
        """Whether this is the model's own graph."""
        return self.parent is None and not self.is_function

    def defines(self, name: str) -> bool:
        """Whether `name` is an input, an initializer or a node's output of this very scope."""
        return name in self.uses

    def owner(self, name: str) -> Scope | None:
        """The scope, this one or an outer one, in which `name` is defined."""
        scope: Scope | None = self
        while scope is not None and not scope.defines(name):
            scope = scope.parent
        return scope


class Index:
    """All scopes of a model, with what each value is made by and read by.

    Raises ModelError where a name is read that nothing defines, or is defined twice.
    """

    def __init__(self, model: ModelProto, storage: Storage | None = None) -> None:
        """`storage` knows where the tensors' values are; by default, all in the model."""
        self.model = model
        self.storage = storage or Storage()
        self.ir_version = int(model.ir_version)
        self.scopes: list[Scope] = []
        self.names: set[str] = set()
        self._copies: Counter[str] = Counter()
        self._bodies: dict[Node, list[Scope]] = {}
        opset = _opset(model.opset_import, 1)
        self._add(model.graph, None, "", opset)
        for function in model.functions:
            label = f"function {function.domain}::{function.name}"
            self._add(function, None, label, _opset(function.opset_import, opset))
        for info in model.training_info:
            for binding in (*info.initialization_binding, *info.update_binding):
                for name in (binding.key, binding.value):
                    self.scopes[0].uses.setdefault(name, []).append(Use(Role.ANNOTATION))
            for graph in (info.initialization, info.algorithm):
                for name in {name for node in graph.node for name in node.input}:
                    if self.scopes[0].defines(name):
                        self.scopes[0].uses[name].append(Use(Role.ANNOTATION))

    def fresh_name(self, wanted: str) -> str:
        """`wanted`, or `wanted` with a number behind it, so that no scope of the model has it."""
        name = wanted
        while name in self.names:
            self._copies[wanted] += 1
            name = f"{wanted}_{self._copies[wanted]}"
        self.names.add(name)
        return name

    def nodes(self) -> Iterator[Node]:
        """Every node of every scope."""
        for scope in self.scopes:
            yield from scope.nodes

    def bodies_of(self, node: Node) -> list[Scope]:
        """The scopes of the graphs that a node holds."""
        return self._bodies.get(node, [])

    def _add(self, container: Container, parent: Scope | None, label: str, opset: int) -> Scope:
        scope = Scope(container, parent, label, opset, len(self.scopes))
        self.scopes.append(scope)
        self._define(scope)
        _require_no_circle(scope)
        for node in scope.nodes:
            for slot, name in enumerate(node.proto.input):
                if name:
                    self._use(scope, name, node, slot)
            for attribute, graph in bodies(node.proto):
                body = self._add(graph, scope, _join(label, f"{node.label}.{attribute}"), opset)
                self._bodies.setdefault(node, []).append(body)
        for name in scope.outputs:
            self._use(scope, name, None, -1)
        if isinstance(container, GraphProto):
            for annotation in container.quantization_annotation:
                mentioned = [entry.value for entry in annotation.quant_parameter_tensor_names]
                for name in (annotation.tensor_name, *mentioned):
                    if (owner := scope.owner(name)) is not None:
                        owner.uses[name].append(Use(Role.ANNOTATION))
        return scope

    def _define(self, scope: Scope) -> None:
        container = scope.container
        if isinstance(container, GraphProto):
            scope.inputs = [value.name for value in container.input]
            scope.initializers = {tensor.name: tensor for tensor in container.initializer}
            scope.sparse = {tensor.values.name for tensor in container.sparse_initializer}
            for value in (*container.input, *container.output, *container.value_info):
                _require_known_type(value)
            if len(scope.initializers) != len(container.initializer):
                raise _invalid("two initializers have the same name")
        else:
            scope.inputs = list(container.input)
        for name in (*scope.inputs, *scope.initializers, *scope.sparse):
            if isinstance(name, bytes):
                raise _invalid("a name in it is not UTF-8")
            scope.uses[name] = []
        for proto in container.node:
            if bytes in map(type, (proto.name, proto.op_type, *proto.input, *proto.output)):
                raise _invalid("a name in it is not UTF-8")  # protobuf gives it as bytes
            node = Node(proto, scope)
            scope.nodes.append(node)
            for name in proto.output:
                if name and scope.defines(name):
                    raise _invalid(f"the value {name!r} is defined twice")
                if name:
                    scope.producers[name] = node
                    scope.uses[name] = []
        self.names.update(scope.uses)
        outer = scope.parent
        while outer is not None:
            outer.inner_names.update(scope.uses)
            outer = outer.parent
        if isinstance(container, GraphProto):
            self.names.update(value.name for value in container.value_info)

    def _use(self, scope: Scope, name: str, node: Node | None, slot: int) -> None:
        owner = scope.owner(name)
        if owner is None:
            reader = f"node {node.label!r}" if node else "the list of outputs"
            raise _invalid(f"{reader} names the value {name!r}, which nothing makes")
        inside = Role.READ if node else Role.OUTPUT
        role = inside if owner is scope else Role.CAPTURE
        owner.uses[name].append(Use(role, node, slot))


def _require_no_circle(scope: Scope) -> None:
    """Raises ModelError where nodes read, directly or not, what they make themselves.

    Some exporters do not sort the nodes, so that the order alone says nothing.
    """
    makers = {node: [scope.producers[name] for name in _read_by(node) if name in scope.producers]
              for node in scope.nodes}  # fmt: skip
    done: set[Node] = set()
    for node in scope.nodes:
        if not done.issuperset(makers[node]):
            break
        done.add(node)
    else:
        return
    try:
        tuple(TopologicalSorter(makers).static_order())
    except CycleError as error:
        circle = " → ".join(node.label for node in reversed(error.args[1]))
        raise _invalid(f"nodes read each other in a circle: {circle}") from error


def _read_by(node: Node) -> Iterator[str]:
    """The names that a node reads, those that its bodies capture among them."""
    yield from node.proto.input
    for _, body in bodies(node.proto):
        yield from captured(body)


def _require_known_type(value: ValueInfoProto) -> None:
    """Raises ModelError for an element type that this version of ONNX does not have."""
    kind = value.type.tensor_type.elem_type
    if kind not in _TYPES:
        raise ModelError(
            f"the value {value.name!r} is of element type {kind}, which onnx {onnx.__version__} "
            "does not know",
            "export it for a released version of ONNX, or install a newer onnx",
        )


def _opset(imports: Any, default: int) -> int:
    return next((int(i.version) for i in imports if i.domain in DEFAULT_DOMAINS), default)


def _join(path: str, step: str) -> str:
    return f"{path}/{step}" if path else step


def _invalid(what: str) -> ModelError:
    return ModelError(
        f"the model is not valid ONNX: {what}",
        "run onnx.checker.check_model on it and mend the export",
    )


BATCH_NORM = "BatchNormalization"
