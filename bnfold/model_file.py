"""Reads and writes .onnx files, with their tensors inside or in external data files.

A result is first written into a private folder beside its target and gets its name only by
`Output.publish`, so that a file under the output's name is always whole and always checked.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import stat
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import onnx
from google.protobuf.message import DecodeError, EncodeError
from onnx import GraphProto, ModelProto, NodeProto, TensorProto
from onnx.external_data_helper import (
    ExternalDataInfo,
    load_external_data_for_tensor,
    set_external_data,
)

from bnfold.errors import ModelError, UsageError
from bnfold.graph import bodies

_NEAR_LIMIT = 1 << 30
_SMALL = 1024  # bytes
_ALIGNMENT = 4096  # offsets of external tensors; lets every runtime map them


@dataclass
class ModelFile:
    """A model with all its tensors in memory, and which of them came from external data."""

    path: Path
    model: ModelProto
    external: list[TensorProto] = field(default_factory=list)
    data_files: list[Path] = field(default_factory=list)

    @property
    def bytes_on_disk(self) -> int:
        """The size of the model file and of its data files."""
        return sum(path.stat().st_size for path in {self.path, *self.data_files})

    @property
    def is_large(self) -> bool:
        """Whether the tensors come near the 2 GiB that one protobuf message can hold."""
        return sum(len(tensor.raw_data) for tensor in tensors(self.model)) > _NEAR_LIMIT


def read(path: Path) -> ModelFile:
    """Read a model. External data is looked for in the model's own folder, never in the current.

    Raises ModelError where the file cannot be read or holds no ONNX model.
    """
    try:
        if not stat.S_ISREG(path.stat().st_mode):
            raise ModelError(f"{path} is not a file", "give the path of an .onnx file")
        data = path.read_bytes()
    except OSError as error:
        raise ModelError(f"cannot read {path}: {error.strerror}", "check the path") from error
    try:
        model = ModelProto.FromString(data)
    except (DecodeError, RecursionError) as error:
        raise ModelError(
            f"{path} is not an ONNX model: it cannot be parsed as one",
            "export it again, or fetch it again: Git LFS pointers and web pages look like this",
        ) from error
    if not model.HasField("graph") or not (model.opset_import or model.functions):
        raise ModelError(
            f"{path} is not an ONNX model: it holds no {'graph' if data else 'bytes'}"
            if not model.HasField("graph")
            else f"{path} is not a valid ONNX model: it imports no operator set",
            "export it again",
        )
    return _with_external_data(path, model)


def _with_external_data(path: Path, model: ModelProto) -> ModelFile:
    folder = Path(os.path.abspath(path)).parent
    file = ModelFile(path, model)
    for tensor in tensors(model):
        if tensor.data_location != TensorProto.EXTERNAL:
            continue
        try:
            location = ExternalDataInfo(tensor).location
            load_external_data_for_tensor(tensor, str(folder))
        except (OSError, ValueError, TypeError, onnx.checker.ValidationError) as error:
            raise ModelError(
                f"cannot read the external data of tensor {tensor.name!r} of {path}: {error}",
                "put the data file beside the model, under the name the model has for it",
            ) from error
        tensor.data_location = TensorProto.DEFAULT
        del tensor.external_data[:]
        file.external.append(tensor)
        if (source := folder / location) not in file.data_files:
            file.data_files.append(source)
    return file


def write(file: ModelFile, path: Path) -> Path:
    """Write a model to `path` and leave `file` as it is.

    Where its tensors were external, or are too large for one message, they come to stand beside it;
    but not the small ones, which shape inference wants to look into.
    """
    copy = ModelProto()
    copy.CopyFrom(file.model)
    apart = bool(file.external) or file.is_large
    large = [t for t in tensors(copy) if apart and len(t.raw_data) > _SMALL]
    with Output(path) as output:
        output.write(ModelFile(path, copy, large))
        output.publish()
    return path


def tensors(model: ModelProto) -> Iterator[TensorProto]:
    """Every tensor of a model: initializers and attributes, in bodies and functions too."""
    yield from _graph_tensors(model.graph)
    for function in model.functions:
        yield from node_tensors(function.node)
    for info in model.training_info:
        yield from _graph_tensors(info.initialization)
        yield from _graph_tensors(info.algorithm)


def _graph_tensors(graph: GraphProto) -> Iterator[TensorProto]:
    yield from graph.initializer
    for sparse in graph.sparse_initializer:
        yield from (sparse.values, sparse.indices)
    yield from node_tensors(graph.node)


def node_tensors(nodes: Iterable[NodeProto]) -> Iterator[TensorProto]:
    """Every tensor in the attributes of these nodes, in their bodies too."""
    for node in nodes:
        for attribute in node.attribute:
            if attribute.HasField("t"):
                yield attribute.t
            yield from attribute.tensors
            own = [attribute.sparse_tensor] if attribute.HasField("sparse_tensor") else []
            for sparse in (*own, *attribute.sparse_tensors):
                yield from (sparse.values, sparse.indices)
        for _, body in bodies(node):
            yield from _graph_tensors(body)


class Output:
    """A private folder beside the target; what is written there gets its name by `publish`."""

    def __init__(self, target: Path, keep: Sequence[Path] = ()) -> None:
        """`keep` are files that must not be overwritten: those of the original.

        Raises UsageError where the target is one of them, or its folder cannot be written to.
        """
        self.target = target
        for path in (target, target.with_name(f"{target.name}.data")):
            if any(_same(path, kept) for kept in keep):
                raise UsageError(
                    f"writing {target} would overwrite {path}, which belongs to the original",
                    "choose another output name with -o",
                )
        try:
            self._folder = Path(tempfile.mkdtemp(prefix=".bnfold-", dir=target.parent))
        except OSError as error:
            raise UsageError(
                f"cannot write into {target.parent}: {error.strerror}",
                "choose another place with -o",
            ) from error
        self.candidate = self._folder / target.name
        self._data = self._folder / f"{target.name}.data"

    def __enter__(self) -> Output:
        return self

    def __exit__(self, *_: object) -> None:
        shutil.rmtree(self._folder, ignore_errors=True)

    def copy(self, source: Path) -> None:
        """Make the candidate a copy of `source`, byte for byte."""
        with _writing(self.target), source.open("rb") as old, self.candidate.open("wb") as new:
            shutil.copyfileobj(old, new)
            _sync(new.fileno())

    def write(self, file: ModelFile) -> None:
        """Write the candidate. Tensors that came from external data go to one file beside it."""
        moving = {id(tensor) for tensor in file.external}
        leaving = [tensor for tensor in tensors(file.model) if id(tensor) in moving]
        with _writing(self.target):
            if leaving:
                self._write_data(leaving)
            try:
                data = file.model.SerializeToString()
            except (ValueError, EncodeError) as error:
                raise UsageError(
                    "the folded model is larger than the 2 GiB that a single file can hold",
                    "store the original with external data: "
                    "onnx.save(..., save_as_external_data=True)",
                ) from error
            with self.candidate.open("wb") as new:
                new.write(data)
                _sync(new.fileno())

    def _write_data(self, leaving: list[TensorProto]) -> None:
        with self._data.open("wb") as data:
            for tensor in leaving:
                data.seek(-data.tell() % _ALIGNMENT, os.SEEK_CUR)
                set_external_data(tensor, self._data.name, data.tell(), len(tensor.raw_data))
                data.write(tensor.raw_data)
                tensor.ClearField("raw_data")
            data.truncate()
            _sync(data.fileno())

    def publish(self) -> None:
        """Give the candidate its name: the data file first, then the model that refers to it."""
        with _writing(self.target):
            if self.target.exists():
                shutil.copymode(self.target, self.candidate)
            if self._data.exists():
                os.replace(self._data, self.target.with_name(self._data.name))
            os.replace(self.candidate, self.target)
            folder = os.open(self.target.parent, os.O_RDONLY)
            try:
                _sync(folder)
            finally:
                os.close(folder)


@contextlib.contextmanager
def _writing(target: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise UsageError(
            f"cannot write {target}: {error.strerror}",
            "nothing was changed; make room or choose -o",
        ) from error


def _sync(descriptor: int) -> None:
    with contextlib.suppress(OSError):  # some file systems do not sync folders
        os.fsync(descriptor)


def _same(one: Path, other: Path) -> bool:
    try:
        return one.samefile(other)
    except OSError:
        return False
