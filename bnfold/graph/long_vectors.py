"""Keeps long vectors away from the data propagation of ONNX's shape inference.

For each vector that one of a few operators reads, data propagation makes a list with an entry for
each element, whatever the element type. That is meant for shapes, which have few. But a Concat of a
value with itself, thirty times over, asks for gigabytes, and so does a Slice of what a few bytes of
ConstantOfShape make. Such nodes are hidden: given another domain, and the types of their outputs as
inference without data propagation knows them.
"""

from __future__ import annotations

import math

from onnx import GraphProto, NodeProto, TypeProto, helper

from bnfold.onnx_io.protos import bodies

HIDDEN = "bnfold.hidden"

_PROPAGATING = frozenset(
    {"Add", "Cast", "Concat", "Gather", "Mul", "Shape", "Size", "Slice", "Squeeze", "Sub",
     "Unsqueeze"}
)  # fmt: skip
_SAME_RANK = frozenset(
    {"Abs", "AveragePool", "BatchNormalization", "Cast", "Clip", "Concat", "Conv", "ConvTranspose",
     "Dropout", "Elu", "Erf", "Exp", "Gelu", "HardSigmoid", "HardSwish", "Identity",
     "InstanceNormalization", "LayerNormalization", "LeakyRelu", "Log", "MaxPool", "Mish", "Neg",
     "PRelu", "Pad", "Relu", "Resize", "Selu", "Sigmoid", "Slice", "Softmax", "Softplus", "Sqrt",
     "Tanh", "Tile", "Transpose", "Upsample"}
)  # fmt: skip
_BROADCAST = frozenset({"Add", "Div", "MatMul", "Max", "Min", "Mul", "Pow", "Sub", "Sum", "Where"})
_LONGEST = 1024  # elements of the vectors of one node; no shape has as many
_MOST_AXES = 64.0
_IN_ALL = 1 << 20  # entries of all lists of one model


def hide_long_vectors(graph: GraphProto, known: GraphProto) -> int:
    """Hide nodes in `graph` and its bodies; gives their number.

    `known` is the same graph with the types that are known without data propagation.
    """
    return _Hiding().graph(graph, known, _Known({}))


class _Hiding:
    def __init__(self) -> None:
        self._left = _IN_ALL

    def graph(self, graph: GraphProto, known: GraphProto, outer: _Known) -> int:
        """The number of nodes hidden in a graph that lies in one of which `outer` is known."""
        inner = outer.inside(known)
        declared = {value.name: value for value in (*graph.value_info, *graph.output)}
        hidden = 0
        for node, own in zip(graph.node, known.node, strict=True):
            inner.guess(node)
            if node.op_type in _PROPAGATING and not self._is_short(node, inner):
                node.domain = HIDDEN
                hidden += 1
                for name in set(node.output) & inner.types.keys():
                    value = declared.get(name) or graph.value_info.add(name=name)
                    value.type.tensor_type.CopyFrom(inner.types[name])
            for (_, body), (_, same) in zip(bodies(node), bodies(own), strict=True):
                hidden += self.graph(body, same, inner)
        return hidden

    def _is_short(self, node: NodeProto, known: _Known) -> bool:
        """Whether all that a node reads and makes is no vector, or one of few elements."""
        read = () if node.op_type in ("Shape", "Size") else node.input  # which read no values
        length = sum(known.length(name) for name in (*read, *node.output) if name)
        if length > _LONGEST:
            return False
        self._left -= int(length)
        return self._left >= 0


class _Known:
    """What is known of the values of a graph: their types, and guesses where these say nothing."""

    def __init__(self, types: dict[str, TypeProto.Tensor]) -> None:
        self.types = types
        self._ranks: dict[str, int] = {}
        self._lengths: dict[str, float] = {}

    def inside(self, graph: GraphProto) -> _Known:
        """The same for a graph inside, which sees what is outside."""
        own = {value.name: value.type.tensor_type
               for value in (*graph.input, *graph.value_info, *graph.output)}  # fmt: skip
        for tensor in graph.initializer:
            own[tensor.name] = helper.make_tensor_type_proto(
                tensor.data_type, tensor.dims
            ).tensor_type
        found = _Known(self.types | own)
        found._ranks, found._lengths = dict(self._ranks), dict(self._lengths)
        return found

    def rank(self, name: str) -> int | None:
        """The number of axes of a value; None where it cannot be told."""
        if name in self.types and self.types[name].HasField("shape"):
            return len(self.types[name].shape.dim)
        return self._ranks.get(name)

    def length(self, name: str) -> float:
        """At most how many elements a vector has; 0 for what is no vector."""
        rank = self.rank(name)
        if rank is not None and rank != 1:
            return 0
        if name in self.types and len(self.types[name].shape.dim) == 1:
            dim = self.types[name].shape.dim[0]
            if dim.HasField("dim_value"):
                return float(dim.dim_value)
        return self._lengths.get(name, math.inf)

    def guess(self, node: NodeProto) -> None:
        """Rank and length of the first output, from those of the inputs."""
        given = [name for name in node.input if name]
        if not given or not node.output or self.rank(node.output[0]) not in (None, 1):
            return
        ranks = [self.rank(name) for name in given]
        op, name = node.op_type, node.output[0]
        rank: int | None = None
        if op in ("Shape", "Size"):
            rank, self._lengths[name] = int(op == "Shape"), _MOST_AXES
        elif op in ("Reshape", "ConstantOfShape", "Expand"):
            length = self.length(given[-1])  # of the shape that it reads
            if math.isfinite(length):
                rank = int(length) if op != "Expand" else max(int(length), ranks[0] or 0)
        elif op in _SAME_RANK:
            rank = ranks[0]
            self._lengths[name] = self.length(given[0])
        elif op in _BROADCAST and None not in ranks:
            rank = max(rank for rank in ranks if rank is not None)
            self._lengths[name] = max(map(self.length, given))
        elif op == "Gather":
            rank, self._lengths[name] = ranks[-1], self.length(given[-1])
        if op == "Concat":
            self._lengths[name] = sum(map(self.length, given))
        if rank is not None:
            self._ranks[name] = rank
