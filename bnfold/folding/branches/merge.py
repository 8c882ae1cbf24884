"""Branches that are linear in one value, and are added up, become one convolution.

RepVGG and its kin train Conv 3×3 + Conv 1×1 + BatchNormalization in parallel; MobileOne, RepGhost
and FastViT nest such sums. With kernels Kⱼ, that of x itself being 1 in the middle,

    Σ sⱼ·(Kⱼ∗x + bⱼ) + t  =  (Σ sⱼ·Kⱼ)∗x + (Σ sⱼ·bⱼ + t)

where the kernels are laid over each other by the places at which their taps read x, and groups are
filled up with zeros. A convolution of what another one makes is one of x, too. Planned before any
site: what maps are left fold into the merged weight, which is still float64 then.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from bnfold.folding.branches import kernel_geometry
from bnfold.folding.branches.kernel_geometry import Kernel
from bnfold.folding.branches.linear_sums import (
    JOINS,
    SLIDING,
    Composed,
    LinearSum,
    Survey,
    Term,
    Tree,
    sources_of,
)
from bnfold.folding.rules.base import broadcast_along, refuse, refuse_misshapen_weight
from bnfold.folding.rules.products import kernel_layout
from bnfold.folding.rules.products.absorbing import supplied_bias
from bnfold.folding.weights.affine import FloatArray
from bnfold.folding.weights.draft import Draft, Operand
from bnfold.folding.weights.edits import Drop, Edit, Guard, Remove, Rescale, SetOperator, Supply
from bnfold.graph.index import Index, Node
from bnfold.reasons import Reason, Refusal

_MOST = 1 << 26  # products of weights of two convolutions


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
    taken: set[Node] = set()
    for node in reversed(survey.position):
        joins = node.op in JOINS and len(survey.slots(node)) > 1
        if node.scope.in_function or node in taken or not (joins or _follows(survey, node)):
            continue
        refused: Merge | None = None
        sources = sources_of(survey, node)
        for source in sources if joins else reversed(sources):  # as many in a row as there are
            tree = Tree(survey, node, source)
            if tree.sum is None or not any(tree.sum.scales) or node in tree.sum.scales:
                continue
            merge = _Merger(draft, tree, tree.sum).merge()
            if merge.into is not None:
                taken.update(tree.nodes)
                yield merge
                break
            refused = refused or merge
        else:
            if joins and refused is not None:
                yield refused


def _follows(survey: Survey, node: Node) -> bool:
    """Whether a convolution reads what is linear in something, too."""
    before = node.scope.producers.get(node.input(0))
    if node.op != "Conv" or survey.draft.is_removed(node) or before is None:
        return False
    return before.op in SLIDING or bool(survey.slots(before))


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
        for term in self.total.scales:
            if term is None:
                continue
            branch = self._branch(term)
            if isinstance(branch, Refusal):
                return branch
            branches.append(branch)
        first = branches[0]
        if None in self.total.scales:
            channels, axes = first.weight.shape[1] * first.kernel.group, first.weight.ndim - 2
            branches.append(_identity(channels, axes, first.dtype))
        for what, values in (
            ("data types", {branch.dtype for branch in branches}),
            ("numbers of input channels", {branch.inputs for branch in branches}),
            ("numbers of channels", {len(b.weight) for b in branches} | self.total.channels),
            ("numbers of axes", {branch.weight.ndim for branch in branches}),
        ):
            if len(values) > 1:
                return refuse(Reason.BRANCHES, self.root, f"their {what} differ")
        return branches

    def _branch(self, term: Node | Composed) -> _Branch | Refusal:
        return self._convolution(term) if isinstance(term, Node) else self._composed(term)

    def _composed(self, term: Composed) -> _Branch | Refusal:
        """K₂∗(s·(K₁∗x + b₁) + t) + b₂  =  (K₂·s·K₁)∗x + (b₂ + ΣK₂·(s·b₁ + t)).

        Zeros around what K₂ reads must be what K₁ makes of the zeros around x.
        """
        outer = self._outer(term.outer)
        if isinstance(outer, Refusal):
            return outer
        middle, axes = outer.weight.shape[1] * outer.kernel.group, outer.weight.ndim - 2
        inner = (
            _identity(middle, axes, outer.dtype) if term.inner is None else self._branch(term.inner)
        )
        if isinstance(inner, Refusal):
            return inner
        shift = np.zeros(1) if term.shift is None else term.shift
        channels = {len(inner.weight), len(term.scale), len(shift)} - {1, middle}
        if channels or len(inner.weight) != middle:
            return refuse(Reason.BRANCHES, self.root, "their numbers of channels differ")
        between = np.broadcast_to(term.scale * inner.bias + shift, middle)
        padded = any((*outer.kernel.begins, *outer.kernel.ends))
        if inner.weight.ndim != axes + 2 or (
            padded and (not inner.kernel.is_pointwise or np.any(between))
        ):
            detail = f"{term.outer.label} reads zeros around what it reads"
            return refuse(Reason.BRANCHES, self.root, detail)
        if inner.weight.size * outer.weight.size > _MOST * middle:
            return refuse(Reason.TOO_LARGE, self.root, "weights of several convolutions in one")
        scaled = inner.weight * broadcast_along(np.broadcast_to(term.scale, middle), 0, axes + 2)
        weight = kernel_geometry.composed_weight(scaled, inner.kernel, outer.weight, outer.kernel)
        sums = outer.weight.reshape(outer.kernel.group, -1, outer.weight.shape[1], outer.taps)
        bias = (sums.sum(axis=3) * between.reshape(outer.kernel.group, 1, -1)).sum(axis=2).ravel()
        if term.shift is not None:
            bias = bias + outer.bias
        whole = kernel_geometry.composed(inner.kernel, outer.kernel)
        dtype = inner.dtype if outer.conv is None else outer.dtype
        return _Branch(term, inner.conv, whole, weight, bias, dtype)

    def _outer(self, node: Node) -> _Branch | Refusal:
        """The convolution or pool that reads what another one makes."""
        if self.draft.op(node) == "Conv":
            return self._convolution(node)
        shape = self.draft.shape(node, 0)
        kind = self.draft.inferred.element_type(node.scope, node.input(0))
        if shape is None or kind is None or not isinstance(shape[1], int):
            return refuse(Reason.UNKNOWN_RANK, node)
        kernel = kernel_geometry.of_pool(self.draft, node, shape[1], len(shape) - 2)
        if kernel is None:
            return refuse(Reason.BRANCHES, self.root, f"the windows of {node.label} are not alike")
        weight = np.full((shape[1], 1, *kernel.size), 1 / math.prod(kernel.size))
        return _Branch(None, None, kernel, weight, np.zeros(1), kind)

    def _convolution(self, conv: Node) -> _Branch | Refusal:
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
        return _Branch(conv, conv, kernel, draft.values(conv, 1), shift, weight.dtype)

    def _edits(self, branches: list[_Branch]) -> list[Edit] | Refusal:
        whole = kernel_geometry.union([branch.kernel for branch in branches])
        if isinstance(whole, str):
            return refuse(Reason.BRANCHES, self.root, whole)
        outputs, inputs = len(branches[0].weight), branches[0].inputs
        size = outputs * (inputs // whole.group) * math.prod(whole.size)
        if size > (now := self._stored()):
            detail = f"it would have {size} weights instead of {now}"
            return refuse(Reason.BRANCHES, self.root, detail)
        weight = np.zeros((outputs, inputs // whole.group, *whole.size))
        bias = np.broadcast_to(self.total.shift, outputs)
        # Σ sⱼ·(Kⱼ∗x + bⱼ) + t  =  (Σ sⱼ·Kⱼ)∗x + (Σ sⱼ·bⱼ + t)
        for branch in branches:
            scale = np.broadcast_to(self.total.scales[branch.term], outputs)
            laid = kernel_geometry.embedded(branch.weight, branch.kernel, whole)
            weight += broadcast_along(scale, 0, laid.ndim) * laid
            bias = bias + scale * branch.bias
        kept = _largest(branches)
        if kept.conv is None:
            return refuse(Reason.BRANCHES, self.root, "there is no convolution")
        offset = np.broadcast_to(bias, (outputs,)).reshape(-1, *(1,) * (weight.ndim - 1))
        guard = Guard(offset, weight[0].size)
        edits = [
            *self._geometry_edits(kept.conv, whole),
            *self._replace(kept.conv, 1, weight, guard),
        ]
        if self.draft.has(kept.conv, 2) or np.any(bias):
            edits += self._replace(kept.conv, 2, bias)
        path = self.tree.path(kept.conv)
        on_path = {node for node, _ in path}
        edits += [Drop(node) for node in self.tree.nodes if node not in (*on_path, kept.conv)]
        return [*edits, *(Remove(node, slot) for node, slot in reversed(path))]

    def _stored(self) -> int:
        """How many weights the convolutions have now."""
        convs = [node for node in self.tree.nodes if self.draft.op(node) == "Conv"]
        operands = [self.draft.operand(conv, 1) for conv in convs]
        return sum(math.prod(o.shape) for o in operands if isinstance(o, Operand))

    def _geometry_edits(self, conv: Node, whole: Kernel) -> list[Edit]:
        operand = self.draft.operand(conv, 1)
        assert isinstance(operand, Operand)
        if kernel_geometry.of_conv(self.draft, conv, operand.shape) == whole:
            return []
        attributes: dict[str, int | float | list[int]] = {
            "group": whole.group,
            "kernel_shape": list(whole.size),
            "dilations": list(whole.dilations),
            "pads": [*whole.begins, *whole.ends],
        }
        if {*whole.strides} != {1} or conv.numbers("strides"):
            attributes["strides"] = list(whole.strides)
        return [SetOperator(conv, "Conv", drop=("auto_pad",), put=attributes)]

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
    """A convolution of the source, one of what others make of it, or the source itself as one."""

    term: Term
    conv: Node | None  # which reads the source
    kernel: Kernel
    weight: FloatArray  # [M, C/group, …]
    bias: FloatArray  # [M] or [1]
    dtype: int

    @property
    def taps(self) -> int:
        """The number of taps of its kernel."""
        return math.prod(self.kernel.size)

    @property
    def inputs(self) -> int:
        """The number of input channels."""
        return int(self.weight.shape[1]) * self.kernel.group


def _largest(branches: list[_Branch]) -> _Branch:
    return max(branches, key=lambda branch: int(branch.weight.size) if branch.conv else -1)


def _identity(channels: int, axes: int, dtype: int) -> _Branch:
    """What passes the source on."""
    ones = np.ones((channels, *(1,) * (axes + 1)))
    return _Branch(None, None, Kernel.of_identity(channels, axes), ones, np.zeros(1), dtype)
