"""A product with a matrix over several axes, written as a Gemm of rows between two Reshapes.

[…, K] → [rows, K] → Gemm → [rows, N] → […, N]: rows keep their order, so that this is the product
row by row, if the leading axes come back as they were.
"""

from __future__ import annotations

from dataclasses import dataclass

from bnfold.graph.index import Node, Role
from bnfold.proof.reading.dimensions import Shape
from bnfold.proof.reading.model import Model

REGROUPING = ("Flatten", "Reshape", "Squeeze", "Unsqueeze")  # which keep elements in their order


@dataclass(frozen=True)
class Flattened:
    """The Reshapes before a Gemm and behind it."""

    before: Node
    gemm: Node
    after: Node

    def keeps_rows(self, model: Model, data: Shape | None) -> bool:
        """Whether this is a product of what has the shape `data` and the Gemm's matrix."""
        rows, columns = model.shapes.output(self.before), model.shapes.output(self.gemm)
        result = model.shapes.output(self.after)
        if data is None or rows is None or columns is None or result is None:
            return False
        if not len(rows) == len(columns) == 2 or not len(data) == len(result) >= 2:
            return False
        last = (data[-1], result[-1])
        if (rows[1], columns[1]) != last or not all(isinstance(d, int) and d > 0 for d in last):
            return False
        # of as many rows, all leading axes but one are the same, and so is that one
        return same_but_one(model, data[:-1], self.after, result[:-1])


def same_but_one(model: Model, wanted: Shape, node: Node, made: Shape) -> bool:
    """Whether a node that regroups as many elements makes a shape, whatever open sizes are.

    All dimensions but one are certainly the same, and that one is left open by the node as well: a
    number for it would be right for a single size.
    """
    if len(wanted) != len(made):
        return False
    apart = [
        place for place, (a, b) in enumerate(zip(wanted, made, strict=True))
        if not (isinstance(a, int) and a == b and a > 0)
    ]  # fmt: skip
    if len(apart) > 1:
        return False
    return all(
        (isinstance(wanted[k], str) and wanted[k] == made[k]) or _adapts(model, node, k)
        for k in apart
    )


def _adapts(model: Model, node: Node, place: int) -> bool:
    """Whether a node makes this dimension of what is left of the elements: −1 for a Reshape."""
    if node.op != "Reshape":
        return True
    sizes = node.numbers("shape")
    if sizes is None and (value := model.value_at(node, 1)) is not None:
        sizes = value.reshape(-1).tolist()
    return sizes is not None and place < len(sizes) and sizes[place] == -1


def flattened(gemm: Node) -> Flattened | None:
    """The two Reshapes around a Gemm; None where they are not there."""
    if gemm.op != "Gemm" or gemm.attribute("transA", 0):
        return None
    before = gemm.scope.producers.get(gemm.input(0))
    uses = gemm.scope.uses.get(gemm.output, [])
    after = uses[0].node if len(uses) == 1 and uses[0].role is Role.READ else None
    if before is None or after is None or (before.op, after.op) != ("Reshape", "Reshape"):
        return None
    return Flattened(before, gemm, after)
