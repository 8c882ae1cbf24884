"""Weights of which a fold would need a copy, because others read them as they are: worth it or not.

A BatchNormalization is a pass over an activation in every run, and is worth some bytes. A chain of
constants, such as the g of a weight norm or the √d of an embedding, is hardly worth a table.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass

from bnfold.folding.weights.constants import Constant
from bnfold.folding.weights.draft import Draft
from bnfold.folding.weights.edits import Edit, Rescale
from bnfold.graph.index import Node, Role, Scope
from bnfold.onnx_io.protos import size_in_bytes
from bnfold.text.formatting import size

CHEAP = 1 << 16  # bytes that a copy may always take
PER_NORM = 1 << 20  # bytes that all copies for BatchNormalizations may take in any case,
SHARE = 0.5  # or this share of what the model stores

Owners = Mapping[int, Node]  # by the identity of an edit: the last node of the site that made it


@dataclass(frozen=True)
class Copy:
    """A copy of a stored constant: its bytes, and the sites that need it, by their last nodes."""

    name: str
    bytes: int
    sites: frozenset[Node]

    def __str__(self) -> str:
        return f"a copy of {self.name}, which others read as it is, of {size(self.bytes)}"


def not_worth_copying(draft: Draft, owners: Owners, norms: Collection[Node]) -> dict[Node, Copy]:
    """The sites that need copies which are not worth it; in `norms` are BatchNormalizations."""
    too_costly: dict[Node, Copy] = {}
    for_norms: list[Copy] = []
    for copy in _copies(draft, owners):
        if copy.bytes <= CHEAP:
            continue
        if not copy.sites.isdisjoint(norms):
            for_norms.append(copy)
        else:
            too_costly.update(dict.fromkeys(copy.sites, copy))
    left = max(PER_NORM, SHARE * _stored_bytes(draft))
    for copy in sorted(for_norms, key=lambda c: c.bytes):
        left -= copy.bytes
        if left < 0:
            too_costly.update(dict.fromkeys(copy.sites, copy))
    return too_costly


def _copies(draft: Draft, owners: Owners) -> Iterator[Copy]:
    """What will be copied when the edits are made: all but one of the values that a tensor gets."""
    edits: dict[tuple[Node, int], list[Edit]] = defaultdict(list)
    for edit in draft.edits:
        if isinstance(edit, Rescale) and not draft.is_removed(edit.node):
            edits[edit.node, edit.slot].append(edit)
    readers: dict[tuple[Scope, str], list[tuple[Node, int]]] = defaultdict(list)
    constants: dict[tuple[Scope, str], Constant] = {}
    for node, slot in edits:
        constant = draft.constants.find(node, slot)
        if isinstance(constant, Constant) and constant.is_stored and not constant.quantized:
            key = (constant.scope, constant.name)
            readers[key].append((node, slot))
            constants[key] = constant
    for key, own in readers.items():
        constant = constants[key]
        uses = [use for use in constant.scope.uses[constant.name]
                if use.node is None or not draft.is_removed(use.node)]  # fmt: skip
        if len(uses) == len(own) == 1:
            continue
        mine = set(own)
        kept = any(use.role is not Role.READ or (use.node, use.slot) not in mine for use in uses)
        values: dict[bytes, set[Node]] = defaultdict(set)
        for node, slot in own:
            sites = {owners[id(edit)] for edit in edits[node, slot] if id(edit) in owners}
            values[draft.recipe(node, slot).key()] |= sites
        copied = list(values.values())[0 if kept else 1 :]
        for sites in copied:
            yield Copy(constant.name, size_in_bytes(constant.tensor) or 0, frozenset(sites))


def _stored_bytes(draft: Draft) -> int:
    """What the initializers of the model take."""
    tensors = (t for scope in draft.index.scopes for t in scope.initializers.values())
    return sum(size_in_bytes(tensor) or 0 for tensor in tensors)
