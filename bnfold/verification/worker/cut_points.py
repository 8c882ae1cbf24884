"""Cutting models open where their activations are rounded to integers.

A QuantizeLinear makes a step of what rounding did to its input: one value in a thousand that lies
near a tie moves by 1/255 of the range, and everything behind it is noise. So what it gives becomes
an input of both models, which the original's own values are fed to, and what it reads becomes an
output. Each part is then continuous and held to the bound of its own rounding.
"""

from __future__ import annotations

from dataclasses import dataclass

from onnx import ModelProto, NodeProto, TensorProto, helper

from bnfold.onnx_io.model_file import ModelFile
from bnfold.onnx_io.protos import Array, delete_named, expose, node_tensors
from bnfold.runtime.sessions import Feed

_FED = (TensorProto.INT8, TensorProto.UINT8, TensorProto.INT16, TensorProto.UINT16)


def common_roundings(original: ModelFile, folded: ModelFile) -> dict[str, str]:
    """The values that both models round alike, and what they make them from.

    Alike: by one name, of one name, with the same scale, zero point and attributes to the byte.
    """
    ours, theirs = _roundings(original), _roundings(folded)
    return {name: ours[name].source for name in ours if ours[name] == theirs.get(name)}


@dataclass(frozen=True)
class _Rounding:
    source: str
    parameters: tuple[bytes, ...]
    attributes: tuple[bytes, ...]


def cut(model: ModelProto, roundings: dict[str, str], values: Feed) -> None:
    """Replace the QuantizeLinears that give `roundings` by inputs, and expose what they read."""
    graph = model.graph
    for place in reversed(range(len(graph.node))):
        if roundings.keys() & set(graph.node[place].output):
            del graph.node[place]
    made = {name for node in graph.node for name in node.output}
    expose(graph, made.intersection(roundings.values()))
    given = {value.name for value in graph.output} & roundings.keys()  # cannot be both
    delete_named(graph.output, given)
    for name in roundings:
        kind = helper.np_dtype_to_tensor_dtype(values[name].dtype)
        graph.input.append(helper.make_tensor_value_info(name, kind, None))


def _roundings(file: ModelFile) -> dict[str, _Rounding]:
    """What the QuantizeLinears of the main graph make of activations, by constants."""
    model = file.model
    inputs = {value.name for value in model.graph.input}  # which callers may replace
    constants = {t.name: t for t in model.graph.initializer if t.name not in inputs}
    known = {*constants, ""}
    found = {}
    for node in model.graph.node:
        if all(name in known for name in node.input):
            known.update(node.output)
            if node.op_type == "Constant":
                constants[node.output[0]] = next(node_tensors([node]), TensorProto())
        elif node.op_type == "QuantizeLinear" and _type(node, constants) in _FED:
            parameters = [constants.get(name) for name in node.input[1:] if name]
            if None not in parameters:
                found[node.output[0]] = _Rounding(
                    node.input[0],
                    tuple(_bytes(file.storage.array(t)) for t in parameters if t is not None),
                    tuple(sorted(a.SerializeToString() for a in node.attribute)),
                )
    return found


def _bytes(array: Array) -> bytes:
    return repr((array.dtype, array.shape)).encode() + array.tobytes()


def _type(node: NodeProto, constants: dict[str, TensorProto]) -> int:
    """The element type of what a QuantizeLinear gives; 0 where it cannot be told."""
    if len(node.input) > 2 and node.input[2]:
        return constants.get(node.input[2], TensorProto()).data_type
    declared = (attribute.i for attribute in node.attribute if attribute.name == "output_dtype")
    return next(declared, 0) or TensorProto.UINT8


SATURATING = frozenset({"Clip", "HardSigmoid", "LogSoftmax", "Sigmoid", "Softmax", "Tanh"})


def before_saturation(original: ModelProto, folded: ModelProto) -> dict[str, str]:
    """The outputs that the last operator of both models flattens, and what it makes them from."""
    theirs = _saturated(folded)
    return {
        name: source for name, source in _saturated(original).items() if theirs.get(name) == source
    }


def _saturated(model: ModelProto) -> dict[str, str]:
    """Outputs of the graph that a saturating operator makes, and what it makes them from."""
    makers = {name: node for node in model.graph.node for name in node.output}
    found = {}
    for value in model.graph.output:
        node = makers.get(value.name)
        if node is not None and node.op_type in SATURATING and node.input[0] in makers:
            found[value.name] = node.input[0]
    return found
