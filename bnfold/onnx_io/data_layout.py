"""Where the tensors of a model that is written come to stand: in the model, or in data files.

Each way of laying them out changes the model's entries and gives the contents of the data files, as
parts that are copied or computed when they are written.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any

from onnx import GraphProto, ModelProto, TensorProto, numpy_helper

from bnfold.onnx_io.data_files import DataFile, FileRange, Sink
from bnfold.onnx_io.protos import bodies, external_entry, is_external, size_in_bytes, tensors
from bnfold.onnx_io.tensor_storage import Payload, Storage

SMALL = 1024  # bytes up to which tensors stay in the model: shape inference looks into them
ALIGNMENT = 4096  # of new data files: lets every runtime map their tensors
_MOST_ALIGNED = 1 << 16

Files = dict[str, list[Any]]  # parts of data files, by name


@dataclass
class _Kept:
    """A data file of the original, with what changes in it."""

    file: DataFile
    name: str  # of the copy
    ranges: list[tuple[int, int, TensorProto]] = field(default_factory=list)
    patches: list[tuple[int, Payload]] = field(default_factory=list)
    appended: list[tuple[int, Payload]] = field(default_factory=list)

    def end(self) -> int:
        last = self.appended[-1] if self.appended else None
        return self.file.size if last is None else last[0] + len(last[1])

    def alignment(self) -> int:
        """The largest power of 2 at which all its tensors stand."""
        offsets = [start for start, _, _ in self.ranges if start]
        if not offsets:
            return ALIGNMENT
        return min(_MOST_ALIGNED, *(start & -start for start in offsets))

    def overlapped(self) -> set[int]:
        """The tensors, by id, of which another one uses some of the bytes."""
        found: set[int] = set()
        filled = (entry for entry in self.ranges if entry[0] < entry[1])
        ranges = sorted(filled, key=lambda entry: entry[:2])
        reach = ranges[0] if ranges else None
        for before, after in pairwise(ranges):
            assert reach is not None
            reach = max(reach, before, key=lambda entry: entry[1])
            if after[0] < reach[1]:
                found |= {id(reach[2]), id(after[2])}
        return found

    def parts(self) -> Iterator[Any]:
        at = 0
        for offset, payload in sorted(self.patches, key=lambda patch: patch[0]):
            yield FileRange(self.file, at, offset - at)
            yield payload
            at = offset + len(payload)
        yield FileRange(self.file, at, self.file.size - at)
        at = self.file.size
        for offset, payload in self.appended:
            yield bytes(offset - at)
            yield payload
            at = offset + len(payload)


class _Bytes(bytes):
    """A payload that is in memory."""

    def put(self, sink: Sink) -> None:
        sink(0, self)


def keep(model: ModelProto, storage: Storage, rename: Callable[[list[str]], list[str]]) -> Files:
    """The files that the original has, with new values at the offsets of the old ones.

    `rename` gives the names of the copies for the locations. Values that have grown, or whose place
    others read as it was, come at the end; so do new large tensors where others are external.
    """
    external = [tensor for tensor in tensors(model) if is_external(tensor)]
    if not external:
        return {}
    folder = storage.folder
    assert folder is not None, "external tensors were found in it"
    locations = list(dict.fromkeys(external_entry(tensor)[0] for tensor in external))
    names = rename(locations)
    files = {
        location: _Kept(folder.file(location), name)
        for location, name in zip(locations, names, strict=True)
    }
    spans: dict[int, tuple[int, int]] = {}
    for tensor in external:
        place = storage.external(tensor)
        spans[id(tensor)] = span = (place.offset, place.offset + place.length)
        files[external_entry(tensor)[0]].ranges.append((*span, tensor))
    shared = set().union(*(file.overlapped() for file in files.values()))
    for tensor in external:
        file = files[external_entry(tensor)[0]]
        start, stop = spans[id(tensor)]
        if tensor.HasField("raw_data"):
            values: Payload = storage.payload(tensor.raw_data) or _Bytes(tensor.raw_data)
            tensor.ClearField("raw_data")
            if len(values) == stop - start and id(tensor) not in shared:
                file.patches.append((start, values))
            else:
                _append(file, tensor, values)
        _set(tensor, location=file.name)
        if external_entry(tensor)[2] is None:  # up to the end of the file, which may have moved
            _set(tensor, length=str(stop - start))
    last = files[locations[-1]]
    for tensor in filter(storage.is_new, _initializers(model.graph)):
        computed = storage.payload(tensor.raw_data)
        assert computed is not None, "new tensors have a token"
        tensor.ClearField("raw_data")
        _append(last, tensor, computed)
        _set(tensor, location=last.name)
    changed = {file.name for file in files.values() if file.patches or file.appended}
    for tensor in external:
        if external_entry(tensor)[0] in changed:
            _set(tensor, checksum=None)  # of the whole data file
    return {file.name: list(file.parts()) for file in files.values()}


def inline(model: ModelProto, storage: Storage) -> Files:
    """Every tensor in the model itself."""
    for tensor in tensors(model):
        if is_external(tensor):
            if not tensor.HasField("raw_data"):
                tensor.raw_data = storage.token(storage.external(tensor))
            tensor.ClearField("data_location")
            del tensor.external_data[:]
    return {}


def gather(model: ModelProto, storage: Storage, name: str) -> Files:
    """All initializers that are not small in one data file of this name; the rest in the model."""
    inline(model, storage)
    parts: list[Any] = []
    at = 0
    for tensor in _initializers(model.graph):
        size = size_in_bytes(tensor)
        if size is None or size <= SMALL:
            continue
        values = storage.payload(tensor.raw_data)
        if values is None:  # in one of several fields of the ModelProto
            values = _Bytes(numpy_helper.from_array(storage.array(tensor)).raw_data)
        for own in ("raw_data", "float_data", "double_data", "int32_data", "int64_data"):
            tensor.ClearField(own)
        parts += [bytes(-at % ALIGNMENT), values]
        at += -at % ALIGNMENT
        _set(tensor, location=name, offset=str(at), length=str(len(values)))
        tensor.data_location = TensorProto.EXTERNAL
        at += len(values)
    return {name: parts} if parts else {}


def _append(file: _Kept, tensor: TensorProto, values: Payload) -> None:
    offset = file.end() + -file.end() % file.alignment()
    file.appended.append((offset, values))
    _set(tensor, offset=str(offset), length=str(len(values)))
    tensor.data_location = TensorProto.EXTERNAL


def _set(tensor: TensorProto, **entries: str | None) -> None:
    """Set entries of a tensor's external data; those that are None go."""
    for key, value in entries.items():
        places = [n for n, entry in enumerate(tensor.external_data) if entry.key == key]
        if value is None:
            for place in reversed(places):
                del tensor.external_data[place]
        elif places:
            tensor.external_data[places[-1]].value = value
        else:
            tensor.external_data.add(key=key, value=value)


def _initializers(graph: GraphProto) -> Iterator[TensorProto]:
    yield from graph.initializer
    for node in graph.node:
        for _, body in bodies(node):
            yield from _initializers(body)
