"""How much may be built while one model is worked on, so that small files ask for no gigabytes.

Elements are counted, not bytes or seconds: the same file gets the same answer on every machine. A
model that stores more may ask for more. docs/files.md tells users the numbers.
"""

from __future__ import annotations

import math

from onnx import AttributeProto, TensorProto

from bnfold.graph.index import Index, Scope
from bnfold.onnx_io.protos import is_external, size_in_bytes
from bnfold.onnx_io.tensor_storage import Storage

CONSTANTS = 1 << 25  # elements of constants that are computed, in all
CONSTANTS_PER_STORED = 4  # and as many more for each element that the file stores
MAPS = 1 << 24  # entries of maps, step by step of all walks
MAPS_PER_STORED = 64
WIDEST = 1 << 20  # channels of one map, or as many as the file stores elements


class BudgetExceededError(Exception):
    """A constant that would take more than is left. Never leaves the engine."""


class Budget:
    """What is left. Spent for good: what was built may still be in use."""

    def __init__(self, stored: int, *, computed: bool = True) -> None:
        """`stored` elements are in the file; `computed`: constants may be computed at all."""
        self.widest = max(WIDEST, stored)
        self.constants = CONSTANTS + CONSTANTS_PER_STORED * stored if computed else 0
        self.maps = MAPS + MAPS_PER_STORED * stored
        self.exceeded = False  # by constants, when all were added up

    @classmethod
    def of(cls, index: Index, *, computed: bool = True) -> Budget:
        """That of a model. Raises ModelError for tensors of impossible sizes."""
        stored = sum(_stored(scope, index.storage) for scope in index.scopes)
        return cls(stored, computed=computed)

    def spend_on_constant(self, elements: int) -> None:
        """Spend so many elements on a constant. Raises TooMuchError where they are not left."""
        if elements > self.constants:
            self.exceeded = True
            raise BudgetExceededError
        self.constants -= elements

    def spend_on_map(self, channels: int) -> bool:
        """Spend so many entries on a map; whether they were left."""
        self.maps -= channels
        return self.maps >= 0


def _stored(scope: Scope, storage: Storage) -> int:
    """The elements of the tensors that a scope stores. Raises ModelError for impossible ones."""
    tensors = list(scope.initializers.values())
    for node in scope.nodes:
        if node.op == "Constant":
            tensors += [a.t for a in node.proto.attribute if a.type == AttributeProto.TENSOR]
    return sum(_elements(tensor, storage) for tensor in tensors)


def _elements(tensor: TensorProto, storage: Storage) -> int:
    """How many elements there are; not only, what the dims claim."""
    size_in_bytes(tensor)
    claimed = math.prod(tensor.dims)
    if is_external(tensor):
        return claimed if storage.folder is not None else 0
    if tensor.HasField("raw_data") and storage.payload(tensor.raw_data) is not None:
        return claimed
    return min(claimed, 2 * tensor.ByteSize())  # of 4 bits each, at the most
