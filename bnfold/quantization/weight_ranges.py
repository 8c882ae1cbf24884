"""The ranges of weights, channel by channel, and scales that make them alike.

With r₁ the range of what makes a channel and r₂ of what reads it, each relative to the largest of
its tensor, s = √(r₁/r₂) makes both √(r₁r₂) (Nagel et al., *Data-Free Quantization Through Weight
Equalization and Bias Correction*, 2019, §4.1). Weights that several regions meet in are
gone through again until nothing changes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from onnx import helper

from bnfold.folding.rules.base import refuse
from bnfold.folding.walk.propagation import Propagation
from bnfold.folding.weights.draft import Draft
from bnfold.folding.weights.edits import Rescale
from bnfold.graph.index import Node
from bnfold.quantization.regions import LINEAR, Region, is_constant, probe, probed
from bnfold.reasons import Reason, Refusal
from bnfold.tuning.moments import FloatArray

_SWEEPS = 40
LARGEST = 2.0**10  # of the scales: what activations may shrink

Weight = tuple[Node, int]  # which a node reads at a slot


@dataclass
class Borders:
    """The weights around a region, and for each of their numbers which channel it belongs to."""

    region: Region
    makers: dict[Weight, npt.NDArray[np.int64]]
    takers: dict[Weight, npt.NDArray[np.int64]]
    least: FloatArray  # what the scales may not fall below
    total: FloatArray  # the scales so far


def borders(draft: Draft, region: Region, least: FloatArray) -> Borders | Refusal:
    """Found by sending a probe through the rules, and looking where its numbers come out."""
    sent = region.map(probe(region.channels))
    found: list[dict[Weight, npt.NDArray[np.int64]]] = []
    for places, up in ((region.makers, True), (region.takers, False)):
        side: dict[Weight, npt.NDArray[np.int64]] = {}
        for node, place in places:
            walk, start = Propagation(draft), len(draft.edits)
            move = walk.make if up else walk.make_up_for
            refusal = move(node, place, sent)
            if refusal is None:
                side |= _channels(draft, draft.edits[start:], region.channels)
            walk.undo()
            if refusal is not None:
                return refusal
        found.append(side)
    return Borders(region, found[0], found[1], least, np.ones(region.channels))


def _channels(
    draft: Draft, edits: Sequence[object], channels: int
) -> dict[Weight, npt.NDArray[np.int64]]:
    found = {}
    for edit in edits:
        if not isinstance(edit, Rescale) or edit.node.op not in LINEAR:
            continue
        if edit.slot == 2:  # a bias, which is no weight
            continue
        shape = draft.values(edit.node, edit.slot).shape
        numbers = probed(edit.scale, channels)
        if np.all((numbers >= 0) & (numbers < channels)):
            found[edit.node, edit.slot] = np.broadcast_to(numbers, edit.view).reshape(shape)
    return found


def kept_exact(draft: Draft, border: Borders) -> Refusal | None:
    """Bring scales nearer to 1 where a weight would lose bits, until all are w·2ᵏ exactly.

    Plans the region, as `Region.rescale` does. Refuses one that is not exact even so: a
    BatchNormalization that reads it computes a new β.
    """
    region = border.region
    for _ in range(_SWEEPS):
        start = len(draft.edits)
        refusal = region.rescale(draft, border.total)
        if refusal is not None:
            return refusal
        bad = np.zeros(region.channels, bool)
        for edit in draft.edits[start:]:
            if not isinstance(edit, Rescale):
                continue
            lost = _inexact(draft, edit)
            channel = (border.makers | border.takers).get((edit.node, edit.slot))
            if channel is not None:
                bad[np.unique(channel[lost])] = True
            elif np.any(lost):
                bad[:] = True
        if not np.any(bad):
            return None
        draft.undo_to(start)
        halves = np.trunc(np.log2(border.total) / 2)
        border.total = np.where(bad, 2.0**halves, border.total)
        if np.all(border.total == 1):
            break
    return refuse(Reason.UNDERFLOW, region.makers[0][0], "weights, bit for bit,")


def _inexact(draft: Draft, edit: Rescale) -> npt.NDArray[np.bool_]:
    """Which numbers of a constant have lost bits, or have been added to."""
    values = draft.values(edit.node, edit.slot)
    operand = draft.operand(edit.node, edit.slot)
    if isinstance(operand, Refusal) or (edit.shift is not None and np.any(edit.shift)):
        return np.ones(values.shape, bool)
    dtype = helper.tensor_dtype_to_np_dtype(operand.dtype)
    with np.errstate(all="ignore"):
        return np.asarray(values.astype(dtype).astype(np.float64) != values)


def equalised(draft: Draft, found: Sequence[Borders], *, powers_of_two: bool) -> None:
    """Find the scales of all regions, in `total`."""
    sizes = {
        weight: np.abs(draft.values(*weight))
        for border in found for weight in (*border.makers, *border.takers)
    }  # fmt: skip
    for _ in range(_SWEEPS):
        changed = False
        for border in found:
            s = _step(border, sizes, powers_of_two=powers_of_two)
            if np.all(s == 1):
                continue
            changed = True
            border.total *= s
            for weight, channel in border.makers.items():
                sizes[weight] /= s[channel]
            for weight, channel in border.takers.items():
                sizes[weight] *= s[channel]
        if not changed:
            break


def _step(border: Borders, sizes: dict[Weight, FloatArray], *, powers_of_two: bool) -> FloatArray:
    count = border.region.channels
    made = _relative(border.makers, sizes, count)
    taken = _relative(border.takers, sizes, count)
    both = (made > 0) & (taken > 0)
    s = np.sqrt(np.divide(made, taken, out=np.ones(count), where=both))
    s = np.clip(s * border.total, border.least, LARGEST) / border.total
    if powers_of_two:
        exponents = np.trunc(np.log2(s) + np.copysign(0.49, np.log2(s)))
        return np.asarray(2.0**exponents)
    return np.where(np.abs(np.log2(s)) < 0.01, 1.0, s)


def _relative(
    weights: dict[Weight, npt.NDArray[np.int64]], sizes: dict[Weight, FloatArray], count: int
) -> FloatArray:
    """The range of each channel, in shares of the largest of its tensor; of several the largest."""
    found = np.zeros(count)
    for weight, channel in weights.items():
        own = largest_by_channel(sizes[weight], channel, count)
        largest = own.max(initial=0.0)
        found = np.maximum(found, own / largest if largest else own)
    return found


def largest_by_channel(sizes: FloatArray, channel: npt.NDArray[np.int64], count: int) -> FloatArray:
    """The largest of the sizes that belong to each of `count` channels, 0 where none does."""
    found = np.zeros(count)
    np.maximum.at(found, channel.reshape(-1), sizes.reshape(-1))
    return found


# --- what is told --------------------------------------------------------------------------------


def range_ratio(draft: Draft, node: Node) -> float | None:
    """The largest range of an output channel of a linear node, by the median one.

    What one step of a quantiser for the whole tensor costs the channels in the middle.
    """
    ranges = channel_ranges(draft, node)
    if ranges is None or not np.any(ranges > 0):
        return None
    return float(ranges.max() / np.median(ranges[ranges > 0]))


def channel_ranges(draft: Draft, node: Node) -> FloatArray | None:
    """The largest weight of each output channel of a linear node; None without a constant one."""
    slot = next((k for k in (1, 0) if is_constant(draft, node, k)), None)
    if slot is None:
        return None
    values = np.abs(draft.values(node, slot))
    if node.op == "Conv":
        rows = values.reshape(values.shape[0], -1)
    elif node.op == "ConvTranspose":  # [C, M/groups, …] as [groups, C/groups, M/groups, …]
        groups = int(node.attribute("group", 1))
        apart = values.reshape(groups, -1, values.shape[1], *values.shape[2:])
        rows = np.moveaxis(apart, 2, 1).reshape(groups * values.shape[1], -1)
    else:
        turned = node.op == "Gemm" and node.attribute("transB", 0)
        rows = values if turned or slot == 0 else values.T
    return rows.max(axis=1, initial=0.0) if rows.ndim == 2 else None
