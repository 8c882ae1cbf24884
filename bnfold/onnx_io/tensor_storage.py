"""Where the bytes of a model's tensors are: in the model, in a file, or still to be computed.

A large tensor of a file stays where it is on disk. In the ModelProto its raw data is a token, which
is exchanged for the bytes when the model is written. Tensors that the file keeps external are left
as the file has them; they have a token, too, once they get new values.
"""

from __future__ import annotations

import math
import os
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
from onnx import TensorProto, numpy_helper

from bnfold.errors import ModelError
from bnfold.onnx_io.data_files import DataFolder, FileRange, Sink
from bnfold.onnx_io.protos import external_entry, is_external, plain_dtype, size_in_bytes

INLINE = 8192  # bytes up to which a tensor's data stays in the ModelProto

_MAGIC = os.urandom(16)  # no file can hold a token of this process
_TOKEN = len(_MAGIC) + 8
_DATA_FIELDS = ("raw_data", "float_data", "double_data", "int32_data", "int64_data", "uint64_data")


class Payload(Protocol):
    """The bytes of a tensor, wherever they are."""

    def __len__(self) -> int: ...

    def put(self, sink: Sink) -> None:
        """Hand all bytes to the sink, in pieces that fit into memory."""
        ...


@dataclass(frozen=True)
class InMemory:
    """A payload that is there already."""

    data: bytes

    def __len__(self) -> int:
        return len(self.data)

    def put(self, sink: Sink) -> None:
        """Hand over all of it."""
        sink(0, self.data)


def joined_bytes(payload: Payload) -> bytearray:
    """All bytes of a payload."""
    data = bytearray(len(payload))

    def sink(at: int, piece: Any) -> None:
        data[at : at + len(piece)] = piece

    payload.put(sink)
    return data


class Storage:
    """The tensors of one model, to be read and given new values."""

    def __init__(self, folder: DataFolder | None = None, *, lazy: bool = False) -> None:
        """`folder` is where external data is; without one, external tensors cannot be read.

        `lazy`: new values are computed when they are written. Otherwise the model gets them.
        """
        self.folder = folder
        self.lazy = lazy
        self._payloads: list[Payload] = []
        self._new: set[int] = set()

    # --- tokens ----------------------------------------------------------------------------------

    def token(self, payload: Payload) -> bytes:
        """What stands in a tensor's raw data for `payload`."""
        self._payloads.append(payload)
        return _MAGIC + (len(self._payloads) - 1).to_bytes(8, "little")

    def payload(self, raw_data: bytes | memoryview) -> Payload | None:
        """What a token stands for; None for raw data that is none."""
        if len(raw_data) != _TOKEN or raw_data[: len(_MAGIC)] != _MAGIC:
            return None
        return self._payloads[int.from_bytes(raw_data[len(_MAGIC) :], "little")]

    def tokens(self, serialized: bytes) -> list[int]:
        """Where tokens stand in a serialised model, in ascending order."""
        places = []
        at = serialized.find(_MAGIC)
        while at >= 0:
            places.append(at)
            at = serialized.find(_MAGIC, at + _TOKEN)
        return places

    # --- reading ---------------------------------------------------------------------------------

    def source(self, tensor: TensorProto) -> Payload | None:
        """Where the tensor's bytes are, if not in the ModelProto."""
        if tensor.HasField("raw_data"):
            return self.payload(tensor.raw_data)
        return self.external(tensor) if is_external(tensor) else None

    def external(self, tensor: TensorProto) -> FileRange:
        """The bytes of a data file that an external tensor refers to.

        Raises ModelError where there are no such bytes, or not as many as its dims ask for.
        """
        if self.folder is None:
            raise ModelError(
                f"the data of tensor {tensor.name!r} is external and was not loaded",
                "load it with onnx.load(path), give bnfold the path, or say in which folder the "
                "data is (base_dir)",
            )
        location, offset, length = external_entry(tensor)
        file = self.folder.file(location)
        needed = size_in_bytes(tensor)
        if length is None:
            length = file.size - offset if needed is None else needed
        if offset + length > file.size or length < 0:
            raise ModelError(
                f"the external data of tensor {tensor.name!r} is not there: bytes {offset} to "
                f"{offset + length} of {file.path}, which has {file.size}",
                "fetch the data file again",
            )
        _require_size(tensor, length, needed)
        return FileRange(file, offset, length)

    def check(self, tensor: TensorProto) -> None:
        """Raise ModelError for a tensor whose data cannot be what its dims say."""
        if is_external(tensor):
            self.external(tensor)
        elif tensor.HasField("raw_data"):
            payload = self.payload(tensor.raw_data)
            length = len(tensor.raw_data) if payload is None else len(payload)
            _require_size(tensor, length, size_in_bytes(tensor))
        else:
            size_in_bytes(tensor)

    def array(self, tensor: TensorProto) -> npt.NDArray[Any]:
        """The tensor's values.

        Raises ModelError where the tensor's data does not fit its own dims.
        """
        source = self.source(tensor)
        if source is None and is_external(tensor) and tensor.HasField("raw_data"):
            # new values, which the external file gets when it is written
            return _decoded(_inline(tensor, tensor.raw_data))
        if source is None:
            return _decoded(tensor)
        data = (
            source.read(0, len(source))
            if isinstance(source, FileRange)
            else np.frombuffer(joined_bytes(source), np.uint8)
        )
        dtype = plain_dtype(tensor.data_type)
        if dtype is not None and len(data) == math.prod(tensor.dims) * dtype.itemsize:
            return data.view(dtype).reshape(tuple(tensor.dims))
        return _decoded(_inline(tensor, data.tobytes()))

    def part(self, tensor: TensorProto, start: int, stop: int) -> npt.NDArray[Any]:
        """The values from `start` to `stop`, counted row by row, as a vector."""
        source, dtype = self.source(tensor), plain_dtype(tensor.data_type)
        if isinstance(source, FileRange) and dtype is not None:
            return source.read(start * dtype.itemsize, stop * dtype.itemsize).view(dtype)
        return self.array(tensor).reshape(-1)[start:stop]

    # --- new values ------------------------------------------------------------------------------

    def fill(self, tensor: TensorProto, values: Payload, *, new: bool = False) -> None:
        """Give a tensor other values of its type and dims; nothing else of it changes.

        `new` tensors stand where the model has the rest of its large ones.
        """
        later = self.lazy and len(values) > INLINE
        data = self.token(values) if later else bytes(joined_bytes(values))
        if later and new:
            self._new.add(len(self._payloads) - 1)
        for field in _DATA_FIELDS:
            tensor.ClearField(field)
        tensor.raw_data = data
        if is_external(tensor) and not self.lazy:
            tensor.ClearField("data_location")
            del tensor.external_data[:]

    def is_new(self, tensor: TensorProto) -> bool:
        """Whether the tensor is a large one that the file did not have."""
        number = int.from_bytes(tensor.raw_data[len(_MAGIC) :], "little")
        return self.payload(tensor.raw_data) is not None and number in self._new


def _require_size(tensor: TensorProto, length: int, needed: int | None) -> None:
    if needed not in (None, length):
        raise ModelError(
            f"the tensor {tensor.name!r} is damaged: it has {length} bytes, and its dims "
            f"{list(tensor.dims)} need {needed}",
            "export the model again",
        )


def _inline(tensor: TensorProto, data: bytes) -> TensorProto:
    return TensorProto(
        name=tensor.name, data_type=tensor.data_type, dims=tensor.dims, raw_data=data
    )


def _decoded(tensor: TensorProto) -> npt.NDArray[Any]:
    try:
        return numpy_helper.to_array(tensor)
    except MemoryError:
        raise
    except Exception as error:  # of many kinds, by what is wrong with it
        raise ModelError(
            f"the tensor {tensor.name!r} is damaged: {error}", "export the model again"
        ) from error
