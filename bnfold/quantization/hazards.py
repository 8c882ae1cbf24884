"""What will hurt when a model is quantised, said before it is: by weights and moments alone."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from bnfold.folding.in_place import fold_in_place
from bnfold.folding.weights.draft import Draft
from bnfold.graph.index import Index, Node
from bnfold.onnx_io import model_file
from bnfold.onnx_io.output_paths import PathLike
from bnfold.options import Options
from bnfold.quantization.regions import LINEAR, is_constant
from bnfold.quantization.weight_ranges import channel_ranges
from bnfold.tuning.moments import FloatArray
from bnfold.tuning.tensor_moments.moments_of_tensors import Watch
from bnfold.tuning.tensor_moments.tensors import TensorMoments

_UNEVEN = 8.0  # largest range by the median one, from which on three bits of eight are lost
_LONG = 16.0  # likewise of activations
_NAMED = 8  # channels that are named


@dataclass(frozen=True)
class Hazard:
    """One thing that int8 makes worse.

    `kind` is "uneven-weights", "uneven-activations" or "bias-overflow"; `node` is the layer, or the
    tensor. `remedy` is what helps.
    """

    kind: str
    node: str
    sentence: str
    remedy: str


def hazards(model: PathLike, *, options: Options | None = None) -> tuple[Hazard, ...]:
    """What will hurt when the folded form of a model is quantised to 8 bits.

    Weights are taken to be symmetric, with 127 steps to each side, and activations to have 255
    steps from the least to the largest that `moments` gives, and 0. Nothing is written or run.
    Raises what `moments` raises.
    """
    file = model_file.read(Path(model))
    watch = Watch()
    fold_in_place(file.model, file.storage, options, watch=watch)
    known = {m.name: m for m in watch.tensors if not m.scope}
    index = Index(file.model, file.storage)
    draft = Draft(index, Options())
    found: list[Hazard] = []
    for node in index.scopes[0].nodes:
        if node.op in LINEAR:
            found += [*_uneven_weights(draft, node), *_bias_overflow(draft, node, known)]
    return (*found, *_uneven_activations(known))


def _uneven_weights(draft: Draft, node: Node) -> Iterator[Hazard]:
    ranges = channel_ranges(draft, node)
    if ranges is None or not np.any(ranges > 0):
        return
    middle, largest = float(np.median(ranges[ranges > 0])), float(ranges.max())
    if largest > _UNEVEN * middle:
        steps = 127 * middle / largest
        yield Hazard(
            "uneven-weights", node.label,
            f"the largest range of a channel is {largest / middle:,.1f} times the median: with one "
            f"step per tensor half of the channels have at most {steps:.0f} of 127 steps",
            "bnfold equalize, or weights with a step per channel",
        )  # fmt: skip


def _bias_overflow(
    draft: Draft, node: Node, known: Mapping[str, TensorMoments]
) -> Iterator[Hazard]:
    """A bias has the step s_x·s_w, and 32 bits."""
    ranges, m = channel_ranges(draft, node), known.get(node.input(0))
    if ranges is None or m is None or node.op == "MatMul" or not is_constant(draft, node, 2):
        return
    bias, ends = draft.values(node, 2).reshape(-1), _ends(m)
    if ends is None or len(bias) != len(ranges):
        return
    step = (max(ends[1], 0.0) - min(ends[0], 0.0)) / 255
    with np.errstate(divide="ignore", invalid="ignore"):
        steps = np.abs(bias) / (step * ranges / 127)
    over = np.flatnonzero((steps >= 2.0**31) & (ranges > 0) & (bias != 0))
    if len(over):
        yield Hazard(
            "bias-overflow", node.label,
            f"with a step per channel the bias of {_channels(over)} does not fit into 32 bits",
            "weights with one step per tensor, after bnfold equalize",
        )  # fmt: skip


def _uneven_activations(known: Mapping[str, TensorMoments]) -> Iterator[Hazard]:
    for name, m in known.items():
        reach = np.maximum(np.abs(m.low), np.abs(m.high))
        if not np.all(np.isfinite(reach)) or not np.any(reach > 0):
            continue
        middle, largest = float(np.median(reach[reach > 0])), float(reach.max())
        if largest > _LONG * middle:
            far = np.flatnonzero(reach > _LONG * middle)
            yield Hazard(
                "uneven-activations", name,
                f"{_channels(far)} of it may reach {largest / middle:,.0f} times as far as the "
                "median channel, and all have one step",
                "bnfold equalize, with the moments and a growth of 1",
            )  # fmt: skip


def _ends(m: TensorMoments) -> tuple[float, float] | None:
    ends: FloatArray = np.concatenate([m.low, m.high])
    return (float(ends.min()), float(ends.max())) if np.all(np.isfinite(ends)) else None


def _channels(places: np.ndarray) -> str:
    named = ", ".join(map(str, places[:_NAMED].tolist()))
    more = f" and {len(places) - _NAMED} more" if len(places) > _NAMED else ""
    return f"channel{'s' if len(places) > 1 else ''} {named}{more}"
