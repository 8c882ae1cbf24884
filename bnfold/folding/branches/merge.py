"""Branches that are linear in one value, and are added up, become one convolution.

RepVGG and its kin train Conv 3×3 + Conv 1×1 + BatchNormalization in parallel; MobileOne, RepGhost
and FastViT nest such sums. With kernels Kⱼ, that of x itself being 1 in the middle,

    Σ sⱼ·(Kⱼ∗x + bⱼ) + t  =  (Σ sⱼ·Kⱼ)∗x + (Σ sⱼ·bⱼ + t)

where the kernels are laid over each other by the places at which their taps read x, and groups are
filled up with zeros. Planned before any site: what maps are left fold into the merged weight, which
is still float64 then.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from bnfold.folding.branches import kernel_geometry
from bnfold.folding.branches.kernel_geometry import Kernel
from bnfold.folding.branches.linear_sums import JOINS, LinearSum, Survey, Tree, source_of
from bnfold.folding.rules.base import broadcast_along, refuse, refuse_misshapen_weight
from bnfold.folding.rules.products import kernel_layout
from bnfold.folding.rules.products.absorbing import supplied_bias
from bnfold.folding.weights.affine import FloatArray
from bnfold.folding.weights.draft import Draft, Operand
from bnfold.folding.weights.edits import Drop, Edit, Guard, Remove, Rescale, SetOperator, Supply
from bnfold.graph.index import Index, Node
from bnfold.reasons import Reason, Refusal


@dataclass(frozen=True)
class Merge:
    """A join of branches: the nodes of its tree and the one that stays, or why it is not made."""

    root: Node
    branches: int
    nodes: tuple[Node, ...] = ()
    into: Node | None = None
    refusal: Refusal | None = None


def merges(draft: Draft, index: Index) -> Iterator[Merge]:
    """Plan every merge, the largest first; what is refused but linear in one value is told."""
    survey = Survey(draft, index)
    for node in reversed(survey.position):
        if node.op in JOINS and not node.scope.in_function and len(survey.slots(node)) > 1:
            tree = Tree(survey, node, source_of(survey, node))
            if tree.sum is not None and any(tree.sum.scales):
                yield _Merger(draft, tree, tree.sum).merge()


class _Merger:
    """One tree, and the convolution that it becomes."""

    def __init__(self, draft: Draft, tree: Tree, total: LinearSum) -> None:
        self.draft = draft
        self.tree = tree
        self.root = tree.root
        self.total = total

    def merge(self) -> Merge:
        """Plan the merge, or say why it is not made."""
        count, planned = len(self.total.scales), len(self.draft.edits)
        branches = self._branches()
        edits = branches if isinstance(branches, Refusal) else self._edits(branches)
        if isinstance(edits, Refusal):
            return Merge(self.root, count, refusal=edits)
        for edit in edits:
            if (refusal := self.draft.refusal_of(edit)) is not None:
                self.draft.undo_to(planned)
                return Merge(self.root, count, refusal=refusal)
            self.draft.add(edit)
        assert not isinstance(branches, Refusal)
        self.draft.merged.add(self.root)
        return Merge(self.root, count, tuple(self.tree.nodes), _largest(branches).conv)

    def _branches(self) -> list[_Branch] | Refusal:
        """The branches' kernels, or why they can have no one convolution."""
        if self.root.output in self.root.scope.inner_names:
            return refuse(Reason.SHADOWED, self.root, self.root.output)
        name, reader = self.tree.outside()
        if name:
            return refuse(Reason.BRANCHES, self.root, f"{reader} reads {name}, which would be gone")
        branches = []
        for conv in filter(None, self.total.scales):
            branch = self._branch(conv)
            if isinstance(branch, Refusal):
                return branch
            branches.append(branch)
        first = branches[0]
        if None in self.total.scales:
            channels, axes = first.weight.shape[1] * first.kernel.group, first.weight.ndim - 2
            kernel = Kernel.of_identity(channels, axes)
            ones = np.ones((channels, *(1,) * (axes + 1)))
            branches.append(_Branch(None, kernel, ones, np.zeros(1), first.dtype))
        for what, values in (
            ("data types", {branch.dtype for branch in branches}),
            ("numbers of input channels", {branch.inputs for branch in branches}),
            ("numbers of channels", {len(b.weight) for b in branches} | self.total.channels),
            ("numbers of axes", {branch.weight.ndim for branch in branches}),
        ):
            if len(values) > 1:
                return refuse(Reason.BRANCHES, self.root, f"their {what} differ")
        return branches

    def _branch(self, conv: Node) -> _Branch | Refusal:
        draft = self.draft
        weight = draft.operand(conv, 1)
        bias = draft.operand(conv, 2) if draft.has(conv, 2) else None
        for operand in (weight, bias):
            if isinstance(operand, Refusal):
                return operand
            if operand is not None and operand.quantized:
                return refuse(Reason.BRANCHES, self.root, f"{operand.name} is quantised")
        assert isinstance(weight, Operand)
        group = draft.attribute(conv, "group", 1)
        if kernel_layout.conv(weight.shape, group) is None:
            return refuse_misshapen_weight(conv, weight)
        if isinstance(bias, Operand) and bias.shape != weight.shape[:1]:
            return refuse_misshapen_weight(conv, bias)
        kernel = kernel_geometry.of_conv(draft, conv, weight.shape)
        if kernel is None:
            return refuse(Reason.BRANCHES, self.root, f"the padding of {conv.label} is not settled")
        shift = np.zeros(1) if bias is None else draft.values(conv, 2)
        return _Branch(conv, kernel, draft.values(conv, 1), shift, weight.dtype)

    def _edits(self, branches: list[_Branch]) -> list[Edit] | Refusal:
        whole = kernel_geometry.union([branch.kernel for branch in branches])
        if isinstance(whole, str):
            return refuse(Reason.BRANCHES, self.root, whole)
        outputs, inputs = len(branches[0].weight), branches[0].inputs
        size = outputs * (inputs // whole.group) * math.prod(whole.size)
        if size > (now := sum(branch.weight.size for branch in branches if branch.conv)):
            detail = f"it would have {size} weights instead of {now}"
            return refuse(Reason.BRANCHES, self.root, detail)
        weight = np.zeros((outputs, inputs // whole.group, *whole.size))
        bias = np.broadcast_to(self.total.shift, outputs)
        # Σ sⱼ·(Kⱼ∗x + bⱼ) + t  =  (Σ sⱼ·Kⱼ)∗x + (Σ sⱼ·bⱼ + t)
        for branch in branches:
            scale = np.broadcast_to(self.total.scales[branch.conv], outputs)
            laid = kernel_geometry.embedded(branch.weight, branch.kernel, whole)
            weight += broadcast_along(scale, 0, laid.ndim) * laid
            bias = bias + scale * branch.bias
        kept = _largest(branches)
        assert kept.conv is not None
        offset = np.broadcast_to(bias, (outputs,)).reshape(-1, *(1,) * (weight.ndim - 1))
        guard = Guard(offset, weight[0].size)
        edits = [*_geometry_edits(kept, whole), *self._replace(kept.conv, 1, weight, guard)]
        if self.draft.has(kept.conv, 2) or np.any(bias):
            edits += self._replace(kept.conv, 2, bias)
        path = self.tree.path(kept.conv)
        on_path = {node for node, _ in path}
        edits += [Drop(node) for node in self.tree.nodes if node not in (*on_path, kept.conv)]
        return [*edits, *(Remove(node, slot) for node, slot in reversed(path))]

    def _replace(
        self, conv: Node, slot: int, values: FloatArray, guard: Guard | None = None
    ) -> list[Edit]:
        """New values for a constant: under its own name where the shape is the same."""
        weight = self.draft.operand(conv, 1)
        assert isinstance(weight, Operand)
        if not self.draft.has(conv, slot):
            return [supplied_bias(conv, weight, values)]
        operand = self.draft.operand(conv, slot)
        assert isinstance(operand, Operand)
        if operand.shape != values.shape:
            return [Supply(conv, slot, values, operand.dtype, operand.name, guard)]
        nothing = np.zeros((len(values), *(1,) * (values.ndim - 1)))
        return [Rescale(conv, slot, values.shape, nothing, values, guard)]


@dataclass(frozen=True)
class _Branch:
    """A convolution of the source, or the source itself as one."""

    conv: Node | None
    kernel: Kernel
    weight: FloatArray  # [M, C/group, …]
    bias: FloatArray  # [M] or [1]
    dtype: int

    @property
    def inputs(self) -> int:
        """The number of input channels."""
        return int(self.weight.shape[1]) * self.kernel.group


def _largest(branches: list[_Branch]) -> _Branch:
    return max(branches, key=lambda branch: int(branch.weight.size) if branch.conv else -1)


def _geometry_edits(kept: _Branch, whole: Kernel) -> list[Edit]:
    assert kept.conv is not None
    if kept.kernel == whole:
        return []
    attributes: dict[str, int | float | list[int]] = {
        "group": whole.group,
        "kernel_shape": list(whole.size),
        "dilations": list(whole.dilations),
        "pads": [*whole.begins, *whole.ends],
    }
    return [SetOperator(kept.conv, "Conv", drop=("auto_pad",), put=attributes)]
