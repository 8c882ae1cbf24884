"""A model evaluated in float64 and in its own precision, by ONNX's reference evaluator.

The evaluator's BatchNormalization is wrong from opset 9 to 13 (it mixes batch statistics in) and
raises at 7 and 8; it is replaced. onnxruntime has no double Conv on the CPU, so it cannot do this.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from onnx import AttributeProto, GraphProto, ModelProto, NodeProto, TensorProto, numpy_helper
from onnx.reference import ReferenceEvaluator
from onnx.reference.op_run import OpRun

from bnfold.child.sessions import Array, Feed
from bnfold.protos import bodies, tensors

_NARROW = (TensorProto.FLOAT, TensorProto.FLOAT16, TensorProto.BFLOAT16)
_TYPE_ATTRIBUTES = ("to", "dtype")  # of Cast, RandomNormal, EyeLike, …


class BatchNormalization(OpRun):
    """Inference at every opset, in the form in which onnxruntime computes it: x·s + (β − μ·s)."""

    op_domain = ""

    def _run(self, x: Any, *parameters: Any, **attributes: Any) -> tuple[Any]:
        if attributes.get("training_mode") or len(self.output) > 1:
            raise NotImplementedError("training mode")
        gamma, beta, mean, variance = (p.astype(x.dtype) for p in parameters)
        given = attributes.get("epsilon")
        epsilon = x.dtype.type(np.float32(1e-5) if given is None else given)
        scale = gamma / np.sqrt(variance + epsilon)
        shape = (1, -1) + (1,) * (x.ndim - 2)
        return (x * scale.reshape(shape) + (beta - mean * scale).reshape(shape),)


def in_two_precisions(model: ModelProto, feed: Feed) -> dict[str, tuple[Array, Array]]:
    """Each output of the model as it is, and evaluated in float64 altogether.

    Empty where the evaluator cannot run the model.
    """
    try:
        narrow = _evaluate(model, feed)
        wide = _evaluate(
            _in_double(model),
            {
                name: array.astype(np.float64) if np.issubdtype(array.dtype, np.floating) else array
                for name, array in feed.items()
            },
        )
    except MemoryError:
        raise
    except Exception:  # any operator may be missing there; then this measure is not to be had
        return {}
    return {name: (narrow[name], exact) for name, exact in wide.items()}


def _evaluate(model: ModelProto, feed: Feed) -> dict[str, Any]:
    evaluator = ReferenceEvaluator(model, new_ops=[BatchNormalization])
    return dict(zip(evaluator.output_names, evaluator.run(None, feed), strict=True))


def _in_double(model: ModelProto) -> ModelProto:
    copy = ModelProto()
    copy.CopyFrom(model)
    for tensor in tensors(copy):
        if tensor.data_type in _NARROW:
            values = numpy_helper.to_array(tensor).astype(np.float64)
            tensor.CopyFrom(numpy_helper.from_array(values, tensor.name))
    _widen_graph(copy.graph)
    for function in copy.functions:
        for node in function.node:
            _widen_node(node)
    return copy


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
