"""Sums of convolutions of one value.

y = Σ scaleⱼ·(Kⱼ∗x) + shift, where a branch without a convolution is x itself. Tap k of a kernel
reads x at position·stride + k·dilation − begin.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from bnfold.graph.index import Node, Role, Scope
from bnfold.onnx_io.protos import Array
from bnfold.proof.numbers.reals import Real
from bnfold.proof.search.reading.affine_nodes import is_idle, site
from bnfold.proof.search.reading.linear_nodes import linear
from bnfold.proof.search.reading.model_view import View

JOINS = ("Add", "Sub", "Sum")
_MOST = 1000  # nodes of one tree


@dataclass(frozen=True)
class Geometry:
    """Where a convolution reads, axis by axis."""

    group: int
    size: tuple[int, ...]
    strides: tuple[int, ...]
    dilations: tuple[int, ...]
    begins: tuple[int, ...]
    ends: tuple[int, ...]

    @property
    def reach(self) -> tuple[int, ...]:
        """What settles the size of the output for every size of the input."""
        axes = zip(self.begins, self.ends, self.size, self.dilations, strict=True)
        return tuple(b + e - (k - 1) * d for b, e, k, d in axes)

    def place(self, tap: Sequence[int], whole: Geometry) -> tuple[int, ...] | None:
        """The tap of `whole` that reads where this one's `tap` does; None where there is none."""
        found = []
        for axis, k in enumerate(tap):
            reads = k * self.dilations[axis] - self.begins[axis] + whole.begins[axis]
            at, rest = divmod(reads, whole.dilations[axis])
            if rest or not 0 <= at < whole.size[axis]:
                return None
            found.append(at)
        return tuple(found)


@dataclass(frozen=True)
class Branch:
    """scale·(weight∗x); without a weight, scale·x."""

    scale: Real
    weight: Array | None  # [M, C/group, …]
    geometry: Geometry | None


@dataclass(frozen=True)
class Form:
    """Σ of branches by their convolutions, and a shift for each channel, or one for all."""

    by_node: Mapping[Node | None, Branch]
    shift: Real

    @property
    def branches(self) -> list[Branch]:
        """The branches, each once."""
        return list(self.by_node.values())

    @property
    def vectors(self) -> list[Real]:
        """All that varies by channel."""
        return [self.shift, *(branch.scale for branch in self.branches)]

    def scaled(self, scale: Real, shift: Real) -> Form:
        """The form with a map behind it."""
        branches = {
            node: replace(branch, scale=scale * branch.scale)
            for node, branch in self.by_node.items()
        }
        return Form(branches, scale * self.shift + shift)

    def plus(self, other: Form) -> Form:
        """The sum of two."""
        branches = dict(self.by_node)
        for node, branch in other.by_node.items():
            own = branches.get(node)
            scale = branch.scale if own is None else own.scale + branch.scale
            branches[node] = replace(branch, scale=scale)
        return Form(branches, self.shift + other.shift)


@dataclass(eq=False)
class Tree:
    """A sum of branches: its nodes, what they read, and what they make of it."""

    root: Node
    source: str
    form: Form
    nodes: frozenset[Node]
    tried: bool = False
    matched: bool = False


def trees(view: View, scope: Scope) -> dict[Node, list[Tree]]:
    """The sums of a scope, the largest first, by each of their nodes."""
    found: dict[Node, list[Tree]] = {}
    for node in reversed(scope.nodes):
        if node.op in JOINS and site(view, node) is None:
            tree = _tree(view, node)
            for member in tree.nodes if tree is not None else ():
                found.setdefault(member, []).append(tree)  # type: ignore[arg-type]
    return found


def _tree(view: View, root: Node) -> Tree | None:
    for source in _sources(view, root):
        reader = _Reader(view, root.scope, source)
        form = reader.form(root.output)
        if form is not None and any(branch.weight is not None for branch in form.branches):
            nodes = frozenset(reader.nodes)
            if not _seen_outside(root, nodes):
                return Tree(root, source, form, nodes)
    return None


def _sources(view: View, root: Node) -> list[str]:
    """What the convolutions above a join read, the nearest first."""
    found: dict[str, None] = {}
    pending, seen = [root], {root}
    while pending and len(seen) < _MOST:
        node = pending.pop()
        if node.op == "Conv":
            found[node.input(0)] = None
        for name in node.proto.input if node.op != "Conv" else ():
            maker = root.scope.producers.get(name)
            if maker is not None and maker not in seen and not view.is_constant(root.scope, name):
                seen.add(maker)
                pending.append(maker)
    return list(found)


def _seen_outside(root: Node, nodes: frozenset[Node]) -> bool:
    """Whether a value inside a tree is read by anything else."""
    names = (name for node in nodes if node is not root for name in node.proto.output if name)
    uses = (use for name in names for use in root.scope.uses.get(name, []))
    return any(use.role is not Role.READ or use.node not in nodes for use in uses)


class _Reader:
    """Reads values as sums of branches of one source."""

    def __init__(self, view: View, scope: Scope, source: str) -> None:
        self.view = view
        self.scope = scope
        self.source = source
        self.nodes: dict[Node, None] = {}
        self._known: dict[str, Form | None] = {}

    def form(self, name: str) -> Form | None:
        """What a value is of the source; None where it is no sum of its branches."""
        if name not in self._known:
            self._known[name] = None  # against circles
            self._known[name] = self._form(name)
        return self._known[name]

    def _form(self, name: str) -> Form | None:
        one, zero = Real.full(1.0), Real.full(0.0)
        if name == self.source:
            return Form({None: Branch(one, None, None)}, zero)
        node = self.scope.producers.get(name)
        if node is None or node.output != name or len(self.nodes) > _MOST:
            return None
        self.nodes[node] = None
        if node.op == "Conv":
            return self._convolution(node)
        at = site(self.view, node)
        if at is not None:
            slot, a = at
            below = self.form(node.input(slot)) if a.axis in (None, 1) else None
            if below is None or not _fit([*below.vectors, a.scale, a.shift]):
                return None
            return below.scaled(a.scale, a.shift)
        if node.op in ("Identity", "Dropout"):
            idle = node.op == "Identity" or is_idle(self.view, node)
            return self.form(node.input(0)) if idle else None
        if node.op not in JOINS or (node.op != "Sum" and node.scope.opset < 7):
            return None
        return self._joined(node)

    def _joined(self, node: Node) -> Form | None:
        total = Form({}, Real.full(0.0))
        for slot, name in enumerate(node.proto.input):
            part = self.form(name)
            if part is None or not _fit([*total.vectors, *part.vectors]):
                return None
            if node.op == "Sub" and slot == 1:
                part = part.scaled(Real.full(-1.0), Real.full(0.0))
            total = total.plus(part)
        return total

    def _convolution(self, node: Node) -> Form | None:
        found = linear(self.view, node) if node.input(0) == self.source else None
        geometry = geometry_of(self.view, node)
        if found is None or geometry is None or found.quantized:
            return None
        bias = Real.full(0.0) if found.bias is None else Real.of(found.bias)
        return Form({node: Branch(Real.full(1.0), found.weight, geometry)}, bias)


def _fit(vectors: list[Real]) -> bool:
    """Whether vectors are of one length, but for those of one entry."""
    return len({len(vector) for vector in vectors} - {1}) <= 1


def geometry_of(view: View, node: Node) -> Geometry | None:
    """Where a Conv reads; None where that depends on the size of its input."""
    weight = view.array(node.scope, node.input(1))
    if weight is None or weight.ndim < 3:
        return None
    axes = weight.ndim - 2
    strides, dilations = (tuple(node.numbers(n) or (1,) * axes) for n in ("strides", "dilations"))
    pads = tuple(node.numbers("pads") or (0,) * (2 * axes))
    automatic = node.attribute("auto_pad", b"NOTSET")
    if automatic == b"VALID":
        pads = (0,) * (2 * axes)
    elif automatic != b"NOTSET":
        if any(stride != 1 for stride in strides):
            return None
        spans = [(k - 1) * d for k, d in zip(weight.shape[2:], dilations, strict=True)]
        halves = [(span // 2, span - span // 2) for span in spans]
        order = (0, 1) if automatic == b"SAME_UPPER" else (1, 0)
        pads = tuple(half[side] for side in order for half in halves)
    if len(strides) != axes or len(dilations) != axes or len(pads) != 2 * axes:
        return None
    if min(*strides, *dilations) < 1:
        return None
    return Geometry(
        node.attribute("group", 1), weight.shape[2:], strides, dilations, pads[:axes], pads[axes:]
    )
