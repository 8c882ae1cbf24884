"""Sites that do not depend on the input: what is read of them is stored instead.

Weight standardisation is a BatchNormalization in training mode, of a constant: its statistics are
those of the weights. So are reductions and arithmetic on constants. Exporters leave them.
"""

from __future__ import annotations

import math

import numpy as np

from bnfold import steps
from bnfold.folding.weights.draft import Draft, Operand
from bnfold.folding.weights.edits import Carry, Rescale
from bnfold.graph.index import Node, Role, Scope
from bnfold.reasons import Reason, Refusal

_OF_DATA = frozenset(  # operators whose first input is no weight
    {
        "BatchNormalization", "Conv", "ConvTranspose", "DeformConv", "GRU", "Gemm",
        "GroupNormalization", "InstanceNormalization", "LSTM", "LayerNormalization", "RNN",
        "com.microsoft::FusedConv", "com.microsoft::FusedGemm",
    }
)  # fmt: skip
_LITTLE = 1 << 16  # elements by which a file may grow
Read = tuple[Node, int]


def stored_instead(draft: Draft, node: Node) -> tuple[Node, ...] | Refusal | None:
    """Plan that readers get what follows from a node's output as a stored constant.

    Gives these readers; None where the output is no constant, or is wanted by others than nodes.
    """
    reads = _reads(draft, node)
    if not reads or node.scope.is_function:  # where a constant would be another node
        return None
    if any(slot == 0 and reader.op in _OF_DATA for reader, slot in reads):
        return None
    planned = len(draft.edits)
    open_still = [read for read in reads if not draft.is_edited(*read)]
    if open_still and (grown := _growth(draft, open_still)) > _LITTLE:
        return Refusal(Reason.TOO_LARGE, node.label, f"constants of {grown} more elements")
    for reader, slot in open_still:
        operand = draft.operand(reader, slot)
        if isinstance(operand, Refusal) or operand.quantized:
            draft.undo_to(planned)
            return None if isinstance(operand, Operand) else operand
        edit = Rescale(reader, slot, operand.shape, np.ones(()))
        if (refusal := draft.refusal_of(edit)) is not None:
            draft.undo_to(planned)
            return refusal
        draft.add(edit)
        draft.add(Carry(reader, steps.IDENTITY, slot=slot))
    return tuple(dict.fromkeys(reader for reader, _ in reads))


def _reads(draft: Draft, node: Node) -> list[Read]:
    """Who reads what follows from a node's output, and is no constant itself."""
    found: list[Read] = []
    pending, seen = [node], {node}
    while pending:
        maker = pending.pop()
        if not draft.constants.is_made(maker):
            return []
        for use in maker.scope.uses[maker.output]:
            reader = use.node
            if reader is None or use.role is not Role.READ or reader.scope is not maker.scope:
                return []
            if draft.constants.is_made(reader):
                pending += [reader] if reader not in seen else []
                seen.add(reader)
            else:
                found.append((reader, use.slot))
    return found


def _growth(draft: Draft, reads: list[Read]) -> int:
    """By how many elements the file grows: what is stored, without what nobody reads any more."""
    names = {(reader.scope, reader.input(slot)): (reader, slot) for reader, slot in reads}
    operands = (draft.operand(*read) for read in names.values())
    more = sum(math.prod(o.shape) for o in operands if isinstance(o, Operand))
    makers = _makers([(scope, name) for scope, name in names])
    read = {
        (owner, name)
        for maker in makers for name in maker.proto.input
        if name and (owner := maker.scope.owner(name)) is not None and name in owner.initializers
    }  # fmt: skip
    gone = sum(
        math.prod(owner.initializers[name].dims)
        for owner, name in read if all(use.node in makers for use in owner.uses[name])
    )  # fmt: skip
    return more - gone


def _makers(values: list[tuple[Scope, str]]) -> set[Node]:
    """The nodes that compute values."""
    found: set[Node] = set()
    while values:
        scope, name = values.pop()
        owner = scope.owner(name) if name else None
        maker = owner.producers.get(name) if owner is not None else None
        if maker is not None and maker not in found:
            found.add(maker)
            values += [(maker.scope, source) for source in maker.proto.input]
    return found
