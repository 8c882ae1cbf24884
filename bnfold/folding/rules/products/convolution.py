"""Conv, ConvTranspose and DeformConv.

Each rule has its identity beside it: s and t are the map's scale and shift.
"""

from __future__ import annotations

from collections.abc import Callable

from bnfold.folding.rules.base import Step, refuse, refuse_misshapen_weight, refuse_shift
from bnfold.folding.rules.products import kernel_layout
from bnfold.folding.rules.products.absorbing import (
    Weight,
    from_inputs,
    from_outputs,
    offset_slot,
    supply_bias,
)
from bnfold.folding.rules.products.kernel_layout import Layout
from bnfold.folding.weights.affine import Affine
from bnfold.folding.weights.draft import Draft, Operand
from bnfold.folding.weights.edits import Edit, Rescale
from bnfold.graph.index import Node
from bnfold.reasons import Reason, Refusal

Kernel = Callable[[tuple[int, ...], int], Layout | None]


def conv_up(draft: Draft, node: Node, _: int, a: Affine) -> Step | Refusal:
    """s·(W∗x + b) + t  =  (s·W)∗x + (s·b + t)."""
    return _kernel_up(draft, node, a, kernel_layout.conv)


def conv_transpose_up(draft: Draft, node: Node, _: int, a: Affine) -> Step | Refusal:
    """The same identity; only the place of the output channels in W differs."""
    return _kernel_up(draft, node, a, kernel_layout.conv_transpose)


def _kernel_up(draft: Draft, node: Node, a: Affine, kernel: Kernel) -> Step | Refusal:
    return from_outputs(draft, node, _kernel(draft, node, kernel), a, _into_bias)


def conv_down(draft: Draft, node: Node, slot: int, a: Affine) -> Step | Refusal:
    """W∗(s·x + t) + b  =  (W·s)∗x + (b + ΣW·t), if no zeros are read from the padding or t = 0."""
    if slot != 0:
        return refuse(Reason.RUN_TIME_WEIGHT, node)
    weight = _kernel(draft, node, kernel_layout.conv)
    if isinstance(weight, Refusal):
        return weight
    if _reads_padding(draft, node, weight[0]):
        padded = refuse_shift(node, a, Reason.ZERO_PADDING)
        if padded is not None:
            return padded
    return from_inputs(draft, node, weight, a, 1, _into_bias)


def conv_transpose_down(draft: Draft, node: Node, slot: int, a: Affine) -> Step | Refusal:
    """W∗(s·x) = (W·s)∗x; a shift reaches the border through fewer taps than the middle."""
    if slot != 0:
        return refuse(Reason.RUN_TIME_WEIGHT, node)
    weight = _kernel(draft, node, kernel_layout.conv_transpose)
    shifted = refuse_shift(node, a, Reason.BORDER)
    return shifted or from_inputs(draft, node, weight, a, 1, _into_bias)


def deform_conv_down(draft: Draft, node: Node, slot: int, a: Affine) -> Step | Refusal:
    """DeformConv: what it reads between pixels is linear in them; beyond the border it reads 0."""
    shifted = refuse_shift(node, a, Reason.ZERO_PADDING) if slot == 0 else None
    return shifted or conv_down(draft, node, slot, a)


def _kernel(draft: Draft, node: Node, kernel: Kernel) -> Weight | Refusal:
    operand = draft.operand(node, 1)
    if isinstance(operand, Refusal):
        return operand
    layout = kernel(operand.shape, draft.attribute(node, "group", 1))
    return (operand, layout) if layout is not None else refuse_misshapen_weight(node, operand)


def _reads_padding(draft: Draft, node: Node, weight: Operand) -> bool:
    if draft.attribute(node, "auto_pad", b"NOTSET") in (b"SAME_UPPER", b"SAME_LOWER"):
        return any(size != 1 for size in weight.shape[2:])
    return any(draft.numbers(node, "pads") or ())


def _into_bias(draft: Draft, node: Node, weight: Operand, a: Affine) -> list[Edit] | Refusal:
    """B = s·b + t; an absent b means 0."""
    slot = offset_slot(node)
    if not draft.has(node, slot):
        return supply_bias(node, weight, a.shift)
    bias = draft.operand(node, slot)
    if isinstance(bias, Refusal):
        return bias
    if bias.shape != (a.channels,):
        detail = f"its bias {bias.name} has shape {list(bias.shape)}, not [{a.channels}]"
        return refuse(Reason.SHAPE_MISMATCH, node, detail)
    return [] if a.is_identity else [Rescale(node, slot, bias.shape, a.scale, a.shift)]
