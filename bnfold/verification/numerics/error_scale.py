"""The sizes of what is added up: A(x), in units of which the rounding errors of a region are known.

For nodes that are linear, or pass affine maps, every value is a sum of products of constants and
inputs. A(x) is that sum with each term taken by its size: |W| for W, |x| for x, |β| + |s·μ| for
β − s·μ. It is computed by the same operators from the sizes of their operands.
"""

from __future__ import annotations

import math
from collections.abc import Iterator

import numpy as np
from onnx import NodeProto, TensorProto, helper, numpy_helper

from bnfold.graph.index import Node
from bnfold.proof.kernel.regions import Part
from bnfold.proof.laws.products.linear import LINEAR, products
from bnfold.proof.laws.sites import batch_norm
from bnfold.proof.reading.model import Model

# |g(a) − g(b)| ≤ g(e) for |a − b| ≤ e, and all of g's weights are positive
_AS_IT_IS = frozenset(
    {
        "AveragePool", "Cast", "CastLike", "Concat", "DepthToSpace", "Dropout", "Expand", "Flatten",
        "Gather", "GlobalAveragePool", "GlobalMaxPool", "Identity", "MaxPool", "ReduceMax",
        "ReduceMean", "ReduceSum", "Reshape", "Slice", "SpaceToDepth", "Split", "Squeeze", "Tile",
        "Transpose", "Unsqueeze", "Upsample",
    }
)  # fmt: skip
_SUMS = ("AveragePool", "GlobalAveragePool", "ReduceMean", "ReduceSum")
_ARITHMETIC = {"Add": "Add", "Sub": "Add", "Sum": "Sum", "Mul": "Mul", "Div": "Div"}
_NORMS = ("InstanceNormalization", "GroupNormalization", "LayerNormalization")


class UnfitError(Exception):
    """A node for which no A(x) is known."""


class ErrorScale:
    """Nodes that compute A(x), part by part, for one model that holds them all.

    Starts must be fed under their own names. A value that is computed in one part and a start of
    another has two sizes: `of` what is computed, and its own.
    """

    def __init__(self, model: Model) -> None:
        self.model = model
        self.nodes: list[NodeProto] = []
        self.tensors: list[TensorProto] = []
        self._done: set[Node] = set()
        self._sizes: set[str] = set()
        self._starts: set[str] = set()

    def of(self, name: str) -> str:
        """The name of the size of a value that is computed."""
        return f"bnfold:|{name}|"

    def _read(self, name: str) -> str:
        """The name of the size of a value that a node reads."""
        own = name in self._starts or self.model.is_constant(self.model.main, name)
        return f"bnfold:Abs({name})" if own else self.of(name)

    def add(self, part: Part) -> None:
        """Add what computes the size of a part's end. Raises UnfitError, and then adds nothing."""
        constant = {n for n in part.nodes if self.model.is_constant(n.scope, n.output)}
        for node in part.nodes:
            if node not in constant and not self._fits(node, part):
                raise UnfitError(node.op)
        self._starts.update(part.starts)
        for node in part.nodes:
            if node not in self._done:
                self._done.add(node)
                self.nodes.extend([node.proto] if node in constant else self._node(node))

    def _fits(self, node: Node, part: Part) -> bool:
        op, model = node.op, self.model
        if op in ("Add", "Sub", "Mul", "Relu", "LeakyRelu", "Sum", "Pad", "ReduceMin"):
            return node.scope.opset >= 7
        if op == "Div":
            return node.scope.opset >= 7 and model.is_constant(node.scope, node.input(1))
        if op == "Resize":
            return node.attribute("mode", b"nearest") in (b"nearest", b"linear")
        if op == "BatchNormalization":
            return node.scope.opset >= 7 and batch_norm(model, node) is not None
        if op == "PRelu":
            return model.value_at(node, 1) is not None
        if op in _NORMS:  # whose results do not follow what they read
            known = model.rank(node.scope, node.input(0)) is not None
            constant = all(model.is_constant(node.scope, n) for n in node.proto.input[1:] if n)
            return known and constant and node.input(0) in part.starts
        return op in _AS_IT_IS or op in LINEAR

    def _node(self, node: Node) -> Iterator[NodeProto]:
        copy = NodeProto()
        copy.CopyFrom(node.proto)
        copy.name = ""
        del copy.output[:]
        copy.output.extend(self.of(name) if name else "" for name in node.proto.output)
        op = node.op
        if op == "BatchNormalization":
            yield from self._batch_norm(node)
            return
        if op in _NORMS:
            yield from self._norm(node)
            return
        if op in (*LINEAR, *_ARITHMETIC, "Concat"):
            slots = list(range(len(node.proto.input)))
        else:
            slots = [0, 2] if op == "Pad" else [0]
        for slot in slots:
            if node.input(slot):
                yield from self._size(node.input(slot))
                copy.input[slot] = self._read(node.input(slot))
        if op in _ARITHMETIC:
            copy.op_type = _ARITHMETIC[op]
        elif op == "ReduceMin":
            copy.op_type = "ReduceMax"
        elif op in ("Relu", "LeakyRelu", "PRelu"):
            yield from self._rectified(node, copy)
            return
        for attribute in copy.attribute:
            if (op == "Gemm" and attribute.name in ("alpha", "beta")) or (
                op == "Pad" and attribute.name == "value"
            ):
                attribute.f = abs(attribute.f)
        yield copy

    def _size(self, name: str) -> Iterator[NodeProto]:
        """|v| of a constant or a start; of all else the size is computed by what makes it."""
        size = self._read(name)
        if size != self.of(name) and size not in self._sizes:
            self._sizes.add(size)
            yield helper.make_node("Abs", [name], [size])

    def _batch_norm(self, node: Node) -> Iterator[NodeProto]:
        """|s|·|x| + (|β| + |s·μ|)."""
        parameters = batch_norm(self.model, node)
        assert parameters is not None
        gamma, beta, mean, variance, epsilon = parameters
        scale = np.abs(gamma / np.sqrt(variance + epsilon))
        rank = self.model.rank(node.scope, node.input(0)) or 4
        kind = self.model.element_type(node.scope, node.input(0)) or TensorProto.FLOAT
        dtype = helper.tensor_dtype_to_np_dtype(kind)
        names = []
        for values in (scale, np.abs(beta) + scale * np.abs(mean)):
            names.append(f"{self.of(node.output)}/{len(self.tensors)}")
            shaped = values.reshape(-1, *(1,) * (rank - 2)).astype(dtype)
            self.tensors.append(numpy_helper.from_array(shaped, names[-1]))
        yield from self._size(node.input(0))
        product = f"{self.of(node.output)}/scaled"
        yield helper.make_node("Mul", [self._read(node.input(0)), names[0]], [product])
        yield helper.make_node("Add", [product, names[1]], [self.of(node.output)])

    def _norm(self, node: Node) -> Iterator[NodeProto]:
        """|γ·(x − mean)/deviation| + |β|."""
        name = self.of(node.output)
        copy = NodeProto()
        copy.CopyFrom(node.proto)
        copy.name = ""
        copy.output[0] = f"{name}/scaled"
        if node.input(2):
            yield helper.make_node("Sub", [node.input(2), node.input(2)], [f"{name}/nothing"])
            copy.input[2] = f"{name}/nothing"
        yield copy
        if not node.input(2):
            yield helper.make_node("Abs", [f"{name}/scaled"], [name])
            return
        yield helper.make_node("Abs", [f"{name}/scaled"], [f"{name}/size"])
        rank = self.model.rank(node.scope, node.input(0))
        beta = self.model.value_at(node, 2)
        assert rank is not None
        assert beta is not None
        if node.op != "LayerNormalization":
            beta = beta.reshape(-1, *(1,) * (rank - 2))
        self.tensors.append(numpy_helper.from_array(np.abs(beta), f"{name}/beta"))
        yield helper.make_node("Add", [f"{name}/size", f"{name}/beta"], [name])

    def _rectified(self, node: Node, copy: NodeProto) -> Iterator[NodeProto]:
        """The size itself, times the slope where that is more than 1."""
        name = self.of(node.output)
        if node.op == "Relu":
            yield helper.make_node("Identity", copy.input, [name])
            return
        if node.op == "PRelu":
            slopes = self.model.value_at(node, 1)
            assert slopes is not None
        else:
            kind = self.model.element_type(node.scope, node.input(0)) or TensorProto.FLOAT
            slope = node.attribute("alpha", 0.01)
            slopes = np.asarray(slope, helper.tensor_dtype_to_np_dtype(kind))
        steep = np.maximum(np.abs(slopes), np.ones_like(slopes))
        self.tensors.append(numpy_helper.from_array(steep, f"{name}/slope"))
        yield helper.make_node("Mul", [copy.input[0], f"{name}/slope"], [name])


def fold_tolerance(model: Model, part: Part, spatial: int) -> float:
    """How many units u·A(x) two evaluations of a part may lie apart: 2√n + 8 for each operator.

    n is the length of its sums. Roundings are taken for independent (Higham & Mary 2019); the bound
    that holds for certain is 2n + 9. `spatial` is the number of elements of a channel.
    """
    total = 0.0
    for node in part.nodes:
        length = products(model, node)
        if length:
            total += 2 * math.sqrt(length) + 8
        elif node.op in _SUMS:
            size = math.prod(node.numbers("kernel_shape") or [spatial])
            total += 2 * math.sqrt(size)
    return max(total, 8.0)
