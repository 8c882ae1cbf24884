"""What is constant in a model, where it stands, and its values in float64.

Constant means: the same for every call of the model. That holds for initializers, for Constant
nodes, and for what a few exact operators make of them. An initializer that is also a graph input is
a default that the caller may replace (from IR version 4 on) and is not constant. IR version 3
demands that every initializer is listed among the inputs; there the list says nothing.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import ml_dtypes
import numpy as np
import numpy.typing as npt
from onnx import AttributeProto, TensorProto, helper, numpy_helper

from bnfold.folding.weights.affine import FloatArray
from bnfold.graph.budget import Budget, BudgetExceededError
from bnfold.graph.constant_evaluation import SUPPORTED, evaluate
from bnfold.graph.index import Index, Node, Scope
from bnfold.graph.shape_inference import InferredShapes
from bnfold.onnx_io.protos import FLOAT8_TYPES, FLOAT_TYPES, INTEGER_TYPES, bodies, size_in_bytes
from bnfold.onnx_io.tensor_storage import Storage
from bnfold.options import Options
from bnfold.reasons import Reason, Refusal

_RANDOM = ("Bernoulli", "Multinomial", "RandomNormalLike", "RandomUniformLike")
_LONGEST_CHAIN = 100  # operators between a weight and its use


@dataclass(frozen=True)
class Constant:
    """A tensor with a known value."""

    name: str
    scope: Scope  # where it is defined, which may be outside of where it is read
    tensor: TensorProto
    storage: Storage  # which knows where the values of the tensor are
    node: Node | None  # what makes it, None for an initializer
    quantized: bool = False  # it comes out of a DequantizeLinear, and must go on doing so

    @property
    def is_stored(self) -> bool:
        """Whether `tensor` is part of the model, so that writing to it changes the constant."""
        return self.node is None or self.node.op == "Constant"

    @property
    def dtype(self) -> int:
        """The ONNX element type."""
        return self.tensor.data_type

    @property
    def shape(self) -> tuple[int, ...]:
        """The dimensions."""
        return tuple(self.tensor.dims)

    def array(self) -> npt.NDArray[np.generic]:
        """The values as they are stored.

        Raises ModelError where the tensor's data does not fit its own dims.
        """
        return self.storage.array(self.tensor)

    def part(self, start: int, stop: int) -> npt.NDArray[np.generic]:
        """The values from `start` to `stop`, counted row by row, as a vector as it is stored."""
        return self.storage.part(self.tensor, start, stop)

    def aside(self) -> Constant:
        """The same with a tensor of its own, so that it stays when the model's is written to."""
        tensor = TensorProto()
        tensor.CopyFrom(self.tensor)
        return replace(self, tensor=tensor)

    def values(self) -> FloatArray:
        """The values in float64, which holds every number of the types that `find` lets through."""
        return self.array().astype(np.float64)


class Constants:
    """Finds constants, and remembers those it had to compute."""

    def __init__(
        self, index: Index, inferred: InferredShapes, options: Options, budget: Budget
    ) -> None:
        self._index = index
        self._options = options
        self._inferred = inferred
        self._storage = index.storage
        self._budget = budget
        self._computed: dict[tuple[Scope, str], Constant | Refusal] = {}
        self._found: dict[tuple[Node, int], Constant] = {}

    def find(self, reader: Node, slot: int) -> Constant | Refusal:
        """The float constant that `reader` reads at `slot`, or why there is none.

        A DequantizeLinear may read integers and 8-bit floats as well.
        """
        if (known := self._found.get((reader, slot))) is not None:
            return known
        found = self.find_any(reader, slot)
        types: tuple[int, ...] = FLOAT_TYPES
        if reader.op == "DequantizeLinear":
            types += INTEGER_TYPES + FLOAT8_TYPES
        if isinstance(found, Constant) and found.dtype not in types:
            detail = f"{found.name} of type {_type_name(found.dtype)}"
            return Refusal(Reason.DTYPE, reader.label, detail)
        if isinstance(found, Constant):
            self._found[reader, slot] = found
        return found

    def find_any(self, reader: Node, slot: int) -> Constant | Refusal:
        """The constant, of whatever type, that `reader` reads at `slot`, or why there is none."""
        name = reader.input(slot)
        if not name:
            return Refusal(Reason.MALFORMED, reader.label, f"its input {slot} is missing")
        found = self._find(reader.scope, name, reader.label, 0)
        if isinstance(found, Constant):
            size_in_bytes(found.tensor)  # rules compute with the dims before they read
        return found

    def _find(self, scope: Scope, name: str, reader: str, depth: int) -> Constant | Refusal:
        owner = scope.owner(name)
        assert owner is not None, "the index has checked every name"
        if name in owner.initializers:
            default = name in owner.inputs and not (owner.is_main and self._index.ir_version < 4)
            if default and not self._options.freeze_initializers:
                return Refusal(Reason.OVERRIDABLE, reader, name)
            return Constant(name, owner, owner.initializers[name], self._storage, None)
        if name in owner.sparse:
            return Refusal(Reason.SPARSE, reader, name)
        node = owner.producers.get(name)
        if node is None:
            if owner.is_function:
                return Refusal(Reason.FUNCTION_ARGUMENT, reader, name)
            return Refusal(Reason.COMPUTED, reader, f"the graph input {name}")
        if node.op == "Constant":
            return self._of_constant_node(node, name, reader)
        if (owner, name) not in self._computed:
            found = self._compute(node, name, reader, depth)
            if isinstance(found, Refusal) and found.reason is Reason.TOO_FAR:
                return found  # from nearer by it may be reached
            self._computed[owner, name] = found
        return self._computed[owner, name]

    def _compute(self, node: Node, name: str, reader: str, depth: int) -> Constant | Refusal:
        what = f"{name}, made by {node.op} {node.label}"
        more = any(node.scope.uses.get(other) for other in node.proto.output[1:] if other)
        if node.op not in SUPPORTED or node.output != name or more:
            return self._not_computed(node, reader, what, depth)
        if depth == _LONGEST_CHAIN:
            return Refusal(Reason.TOO_FAR, reader, str(_LONGEST_CHAIN))
        if node.call_attribute():
            return Refusal(Reason.COMPUTED, reader, what)
        arrays: list[npt.NDArray[Any] | None] = []
        quantized = node.op == "DequantizeLinear"
        for slot, source in enumerate(node.proto.input):
            if node.op == "CastLike" and slot == 1:
                arrays.append(self._of_same_type(node.scope, source))
                continue
            operand = self._find(node.scope, source, reader, depth + 1) if source else None
            if isinstance(operand, Refusal):
                return operand
            quantized = quantized or (operand is not None and operand.quantized)
            arrays.append(None if operand is None else operand.array())
        try:
            result = evaluate(node.proto, node.scope.opset, arrays, self._budget)
        except BudgetExceededError:
            return Refusal(Reason.TOO_LARGE, reader, f"{what}, which is too large to be computed")
        if result is None or result.dtype.kind in "OSU":
            return Refusal(Reason.NOT_EVALUATED, reader, what)
        tensor = numpy_helper.from_array(result, name)
        return Constant(name, node.scope, tensor, self._storage, node, quantized)

    def _not_computed(self, node: Node, reader: str, what: str, depth: int) -> Refusal:
        """The refusal of an operator that is not evaluated: for now, or because nobody could."""
        read = [name for name in node.proto.input if name]
        constant = bool(read) and not list(bodies(node.proto)) and depth < _LONGEST_CHAIN
        for name in read if constant else ():
            found = self._find(node.scope, name, reader, depth + 1)
            if isinstance(found, Refusal):
                if found.reason is Reason.NOT_EVALUATED:
                    return found
                constant = False
        if node.op in _RANDOM:
            constant = False
        return Refusal(Reason.NOT_EVALUATED if constant else Reason.COMPUTED, reader, what)

    def _of_constant_node(self, node: Node, name: str, reader: str) -> Constant | Refusal:
        if node.call_attribute():
            return Refusal(Reason.FUNCTION_ARGUMENT, reader, name)
        for attribute in node.proto.attribute:
            value = helper.get_attribute_value(attribute)
            if attribute.type == AttributeProto.SPARSE_TENSOR:
                return Refusal(Reason.SPARSE, reader, name)
            if attribute.type == AttributeProto.TENSOR:
                return Constant(name, node.scope, attribute.t, self._storage, node)
            if attribute.type in (AttributeProto.FLOAT, AttributeProto.FLOATS):
                tensor = numpy_helper.from_array(np.array(value, dtype=np.float32), name)
                return Constant(name, node.scope, tensor, self._storage, node)
            if attribute.type in (AttributeProto.INT, AttributeProto.INTS):
                tensor = numpy_helper.from_array(np.array(value, dtype=np.int64), name)
                return Constant(name, node.scope, tensor, self._storage, node)
        return Refusal(Reason.DTYPE, reader, f"{name}, a Constant without numbers")

    def is_made(self, node: Node) -> bool:
        """Whether a node makes a constant of constants."""
        if node not in self._possible:
            return False
        return isinstance(self._find(node.scope, node.output, node.label, 0), Constant)

    @cached_property
    def _possible(self) -> set[Node]:
        """Nodes of operators that are evaluated, all of whose inputs are stored or made so."""
        found: set[Node] = set()
        for node in self._index.nodes():
            read = [name for name in node.proto.input if name]
            read = read[:1] if node.op == "CastLike" else read  # which wants the other's type
            if node.op in SUPPORTED and node.output and read:
                owners = ((node.scope.owner(name), name) for name in read)
                if all(owner is not None and self._is_stored(owner, name, found)
                       for owner, name in owners):  # fmt: skip
                    found.add(node)
        return found

    def _is_stored(self, owner: Scope, name: str, made: set[Node]) -> bool:
        maker = owner.producers.get(name)
        if maker is None:
            return name in owner.initializers
        return maker.op == "Constant" or maker in made

    def is_computed(self, scope: Scope, name: str) -> bool:
        """Whether `name`, made by a node of `scope`, was found to be a constant."""
        return isinstance(self._computed.get((scope, name)), Constant)

    def _of_same_type(self, scope: Scope, name: str) -> npt.NDArray[Any] | None:
        """An empty array of the element type of `name`: all that CastLike asks of its target."""
        dtype = self._inferred.element_type(scope, name)
        if dtype is None:
            return None
        return np.empty(0, dtype=helper.tensor_dtype_to_np_dtype(dtype))


def _type_name(dtype: int) -> str:
    names = {number: str(name) for name, number in TensorProto.DataType.items()}
    return names.get(dtype, str(dtype))


def in_range(values: FloatArray, dtype: int) -> npt.NDArray[np.bool_]:
    """Which of the values, rounded, an integer type of ONNX can hold."""
    limits: Any = ml_dtypes.iinfo(  # type: ignore[no-untyped-call]
        helper.tensor_dtype_to_np_dtype(dtype)
    )
    nearest = np.rint(values)
    return np.asarray((nearest >= limits.min) & (nearest <= limits.max))


def rounded(values: FloatArray, dtype: int) -> npt.NDArray[Any]:
    """`values` rounded once, to nearest with ties to even, to the ONNX element type `dtype`.

    Integers must be in the type's range.

    ml_dtypes converts float64 to bfloat16 by way of float32 and so rounds twice: 1 + 2⁻⁸ + 2⁻⁴⁰
    becomes 1 instead of 1 + 2⁻⁷. Rounding *to odd* on the way to float32 keeps the lost digits
    alive as one sticky bit, after which the second rounding is right (Boldo & Melquiond 2008).
    """
    if dtype in INTEGER_TYPES:
        return np.rint(values).astype(helper.tensor_dtype_to_np_dtype(dtype))
    if dtype != TensorProto.BFLOAT16:
        with np.errstate(over="ignore"):  # an overflow becomes infinite and is refused by name
            return values.astype(helper.tensor_dtype_to_np_dtype(dtype))
    with np.errstate(over="ignore"):
        nearest = values.astype(np.float32)
    away = np.abs(nearest.astype(np.float64)) > np.abs(values)
    bits = nearest.view(np.uint32) - away.astype(np.uint32)  # now rounded towards zero
    inexact = bits.view(np.float32).astype(np.float64) != values
    odd = (bits | (inexact & np.isfinite(values)).astype(np.uint32)).view(np.float32)
    with np.errstate(over="ignore"):
        return np.asarray(odd.astype(ml_dtypes.bfloat16))
