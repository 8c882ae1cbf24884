"""Models that give the moments of what their BatchNormalizations read, instead of their outputs.

The means and deviations are computed inside the model, in float64 and sample by sample, so that no
feature map is ever kept.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from onnx import ModelProto, NodeProto, TensorProto, ValueInfoProto, helper, numpy_helper

from bnfold.graph.index import Index
from bnfold.onnx_io import model_file
from bnfold.onnx_io.protos import Array, bodies, delete_named
from bnfold.tuning.moments import SampleMoments

_AXES_AS_INPUT = 18  # the opset from which on ReduceMean has them so


def probed(index: Index, values: dict[str, int], folder: Path, number: int) -> Path:
    """The part of the model that makes these values (name → rank); their moments are outputs."""
    model = ModelProto()
    model.CopyFrom(index.model)
    graph = model.graph
    needed = _needed(index, values)
    for place in reversed(range(len(graph.node))):
        if place not in needed:
            del graph.node[place]
    read = _read(graph.node)
    read.update(values)
    delete_named(graph.initializer, {t.name for t in graph.initializer} - read)
    listed = {tensor.name for tensor in graph.initializer}
    known = {tensor.name for tensor in index.model.graph.initializer}
    for place in reversed(range(len(graph.input))):
        if graph.input[place].name in known - listed:
            del graph.input[place]
    del graph.output[:]
    del graph.value_info[:]
    opset = index.scopes[0].opset
    for name, rank in values.items():
        graph.node.extend(_moments(graph, name, rank, opset))
        graph.output.extend(ValueInfoProto(name=n) for n in _outputs(name, rank))
    return model_file.save(model, index.storage, folder / f"probe{number}.onnx")


def _needed(index: Index, values: Iterable[str]) -> set[int]:
    """The places of the main graph's nodes that values depend on."""
    main = index.scopes[0]
    position = {id(node.proto): place for place, node in enumerate(main.nodes)}
    needed: set[int] = set()
    pending = list(values)
    while pending:
        node = main.producers.get(pending.pop())
        if node is not None and position[id(node.proto)] not in needed:
            needed.add(position[id(node.proto)])
            pending.extend(_read([node.proto]))
    return needed


def _read(nodes: Iterable[NodeProto]) -> set[str]:
    """All names that nodes and their bodies read."""
    found: set[str] = set()
    for node in nodes:
        found.update(node.input)
        for _, body in bodies(node):
            found |= _read(body.node)
            found.update(value.name for value in body.output)
    return found


def _named(name: str, what: str) -> str:
    """What a value is called that is computed of another: by no name that exporters give."""
    return f"bnfold:{what}:{name}"


def _outputs(name: str, rank: int) -> Sequence[str]:
    return [_named(name, what) for what in ("mean", "spread", "shape")[: 3 if rank > 2 else 1]]


def _moments(graph: Any, name: str, rank: int, opset: int) -> list[NodeProto]:
    """Mean over the positions of each sample, and mean squared deviation from it."""
    wide = _named(name, "wide")
    nodes = [helper.make_node("Cast", [name], [wide], to=TensorProto.DOUBLE)]
    if rank == 2:
        return [*nodes, helper.make_node("Identity", [wide], [_named(name, "mean")])]
    axes = list(range(2, rank))

    def mean(source: str, result: str) -> NodeProto:
        if opset < _AXES_AS_INPUT:
            return helper.make_node("ReduceMean", [source], [result], axes=axes, keepdims=1)
        along = f"{result}:axes"
        graph.initializer.append(numpy_helper.from_array(np.array(axes, np.int64), along))
        return helper.make_node("ReduceMean", [source, along], [result], keepdims=1)

    return [
        *nodes,
        mean(wide, _named(name, "mean")),
        helper.make_node("Sub", [wide, _named(name, "mean")], [_named(name, "off")]),
        helper.make_node(
            "Mul", [_named(name, "off"), _named(name, "off")], [_named(name, "square")]
        ),
        mean(_named(name, "square"), _named(name, "spread")),
        helper.make_node("Shape", [name], [_named(name, "shape")]),
    ]


def sample_moments(
    results: dict[str, Array], name: str, rank: int, size: int, rows: int
) -> SampleMoments | None:  # fmt: skip
    """The moments of the first `rows` of `size` samples.

    Where the model has made several rows of each sample, they are put together. None where its rows
    are no samples, and some must be left out.
    """
    means = results[_named(name, "mean")]
    means = means.reshape(means.shape[0], -1)
    if rank == 2:
        spreads, positions = np.zeros_like(means), 1
    else:
        spreads = results[_named(name, "spread")].reshape(means.shape)
        positions = int(np.prod(results[_named(name, "shape")][2:]))
    several, rest = divmod(len(means), size)
    if rest or not several:
        return SampleMoments(means, spreads, positions) if rows == size else None
    if several > 1:
        rows_of = means.reshape(size, several, -1)
        means = rows_of.mean(axis=1)
        off = (rows_of - means[:, None]) ** 2
        spreads = (spreads.reshape(rows_of.shape) + off).mean(axis=1)
        positions *= several
    return SampleMoments(means[:rows], spreads[:rows], positions)


def levels(index: Index, norms: Collection[str]) -> dict[int, list[str]]:
    """BatchNormalizations of the main graph, by their outputs: how many stand before each."""
    main = index.scopes[0]
    height: dict[str, int] = {}
    found: dict[int, list[str]] = {}
    waiting = list(main.nodes)
    while waiting:
        later = []
        for node in waiting:
            names = [name for name in _read([node.proto]) if name in main.producers]
            if any(name not in height for name in names):
                later.append(node)
                continue
            level = max((height[name] for name in names), default=0)
            if node.output in norms:
                found.setdefault(level, []).append(node.output)
                level += 1
            height.update(dict.fromkeys(node.proto.output, level))
        if len(later) == len(waiting):
            break  # a circle, which onnxruntime refuses
        waiting = later
    return found
