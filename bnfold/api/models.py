"""Models in memory: `fold`, and `inspect`, which changes nothing."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import onnx

from bnfold.folding.in_place import FoldResult, Model, fold_in_place
from bnfold.folding.inlining import inlined
from bnfold.folding.layer_details import Layer, layers
from bnfold.folding.plan import plan
from bnfold.folding.selection import helpful_flags, require_sites
from bnfold.graph.index import Index
from bnfold.graph.node_counts import NodeCounts
from bnfold.onnx_io import graphsurgeon, model_file
from bnfold.onnx_io.data_files import DataFolder
from bnfold.onnx_io.output_paths import PathLike
from bnfold.onnx_io.tensor_storage import Storage
from bnfold.options import Options
from bnfold.tuning.prediction.verdicts import LayerSummary
from bnfold.verdict import Verdict


@dataclass(frozen=True)
class Inspection:
    """What bnfold would do to a model, without doing it."""

    verdicts: tuple[Verdict, ...]
    counts: NodeCounts
    layers: tuple[Layer, ...] = ()  # with details=True, one for each verdict
    flags: Mapping[str, int] = field(default_factory=dict)  # see `flags` of `OptimizeResult`
    statistics: tuple[LayerSummary, ...] = ()  # whether what is stored fits, see `consistency`


def fold(
    model: Model, *, options: Options | None = None, base_dir: PathLike | None = None
) -> FoldResult[Model]:
    """Fold every BatchNormalization that can be folded; returns a new model.

    `model` is an onnx.ModelProto or an onnx_graphsurgeon.Graph and is left as it is; the result's
    `model` is of the same type. Nothing is run: `verify` compares two models in onnxruntime.

    Where a ModelProto has external data that was not loaded, `base_dir` is the folder that it is
    in. What is folded is then in the result's model, and the rest is external as before.

    Raises ModelError where a name is read that nothing makes, a name is made twice or a tensor is
    damaged (it is no full check of the model), TypeError for anything but the two types.
    """
    if isinstance(model, onnx.ModelProto):
        return fold_in_place(copied(model), _storage(base_dir), options)  # type: ignore[return-value]
    if graphsurgeon.is_graph(model):
        result = fold_in_place(graphsurgeon.to_model(model), Storage(), options)
        return dataclasses.replace(result, model=graphsurgeon.to_graph(result.model))  # type: ignore
    raise TypeError(f"fold takes a ModelProto or an onnx_graphsurgeon Graph, not {type(model)}")


def inspect(
    model: onnx.ModelProto | PathLike,
    *,
    options: Options | None = None,
    base_dir: PathLike | None = None,
    details: bool = False,
) -> Inspection:
    """The verdict on every BatchNormalization of a model or a file; nothing is changed or run.

    `base_dir` is where the external data of a ModelProto is. `details` adds what a report draws.
    Raises ModelError where the file cannot be read or the model is not valid.
    """
    if isinstance(model, onnx.ModelProto):
        proto, storage = model, _storage(base_dir)
    else:
        file = model_file.read(Path(model))
        proto, storage = file.model, file.storage
    index = Index(proto, storage)
    require_sites(index, options)
    before, verdicts = NodeCounts.of(index), plan(index, options).verdicts
    named = options is not None and (options.skip or options.only)
    if (
        not named and inlined(proto, verdicts) is not None
    ):  # whether that pays shows only when it is done
        verdicts = fold_in_place(copied(proto), storage, options).verdicts
    drawn = layers(index, None, verdicts, options or Options()) if details else ()
    kept = sum(not verdict.folded for verdict in verdicts)
    flags = helpful_flags(index, options, len(verdicts) - kept) if kept or not verdicts else {}
    from bnfold.tuning.prediction.consistency import consistency_of

    statistics = consistency_of(index).summaries
    return Inspection(verdicts, before, drawn, flags, statistics)


def copied(model: onnx.ModelProto) -> onnx.ModelProto:
    """A model of its own."""
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    return copy


def _storage(base_dir: PathLike | None) -> Storage:
    return Storage(None if base_dir is None else DataFolder(Path(base_dir)))
