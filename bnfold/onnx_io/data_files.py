"""Opens the files that a model is made of: its own, and those with its external data.

A model's `location` entries come from whoever wrote the model. They may name a file in the model's
own folder or below it and nothing else: no `..`, no absolute path, no link to somewhere, no hard
link, no pipe or device. One layout of links is let through, that of the Hugging Face cache, where
model and data are both links into one folder of blobs.
"""

from __future__ import annotations

import contextlib
import errno
import os
import stat
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from io import RawIOBase
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import TypeAlias

import numpy as np
import numpy.typing as npt

from bnfold import system
from bnfold.errors import ModelError

# takes some bytes of a whole, and how many come before them; in any order, from several threads
Sink: TypeAlias = Callable[[int, "bytes | memoryview"], None]

_CHUNK = 1 << 20  # bytes


class DataFile:
    """A regular file that has to stay what it is for as long as it is looked at."""

    def __init__(self, path: Path, descriptor: Callable[[], int]) -> None:
        """`descriptor` opens it. Raises OSError, and ModelError where it is no regular file."""
        self.path = path
        self._descriptor = descriptor
        self._seen: tuple[int, ...] = ()
        with self.opened() as file:
            self.size = os.fstat(file.fileno()).st_size

    @contextlib.contextmanager
    def opened(self) -> Iterator[RawIOBase]:
        """The file, unbuffered. Raises ModelError where it is not the same any more."""
        with os.fdopen(self._descriptor(), "rb", buffering=0) as file:
            status = os.fstat(file.fileno())
            if not stat.S_ISREG(status.st_mode):
                raise ModelError(f"{self.path} is not a file", "give the path of a file")
            seen = (status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns)
            if self._seen and seen != self._seen:
                raise ModelError(f"{self.path} was changed while it was read", "run bnfold again")
            self._seen = seen
            yield file


@dataclass(frozen=True)
class FileRange:
    """Bytes of a file."""

    file: DataFile
    offset: int
    length: int

    def __len__(self) -> int:
        return self.length

    def read(self, start: int, stop: int) -> npt.NDArray[np.uint8]:
        """The bytes from `start` to `stop`, counted from the beginning of the range."""
        data = np.empty(stop - start, np.uint8)
        rest = data.data
        with self.file.opened() as file:
            file.seek(self.offset + start)
            while rest:
                count = file.readinto(rest)
                if not count:
                    raise ModelError(f"{self.file.path} ends too early", "fetch it again")
                rest = rest[count:]
        return data

    def put(self, sink: Sink) -> None:
        """Hand all bytes to the sink, in pieces."""
        for start in range(0, self.length, _CHUNK):
            sink(start, self.read(start, min(start + _CHUNK, self.length)).data)


def model_file(path: Path) -> DataFile:
    """The .onnx file itself; links are followed, for the user has named it.

    Raises ModelError where it cannot be read.
    """
    try:
        return DataFile(path, lambda: os.open(path, system.READ))
    except OSError as error:
        raise unreadable(path, error) from error


def unreadable(path: Path, error: OSError) -> ModelError:
    """What to tell of a model that the system does not let us read."""
    return ModelError(f"cannot read {path}: {error.strerror}", "check the path")


class DataFolder:
    """The folder in which the external data of a model is looked for."""

    def __init__(self, path: Path, model: Path | None = None) -> None:
        """`model` is the path of the model if it came from a file."""
        self.path = Path(os.path.abspath(path))
        self._model = None if model is None else Path(os.path.abspath(model))
        self._files: dict[str, DataFile] = {}

    def file(self, location: str) -> DataFile:
        """The data file that a model calls `location`.

        Raises ModelError where there is none, or none that may be read.
        """
        if location not in self._files:
            self._files[location] = self._file(location)
        return self._files[location]

    def _file(self, location: str) -> DataFile:
        parts = _parts(location)
        folder = self.path
        if len(parts) == 1 and (blob := self._blob(parts[0])) is not None:
            folder, parts = blob.parent, (blob.name,)
        try:
            file = DataFile(folder.joinpath(*parts), lambda: _open_beneath(folder, parts))
            with file.opened() as opened:
                links = os.fstat(opened.fileno()).st_nlink
        except OSError as error:
            raise ModelError(
                f"cannot read the external data {location!r}: {error.strerror}",
                "put the data file beside the model, under the name the model has for it; links "
                "are not followed",
            ) from error
        if links > 1:
            raise ModelError(
                f"the external data {location!r} is a hard link: it may be any file of this disk",
                "put a copy of the data file in its place",
            )
        return file

    def _blob(self, name: str) -> Path | None:
        """Where the data really is in the layout of the Hugging Face cache, None in any other.

        There the model itself is a link that the user has named, and the data is a link into the
        very folder that the model is in.
        """
        if self._model is None or not self._model.is_symlink():
            return None
        data = self.path / name
        if not data.is_symlink():
            return None
        model, real = (Path(os.path.realpath(path)) for path in (self._model, data))
        return real if real.parent == model.parent else None


def _parts(location: str) -> tuple[str, ...]:
    """The names that make up a location. Raises ModelError where it leads out of its folder."""
    path = PurePosixPath(location)
    windows = PureWindowsPath(location)
    if not location or "\0" in location or not path.name:
        raise ModelError(
            f"the location {location!r} of external data names no file", "export the model again"
        )
    if path.is_absolute() or windows.drive or windows.root or ".." in (*path.parts, *windows.parts):
        raise ModelError(
            f"the external data {location!r} would lie outside of the model's folder",
            "this may be an attack; if it is not, put the data beside the model and mend the "
            "location",
        )
    return (windows if os.sep == "\\" else path).parts


def _open_beneath(folder: Path, parts: tuple[str, ...]) -> int:
    """A descriptor of the file, come to without following any link."""
    if os.open not in os.supports_dir_fd:
        path = folder
        for part in parts:
            path = path / part
            if path.is_symlink() or getattr(path, "is_junction", bool)():
                raise OSError(errno.ELOOP, "it is a link, or lies behind one")
        return os.open(path, system.READ)
    inside = os.open(folder, os.O_RDONLY | system.FOLDER)
    try:
        for part in parts[:-1]:
            outside = inside
            inside = os.open(part, os.O_RDONLY | system.FOLDER | system.NO_LINK, dir_fd=outside)
            os.close(outside)
        return os.open(parts[-1], system.READ | system.NO_LINK, dir_fd=inside)
    finally:
        os.close(inside)
