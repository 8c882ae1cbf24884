"""Ranks and types of computed values, from ONNX's own shape inference, run when first asked.

What a file says of anything but its own inputs (value_info, outputs, the inputs of bodies) is not
believed: a stale entry would move the channel axis. Local functions are left out of the inference,
because a few hundred bytes of nested functions can keep it busy for ever; what they return is
unknown.
"""

from __future__ import annotations

import math

import onnx
from onnx import GraphProto, ModelProto, NodeProto, TensorProto, TypeProto, helper, numpy_helper

from bnfold.graph.doubtful_shapes import hide_doubtful_shapes
from bnfold.graph.index import Scope
from bnfold.graph.long_vectors import HIDDEN, hide_long_vectors
from bnfold.graph.shape_operands import LONGEST, store_shape_operands
from bnfold.onnx_io.protos import bodies, delete_named, is_external
from bnfold.onnx_io.tensor_storage import Storage

Shape = tuple[int | str | None, ...]

_UNFUSED = {
    ("com.microsoft", "FusedConv"): "Conv",
    ("com.microsoft", "FusedGemm"): "Gemm",
}


class InferredShapes:
    """What shape inference knows of a model's values, by scope and name.

    The values of initializers that are also graph inputs say nothing, as callers may replace them,
    unless `freeze` says that nobody does.
    """

    def __init__(self, model: ModelProto, storage: Storage, *, freeze: bool = False) -> None:
        self._model = model
        self._storage = storage
        self._freeze = freeze
        self._inferred: list[dict[str, TypeProto.Tensor]] | None = None

    def shape(self, scope: Scope, name: str) -> Shape | None:
        """The dimensions of `name`, read in `scope`; None where not even their number is known.

        A dimension is a number, a symbol, or None where nothing is known of it.
        """
        found = self._type(scope, name)
        if found is None or not found.HasField("shape"):
            return None
        return tuple(
            d.dim_value if d.HasField("dim_value") else d.dim_param or None for d in found.shape.dim
        )

    def rank(self, scope: Scope, name: str) -> int | None:
        """The number of axes of `name`, read in `scope`; None where it cannot be inferred."""
        shape = self.shape(scope, name)
        return None if shape is None else len(shape)

    def element_type(self, scope: Scope, name: str) -> int | None:
        """The ONNX element type of `name`, read in `scope`; None where it cannot be inferred."""
        found = self._type(scope, name)
        return found.elem_type if found is not None and found.elem_type else None

    def _type(self, scope: Scope, name: str) -> TypeProto.Tensor | None:
        if self._inferred is None:
            self._inferred = _infer(self._model, self._storage, freeze=self._freeze)
        owner = scope.owner(name)
        if owner is None or owner.number >= len(self._inferred):
            return None
        return self._inferred[owner.number].get(name)


def _infer(
    model: ModelProto, storage: Storage, *, freeze: bool
) -> list[dict[str, TypeProto.Tensor]]:
    skeleton = ModelProto()
    skeleton.CopyFrom(model)
    del skeleton.functions[:]
    _strip(skeleton.graph, storage)
    if not freeze and model.ir_version >= 4:
        # as inputs they keep their types
        inputs = {value.name for value in skeleton.graph.input}
        delete_named(skeleton.graph.initializer, inputs)
    scalars = (v for v in skeleton.graph.input if not v.type.tensor_type.shape.dim)
    for value in (*scalars, *skeleton.graph.output):  # runtimes hold nobody to the shape of one
        value.type.tensor_type.ClearField("shape")
    try:
        store_shape_operands(skeleton.graph)
        first = onnx.shape_inference.infer_shapes(skeleton)
        doubtful = hide_doubtful_shapes(skeleton.graph, first.graph)
        if doubtful:
            skeleton.opset_import.add(domain=HIDDEN, version=1)
            first = onnx.shape_inference.infer_shapes(skeleton)
        if hide_long_vectors(skeleton.graph, first.graph) and not doubtful:
            skeleton.opset_import.add(domain=HIDDEN, version=1)
        skeleton = onnx.shape_inference.infer_shapes(skeleton, data_prop=True)
    except Exception:  # an inference that gives up leaves everything unknown, which is refused
        return []
    found: list[dict[str, TypeProto.Tensor]] = []
    _collect(skeleton.graph, found)
    return found


def _strip(graph: GraphProto, storage: Storage) -> None:
    del graph.value_info[:]
    for tensor in graph.initializer:
        _empty(tensor, storage)
    for node in graph.node:
        if (node.domain, node.op_type) in _UNFUSED:
            _unfuse(node)
        for attribute in node.attribute:
            if attribute.HasField("t"):
                _empty(attribute.t, storage)
        for _, body in bodies(node):
            _strip(body, storage)
            for value in (*body.input, *body.output):
                value.type.tensor_type.ClearField("shape")


def _unfuse(node: NodeProto) -> None:
    """Make the plain operator of one that ONNX does not know, with results of the same shape."""
    node.op_type, node.domain = _UNFUSED[node.domain, node.op_type], ""
    del node.input[3:]
    kept = [a for a in node.attribute if not a.name.startswith("activation")]
    del node.attribute[:]
    node.attribute.extend(kept)


def _empty(tensor: TensorProto, storage: Storage) -> None:
    """Take out the values of large tensors, put in those of small ones: shapes come from them."""
    if is_external(tensor) and storage.folder is None:
        return
    if math.prod(tensor.dims) > LONGEST:
        tensor.ClearField("raw_data")
    elif storage.source(tensor) is not None:
        tensor.raw_data = numpy_helper.from_array(storage.array(tensor)).raw_data
    tensor.ClearField("data_location")
    del tensor.external_data[:]


def _collect(graph: GraphProto, found: list[dict[str, TypeProto.Tensor]]) -> None:
    """Append the types of `graph` and of its bodies, in the order in which an Index has them."""
    types = {
        tensor.name: helper.make_tensor_type_proto(tensor.data_type, tensor.dims).tensor_type
        for tensor in graph.initializer
    }
    for value in (*graph.input, *graph.value_info, *graph.output):
        types[value.name] = value.type.tensor_type
    found.append(types)
    for node in graph.node:
        for _, body in bodies(node):
            _collect(body, found)
