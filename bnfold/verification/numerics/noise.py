"""How far a model moves from itself when what it is made of moves by rounding only.

A fold changes weights by half an ulp and the order of a few operations. Whatever a model makes of
perturbations of that size, it may make of a fold; anything more is a difference that rounding does
not explain. No tolerance is chosen: an ill-conditioned model measures itself as ill-conditioned.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import ml_dtypes
import numpy as np
from onnx import GraphProto, ModelProto, NodeProto, TensorProto, numpy_helper

from bnfold.onnx_io.data_files import Sink
from bnfold.onnx_io.protos import FLOAT_TYPES, Array, bodies, node_tensors, size_in_bytes
from bnfold.onnx_io.tensor_storage import Storage
from bnfold.runtime.sessions import Feed

DRAWS = 3
_WEIGHTED = frozenset(
    {
        "Conv", "ConvTranspose", "Gemm", "MatMul", "BatchNormalization", "InstanceNormalization",
        "LayerNormalization", "GroupNormalization", "LSTM", "GRU", "RNN",
    }
)  # fmt: skip
_CARRYING = frozenset({"Cast", "Identity", "Reshape", "Squeeze", "Transpose", "Unsqueeze"})


@dataclass(frozen=True)
class _PerturbedPayload:
    """The bytes of a tensor after a random move, made when they are written."""

    tensor: TensorProto
    storage: Storage
    move: Callable[[Array, np.random.Generator], Array]
    seed: int

    def __len__(self) -> int:
        return size_in_bytes(self.tensor) or 0

    def put(self, sink: Sink) -> None:
        values = self.move(self.storage.array(self.tensor), np.random.default_rng(self.seed))
        sink(0, numpy_helper.from_array(values).raw_data)


def perturbed(model: ModelProto, storage: Storage, rng: np.random.Generator) -> ModelProto:
    """A copy whose weights are one ulp up or down at random, quantised biases one step.

    Weights are what linear and normalising operators read. Scales of a Resize, exponents and the
    like are left alone: there one ulp can change a shape, which is no rounding.
    """
    copy = ModelProto()
    copy.CopyFrom(model)
    nodes = [node for graph_nodes in _scopes(copy) for node in graph_nodes]
    read = {name for node in nodes if node.op_type in _WEIGHTED for name in node.input[1:]}
    for node in reversed(nodes):
        if node.op_type in _CARRYING and read.intersection(node.output):
            read.update(node.input[:1])
    biases = {node.input[0] for node in nodes if node.op_type == "DequantizeLinear"}
    for tensor in _named_tensors(copy, read | biases):
        if tensor.data_type in FLOAT_TYPES and tensor.name in read:
            move = perturb
        elif tensor.data_type == TensorProto.INT32 and tensor.name in biases:
            move = perturb_integers
        else:
            continue
        before = TensorProto()
        before.CopyFrom(tensor)
        storage.fill(tensor, _PerturbedPayload(before, storage, move, int(rng.integers(1 << 62))))
    _perturb_scales(copy.graph, storage, rng)
    return copy


def _perturb_scales(graph: GraphProto, storage: Storage, rng: np.random.Generator) -> None:
    """The scales of dequantised weights, each in a copy: a QuantizeLinear may read it as well."""
    tensors = {tensor.name: tensor for tensor in graph.initializer}
    quantized = {n.output[0] for n in graph.node if n.op_type == "QuantizeLinear"}
    for number, node in enumerate(graph.node):
        if node.op_type != "DequantizeLinear" or node.input[1] not in tensors:
            continue
        if node.input[0] in tensors or node.input[0] in quantized:
            values = storage.array(tensors[node.input[1]])
            name = f"{node.input[1]}_{number}_jiggled"
            graph.initializer.append(numpy_helper.from_array(perturb(values, rng), name))
            node.input[1] = name


def perturbed_feed(feed: Feed, rng: np.random.Generator) -> Feed:
    """The same inputs, each floating-point number one ulp up or down at random.

    An input of whole numbers stays: it stands for pixels or indices, which carry no rounding.
    """
    return {
        name: perturb(array, rng) if _is_rounded(array) else array for name, array in feed.items()
    }


def _is_rounded(array: Array) -> bool:
    floating = np.issubdtype(array.dtype, np.floating) or array.dtype == ml_dtypes.bfloat16
    return bool(floating and np.any(array != np.rint(array.astype(np.float64))))


def perturb(values: Array, rng: np.random.Generator) -> Array:
    """Each number moved to its neighbour above or below at random; 0 and ±∞ stay."""
    up = rng.random(values.shape) < 0.5
    towards = np.where(up, np.inf, -np.inf).astype(values.dtype)
    moved = np.nextafter(values, towards)
    return np.where((values == 0) | ~np.isfinite(moved), values, moved)


def perturb_integers(values: Array, rng: np.random.Generator) -> Array:
    """Each integer one up or down at random: the rounding of biases that are 32-bit integers."""
    output_judge = np.iinfo(values.dtype)
    moved = values.astype(np.int64) + rng.choice([-1, 1], values.shape)
    return np.asarray(np.clip(moved, output_judge.min, output_judge.max).astype(values.dtype))


def _scopes(model: ModelProto) -> Iterator[list[NodeProto]]:
    yield from _graphs(model.graph)
    for function in model.functions:
        yield list(function.node)


def _graphs(graph: GraphProto) -> Iterator[list[NodeProto]]:
    yield list(graph.node)
    for node in graph.node:
        for _, body in bodies(node):
            yield from _graphs(body)


def _named_tensors(model: ModelProto, names: set[str]) -> Iterator[TensorProto]:
    """Initializers with one of these names, and the tensors of Constant nodes that make them."""
    pending = [model.graph]
    while pending:
        graph = pending.pop()
        yield from (tensor for tensor in graph.initializer if tensor.name in names)
        pending.extend(body for node in graph.node for _, body in bodies(node))
    for nodes in _scopes(model):
        for node in nodes:
            if node.op_type == "Constant" and names.intersection(node.output):
                yield from node_tensors([node])
