"""Shapes of arithmetic, products, and what cuts, joins and reduces."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from bnfold.graph.index import Node
from bnfold.proof.reading.dimensions import LONGEST, Dim, Shape, UnknownShapeError
from bnfold.proof.values.moved_values import between
from bnfold.proof.values.operands import axis_of

if TYPE_CHECKING:
    from bnfold.proof.reading.shapes import Shapes


def same(shapes: Shapes, node: Node) -> Sequence[Shape | None]:
    """That of the first input."""
    shape = shapes.input(node, 0)
    return [shape, shape] if node.op == "Dropout" else [shape]


def batch_norm(shapes: Shapes, node: Node) -> Sequence[Shape | None]:
    """That of the first input, which has as many channels as there are scales: runtimes see to it.

    Further outputs, of statistics, are not known here.
    """
    shape, scales = shapes.input(node, 0), shapes.of(node.scope, node.input(1))
    if len(shape) > 1 and isinstance(shape[1], str) and scales is not None and len(scales) == 1:
        shape = (shape[0], scales[0], *shape[2:])
    return [shape]


def broadcast(shapes: Shapes, *given: Shape) -> Shape:
    """What shapes make of each other; a size beside a symbol that is not 1 is that size."""
    rank = max(map(len, given))
    wide = [(1,) * (rank - len(shape)) + shape for shape in given]
    result: list[Dim] = []
    for dims in zip(*wide, strict=True):
        rest = [dim for dim in dict.fromkeys(dims) if dim != 1]
        numbers = [dim for dim in rest if isinstance(dim, int)]
        if len(numbers) > 1:
            raise UnknownShapeError
        if numbers:
            result.append(numbers[0])
        else:
            result.append(1 if not rest else rest[0] if len(rest) == 1 else shapes.new())
    return tuple(result)


def broadcast_inputs(shapes: Shapes, node: Node) -> Sequence[Shape | None]:
    """What the inputs make of each other."""
    if node.scope.opset < 7 and node.op not in ("Sum", "Max", "Min", "Mean", "Where", "PRelu"):
        return [shapes.input(node, 0)]  # the second operand is made as large as the first
    return [broadcast(shapes, *(shapes.input(node, k) for k in range(len(node.proto.input))))]


def gemm(shapes: Shapes, node: Node) -> Sequence[Shape | None]:
    """[M, K]·[K, N], or transposed."""
    a, b = shapes.of(node.scope, node.input(0)), shapes.input(node, 1)
    a = (shapes.new(), shapes.new()) if a is None else a
    if len(a) != 2 or len(b) != 2:
        raise UnknownShapeError
    rows = a[1] if node.attribute("transA", 0) else a[0]
    return [(rows, b[0] if node.attribute("transB", 0) else b[1])]


def matmul(shapes: Shapes, node: Node) -> Sequence[Shape | None]:
    """The last two axes are matrices, the others broadcast."""
    a, b = shapes.input(node, 0), shapes.input(node, 3 if node.op == "QLinearMatMul" else 1)
    if min(len(a), len(b)) < 2:
        raise UnknownShapeError
    return [(*broadcast(shapes, a[:-2] or (1,), b[:-2] or (1,))[-max(len(a), len(b)) + 2 :],
             a[-2], b[-1])] if max(len(a), len(b)) > 2 else [(a[0], b[1])]  # fmt: skip


def equation(node: Node) -> tuple[list[str], str]:
    """The letters of an Einsum's terms and of its result.

    Raises UnknownShapeError where a letter stands twice in one of them, or for any number of axes.
    """
    text = node.attribute("equation", b"").decode(errors="replace").replace(" ", "")
    left, arrow, out = text.partition("->")
    terms = left.split(",")
    if not arrow:  # what occurs once, in the order of the alphabet
        out = "".join(sorted(c for c in {*left} - {","} if left.count(c) == 1))
    plain = all(part.isalpha() and len({*part}) == len(part) for part in (*terms, out or "a"))
    if not plain or not {*out} <= {*left} or len(terms) != len(node.proto.input):
        raise UnknownShapeError
    return terms, out


def einsum(shapes: Shapes, node: Node) -> Sequence[Shape | None]:
    """A letter stands for one size, wherever it is."""
    terms, out = equation(node)
    sizes: dict[str, list[Dim]] = {}
    for slot, term in enumerate(terms):
        shape = shapes.input(node, slot)
        if len(shape) != len(term):
            raise UnknownShapeError
        for letter, dim in zip(term, shape, strict=True):
            sizes.setdefault(letter, []).append(dim)
    return [tuple(broadcast(shapes, *((dim,) for dim in sizes[letter]))[0] for letter in out)]


def concat(shapes: Shapes, node: Node) -> Sequence[Shape | None]:
    """The sum along one axis."""
    given = [shapes.input(node, slot) for slot in range(len(node.proto.input))]
    axis = axis_of(node.attribute("axis", 1 if node.scope.opset < 4 else 0), len(given[0]))
    if len({len(shape) for shape in given}) > 1:
        raise UnknownShapeError
    sizes = [shape[axis] for shape in given]
    known = [size for size in sizes if isinstance(size, int)]
    result: list[Dim] = []
    for place in range(len(given[0])):
        dims = [shape[place] for shape in given]
        numbers = [dim for dim in dims if isinstance(dim, int)]
        result.append(numbers[0] if numbers else dims[0])
    result[axis] = sum(known) if len(known) == len(sizes) else shapes.new()
    return [tuple(result)]


def split(shapes: Shapes, node: Node) -> Sequence[Shape | None]:
    """The parts along one axis."""
    shape = shapes.input(node, 0)
    axis = axis_of(node.attribute("axis", 0), len(shape))
    count = len(node.proto.output)
    if node.scope.opset < 13:
        parts = node.numbers("split")
    else:
        parts = shapes.ints(node, 1) if node.input(1) else None
        if node.input(1) and parts is None:
            parts = []
    size = shape[axis]
    if parts is None and isinstance(size, int):
        wide = -(-size // count)  # opset 18 on: the last may be smaller
        parts = [min(wide, size - wide * k) for k in range(count)]
        if min(parts) < 0 or (node.scope.opset < 18 and len(set(parts)) > 1):
            raise UnknownShapeError
    dims: Sequence[Dim] = parts if parts else [shapes.new() for _ in range(count)]
    if len(dims) != count:
        raise UnknownShapeError
    return [(*shape[:axis], dim, *shape[axis + 1 :]) for dim in dims]


def slice_parts(shapes: Shapes, node: Node) -> Sequence[Shape | None]:
    """What is left along the axes that it names."""
    shape = list(shapes.input(node, 0))
    named = ("starts", "ends", "axes", "steps")
    if node.scope.opset < 10:
        parts = [node.numbers(name) for name in named]
    else:
        parts = [shapes.ints(node, k) for k in range(1, 5)]
    absent = [node.scope.opset < 10 or not node.input(k) for k in range(1, 5)]
    axes = parts[2]
    if axes is None:
        if not absent[2]:
            return [tuple(shapes.new() for _ in shape)]
        count = parts[0] or parts[1]
        axes = list(range(len(count))) if count is not None else list(range(len(shape)))
    axes = [axis_of(axis, len(shape)) for axis in axes]
    for k, axis in enumerate(axes):
        size, steps = shape[axis], parts[3]
        step = 1 if steps is None and absent[3] else steps[k] if steps is not None else None
        known = parts[0] is not None and parts[1] is not None and step
        if known and isinstance(size, int):
            assert parts[0] is not None
            assert parts[1] is not None
            assert step is not None
            shape[axis] = len(between(parts[0][k], parts[1][k], step, size))
        else:
            shape[axis] = shapes.new()
    return [tuple(shape)]


def gather(shapes: Shapes, node: Node) -> Sequence[Shape | None]:
    """The axis that it gathers along becomes those of the indices."""
    shape, indices = shapes.input(node, 0), shapes.input(node, 1)
    axis = axis_of(node.attribute("axis", 0), len(shape))
    return [(*shape[:axis], *indices, *shape[axis + 1 :])]


def reduce(shapes: Shapes, node: Node) -> Sequence[Shape | None]:
    """Without the reduced axes, or with 1 in their places."""
    shape = shapes.input(node, 0)
    axes = reduced_axes(shapes, node, len(shape))
    kept = node.attribute("keepdims", 1)
    return [
        tuple(1 if k in axes else dim for k, dim in enumerate(shape) if kept or k not in axes)
    ]  # fmt: skip


def reduced_axes(shapes: Shapes, node: Node, rank: int) -> list[int]:
    """The axes that a reduction reduces. Raises UnknownShapeError where they are not known."""
    axes = shapes.axes(node, 1, 13 if node.op == "ReduceSum" else 18, rank)
    if not axes:
        return [] if node.attribute("noop_with_empty_axes", 0) else list(range(rank))
    return axes


def expand(shapes: Shapes, node: Node) -> Sequence[Shape | None]:
    """Broadcast to what is asked for."""
    shape, target = shapes.input(node, 0), shapes.numbers(node, 1)
    if target is not None:
        return [broadcast(shapes, shape, target)]
    rank = shapes.input(node, 1)
    if len(rank) != 1 or not isinstance(rank[0], int) or rank[0] > LONGEST:
        raise UnknownShapeError
    ahead = max(0, rank[0] - len(shape))  # a size above 1 stays what it is
    kept = (dim if isinstance(dim, int) and dim > 1 else shapes.new() for dim in shape)
    return [(*(shapes.new() for _ in range(ahead)), *kept)]


def tile(shapes: Shapes, node: Node) -> Sequence[Shape | None]:
    """Each dimension several times."""
    shape = shapes.input(node, 0)
    repeats = shapes.ints(node, 1) if node.scope.opset >= 6 else None
    if repeats is None or len(repeats) != len(shape):
        return [tuple(shapes.new() for _ in shape)]
    return [
        tuple(
            dim * times if isinstance(dim, int) else dim if times == 1 else shapes.new()
            for dim, times in zip(shape, repeats, strict=True)
        )
    ]
