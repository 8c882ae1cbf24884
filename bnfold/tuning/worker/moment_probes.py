"""Models that give the moments of what their BatchNormalizations read, instead of their outputs.

The means and deviations are computed inside the model, in float64 and sample by sample, so that no
feature map is ever kept.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from onnx import ModelProto, NodeProto, TensorProto, helper, numpy_helper

from bnfold.graph.holders import Holders
from bnfold.graph.index import Index, Node, Scope
from bnfold.onnx_io import model_file
from bnfold.onnx_io.protos import Array, bodies, delete_named
from bnfold.tuning.moments import SampleMoments
from bnfold.tuning.worker.lifting import Exported, Lifter

_AXES_AS_INPUT = 18  # the opset from which on ReduceMean has them so
_SHAPE_AS_INPUT = 5  # likewise of Reshape


@dataclass(frozen=True)
class Value:
    """A value that a node of a scope reads; scopes are numbered as in `Index.scopes`."""

    scope: int
    name: str

    @classmethod
    def read_by(cls, node: Node) -> Value:
        """What a BatchNormalization normalises."""
        return cls(node.scope.number, node.input(0))


def probed(
    index: Index, values: Iterable[Value], folder: Path, number: int
) -> tuple[Path, dict[Value, list[Exported]]]:
    """The part of the model that makes these values, and where their moments come out."""
    model = ModelProto()
    model.CopyFrom(index.model)
    del model.graph.output[:]
    del model.graph.value_info[:]
    there = Index(model, index.storage)
    lifter = Lifter(there)
    found = {}
    for value in values:
        scope = there.scopes[value.scope]
        names = _add_moments(there, scope, value.name)
        found[value] = list(lifter.exported(scope, names))
    _prune(model)
    return model_file.save(model, index.storage, folder / f"probe{number}.onnx"), found


def _prune(model: ModelProto) -> None:
    """Drop the nodes and initializers of the main graph that no output depends on."""
    graph = model.graph
    makers = {name: node for node in graph.node for name in node.output if name}
    pending, needed = [output.name for output in graph.output], set()
    while pending:
        node = makers.get(pending.pop())
        if node is not None and id(node) not in needed:
            needed.add(id(node))
            pending.extend(_read([node]))
    kept = [node for node in graph.node if id(node) in needed]
    for place in reversed(range(len(graph.node))):
        if id(graph.node[place]) not in needed:
            del graph.node[place]
    read = _read(kept) | {output.name for output in graph.output}
    known = {tensor.name for tensor in graph.initializer}
    delete_named(graph.initializer, known - read)
    for place in reversed(range(len(graph.input))):
        if graph.input[place].name in known - read:
            del graph.input[place]


def _read(nodes: Iterable[NodeProto]) -> set[str]:
    """All names that nodes and their bodies read."""
    found: set[str] = set()
    for node in nodes:
        found.update(node.input)
        for _, body in bodies(node):
            found |= _read(body.node)
            found.update(value.name for value in body.output)
    return found


def _add_moments(index: Index, scope: Scope, name: str) -> list[str]:
    """Mean over the positions of each sample, mean squared deviation from it, and the shape.

    Whatever axes there are, [N, C, …] becomes [N, C, positions] first.
    """

    def named(what: str) -> str:
        return index.fresh_name(f"bnfold:{what}:{name}")  # which no exporter uses

    nodes: list[NodeProto] = []

    def made(op: str, inputs: list[str], what: str, **attributes: Any) -> str:
        nodes.append(helper.make_node(op, inputs, [named(what)], **attributes))
        return str(nodes[-1].output[0])

    def constant(values: list[int], what: str) -> str:
        return made("Constant", [], what, value=numpy_helper.from_array(np.array(values, np.int64)))

    def mean(of: str, what: str) -> str:
        if scope.opset < _AXES_AS_INPUT:
            return made("ReduceMean", [of], what, axes=[2], keepdims=1)
        return made("ReduceMean", [of, constant([2], f"{what}:axes")], what, keepdims=1)

    wide = made("Cast", [name], "wide", to=TensorProto.DOUBLE)
    if scope.opset < _SHAPE_AS_INPUT:
        flat = made("Reshape", [wide], "flat", shape=[0, 0, -1])
    else:
        flat = made("Reshape", [wide, constant([0, 0, -1], "flat:shape")], "flat")
    centre = mean(flat, "mean")
    off = made("Sub", [flat, centre], "off")
    spread = mean(made("Mul", [off, off], "square"), "spread")
    shape = made("Shape", [flat], "shape")
    scope.container.node.extend(nodes)
    return [centre, spread, shape]


def sample_moments(
    results: dict[str, Array], exported: Exported, size: int, rows: int
) -> SampleMoments | None:
    """The moments of the first `rows` of `size` samples.

    Where the model has made several rows of each sample, in loops or otherwise, they are put
    together; where it has made none, there are no samples. None where its rows are no samples, and
    some must be left out.
    """
    means, spreads, shape = (results[name] for name in exported.names)
    if not means.size:
        return SampleMoments(np.zeros((0, 1)), np.zeros((0, 1)), 1)
    means, spreads, positions = _joined(means, spreads, shape, exported.stacked)
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


def _joined(means: Array, spreads: Array, shape: Array, stacked: int) -> tuple[Array, Array, int]:
    """[iterations…, N, C, 1] as [N, C], each iteration by how many positions it has had."""
    rows, channels = means.shape[stacked : stacked + 2]
    means, spreads = (array.reshape(-1, rows, channels) for array in (means, spreads))
    counts = shape.reshape(-1, 3)[:, 2]
    weights = (counts / counts.sum())[:, None, None]
    mean = (weights * means).sum(axis=0)
    spread = (weights * (spreads + (means - mean) ** 2)).sum(axis=0)
    return mean, spread, int(counts.sum())


def levels(index: Index, norms: Collection[Node]) -> dict[int, list[Node]]:
    """BatchNormalizations by how many of them stand before each, at most."""
    walk = _Levels(index, norms)
    walk.scope(index.scopes[0], 0)
    found: dict[int, list[Node]] = {}
    for node in norms:
        found.setdefault(walk.level.get(node, 0), []).append(node)
    return found


class _Levels:
    """Counts along the values of a model, through bodies and calls."""

    def __init__(self, index: Index, norms: Collection[Node]) -> None:
        self._index, self._holders, self._norms = index, Holders(index), norms
        self._height: dict[tuple[Scope, str], int] = {}
        self.level: dict[Node, int] = {}

    def scope(self, scope: Scope, given: int) -> int:
        """All values of a scope whose inputs have this height; gives the largest."""
        self._height.update(((scope, name), given) for name in scope.inputs)
        waiting, largest = list(scope.nodes), given
        for node in scope.nodes:  # they may have other heights from another call
            for name in node.proto.output:
                self._height.pop((scope, name), None)
        while waiting:
            later = []
            for node in waiting:
                if any(self._is_missing(scope, name) for name in _read([node.proto])):
                    later.append(node)
                else:
                    largest = max(largest, self._node(node, given))
            if len(later) == len(waiting):
                break  # a circle, which onnxruntime refuses
            waiting = later
        return largest

    def _is_missing(self, scope: Scope, name: str) -> bool:
        return name in scope.producers and (scope, name) not in self._height

    def _node(self, node: Node, given: int) -> int:
        reads = [self._of(node.scope, name) for name in _read([node.proto]) if name]
        level = max([*reads, 0 if node.scope.is_main else given])
        inner = self._index.bodies_of(node)
        called = self._holders.called(node)
        level = max(
            [level, *(self.scope(s, level) for s in (*inner, *([called] if called else ())))]
        )
        if node in self._norms:
            self.level[node] = max(level, self.level.get(node, 0))
            level += 1
        self._height.update(((node.scope, name), level) for name in node.proto.output)
        return level

    def _of(self, scope: Scope, name: str) -> int:
        owner = scope.owner(name)
        return 0 if owner is None else self._height.get((owner, name), 0)
