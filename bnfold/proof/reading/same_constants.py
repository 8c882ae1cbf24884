"""Whether a constant of one model is that of another, and how exactly it is known."""

from __future__ import annotations

import hashlib

from onnx import AttributeProto, FunctionProto, GraphProto, ModelProto, TensorProto

from bnfold.errors import ModelError
from bnfold.graph.index import Scope
from bnfold.onnx_io.data_files import FileRange
from bnfold.onnx_io.protos import tensors, without
from bnfold.onnx_io.tensor_storage import joined_bytes
from bnfold.proof.reading.model import Model
from bnfold.proof.values import summed_values
from bnfold.proof.values.operands import same_array

_CHUNK = 1 << 22  # bytes that are compared at a time


def same_constant(
    one: Model, a: tuple[Scope, str], two: Model, b: tuple[Scope, str]
) -> bool | None:  # fmt: skip
    """Whether two constants have the same values; None where one of them is not known."""
    before, after = one.tensor(*a), two.tensor(*b)
    try:
        if before is not None and after is not None and before.data_type == after.data_type:
            same_dims = list(before.dims) == list(after.dims)
            return same_dims and same_data(one, before, two, after)
        values = one.value(*a), two.value(*b)
    except ModelError:  # data that does not fit its dims
        return False
    return None if values[0] is None or values[1] is None else same_array(values[0], values[1])


def same_data(one: Model, a: TensorProto, two: Model, b: TensorProto) -> bool:
    """Whether two tensors hold the same bytes, wherever these are."""
    sources = [model.storage.source(tensor) for model, tensor in ((one, a), (two, b))]
    if all(isinstance(source, FileRange) for source in sources):
        first, second = sources
        assert isinstance(first, FileRange)
        assert isinstance(second, FileRange)
        return len(first) == len(second) and all(
            (first.read(at, min(at + _CHUNK, len(first)))
             == second.read(at, min(at + _CHUNK, len(first)))).all()
            for at in range(0, len(first), _CHUNK)
        )  # fmt: skip
    if TensorProto.STRING in (a.data_type, b.data_type):  # an array would hold pointers
        return a.data_type == b.data_type and list(a.string_data) == list(b.string_data)
    if not any(sources):
        return a == b or one.storage.array(a).tobytes() == two.storage.array(b).tobytes()
    return one.storage.array(a).tobytes() == two.storage.array(b).tobytes()


def with_data(
    model: Model, message: ModelProto | FunctionProto | GraphProto | AttributeProto
) -> bytes:
    """A message, byte for byte, and the bytes of its tensors that are somewhere else.

    That is in data files, or in the storage, which leaves tokens in the message.
    """
    elsewhere = []
    for tensor in tensors(message):
        try:
            source = model.storage.source(tensor)
        except ModelError:  # nobody knows that it is the same
            elsewhere.append(str(id(model)).encode())
            continue
        if source is not None:
            elsewhere.append(hashlib.sha256(joined_bytes(source)).digest())
    if not elsewhere:
        return bytes(message.SerializeToString(deterministic=True))
    bare = without(message, ())
    for tensor in tensors(bare):
        if model.storage.payload(tensor.raw_data) is not None:
            tensor.ClearField("raw_data")  # tokens are numbered as the file comes
    return b"".join([bare.SerializeToString(deterministic=True), *elsewhere])


def roundings(model: Model, scope: Scope, name: str) -> int:
    """How many roundings a runtime may make of its own where it computes a constant."""
    total = 0
    for node in model.computing(scope, name):
        if node.op in summed_values.RULES:
            operands = [model.value_at(node, slot) for slot in range(len(node.proto.input))]
            result = model.value(node.scope, node.output)
            total += 0 if result is None else summed_values.roundings(node, operands, result)
    return total
