"""Random graphs in more forms: other types and opsets, open sizes, dead channels, bodies of Scan.

They are made of the graphs of `random_graphs` and are folded and proven, not run: much of what they
hold has no kernel in onnxruntime.
"""

from __future__ import annotations

import random

import ml_dtypes
import numpy as np
import onnx
from onnx import ModelProto, TensorProto, helper, numpy_helper, version_converter

from tests.random_graphs import OPERATORS, build
from tests.support import Array

TYPES = {
    TensorProto.DOUBLE: np.float64, TensorProto.FLOAT: np.float32,
    TensorProto.FLOAT16: np.float16, TensorProto.BFLOAT16: ml_dtypes.bfloat16,
}  # fmt: skip
OPSETS = (7, 8, 9, 10, 11, 12, 13, 14, 15, 16, 17, 18, 19, 20, 21, 22, 23)
_LIKELY = ("batch_norm", "conv", "unary", "arithmetic", "branches")


def wider(seed: int) -> ModelProto:
    """A graph of a seed, in a form that the seed chooses."""
    rng = random.Random(seed)
    names = [
        rng.choice(_LIKELY if rng.random() < 0.5 else sorted(OPERATORS))
        for _ in range(rng.randint(2, 9))
    ]
    model = in_opset(build(names, seed), rng.choice(OPSETS))
    changes = (
        dead_channels, shared_constants, other_type, computed_weights, open_sizes, no_names,
        ceiling,
    )  # fmt: skip
    for change in changes:
        if rng.random() < 0.4:
            change(model, rng)
    if rng.random() < 0.3:
        more_readers(model, rng)
    return in_scan(model, rng) if rng.random() < 0.15 else model


def in_opset(model: ModelProto, version: int) -> ModelProto:
    """The same in another opset; as it is where one of its operators cannot be said in that."""
    changed = onnx.ModelProto()
    changed.CopyFrom(model)
    changed.opset_import[0].version = version
    constants = {t.name: numpy_helper.to_array(t) for t in model.graph.initializer}
    for node in changed.graph.node:
        since, names = _AS_ATTRIBUTES.get(node.op_type, (0, ()))
        if version >= since:
            continue
        for name, constant in zip(names, list(node.input)[1:], strict=False):
            if constant:
                values = constants[constant].tolist()
                node.attribute.append(helper.make_attribute(name, values))
        del node.input[1:]
    if version >= 18:  # a ReduceMean's axes, and what else became an input then
        try:
            changed = version_converter.convert_version(model, version)
        except RuntimeError:
            return model
        del changed.graph.value_info[:]
    try:
        onnx.checker.check_model(changed)
    except onnx.checker.ValidationError:
        return model
    return changed


_AS_ATTRIBUTES = {  # operators whose inputs behind the first were attributes before an opset
    "Clip": (11, ("min", "max")), "Pad": (11, ("pads", "value")), "ReduceSum": (13, ("axes",)),
    "Slice": (10, ("starts", "ends", "axes")), "Split": (13, ("split",)),
    "Squeeze": (13, ("axes",)), "Unsqueeze": (13, ("axes",)), "Dropout": (12, ("ratio",)),
}  # fmt: skip


def in_scan(model: ModelProto, rng: random.Random) -> ModelProto:
    """As the body of a Scan over three inputs; constants stay outside, or go with it."""
    graph = model.graph
    if model.opset_import[0].version < 9:  # where a Scan has a batch
        return model
    shape = graph.input[0].type.tensor_type
    dims = [dim.dim_param or dim.dim_value for dim in shape.shape.dim]
    outer = helper.make_tensor_value_info("sequence", shape.elem_type, [3, *dims])
    body = onnx.GraphProto()
    body.CopyFrom(graph)
    constants = list(graph.initializer)
    if rng.random() < 0.5:
        del body.initializer[:]
    else:
        constants = []
    names = [f"all_{value.name}" for value in graph.output]
    node = helper.make_node("Scan", ["sequence"], names, body=body, num_scan_inputs=1)
    outputs = [helper.make_empty_tensor_value_info(name) for name in names]
    whole = helper.make_graph([node], "random_scan", [outer], outputs, constants)
    return helper.make_model(whole, opset_imports=model.opset_import, ir_version=8)


def other_type(model: ModelProto, rng: random.Random) -> None:
    """Another type of floating-point numbers throughout."""
    in_type(model, rng.choice([t for t in TYPES if t != TensorProto.DOUBLE]))


def in_type(model: ModelProto, kind: TensorProto.DataType) -> None:
    """With numbers of this type instead of float64."""
    for tensor in model.graph.initializer:
        if tensor.data_type == TensorProto.DOUBLE:
            values = numpy_helper.to_array(tensor).astype(TYPES[kind])
            tensor.CopyFrom(numpy_helper.from_array(values, tensor.name))
    for value in (*model.graph.input, *model.graph.output):
        if value.type.tensor_type.elem_type == TensorProto.DOUBLE:
            value.type.tensor_type.elem_type = kind
    for node in model.graph.node:
        for attribute in node.attribute:
            if node.op_type == "Cast" and attribute.i == TensorProto.DOUBLE:
                attribute.i = kind


def computed_weights(model: ModelProto, rng: random.Random) -> None:
    """Weights that are standardised or normalised each time, as some layers export them."""
    version = model.opset_import[0].version
    tensors = {tensor.name: tensor for tensor in model.graph.initializer}
    for place, node in reversed(list(enumerate(model.graph.node))):
        weight = tensors.get(node.input[1]) if len(node.input) > 1 else None
        if node.op_type not in ("Conv", "MatMul", "Gemm") or weight is None or rng.random() < 0.5:
            continue
        made, kind = f"made_{place}", rng.choice(("length", "apart", "training"))
        # p = 1 is left out: ONNX's reference implementation adds up x instead of |x|
        new = [helper.make_node("LpNormalization", [weight.name], [made], axis=0, p=2)]
        if kind == "apart":
            mean = helper.make_node("ReduceMean", [weight.name], [f"{made}_mean"])
            new = [mean, helper.make_node("Sub", [weight.name, f"{made}_mean"], [made])]
        elif kind == "training" and version >= 14 and len(weight.dims) > 1:
            channels = weight.dims[1]
            values = numpy_helper.to_array(weight)
            ones = numpy_helper.from_array(np.ones(channels, values.dtype), f"{made}_ones")
            model.graph.initializer.append(ones)
            read = [weight.name, *[ones.name] * 4]
            new = [helper.make_node("BatchNormalization", read, [made], training_mode=1)]
        node.input[1] = made
        for one in reversed(new):
            model.graph.node.insert(place, one)


def open_sizes(model: ModelProto, rng: random.Random) -> None:
    """A batch, a height or a width that only callers know."""
    dims = model.graph.input[0].type.tensor_type.shape.dim
    for place in (0, 2, 3):
        if rng.random() < 0.5:
            dims[place].dim_param = f"D{place}"
    for value in model.graph.output:
        value.type.tensor_type.ClearField("shape")


def no_names(model: ModelProto, _: random.Random) -> None:
    """Nodes without names."""
    for node in model.graph.node:
        node.ClearField("name")


def dead_channels(model: ModelProto, rng: random.Random) -> None:
    """γ, β or σ² of 0, and statistics as they are before training."""
    tensors = {tensor.name: tensor for tensor in model.graph.initializer}
    for node in model.graph.node:
        if node.op_type != "BatchNormalization":
            continue
        values = [numpy_helper.to_array(tensors[name]).copy() for name in node.input[1:5]]
        if rng.random() < 0.3:
            values = [np.full_like(v, start) for v, start in zip(values, (1, 0, 0, 1), strict=True)]
        else:
            _zero(values[rng.choice((0, 1))], rng)
            if node.attribute[0].f > 0:
                _zero(values[3], rng)
        for name, array in zip(node.input[1:5], values, strict=True):
            tensors[name].CopyFrom(numpy_helper.from_array(array, name))


def _zero(values: Array, rng: random.Random) -> None:
    values[rng.randrange(len(values))] = 0


def shared_constants(model: ModelProto, rng: random.Random) -> None:
    """One constant for several readers that read one of its shape."""
    first: dict[tuple[int, ...], str] = {}
    shared = {}
    for tensor in model.graph.initializer:
        shape = (tensor.data_type, *tensor.dims)
        if tensor.data_type == TensorProto.DOUBLE and shape in first and rng.random() < 0.5:
            shared[tensor.name] = first[shape]
        first.setdefault(shape, tensor.name)
    for node in model.graph.node:
        variance = node.op_type == "BatchNormalization"
        for slot, name in enumerate(node.input):
            if name in shared and not (variance and slot == 4):
                node.input[slot] = shared[name]


def ceiling(model: ModelProto, _: random.Random) -> None:
    """Pools that round up; of strides of 2, so that it matters."""
    for node in model.graph.node:
        if node.op_type in ("MaxPool", "AveragePool"):
            node.attribute.append(helper.make_attribute("ceil_mode", 1))
            node.attribute.append(helper.make_attribute("strides", [2, 2]))
    for value in model.graph.output:
        value.type.tensor_type.ClearField("shape")


def more_readers(model: ModelProto, rng: random.Random) -> None:
    """A value that a hundred others read as well."""
    node = rng.choice(list(model.graph.node))
    for number in range(100):
        model.graph.node.append(helper.make_node("Neg", [node.output[0]], [f"more{number}"]))
        model.graph.output.append(helper.make_empty_tensor_value_info(f"more{number}"))
