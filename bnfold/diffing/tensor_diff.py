"""Whether tensors are the same, and how far they are apart, wherever their bytes are.

The same values are the same tensor, in raw or typed fields, in the model or in a data file. Large
ones are compared piece by piece.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
from google.protobuf.message import Message
from onnx import TensorProto, helper

from bnfold.errors import ModelError
from bnfold.onnx_io.data_files import FileRange
from bnfold.onnx_io.protos import Array, is_external, plain_dtype
from bnfold.onnx_io.tensor_storage import Storage, joined_bytes

M = TypeVar("M", bound=Message)

_PIECE = 1 << 20  # elements that are compared at a time


@dataclass(frozen=True)
class StoredTensor:
    """A tensor, and the storage that knows where its bytes are."""

    tensor: TensorProto
    storage: Storage


def type_of(tensor: TensorProto) -> str:
    """Element type and dims in words."""
    try:
        name = helper.tensor_dtype_to_string(tensor.data_type).removeprefix("TensorProto.").lower()
    except KeyError:
        name = f"type {tensor.data_type}"
    return f"{name}{list(tensor.dims)}"


def differences(one: StoredTensor, two: StoredTensor) -> Iterator[str]:
    """In what two tensors differ, in words; nothing where they are the same."""
    if type_of(one.tensor) != type_of(two.tensor):
        yield f"{type_of(one.tensor)} → {type_of(two.tensor)}"
    bare = [_bare(side.tensor) for side in (one, two)]
    for field in ("name", "doc_string"):
        old, new = (getattr(tensor, field) for tensor in bare)
        if old != new:
            yield f"{field}: {old!r} → {new!r}"
        for tensor in bare:
            tensor.ClearField(field)
    for tensor in bare:
        tensor.ClearField("data_type")
        del tensor.dims[:]
    if _bytes(bare[0]) != _bytes(bare[1]):
        yield "fields beside its values"
    yield from _of_values(one, two)


def _of_values(one: StoredTensor, two: StoredTensor) -> Iterator[str]:
    try:
        pieces = list(_pieces(one, two))
    except ModelError:  # values that cannot be read: as they are stored
        if settled(one.tensor, one.storage) != settled(two.tensor, two.storage):
            yield "other values, which cannot be read"
        return
    if any(a.shape != b.shape or a.dtype != b.dtype for a, b in pieces):
        yield "other values"
    elif found := [_Apart.of(a, b) for a, b in pieces]:
        differing = sum(part.differing for part in found)
        if differing:
            yield _sentence(found, differing, sum(a.size for a, _ in pieces))


def _pieces(one: StoredTensor, two: StoredTensor) -> Iterator[tuple[Array, Array]]:
    """The values of both, as vectors; what stands in files is not read as a whole."""
    sources = [side.storage.source(side.tensor) for side in (one, two)]
    plain = plain_dtype(one.tensor.data_type) is not None
    same = one.tensor.dims == two.tensor.dims and one.tensor.data_type == two.tensor.data_type
    if plain and same and all(isinstance(source, FileRange) for source in sources):
        total = int(np.prod(one.tensor.dims, dtype=np.int64))
        for start in range(0, total, _PIECE):
            stop = min(start + _PIECE, total)
            a, b = (side.storage.part(side.tensor, start, stop) for side in (one, two))
            yield a.reshape(-1), b.reshape(-1)
    else:
        arrays = [side.storage.array(side.tensor) for side in (one, two)]
        flat = [np.ascontiguousarray(array).reshape(-1) for array in arrays]
        yield flat[0], flat[1]


@dataclass(frozen=True)
class _Apart:
    """How far two vectors are apart: how many differ, by how much, and from where to where."""

    differing: int
    largest: float
    ranges: tuple[tuple[float, float], tuple[float, float]] | None  # None: no real numbers

    @classmethod
    def of(cls, one: Array, two: Array) -> _Apart:
        if one.dtype.kind in "OSU":
            return cls(int(np.count_nonzero(one != two)), 0.0, None)
        bits = np.dtype(f"V{one.dtype.itemsize}")
        differing = int(np.count_nonzero(one.view(bits) != two.view(bits)))
        if not differing:
            return cls(0, 0.0, None)
        if one.dtype.kind in "iu":
            wide = [
                array.astype(np.int64 if one.dtype.kind == "i" else np.uint64)
                for array in (one, two)
            ]
            apart = (np.maximum(*wide) - np.minimum(*wide)).view(np.uint64)
            return cls(differing, float(np.max(apart, initial=0)), (_range(one), _range(two)))
        with np.errstate(all="ignore"):
            kind = np.complex128 if one.dtype.kind == "c" else np.float64
            values = [array.astype(kind) for array in (one, two)]
            apart = np.abs(values[0] - values[1])
        largest = float(np.max(apart, initial=0.0, where=~np.isnan(apart)))
        ranges = None if kind is np.complex128 else (_range(values[0]), _range(values[1]))
        return cls(differing, largest, ranges)


def _range(values: Array) -> tuple[float, float]:
    """The least and the largest, NaN where there is none."""
    values = values[~np.isnan(values)]
    return (float(values.min()), float(values.max())) if values.size else (np.nan, np.nan)


def _sentence(found: list[_Apart], differing: int, total: int) -> str:
    if all(part.ranges is None and not part.largest for part in found):
        return f"{differing} of {total} values differ"
    said = f"{differing} of {total} numbers differ, by up to {max(p.largest for p in found):.3g}"
    ranges = [part.ranges for part in found if part.ranges is not None]
    if not ranges:
        return said
    with np.errstate(all="ignore"):
        ends = [
            (
                np.fmin.reduce([r[side][0] for r in ranges]),
                np.fmax.reduce([r[side][1] for r in ranges]),
            )
            for side in (0, 1)
        ]
    return f"{said}; {' → '.join(f'[{low:.3g}, {high:.3g}]' for low, high in ends)}"


# --- messages with tensors in them ---------------------------------------------------------------


def settled(message: M, storage: Storage) -> bytes:
    """A message as bytes, with a hash in place of each tensor's values, wherever these are."""
    copy = type(message)()
    copy.CopyFrom(message)
    for tensor in _tensors(copy):
        values = _hash(tensor, storage)
        tensor.CopyFrom(_bare(tensor))
        tensor.raw_data = values
    return _bytes(copy)


def _tensors(message: Message) -> Iterator[TensorProto]:
    """Every tensor in a message, however deep."""
    if isinstance(message, TensorProto):
        yield message
        return
    for field, value in message.ListFields():
        if field.message_type is not None:
            for part in value if hasattr(value, "add") else [value]:
                yield from _tensors(part)


def _hash(tensor: TensorProto, storage: Storage) -> bytes:
    try:
        array = storage.array(tensor)
        data = (
            b"\0".join(map(bytes, array.reshape(-1))) if array.dtype == object else array.tobytes()
        )
    except (ModelError, TypeError, ValueError):  # as it is stored
        try:
            source = storage.source(tensor)
        except ModelError:  # there are no such bytes
            source = None
        data = _bytes(tensor) if source is None else bytes(joined_bytes(source))
    return hashlib.sha256(data).digest()


def _bare(tensor: TensorProto) -> TensorProto:
    """The tensor without the fields that its values are in; others that it has by mistake stay."""
    bare = TensorProto()
    bare.CopyFrom(tensor)
    if is_external(tensor):
        bare.ClearField("external_data")
        bare.ClearField("data_location")
    elif not tensor.HasField("raw_data"):
        try:
            bare.ClearField(helper.tensor_dtype_to_field(tensor.data_type))
        except KeyError:  # a type that is not known has no field
            return bare
    bare.ClearField("raw_data")
    return bare


def _bytes(message: Message) -> bytes:
    data: bytes = message.SerializeToString(deterministic=True)
    return data
