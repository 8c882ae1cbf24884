"""How linear operators take a map into their weights and what is added to the products.

Each function has its identity beside it: s and t are the map's scale and shift.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np

from bnfold import steps
from bnfold.folding.rules.base import Step, channels
from bnfold.folding.rules.products.kernel_layout import Layout
from bnfold.folding.weights.affine import Affine, FloatArray
from bnfold.folding.weights.draft import Draft, Operand
from bnfold.folding.weights.edits import Edit, Guard, Rescale, Supply
from bnfold.graph.index import Node
from bnfold.reasons import Refusal

GEMMS = ("Gemm", "com.microsoft::FusedGemm")
_OFFSET_SLOTS = {"DeformConv": 3}  # 2 for all others
Weight = tuple[Operand, Layout]
Offset = Callable[[Draft, Node, Operand, Affine], list[Edit] | Refusal]


def offset_slot(node: Node) -> int:
    """Which input is added to the products: a bias, or a Gemm's C."""
    return _OFFSET_SLOTS.get(node.op, 2)


def from_outputs(
    draft: Draft, node: Node, weight: Weight | Refusal, a: Affine, into_offset: Offset
) -> Step | Refusal:
    """A map on the output: the weight's output channels by s, the offset by s and t."""
    if isinstance(weight, Refusal):
        return weight
    operand, layout = weight
    each = channels(a, node, 1, layout.output_channels)
    if isinstance(each, Refusal):
        return each
    offset = into_offset(draft, node, operand, each)
    if isinstance(offset, Refusal):
        return offset
    guard = _guard(draft, node, layout, offset)
    scaled = scaled_weight(node, 1, layout, each.scale.reshape(layout.outputs), guard)
    return Step((*scaled, *offset))


def from_inputs(
    draft: Draft, node: Node, weight: Weight | Refusal, a: Affine, axis: int, into_offset: Offset,
    factor: float = 1.0,
) -> Step | Refusal:  # fmt: skip
    """A map before the data: the weight's input channels by s, `factor`·ΣW·t to the offset."""
    if isinstance(weight, Refusal):
        return weight
    operand, layout = weight
    each = channels(a, node, axis, layout.input_channels)
    if isinstance(each, Refusal):
        return each
    with np.errstate(over="ignore", invalid="ignore"):  # what is not finite is refused by name
        shift = factor * response(draft, node, 1, layout, each.shift)
    offset = into_offset(draft, node, operand, Affine(1, np.ones_like(shift), shift))
    if isinstance(offset, Refusal):
        return offset
    own = _guard(draft, node, layout, offset)
    guard = Guard(np.abs(own.offset).min(), own.length)
    scaled = scaled_weight(node, 1, layout, each.scale.reshape(layout.inputs), guard)
    return Step((*scaled, *offset))


def response(draft: Draft, node: Node, slot: int, layout: Layout, inputs: FloatArray) -> FloatArray:
    """Σ W·t: what inputs that are `inputs`[i] everywhere on channel i make of each output."""
    times = Rescale(node, slot, layout.view, inputs.reshape(layout.inputs))
    return draft.recipe(node, slot).summed(times, layout.outputs).reshape(-1)


def response_origin(
    draft: Draft, node: Node, constant: int, a: Affine, produced: int
) -> steps.Map:  # fmt: skip
    """The shift W′·t by the weight W of the model as it is: W′ = u_s·W·e_s."""
    p, q = draft.relation_at(node, 1 - constant)
    e, u = steps.between(q, p), steps.between(*draft.relation(node))
    inner = steps.shift(steps.then(steps.shift(a.origin), steps.scale(e)))
    response = steps.Response(draft.ref(node), constant, inner, produced)
    return steps.shift(steps.then(response, steps.scale(u)))


def scaled_weight(
    node: Node, slot: int, layout: Layout, scale: FloatArray, guard: Guard
) -> tuple[Edit, ...]:
    """The weight times `scale`; nothing where that is 1 everywhere."""
    return (Rescale(node, slot, layout.view, scale, guard=guard),) if np.any(scale != 1) else ()


def _guard(draft: Draft, node: Node, layout: Layout, planned: list[Edit]) -> Guard:
    """What the output channels of a node are, but for what its weight gives: its offset.

    `planned` are the edits of the offset.
    """
    offset = np.zeros(1)
    slot = offset_slot(node)
    if draft.has(node, slot) and isinstance(draft.operand(node, slot), Operand):
        offset = draft.values(node, slot)
    for edit in planned:
        if isinstance(edit, Supply):
            offset = edit.values
        elif isinstance(edit, Rescale):
            offset = edit.of(offset)
    beta = float(draft.attribute(node, "beta", 1.0)) if draft.op(node) in GEMMS else 1.0
    alpha = float(draft.attribute(node, "alpha", 1.0)) if draft.op(node) in GEMMS else 1.0
    with np.errstate(over="ignore", invalid="ignore"):  # what is not finite is refused by name
        offset = np.atleast_1d(np.abs(offset * (beta / alpha if alpha else 0.0)))
    rows = offset.reshape(-1, offset.shape[-1])
    least = np.broadcast_to(rows.min(axis=0), (layout.output_channels,))
    taps = math.prod(layout.view) // layout.output_channels
    return Guard(least.reshape(layout.outputs), taps)


def supply_bias(
    node: Node, weight: Operand, shift: FloatArray, *, always: bool = False
) -> list[Edit]:
    """A new bias; none where it would be all zero, unless it must replace one that is there."""
    return [supplied_bias(node, weight, shift)] if always or np.any(shift) else []


def supplied_bias(node: Node, weight: Operand, values: FloatArray) -> Supply:
    """A new bias, named after the weight."""
    stem = weight.name.removesuffix("weight")
    name = f"{stem}bias" if stem != weight.name else f"{weight.name}_bias"
    return Supply(node, offset_slot(node), values, weight.dtype, name)
