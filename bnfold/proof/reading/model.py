"""One model as the kernel reads it: nodes, constants with their values, shapes, element types."""

from __future__ import annotations

from functools import cached_property
from typing import Any

import numpy as np
from onnx import (
    AttributeProto,
    GraphProto,
    ModelProto,
    TensorProto,
    ValueInfoProto,
    helper,
    numpy_helper,
)

from bnfold.graph.index import Container, Index, Node, Scope
from bnfold.onnx_io.protos import bodies
from bnfold.onnx_io.tensor_storage import Storage
from bnfold.proof.reading.shape_numbers import computed
from bnfold.proof.reading.shapes import Shapes
from bnfold.proof.values import evaluation, moved_values
from bnfold.proof.values.operands import Array

_LONGEST_CHAIN = 400  # operators between a constant and its reader


class Model:
    """One model, read and never changed.

    `freeze` counts initializers that are also graph inputs as constants, and `sizes` those sizes
    that the sizes of the inputs fix.
    """

    def __init__(
        self, model: ModelProto, storage: Storage, *, freeze: bool = False, sizes: bool = False
    ) -> None:  # fmt: skip
        """Raises ModelError for a model that is not valid."""
        self.proto = model
        self.storage = storage
        self.freeze = freeze
        self.sizes = sizes
        self.index = Index(model, storage)
        self.positions = {
            node: (scope.number, place)
            for scope in self.index.scopes for place, node in enumerate(scope.nodes)
        }  # fmt: skip
        self._values: dict[tuple[Scope, str], Array | None] = {}
        self._constant: dict[tuple[Scope, str], bool] = {}
        self._types: dict[tuple[Scope, str], int] = {}

    @cached_property
    def shapes(self) -> Shapes:
        """The shapes of the values."""
        return Shapes(self)

    @property
    def main(self) -> Scope:
        """The main graph."""
        return self.index.scopes[0]

    @cached_property
    def _scopes(self) -> dict[int, Scope]:
        return {id(scope.container): scope for scope in self.index.scopes}

    def scope_of(self, body: Container) -> Scope:
        """The scope of a graph of this model."""
        return self._scopes[id(body)]

    @cached_property
    def _holders(self) -> dict[int, Node]:
        return {id(body): node for node in self.index.nodes() for _, body in bodies(node.proto)}

    def scanned(self, scope: Scope, name: str) -> tuple[Scope, str, int] | None:
        """What a body gets in slices, if `name` is an input of a Scan's: scope, name and axis."""
        node = self._holders.get(id(scope.container))
        if node is None or node.op != "Scan" or node.scope.opset < 9 or name not in scope.inputs:
            return None
        slot = scope.inputs.index(name)
        sliced = node.attribute("num_scan_inputs", 0)
        place = slot - (len(node.proto.input) - sliced)
        whole = node.input(slot)
        owner = node.scope.owner(whole) if whole else None
        if not 0 <= place < sliced or owner is None or len(scope.inputs) != len(node.proto.input):
            return None
        axes = node.numbers("scan_input_axes") or [0] * sliced
        return (owner, whole, axes[place]) if place < len(axes) else None

    def node(self, scope: int, place: int) -> Node | None:
        """The node that stands there."""
        scopes = self.index.scopes
        if not (0 <= scope < len(scopes) and 0 <= place < len(scopes[scope].nodes)):
            return None
        return scopes[scope].nodes[place]

    def inputs(self, scope: Scope) -> list[str]:
        """What callers give; below IR 4 every initializer is listed among the inputs as well."""
        return [name for name in scope.inputs if not self._is_listed(scope, name)]

    def declared_inputs(self, scope: Scope) -> list[ValueInfoProto]:
        """The declarations of a graph's inputs."""
        graph = scope.container
        given = graph.input if isinstance(graph, GraphProto) else ()
        return [value for value in given if not self._is_listed(scope, value.name)]

    def _is_listed(self, scope: Scope, name: str) -> bool:
        return scope.is_main and self.index.ir_version < 4 and name in scope.initializers

    # --- constants -------------------------------------------------------------------------------

    def tensor(self, scope: Scope, name: str) -> TensorProto | None:
        """The tensor of an initializer or a Constant node, None for anything else."""
        owner = scope.owner(name) if name else None
        if owner is None:
            return None
        if name in owner.initializers:
            default = name in owner.inputs and not self._is_listed(owner, name)
            if default and not owner.is_main:
                return None  # what runs a body gives its inputs
            return owner.initializers[name] if self.freeze or not default else None
        node = owner.producers.get(name)
        if node is None or node.op != "Constant" or node.call_attribute():
            return None
        if len(node.proto.attribute) == 1:  # the operator allows no more
            attribute = node.proto.attribute[0]
            value = helper.get_attribute_value(attribute)
            if attribute.type == AttributeProto.TENSOR:
                return attribute.t
            if attribute.type in (AttributeProto.FLOAT, AttributeProto.FLOATS):
                return numpy_helper.from_array(np.array(value, np.float32), name)
            if attribute.type in (AttributeProto.INT, AttributeProto.INTS):
                return numpy_helper.from_array(np.array(value, np.int64), name)
        return None

    def is_constant(self, scope: Scope, name: str) -> bool:
        """Whether a value depends on no input: stored, or computed from such by known operators."""
        owner = scope.owner(name) if name else None
        if owner is None:
            return False
        key = (owner, name)
        stack = [key]
        while stack:
            top = stack[-1]
            if top in self._constant:
                stack.pop()
                continue
            at, read = top
            node = at.producers.get(read)
            if node is None or node.op == "Constant":
                self._constant[top] = self.tensor(at, read) is not None
                continue
            if self._size(node) is not None:
                self._constant[top] = True
                continue
            if (
                (node.op not in evaluation.RULES and node.op != "CastLike")
                or node.output != read
                or node.call_attribute()
                or not any(node.proto.input)
            ):
                self._constant[top] = False
                continue
            sources = [(node.scope.owner(n), n) for n in _read(node) if n]
            waiting = [s for s in sources if s[0] is not None and s not in self._constant]
            if waiting:
                stack.extend(waiting)  # type: ignore[arg-type]
                continue
            self._constant[top] = all(self._constant.get(s, False) for s in sources)  # type: ignore[arg-type]
        return self._constant[key]

    def value(self, scope: Scope, name: str) -> Array | None:
        """The value of a constant; None for anything else, and where it is not known.

        Raises ModelError where a tensor's data does not fit its dims.
        """
        owner = scope.owner(name) if name else None
        if owner is None or not self.is_constant(owner, name):
            return None
        tensor = self.tensor(owner, name)
        if tensor is not None:
            return self.storage.array(tensor)  # large ones are read again rather than kept
        return self._computed(owner, name)

    def value_at(self, node: Node, slot: int) -> Array | None:
        """The value of the constant that a node reads at `slot`."""
        return self.value(node.scope, node.input(slot))

    def _computed(self, owner: Scope, name: str) -> Array | None:
        stack = [(owner, name)]
        while stack:
            top = stack[-1]
            if top in self._values:
                stack.pop()
                continue
            node = top[0].producers[top[1]]
            if (size := self._size(node)) is not None:
                self._values[top] = size
                continue
            sources = [(node.scope.owner(n), n) if n else None for n in _read(node)]
            waiting = [
                s for s in sources
                if s is not None and s[0] is not None
                and self.tensor(s[0], s[1]) is None and s not in self._values
            ]  # fmt: skip
            if waiting and len(stack) < _LONGEST_CHAIN:
                stack.extend(waiting)  # type: ignore[arg-type]
                continue
            operands = [self._operand(s) if s is not None else None for s in sources]
            missing = any(s and o is None for s, o in zip(sources, operands, strict=True))
            self._values[top] = None if missing else self._evaluated(node, operands)
            stack.pop()
        return self._values[owner, name]

    def _size(self, node: Node) -> Array | None:
        """Sizes of a value that are known, and what is picked of them."""
        if not self.sizes or node.op not in ("Gather", "Shape", "Size", "Slice"):
            return None
        if self.element_type(node.scope, node.output) != TensorProto.INT64:
            return None
        dims, found = self.shapes.output(node), computed(self.shapes, node)
        if dims not in ((), (len(found or ()),)) or found is None:
            return None
        if not all(isinstance(dim, int) for dim in found):
            return None
        return np.array(found, np.int64).reshape(dims)

    def _evaluated(self, node: Node, operands: list[Array | None]) -> Array | None:
        if node.op != "CastLike":
            return evaluation.evaluate(node, operands)
        target = self.element_type(node.scope, node.input(1))
        value = operands[0]
        return None if value is None or not target else moved_values.cast_or_none(value, target)

    def _operand(self, source: Any) -> Array | None:
        owner, name = source
        tensor = self.tensor(owner, name) if owner is not None else None
        return self.storage.array(tensor) if tensor is not None else self._values.get(source)

    def is_quantized(self, scope: Scope, name: str) -> bool:
        """Whether a DequantizeLinear is among what computes a constant."""
        return any(node.op == "DequantizeLinear" for node in self.computing(scope, name))

    def computing(self, scope: Scope, name: str) -> list[Node]:
        """The nodes that compute a constant, Constant nodes among them."""
        found: dict[Node, None] = {}
        pending = [(scope, name)]
        while pending:
            at, read = pending.pop()
            owner = at.owner(read) if read else None
            node = owner.producers.get(read) if owner is not None else None
            if node is None or node in found:
                continue
            found[node] = None
            pending.extend((node.scope, n) for n in node.proto.input)
        return list(found)

    # --- element types ---------------------------------------------------------------------------

    def rank(self, scope: Scope, name: str) -> int | None:
        """The number of axes of a value; None where it is not known."""
        shape = self.shapes.of(scope, name)
        return None if shape is None else len(shape)

    def element_type(self, scope: Scope, name: str) -> int:
        """The ONNX element type of a value; 0 where it is not known."""
        owner = scope.owner(name) if name else None
        if owner is None:
            return 0
        stack = [(owner, name)]
        while stack:
            at, read = stack[-1]
            if (at, read) in self._types:
                stack.pop()
                continue
            found = self._own_type(at, read)
            if found is None:
                node = at.producers[read]
                slot = {"DequantizeLinear": 1, "CastLike": 1, "Where": 1}.get(node.op, 0)
                source = node.scope.owner(node.input(slot)) if node.input(slot) else None
                if source is not None and (source, node.input(slot)) not in self._types:
                    stack.append((source, node.input(slot)))
                    continue
                found = self._types.get((source, node.input(slot)), 0) if source else 0
            self._types[at, read] = found
            stack.pop()
        return self._types[owner, name]

    def _own_type(self, scope: Scope, name: str) -> int | None:
        """The type of a value where it does not follow from the node's inputs, else None."""
        tensor = self.tensor(scope, name)
        if tensor is not None:
            return tensor.data_type
        if name in scope.initializers:
            return scope.initializers[name].data_type
        node = scope.producers.get(name)
        if node is None:
            if (whole := self.scanned(scope, name)) is not None:
                return self.element_type(whole[0], whole[1])
            if not scope.is_main:
                return 0
            given = {v.name: v.type.tensor_type.elem_type for v in self.proto.graph.input}
            return given.get(name, 0)
        if node.op == "Cast":
            return node.attribute("to", 0) if node.scope.opset >= 6 else 0
        if node.op == "If":  # what runtimes hold the branches to
            place = list(node.proto.output).index(name)
            kinds = {
                body.output[place].type.tensor_type.elem_type
                for _, body in bodies(node.proto) if place < len(body.output)
            }  # fmt: skip
            return kinds.pop() if len(kinds) == 1 else 0
        if node.op in ("Shape", "Size", "ArgMax", "ArgMin", "NonZero"):
            return TensorProto.INT64
        own = node.output == name or node.op == "Split"
        if node.op not in _SAME_TYPE or not own or list(bodies(node.proto)):
            return 0
        if node.op == "DequantizeLinear" and node.attribute("output_dtype", 0):
            return node.attribute("output_dtype", 0)
        return None


def _read(node: Node) -> list[str]:
    """The inputs whose values a node reads: of its second, CastLike wants the type alone."""
    return list(node.proto.input[: 1 if node.op == "CastLike" else None])


_SAME_TYPE = frozenset(
    (
        "Abs", "Add", "AveragePool", "BatchNormalization", "CastLike", "Ceil", "Celu", "Clip",
        "Concat", "Conv", "ConvTranspose", "CumSum", "DeformConv", "DepthToSpace",
        "DequantizeLinear", "Div", "Dropout", "Einsum", "Elu", "Erf", "Exp", "Expand", "Flatten",
        "Floor", "Gather", "GatherElements", "GatherND", "Gelu", "Gemm", "GlobalAveragePool",
        "GlobalMaxPool", "GroupNormalization", "HardSigmoid", "HardSwish", "Identity",
        "InstanceNormalization", "LRN", "LayerNormalization", "LeakyRelu", "Log", "LogSoftmax",
        "LpNormalization", "LpPool", "MatMul", "Max", "MaxPool", "Mean", "Min", "Mish", "Mul",
        "Neg", "PRelu", "Pad", "Pow", "Reciprocal", "ReduceL1", "ReduceL2", "ReduceMax",
        "ReduceMean", "ReduceMin", "ReduceProd", "ReduceSum", "ReduceSumSquare", "Relu", "Reshape",
        "Resize", "Selu", "Sigmoid", "Sign", "Sin", "Cos", "Slice", "Softmax", "Softplus",
        "Softsign", "SpaceToDepth", "Split", "Sqrt", "Squeeze", "Sub", "Sum", "Tanh",
        "ThresholdedRelu", "Tile", "Transpose", "Trilu", "Unsqueeze", "Upsample", "Where",
        "com.microsoft::FusedConv", "com.microsoft::FusedGemm",
    )
)  # fmt: skip
