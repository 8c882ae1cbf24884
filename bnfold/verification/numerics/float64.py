"""A model evaluated in float64 altogether, by ONNX's reference evaluator.

onnxruntime has no double Conv on the CPU, so it cannot do this. The evaluator has faults of its
own, so it is run in the model's precision as well: onnxruntime must not be much further from its
float64 than it is itself (`differences`).
"""

from __future__ import annotations

from collections.abc import Callable
from graphlib import TopologicalSorter
from typing import TYPE_CHECKING

import numpy as np
from onnx import AttributeProto, GraphProto, ModelProto, NodeProto, TensorProto, numpy_helper

from bnfold.onnx_io.protos import Array, bodies, tensors
from bnfold.runtime.sessions import Feed

if TYPE_CHECKING:
    from onnx.reference import ReferenceEvaluator

_NARROW = (TensorProto.FLOAT, TensorProto.FLOAT16, TensorProto.BFLOAT16)
_TYPE_ATTRIBUTES = ("to", "dtype")  # of Cast, RandomNormal, EyeLike, …


class Evaluator:
    """One model, in float64 (`wide`) or in its own precision, to be run on several feeds.

    The model is taken over: its tensors are changed, and let go of.
    """

    def __init__(self, model: ModelProto, *, wide: bool) -> None:
        from onnx.reference import ReferenceEvaluator  # slow, and seldom needed

        from bnfold.verification.numerics.reference_operators import MENDED

        self.wide = wide
        self._evaluator: ReferenceEvaluator | None = None
        try:
            if wide:
                _widen(model)
            _sort(model.graph)
            self._evaluator = ReferenceEvaluator(model, new_ops=list(MENDED))
        except Exception:  # any operator may be missing, or memory: then this is not to be had
            return
        for tensor in model.graph.initializer:  # which the evaluator has as arrays
            tensor.ClearField("raw_data")

    def run(self, feed: Feed) -> dict[str, Array]:
        """Each output; empty where the evaluator cannot run the model."""
        if self._evaluator is None:
            return {}
        if self.wide:
            feed = {n: a.astype(np.float64) if a.dtype.kind in "fV" else a for n, a in feed.items()}
        try:
            with np.errstate(all="ignore"):
                outputs = self._evaluator.run(None, feed)
        except Exception:
            return {}
        named = zip(self._evaluator.output_names, outputs, strict=True)
        return {name: array for name, array in named if isinstance(array, np.ndarray)}


class BothPrecisions:
    """One model in both precisions."""

    def __init__(self, load: Callable[[], ModelProto]) -> None:
        self._narrow = Evaluator(load(), wide=False)
        self._wide = Evaluator(load(), wide=True)

    def run(self, feed: Feed) -> dict[str, tuple[Array, Array]]:
        """Each output in the model's own precision and in float64.

        Empty where the evaluator cannot run the model.
        """
        exact = self._wide.run(feed)
        narrow = self._narrow.run(feed) if exact else {}
        return {name: (narrow[name], array) for name, array in exact.items() if name in narrow}


def _widen(model: ModelProto) -> None:
    for tensor in tensors(model):
        if tensor.data_type in _NARROW:
            values = numpy_helper.to_array(tensor).astype(np.float64)
            tensor.CopyFrom(numpy_helper.from_array(values, tensor.name))
    _widen_graph(model.graph)
    for function in model.functions:
        for node in function.node:
            _widen_node(node)


def _widen_graph(graph: GraphProto) -> None:
    for value in (*graph.input, *graph.output, *graph.value_info):
        if value.type.tensor_type.elem_type in _NARROW:
            value.type.tensor_type.elem_type = TensorProto.DOUBLE
    for node in graph.node:
        _widen_node(node)


def _widen_node(node: NodeProto) -> None:
    for attribute in node.attribute:
        if attribute.name in _TYPE_ATTRIBUTES and attribute.i in _NARROW:
            attribute.i = TensorProto.DOUBLE
        # a Constant's value_float has no double form: it becomes a tensor
        if node.op_type == "Constant" and attribute.type in (
            AttributeProto.FLOAT, AttributeProto.FLOATS,
        ):  # fmt: skip
            single = attribute.type == AttributeProto.FLOAT
            values = np.float64(attribute.f) if single else np.array(attribute.floats, np.float64)
            attribute.Clear()
            attribute.name, attribute.type = "value", AttributeProto.TENSOR
            attribute.t.CopyFrom(numpy_helper.from_array(np.asarray(values)))
    for _, body in bodies(node):
        _widen_graph(body)


def _sort(graph: GraphProto) -> None:
    """Put nodes behind those that they read, as the evaluator needs them and some files do not."""
    maker = {name: place for place, node in enumerate(graph.node) for name in node.output if name}
    read = {
        place: {maker[name] for name in node.input if name in maker}
        for place, node in enumerate(graph.node)
    }
    if all(before < place for place, all_before in read.items() for before in all_before):
        return
    nodes = [NodeProto.FromString(node.SerializeToString()) for node in graph.node]
    order = list(TopologicalSorter(read).static_order())
    del graph.node[:]
    graph.node.extend(nodes[place] for place in order)
