"""Writes files so that they are there whole or not at all, whenever the process or power ends.

What is written goes into a private folder beside the target, is synced, and gets its name by
`Output.publish`: data files first, the model that refers to them last. Knows no ONNX.
"""

from __future__ import annotations

import contextlib
import errno
import os
import shutil
import threading
from collections.abc import Iterable, Iterator, Sequence
from io import FileIO
from pathlib import Path
from typing import Any

from bnfold import system
from bnfold.errors import ModelError, UsageError
from bnfold.onnx_io.data_files import FileRange
from bnfold.onnx_io.private_folder import PrivateFolder
from bnfold.onnx_io.replace_file import is_same, is_stream

WRITTEN: list[Path] = []  # the models that this process has given their names

_PIECE = 1 << 16  # bytes
_TURN = threading.Lock()
_NO_COPY = (errno.EXDEV, errno.EINVAL, errno.ENOSYS, errno.EOPNOTSUPP, errno.EBADF, errno.EPERM)


class Output:
    """A private folder beside the target; what is written there gets its name by `publish`.

    A link is followed, and the file that it leads to is replaced. A device or a pipe is written
    into, and takes no data files.
    """

    def __init__(self, target: Path, keep: Sequence[Path] = ()) -> None:
        """`keep` are files that must not be overwritten: those of the original.

        Raises UsageError where the target is one of them, or its folder cannot be written to.
        """
        self.target = target
        self.keep = keep
        self._stream = is_stream(target)
        self._real = target if self._stream else Path(os.path.realpath(target))
        if self.keeps(target):
            raise UsageError(
                f"writing {target} would overwrite a file that belongs to the original",
                "choose another name with `path_out`",
            )
        try:
            self._folder = PrivateFolder(None if self._stream else self._real.parent)
        except OSError as error:
            raise UsageError(
                f"cannot write into {self._real.parent}: {error.strerror}",
                "choose another place with `path_out`",
            ) from error
        self.candidate = self._folder.path / target.name  # the model, before it is published
        self.names: list[str] = []  # of data files

    def __enter__(self) -> Output:
        return self

    def __exit__(self, *_: object) -> None:
        self._folder.__exit__()

    def keeps(self, path: Path) -> bool:
        """Whether the path is a file of the original's."""
        return any(is_same(path, kept) for kept in self.keep)

    def owns(self, path: Path) -> bool:
        """Whether bnfold wrote this data file for this very output, and nobody has since."""
        return bool(mark := system.mark_of(path)) and mark == _mark(path, self.target.name)

    def write(self, parts: Iterable[Any], name: str | None = None) -> None:
        """Write the model's file, or the data file of that name, from its parts.

        A part is bytes, a FileRange or another Payload. Raises UsageError where there is no room,
        or no place for data files.
        """
        path = self.candidate if name is None else self.candidate.with_name(name)
        if name is not None:
            self._require_place_for_data()
            self.names.append(name)
        with _writing(self.target), path.open("wb", buffering=0) as new:
            at = 0
            for part in parts:
                if isinstance(part, FileRange):
                    _copy(part, new, at)
                elif isinstance(part, bytes | memoryview):
                    _put(part, new, at)
                else:
                    part.put(lambda start, data, at=at: _put(data, new, at + start))
                at += len(part)
            _sync(new.fileno())
        if name is not None:
            system.mark(path, _mark(path, self.target.name))

    def _require_place_for_data(self) -> None:
        if self._stream or self.target.is_symlink():
            what = "is a link" if self.target.is_symlink() else "is no regular file"
            raise UsageError(
                f"{self.target} {what}, so that external data has no place beside it",
                'put all tensors into the model: `external_data="inline"`',
            )

    def publish(self) -> None:
        """Give the files their names: the data files first, then the model that refers to them.

        Raises UsageError where that fails; then the target is what it was.
        """
        with _writing(self.target):
            if self._stream:
                self._pour()
            else:
                self._rename()

    def _pour(self) -> None:
        with self.candidate.open("rb") as done, self.target.open("wb", buffering=0) as stream:
            WRITTEN.append(self.target)
            shutil.copyfileobj(done, stream)

    def _rename(self) -> None:
        published = []
        if self._real.exists():
            shutil.copymode(self._real, self.candidate)
        try:
            for name in self.names:
                path = self.target.with_name(name)
                if not path.exists():
                    published.append(path)
                os.replace(self.candidate.with_name(name), path)
            if self.names:
                system.sync_folder(self._real.parent)
            os.replace(self.candidate, self._real)
        except BaseException:
            if self.candidate.exists():  # else an interrupt came behind the last step
                for path in published:  # nothing refers to them
                    path.unlink(missing_ok=True)
            raise
        finally:
            if not self.candidate.exists():
                WRITTEN.append(self.target)
        system.sync_folder(self._real.parent)


def _mark(path: Path, output: str) -> str:
    """What is noted on a data file of an output: its name, and what changes with every write."""
    status = path.stat()
    return f"data of {output}, {status.st_size} bytes, written at {status.st_mtime_ns}"


def _copy(part: FileRange, new: FileIO, at: int) -> None:
    """Copy within the system, which on some file systems copies nothing at all."""
    done = 0
    with part.file.opened() as old:
        while done < part.length and hasattr(os, "copy_file_range"):
            try:
                count = os.copy_file_range(
                    old.fileno(), new.fileno(), part.length - done, part.offset + done, at + done
                )
            except OSError as error:
                if error.errno not in _NO_COPY:
                    raise
                break
            if not count:
                raise ModelError(f"{part.file.path} ends too early", "fetch it again")
            done += count
    rest = FileRange(part.file, part.offset + done, part.length - done)
    rest.put(lambda start, data: _put(data, new, at + done + start))


def _put(data: bytes | memoryview, new: FileIO, at: int) -> None:
    """Write in small pieces: of large ones Linux takes its cache in huge pages, which it zeroes."""
    view = memoryview(data)
    while view:
        count = _write_at(view[:_PIECE], new, at)
        view, at = view[count:], at + count


def _write_at(data: memoryview, new: FileIO, at: int) -> int:
    if hasattr(os, "pwrite"):
        return os.pwrite(new.fileno(), data, at)
    with _TURN:  # Windows has one position in a file for all threads
        new.seek(at)
        return new.write(data)


@contextlib.contextmanager
def _writing(target: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise UsageError(
            f"cannot write {target}: {error.strerror}",
            "nothing was changed; make room, or choose another place with `path_out`",
        ) from error


def _sync(descriptor: int) -> None:
    try:
        system.sync(descriptor)
    except OSError as error:
        if error.errno not in (errno.EINVAL, errno.ENOSYS, errno.EOPNOTSUPP):  # no such thing here
            raise
