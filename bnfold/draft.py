"""The model as it will be: the index, and on top of it the edits planned so far.

Rules read constants through a draft, so that the second fold into one weight starts from what the
first one left, still in float64: however many maps a weight takes, it is rounded once.
"""

from __future__ import annotations

import numpy as np

from bnfold.affine import FloatArray
from bnfold.constants import Constant, Constants, rounded
from bnfold.edits import Edit, Rescale, Supply, applied
from bnfold.graph import Index, Node
from bnfold.inference import Inferred
from bnfold.reasons import Reason, Refusal


class Draft:
    """An index with planned edits. Grows by `commit`; nothing here touches the model."""

    def __init__(self, index: Index) -> None:
        self.inferred = Inferred(index.model)
        self.constants = Constants(index, self.inferred)
        self.edits: list[Edit] = []
        self._planned: dict[tuple[Node, int], list[Rescale | Supply]] = {}

    def constant(self, node: Node, slot: int) -> Constant | Refusal:
        """The constant that `node` reads at `slot` in the model as it is, or why there is none."""
        return self.constants.find(node, slot)

    def values(self, node: Node, slot: int) -> FloatArray:
        """The values at `slot` with every planned edit, in float64, not yet rounded."""
        planned = self._planned.get((node, slot), [])
        if planned and isinstance(planned[0], Supply):
            return applied(planned)
        return applied(planned, self._found(node, slot).values)

    def dtype(self, node: Node, slot: int) -> int:
        """The ONNX element type of the constant at `slot`."""
        planned = self._planned.get((node, slot), [])
        if planned and isinstance(planned[0], Supply):
            return planned[0].dtype
        return self._found(node, slot).dtype

    def objection(self, edit: Edit) -> Refusal | None:
        """Why the edit must not be made: values that overflow, vanish or were never finite."""
        if isinstance(edit, Supply):
            after, dtype, name = edit.values, edit.dtype, edit.name
        elif isinstance(edit, Rescale):
            name, dtype = edit.node.input(edit.slot), self.dtype(edit.node, edit.slot)
            before = self.values(edit.node, edit.slot)
            if not np.all(np.isfinite(before)):
                return Refusal(Reason.NOT_FINITE, edit.node.label, name)
            after = edit.of(before)
        else:
            return None
        folded = rounded(after, dtype).astype(np.float64)
        if not np.all(np.isfinite(folded)):
            return Refusal(Reason.OVERFLOW, edit.node.label, name)
        if isinstance(edit, Rescale) and edit.shift is None and edit.lost(before, folded):
            return Refusal(Reason.UNDERFLOW, edit.node.label, name)
        return None

    def commit(self, edits: list[Edit]) -> None:
        """Add edits to the plan."""
        self.edits.extend(edits)
        for edit in edits:
            if isinstance(edit, Rescale | Supply):
                self._planned.setdefault((edit.node, edit.slot), []).append(edit)

    def _found(self, node: Node, slot: int) -> Constant:
        constant = self.constant(node, slot)
        assert isinstance(constant, Constant), "rules look before they edit"
        return constant
