"""What the checker reads of a model: its nodes, who reads what, and its constants' values."""

from __future__ import annotations

from functools import cached_property
from typing import Any

import numpy as np
from onnx import AttributeProto, ModelProto, TensorProto, helper, numpy_helper

from bnfold.errors import ModelError
from bnfold.graph.budget import Budget, BudgetExceededError
from bnfold.graph.constant_evaluation import SUPPORTED, evaluate
from bnfold.graph.index import Index, Node, Scope
from bnfold.graph.shape_inference import InferredShapes, Shape
from bnfold.onnx_io.protos import Array
from bnfold.onnx_io.tensor_storage import Storage

_FLOATS = (TensorProto.FLOAT, TensorProto.FLOAT16, TensorProto.BFLOAT16, TensorProto.DOUBLE)
_RESHAPING = ("Cast", "Flatten", "Identity", "Reshape", "Squeeze", "Unsqueeze")
_LONGEST_CHAIN = 200  # operators between a constant and its reader


def alike(one: Array, other: Array) -> bool:
    """Whether two arrays have the same type, shape and bits."""
    same = one.dtype == other.dtype and one.shape == other.shape
    return same and one.tobytes() == other.tobytes()


class View:
    """One model, read and never changed.

    `freeze` counts initializers that are also graph inputs as constants: what is then found holds
    as long as no caller replaces them.
    """

    def __init__(
        self, model: ModelProto, storage: Storage, *, freeze: bool = False,
        index: Index | None = None,
    ) -> None:  # fmt: skip
        self.model = model
        self.storage = storage
        self.index = index or Index(model, storage)
        self._inferred = InferredShapes(model, storage, freeze=freeze)
        self._freeze = freeze
        self._known: dict[tuple[Scope, str], Any] = {}
        self._quantized: set[tuple[Scope | None, str]] = set()

    @cached_property
    def _budget(self) -> Budget:
        return Budget.of(self.index)

    @property
    def main(self) -> Scope:
        """The main graph."""
        return self.index.scopes[0]

    def body(self, graph: Any) -> Scope:
        """The scope of a body."""
        return next(scope for scope in self.index.scopes if scope.container is graph)

    # --- types -----------------------------------------------------------------------------------

    def shape(self, scope: Scope, name: str) -> Shape | None:
        """The dimensions of a value, None where not even their number is known."""
        return self._inferred.shape(scope, name)

    def rank(self, scope: Scope, name: str) -> int | None:
        """The number of axes of a value."""
        return self._inferred.rank(scope, name)

    def element_type(self, scope: Scope, name: str) -> int | None:
        """The ONNX element type of a value."""
        return self._inferred.element_type(scope, name)

    # --- constants -------------------------------------------------------------------------------

    def is_constant(self, scope: Scope, name: str) -> bool:
        """Whether a value does not depend on the model's inputs, and its value can be told."""
        tensor = self.tensor(scope, name)
        return tensor is not None or self._computed(scope, name, 0) is not None

    def tensor(self, scope: Scope, name: str) -> TensorProto | None:
        """The tensor of an initializer or a Constant node."""
        owner = scope.owner(name) if name else None
        if owner is None:
            return None
        if name in owner.initializers:
            default = name in owner.inputs and not (owner.is_main and self.index.ir_version < 4)
            return owner.initializers[name] if self._freeze or not default else None
        node = owner.producers.get(name)
        if node is None or node.op != "Constant" or node.call_attribute():
            return None
        for attribute in node.proto.attribute:
            value = helper.get_attribute_value(attribute)
            if attribute.type == AttributeProto.TENSOR:
                return attribute.t
            if attribute.type in (AttributeProto.FLOAT, AttributeProto.FLOATS):
                return numpy_helper.from_array(np.array(value, np.float32), name)
            if attribute.type in (AttributeProto.INT, AttributeProto.INTS):
                return numpy_helper.from_array(np.array(value, np.int64), name)
        return None

    def array(self, scope: Scope, name: str) -> Array | None:
        """The value of a constant; None for anything that is none."""
        tensor = self.tensor(scope, name)
        if tensor is not None:
            try:
                return self.storage.array(tensor)
            except ModelError:
                return None
        return self._computed(scope, name, 0)

    def is_quantized(self, scope: Scope, name: str) -> bool:
        """Whether a DequantizeLinear stands among what computes a value from constants."""
        owner = scope.owner(name) if name else None
        return self.is_constant(scope, name) and (owner, name) in self._quantized

    def step(self, scope: Scope, name: str) -> Array | None:
        """The scale of a constant that a DequantizeLinear makes of 32-bit integers, else None.

        Such integers, of biases, are what shifts are rounded to.
        """
        node = self._maker(scope, name)
        while node is not None and node.op in _RESHAPING:
            if node.op == "Cast" and node.attribute("to", 0) not in _FLOATS:
                return None
            node = self._maker(node.scope, node.input(0))
        if node is None or node.op != "DequantizeLinear":
            return None
        integers = self.array(node.scope, node.input(0))
        known = integers is not None and integers.dtype == np.int32
        return self.array(node.scope, node.input(1)) if known else None

    def _maker(self, scope: Scope, name: str) -> Node | None:
        owner = scope.owner(name) if name else None
        return owner.producers.get(name) if owner is not None else None

    def _computed(self, scope: Scope, name: str, depth: int) -> Array | None:
        owner = scope.owner(name) if name else None
        node = owner.producers.get(name) if owner is not None else None
        if owner is None or node is None or node.op == "Constant":
            return None
        key = (owner, name)
        if key not in self._known:
            self._known[key] = None  # against circles
            self._known[key] = self._compute(node, name, depth)
        return self._known[key]  # type: ignore[no-any-return]

    def _compute(self, node: Node, name: str, depth: int) -> Array | None:
        unfit = node.op not in SUPPORTED or node.output != name or node.call_attribute()
        if unfit or depth == _LONGEST_CHAIN:
            return None
        arrays: list[Array | None] = []
        for slot, source in enumerate(node.proto.input):
            value = None
            if node.op == "CastLike" and slot == 1:
                kind = self.element_type(node.scope, source)
                if kind is None:
                    return None
                value = np.empty(0, helper.tensor_dtype_to_np_dtype(kind))
            elif source:
                value = (
                    self.array(node.scope, source)
                    if self.tensor(node.scope, source) is not None
                    else self._computed(node.scope, source, depth + 1)
                )
                if value is None:
                    return None
            arrays.append(value)
        try:
            result = evaluate(node.proto, node.scope.opset, arrays, self._budget)
        except BudgetExceededError:
            return None
        if result is None or result.dtype.kind in "OSU":
            return None
        read = ((node.scope.owner(source), source) for source in node.proto.input if source)
        if node.op == "DequantizeLinear" or any(key in self._quantized for key in read):
            self._quantized.add((node.scope, name))
        return result
