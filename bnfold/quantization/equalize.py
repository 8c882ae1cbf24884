"""The function behind `bnfold equalize`."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import cast

import numpy as np
from onnx import ModelProto

from bnfold.errors import UsageError
from bnfold.folding.apply import apply
from bnfold.folding.plan import Plan
from bnfold.folding.weights.draft import Draft
from bnfold.graph.index import BATCH_NORM, Index, Node
from bnfold.onnx_io import model_file
from bnfold.onnx_io.output_paths import PathLike, output_path, require_other_than
from bnfold.onnx_io.tensor_storage import Storage
from bnfold.onnx_io.write_model import write_model
from bnfold.options import Level, Options, RunOptions, Scales, Verify, require_choice
from bnfold.progress import Progress
from bnfold.quantization.equalization import (
    Equalization,
    EqualizedLayer,
    EqualizedRegion,
    EqualizeResult,
)
from bnfold.quantization.regions import LINEAR, Region, is_constant, regions
from bnfold.quantization.weight_ranges import (
    Borders,
    borders,
    equalised,
    kept_exact,
    largest_by_channel,
    range_ratio,
)
from bnfold.reasons import Refusal
from bnfold.steps import to_json
from bnfold.tuning.moments import FloatArray
from bnfold.tuning.tensor_moments import files
from bnfold.tuning.tensor_moments.correspondence import Place, named, places
from bnfold.tuning.tensor_moments.moments_of_tensors import through
from bnfold.tuning.tensor_moments.tensors import TensorMoments
from bnfold.verification.client import compare_by_proof
from bnfold.verification.comparison import Comparison

_LEAST = 1 / 16  # of the scales where nothing is known of activations
_FLOOR = 2.0**-10


def equalize(
    path_in: PathLike,
    path_out: PathLike | None = None,
    *,
    scales: Scales = "power-of-two",
    growth: float = 2.0,
    moments_file: PathLike | None = None,
    moments_out: PathLike | None = None,
    verify: Verify = "run",
    run_options: RunOptions | None = None,
    progress: Progress | None = None,
) -> EqualizeResult:
    """Move scales between layers of a file, so that the channels of each weight have like ranges.

    Quantised with one step for a whole tensor, a channel of a small range has few steps left. A
    channel can be made s times smaller and read s times larger, through whatever a scale passes,
    and the model stays the same function: with "power-of-two" scales bit for bit, as long as
    nothing overflows or becomes subnormal; with "free" ones up to rounding, proven as folds are. In
    return activations change their ranges: none of a tensor's channels may grow beyond `growth`
    times the largest one, by a `moments_file` of `optimize`; without it, none more than 16 times.
    `moments_out` is where to write the moments of the new model, of those of the old one.

    `verify`, `run_options` and `progress` are those of `optimize`; `path_out` defaults to
    `model.equalized.onnx`. Raises ModelError, UsageError, NotEqualError (nothing is written),
    UndecidedError and WorkerError.
    """
    require_choice("verify", verify, Verify)
    moments = files.read(moments_file) if moments_file is not None else ()
    source = Path(path_in)
    file = model_file.read(source)
    target = output_path(source, path_out, ".equalized.onnx")
    require_other_than(target, moments_file)
    if moments_out is not None:
        if moments_file is None:
            raise UsageError("`moments_out` is made of `moments_file`", "give that as well")
        files.require_writable(moments_out, [source, target, moments_file])
    found = equalize_in_place(
        file.model, file.storage, moments=moments, scales=scales, growth=growth
    )
    comparison: Comparison | None = None

    def check(candidate: Path) -> None:
        nonlocal comparison
        comparison = compare_by_proof(
            source, candidate, found.proof, run_options, level=cast(Level, verify),
            progress=progress,
        )  # fmt: skip

    write_model(
        file, target, unchanged=not found.proof,
        check=check if found.proof and verify != "none" else None,
    )  # fmt: skip
    if moments_out is not None:
        files.save(found.moments, moments_out, target.name)
    return EqualizeResult(**vars(found), model=target, comparison=comparison)


def equalize_in_place(
    model: ModelProto, storage: Storage, *, moments: Sequence[TensorMoments] = (),
    scales: Scales = "power-of-two", growth: float = 2.0,
) -> Equalization:  # fmt: skip
    """`equalize` for a model in memory, which is changed."""
    require_choice("scales", scales, Scales)
    if not growth >= 1:
        raise UsageError("`growth` is a factor of at least 1")
    index = Index(model, storage)
    linear = [node for node in index.scopes[0].nodes if node.op in LINEAR]
    draft = Draft(index, Options())
    before = _ratios(draft, linear)
    found = _plan(index, draft, moments, growth, powers_of_two=scales == "power-of-two")
    after = _ratios(draft, linear)
    plan = Plan(tuple(draft.edits), (), draft.constants)
    carried = list(_carried(index, plan, moments))
    proof = apply(index, plan).proof
    now = [replace(m, name=name) for m, name in named(Index(model, storage), proof, carried)]
    return Equalization(
        tuple(EqualizedLayer(label, before[label], after[label]) for label in before),
        tuple(_told(*each) for each in found),
        sum(node.op == BATCH_NORM for node in index.scopes[0].nodes),
        to_json(proof).decode() if draft.edits else "",
        tuple(now),
    )


def equalized_as(model: ModelProto, storage: Storage, other: Index) -> str:
    """The proof that powers of two between layers make another model of this one, which is changed.

    "" where that is not how they differ. The scales are read off the weights of both.
    """
    index = Index(model, storage)
    ours, theirs = index.scopes[0].nodes, other.scopes[0].nodes
    if [node.op for node in ours] != [node.op for node in theirs]:
        return ""
    draft, target = Draft(index, Options()), Draft(other, Options())
    partner = dict(zip(ours, theirs, strict=True))
    order = {node: place for place, node in enumerate(ours)}
    for _, region in list(regions(draft, index)):
        if isinstance(region, Refusal):
            continue
        border = borders(draft, region, np.zeros(region.channels))
        if isinstance(border, Refusal) or not border.makers:
            continue
        scales = _scales_between(draft, target, partner, order, border)
        if scales is None or (np.any(scales != 1) and region.rescale(draft, scales) is not None):
            return ""
    if not draft.edits:
        return ""
    return to_json(apply(index, Plan(tuple(draft.edits), (), draft.constants)).proof).decode()


def _scales_between(
    draft: Draft, target: Draft, partner: Mapping[Node, Node], order: Mapping[Node, int],
    border: Borders,
) -> FloatArray | None:  # fmt: skip
    """What the values of a region were divided by, by the first weight that makes one of them."""
    (node, slot), channel = min(border.makers.items(), key=lambda each: order[each[0][0]])
    if not is_constant(target, partner[node], slot):
        return None
    sizes = []
    for weight in (draft.values(node, slot), target.values(partner[node], slot)):
        if weight.shape != channel.shape:
            return None
        sizes.append(largest_by_channel(np.abs(weight), channel, border.region.channels))
    known = (sizes[0] > 0) & (sizes[1] > 0) & np.isfinite(sizes[0]) & np.isfinite(sizes[1])
    ratio = np.divide(sizes[0], sizes[1], out=np.ones_like(sizes[0]), where=known)
    scales = np.asarray(2.0 ** np.rint(np.log2(ratio)))
    return scales if np.array_equal(scales, ratio) else None


def _ratios(draft: Draft, nodes: Iterable[Node]) -> dict[str, float]:
    found = {node.label: range_ratio(draft, node) for node in nodes}
    return {label: ratio for label, ratio in found.items() if ratio is not None}


def _plan(
    index: Index, draft: Draft, moments: Sequence[TensorMoments], growth: float, *,
    powers_of_two: bool,
) -> list[tuple[str, int, Borders | Refusal]]:  # fmt: skip
    """Add the edits to the draft; for each region its first node, how many values, its scales."""
    known = {m.name: m for m in moments if not m.scope}
    found: dict[str, Borders | Refusal] = {}
    values: dict[str, int] = {}
    for node, region in list(regions(draft, index)):
        values[node.label] = 0 if isinstance(region, Refusal) else len(region.values)
        found[node.label] = (
            region if isinstance(region, Refusal)
            else borders(draft, region, _least(region, known, growth))
        )  # fmt: skip
    while True:  # without a region that stays after all the others have other scales
        movable = [b for b in found.values() if isinstance(b, Borders) and b.makers and b.takers]
        for border in movable:
            border.total = np.ones(border.region.channels)
        equalised(draft, movable, powers_of_two=powers_of_two)
        refused = {
            label: refusal for label, border in found.items()
            if isinstance(border, Borders)
            and (refusal := _moved(draft, border, powers_of_two=powers_of_two)) is not None
        }  # fmt: skip
        if not refused:
            return [(label, values[label], border) for label, border in found.items()]
        draft.undo_to(0)
        found |= refused


def _moved(draft: Draft, border: Borders, *, powers_of_two: bool) -> Refusal | None:
    if np.all(border.total == 1):
        return None
    if powers_of_two:
        return kept_exact(draft, border)
    return border.region.rescale(draft, border.total)


def _told(label: str, values: int, border: Borders | Refusal) -> EqualizedRegion:
    if isinstance(border, Refusal):
        return EqualizedRegion(label, values, refusal=border)
    return EqualizedRegion(label, values, float(border.total.min()), float(border.total.max()))


def _carried(
    index: Index, plan: Plan, moments: Sequence[TensorMoments]
) -> Iterator[tuple[Place, TensorMoments]]:
    """The moments of each tensor, through the map that it takes."""
    known = {(m.scope, m.name): m for m in moments}
    for place in places(index, plan):
        there = known.get((place.scope.label, place.name))
        moved = None if there is None else through(place.map, there)
        if moved is not None:
            yield place, moved


def _least(region: Region, known: Mapping[str, TensorMoments], growth: float) -> FloatArray:
    """What the scales may not fall below, by how far activations may grow."""
    least = np.full(region.channels, _FLOOR)
    some = False
    for node, output in region.values:
        m = known.get(node.proto.output[output])
        if m is None or len(m.mean) != region.channels or m.axis != region.axis:
            continue
        reach = np.maximum(np.abs(m.low), np.abs(m.high))
        if np.all(np.isfinite(reach)) and reach.max() > 0:
            some = True
            least = np.maximum(least, reach / (growth * reach.max()))
    return least if some else np.full(region.channels, _LEAST)
