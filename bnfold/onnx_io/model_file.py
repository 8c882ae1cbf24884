"""Reads and writes .onnx files, with their tensors inside or in external data files.

A file is walked, not parsed: its tensors stay on disk, and a ModelProto holds the rest. What is
written is that ModelProto with the tensors' bytes copied in from where they are.
"""

from __future__ import annotations

import bisect
import contextlib
import errno
import functools
import mmap
import os
from collections.abc import Callable, Iterator, Sized
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from google.protobuf.message import DecodeError, EncodeError
from onnx import ModelProto

from bnfold.errors import ModelError, UsageError
from bnfold.onnx_io import data_files, data_layout, wire_format
from bnfold.onnx_io.atomic_output import Output
from bnfold.onnx_io.data_files import DataFile, DataFolder, FileRange
from bnfold.onnx_io.protos import external_entry, is_external, tensors
from bnfold.onnx_io.tensor_storage import INLINE, Storage, joined_bytes

SUFFIXES = (".onnx", ".pb", ".model")  # of files that are looked into for models
KEEP, INTO_MODEL = "keep", "inline"  # instead of the name of a data file
_LIMIT = (1 << 31) - 1  # bytes of one protobuf message


@dataclass
class ModelFile:
    """A model whose large tensors are on disk, and where they are."""

    model: ModelProto
    storage: Storage
    source: DataFile

    @property
    def path(self) -> Path:
        """The .onnx file."""
        return self.source.path

    @property
    def locations(self) -> list[str]:
        """The names by which the model calls its data files, in the order of its tensors."""
        return locations(self.model)

    @property
    def data_files(self) -> list[DataFile]:
        """The files with external data."""
        folder = self.storage.folder
        return [] if folder is None else [folder.file(location) for location in self.locations]

    @property
    def size(self) -> int:
        """The bytes of the model file and of its data files."""
        return self.source.size + sum(file.size for file in self.data_files)

    def copy(self) -> ModelFile:
        """The same with a ModelProto of its own."""
        model = ModelProto()
        model.CopyFrom(self.model)
        return ModelFile(model, self.storage, self.source)

    def loaded(self) -> ModelProto:
        """A copy of the model with all its tensors in memory."""
        return loaded(self.model, self.storage)


def read(path: Path) -> ModelFile:
    """Read a model. External data is looked for in the model's own folder, never in the current.

    Raises ModelError where the file cannot be read or holds no ONNX model, and where a tensor's
    data is not there or is not what its dims say.
    """
    source = data_files.model_file(path)
    storage = Storage(DataFolder(path.parent, path), lazy=True)
    model = _skeleton(source, storage)
    if not model.HasField("graph") or not (model.opset_import or model.functions):
        raise ModelError(
            f"{path} is not an ONNX model: it holds no {'graph' if source.size else 'bytes'}"
            if not model.HasField("graph")
            else f"{path} is not a valid ONNX model: it imports no operator set",
            "export the model again, or copy the file again: it may be cut off",
        )
    for tensor in tensors(model):
        storage.check(tensor)
    return ModelFile(model, storage, source)


def _skeleton(source: DataFile, storage: Storage) -> ModelProto:
    """The model with a token instead of the data of each tensor that is not small."""

    def is_large(start: int, end: int) -> bool:
        return end - start > INLINE

    def token(start: int, end: int) -> bytes | None:
        place = FileRange(source, start, end - start)
        return storage.token(place) if is_large(start, end) else None

    try:
        with source.opened() as file:
            if not source.size:
                return ModelProto()
            with _mapped(file.fileno()) as mapped:
                parts: list[Any] = wire_format.replaced(memoryview(mapped), is_large, token)
                if sum(map(len, parts)) > _LIMIT:
                    raise wire_format.WireError(
                        "more than 2 GiB, without any tensor that explains it"
                    )
                skeleton = b"".join(parts)
                del parts
            return ModelProto.FromString(skeleton)
    except OSError as error:
        if error.errno == errno.ENOMEM:
            raise MemoryError from error
        raise data_files.unreadable(source.path, error) from error
    except (wire_format.WireError, DecodeError, RecursionError) as error:
        raise _no_model(source) from error


_SEARCHED = 1 << 26  # bytes up to which searching takes less than reading
_KINDS = {  # what is taken for a model, by what such files begin with
    b"....ORTM": ("a model in ORT format", "give the .onnx file that it was made of"),
    b"version https://git-lfs": ("a pointer of Git LFS", "fetch the file itself: git lfs pull"),
    b"<": ("a web page or XML", "fetch the file itself"),
    b"PK\x03\x04": ("a zip archive", "unpack it; a PyTorch checkpoint has to be exported first"),
    b"\x89HDF": ("an HDF5 file", "convert it to ONNX first"),
}


def _no_model(source: DataFile) -> ModelError:
    """What to say of a file that is none of ONNX's."""
    with source.opened() as file:
        head = file.read(64)
    for begin, (what, remedy) in _KINDS.items():
        same = zip(begin, head, strict=False)
        if len(head) >= len(begin) and all(a in (b, ord(".")) for a, b in same):
            return ModelError(f"{source.path} is not an ONNX model, but {what}", remedy)
    return ModelError(
        f"{source.path} is not an ONNX model: it cannot be parsed as one",
        "export the model again, or copy the file again: it may be cut off",
    )


@contextlib.contextmanager
def _mapped(descriptor: int) -> Iterator[mmap.mmap]:
    """A file as memory, for a short time: Windows replaces no file that is mapped."""
    mapped = mmap.mmap(descriptor, 0, access=mmap.ACCESS_READ)
    try:
        yield mapped
    finally:
        with contextlib.suppress(BufferError):  # parts of it, in the traceback of an error
            mapped.close()


def loaded(model: ModelProto, storage: Storage) -> ModelProto:
    """A copy of the model with all its tensors in memory."""
    copy = ModelProto()
    copy.CopyFrom(model)
    for tensor in tensors(copy):
        if (source := storage.source(tensor)) is not None:
            tensor.raw_data = bytes(joined_bytes(source))
            tensor.ClearField("data_location")
            del tensor.external_data[:]
    return copy


def locations(model: ModelProto) -> list[str]:
    """The names by which a model calls its data files, in the order of its tensors."""
    external = filter(is_external, tensors(model))
    return list(dict.fromkeys(external_entry(tensor)[0] for tensor in external))


# --- writing -------------------------------------------------------------------------------------


def write(
    model: ModelProto,
    storage: Storage,
    output: Output,
    external_data: str = KEEP,
    origin: str = "",
) -> int:
    """Write the candidate and its data files; gives their size in bytes. `model` stays as it is.

    `external_data` is KEEP for the files that the original has, INTO_MODEL, or the name of the one
    data file. `origin` is the file name of the original, with which its data files' names may
    begin. Raises UsageError where the model would be too large or a name is taken.
    """
    copy = ModelProto()
    copy.CopyFrom(model)
    if external_data == KEEP:
        files = data_layout.keep(copy, storage, lambda old: _names(old, output, origin))
    elif external_data == INTO_MODEL:
        files = data_layout.inline(copy, storage)
    else:
        _require_free(output, external_data)
        files = data_layout.gather(copy, storage, external_data)
    parts = _parts(copy, storage)
    for name, contents in files.items():
        output.write(contents, name)
    output.write(parts)
    return sum(len(part) for contents in (parts, *files.values()) for part in contents)


def save(model: ModelProto, storage: Storage, path: Path) -> Path:
    """Write a model of our own making to `path`, whatever its size."""
    with Output(path) as output:
        try:
            write(model, storage, output)
        except TooLargeError:
            write(model, storage, output, f"{path.name}.data")
        output.publish()
    return path


class TooLargeError(UsageError):
    """The model does not fit into the 2 GiB of one protobuf message."""


def _parts(model: ModelProto, storage: Storage) -> list[Sized]:
    """The serialised model, with the bytes of tensors in the places of their tokens."""
    too_large = TooLargeError(
        "the folded model is larger than the 2 GiB that a single file can hold",
        "put its weights beside it: `external_data=NAME`",
    )
    try:
        data = model.SerializeToString()
    except (ValueError, EncodeError) as error:
        raise too_large from error
    places = storage.tokens(data)

    def has_token(start: int, end: int) -> bool:
        first = bisect.bisect_left(places, start)
        return first < len(places) and places[first] < end

    parts: list[Sized] = [data]
    if places:
        parts = wire_format.replaced(
            data, has_token, lambda start, end: storage.payload(data[start:end])
        )
    if sum(map(len, parts)) > _LIMIT:
        raise too_large
    return parts


# --- names of data files -------------------------------------------------------------------------


def _names(old: list[str], output: Output, origin: str) -> list[str]:
    """The names of the copies of the data files that the original calls `old`.

    They are made from the output's name, so that two outputs in one folder have files of their
    own. A file that is there already keeps its name, unless it is what an earlier run has left.
    """
    target = output.target.name
    is_left = _left_by(output)
    names: list[str] = []
    for location in old:
        base = location.replace("\\", "/").rpartition("/")[2]
        if origin and base.startswith(origin):
            suffix = base[len(origin) :]
        else:
            suffix = ".data" if len(old) == 1 else f".{base}"
        number = 0
        while True:
            name = f"{target}.{number}{suffix}" if number else f"{target}{suffix}"
            path = output.target.with_name(name)
            free = name not in (target, *names) and not output.keeps(path)
            if free and (not os.path.lexists(path) or is_left(path)):
                break
            number += 1
        names.append(name)
    return names


def _require_free(output: Output, name: str) -> None:
    """Raises UsageError where a data file must not have this name."""
    path = output.target.with_name(name) if name and name == Path(name).name else None
    if path is None or name in (".", "..") or name == output.target.name or path.is_dir():
        raise UsageError(
            f"`external_data={name}` does not name a file beside the output",
            "give 'keep', 'inline', or the name of a file, without a folder",
        )
    if output.keeps(path) or (os.path.lexists(path) and not _left_by(output)(path)):
        raise UsageError(
            f"there is a {path} already, which is not what an earlier run for this output has left",
            "choose another name for the data file, or remove that one first",
        )


def _left_by(output: Output) -> Callable[[Path], bool]:
    """Whether a file is data that bnfold wrote for an earlier model of this output.

    And which no model refers to: until the output is replaced, the old one would read new weights.
    """
    referred = functools.cache(lambda: _referred(output.target.parent))
    return lambda path: output.owns(path) and os.path.realpath(path) not in referred()


def _referred(folder: Path) -> set[str]:
    """The data files of the models in a folder and in those that it lies in."""
    folders = Path(os.path.realpath(folder))
    return {
        os.path.realpath(path.with_name(name))
        for place in (folders, *folders.parents)
        for path, names in neighbours(place).items()
        for name in names
    }


def neighbours(folder: Path) -> dict[Path, list[str]]:
    """The models of a folder, and by which names they call their data files."""
    try:
        paths = sorted(path for path in folder.iterdir() if path.suffix.lower() in SUFFIXES)
    except OSError:
        return {}
    return {path: data_names(path) for path in paths if path.is_file()}


def _mentions(source: DataFile, word: bytes) -> bool:
    try:
        with source.opened() as file:
            if not source.size:
                return False
            with _mapped(file.fileno()) as mapped:
                return mapped.find(word) >= 0
    except OSError:
        return True


def data_names(path: Path) -> list[str]:
    """By which names the model at `path` calls its data files; none where there is no model."""
    try:
        source = data_files.model_file(path)
        if source.size < _SEARCHED and not _mentions(source, b"location"):
            return []  # without having read it as a model
        names = locations(_skeleton(source, Storage()))
    except ModelError:
        return []
    return [os.path.normpath(name) for name in names]
