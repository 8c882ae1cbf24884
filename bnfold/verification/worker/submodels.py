"""Models made of parts of a model, fed the values that the parts start from."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from onnx import ModelProto, NodeProto, TensorProto, ValueInfoProto, helper

from bnfold.onnx_io import model_file
from bnfold.onnx_io.protos import expose
from bnfold.proof.kernel.regions import Part
from bnfold.proof.reading.model import Model
from bnfold.runtime.sessions import Feed

_NUMBERS = itertools.count()


def exposed(source: Model, names: Iterable[str], folder: Path) -> Path:
    """The whole model, with these values as outputs as well."""
    model = ModelProto()
    model.CopyFrom(source.proto)
    expose(model.graph, names)
    return _saved(source, model, folder)


def of_parts(
    source: Model, parts: Sequence[Part], values: Feed, folder: Path, called: Mapping[str, str]
) -> Path:
    """A model with the parts' nodes alone.

    Its inputs are the parts' starts, under the names that `called` gives them, and its outputs the
    parts' ends; that of a part without nodes is called `passed(end)`. `values` tells the types.
    """
    nodes = list({id(node): node for part in parts for node in part.nodes}.values())
    starts = {name: called.get(name, name) for part in parts for name in part.starts}
    protos = []
    for node in nodes:
        copy = NodeProto()
        copy.CopyFrom(node.proto)
        for slot, name in enumerate(copy.input):
            copy.input[slot] = starts.get(name, name)
        protos.append(copy)
    output_judge = []
    for part in parts:
        output_judge.append(part.end if part.nodes else passed(part.end))
        if not part.nodes:
            protos.append(helper.make_node("Identity", [starts[part.end]], [output_judge[-1]]))
    inputs = {new: values[new] for new in starts.values()}
    return _saved(source, bare(source, protos, (), inputs, dict.fromkeys(output_judge)), folder)


def passed(end: str) -> str:
    """What the end of a part without nodes is called."""
    return f"bnfold:passed:{end}"


def of_nodes(
    source: Model, nodes: Sequence[NodeProto], tensors: Sequence[TensorProto], inputs: Feed,
    outputs: Iterable[str], folder: Path,
) -> Path:  # fmt: skip
    """A model of these nodes, with the constants of `source` and `tensors`."""
    return _saved(source, bare(source, nodes, tensors, inputs, outputs), folder)


def bare(
    source: Model, nodes: Sequence[NodeProto], tensors: Sequence[TensorProto], inputs: Feed,
    outputs: Iterable[str],
) -> ModelProto:  # fmt: skip
    """The same as a ModelProto whose large tensors are where those of `source` are."""
    model = ModelProto()
    model.CopyFrom(source.proto)
    graph = model.graph
    read = {name for node in nodes for name in node.input}
    initializers = [t for t in graph.initializer if t.name in read and t.name not in inputs]
    graph.Clear()
    graph.name = source.proto.graph.name
    graph.initializer.extend([*initializers, *tensors])
    graph.node.extend(nodes)
    for name, array in inputs.items():
        kind = helper.np_dtype_to_tensor_dtype(array.dtype)
        graph.input.append(helper.make_tensor_value_info(name, kind, [None] * array.ndim))
    graph.output.extend(ValueInfoProto(name=name) for name in outputs)
    return model


def _saved(source: Model, model: ModelProto, folder: Path) -> Path:
    return model_file.save(model, source.storage, folder / f"part{next(_NUMBERS)}.onnx")
