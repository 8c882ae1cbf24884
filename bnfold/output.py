"""Writes files so that they are there whole or not at all, whenever the process or power ends.

What is written goes into a private folder beside the target, is synced, and gets its name by
`Output.publish`: data files first, the model that refers to them last. Knows no ONNX.
"""

from __future__ import annotations

import contextlib
import errno
import os
import shutil
import tempfile
import threading
from collections.abc import Iterable, Iterator, Sequence
from io import FileIO
from pathlib import Path
from typing import Any

from bnfold.data_files import FileRange
from bnfold.errors import ModelError, UsageError

_PREFIX = ".bnfold-"
_LOCK = "lock"
_PIECE = 1 << 16  # bytes
_TURN = threading.Lock()
_NO_COPY = (errno.EXDEV, errno.EINVAL, errno.ENOSYS, errno.EOPNOTSUPP, errno.EBADF, errno.EPERM)


class Output:
    """A private folder beside the target; what is written there gets its name by `publish`."""

    def __init__(self, target: Path, keep: Sequence[Path] = ()) -> None:
        """`keep` are files that must not be overwritten: those of the original.

        Raises UsageError where the target is one of them, or its folder cannot be written to.
        """
        self.target = target
        self.keep = keep
        if self.keeps(target):
            raise UsageError(
                f"writing {target} would overwrite a file that belongs to the original",
                "choose another output name with -o",
            )
        _sweep(target.parent)
        try:
            self._folder = Path(tempfile.mkdtemp(prefix=_PREFIX, dir=target.parent))
        except OSError as error:
            raise UsageError(
                f"cannot write into {target.parent}: {error.strerror}",
                "choose another place with -o",
            ) from error
        self._lock = _locked(self._folder / _LOCK)
        self.candidate = self._folder / "files" / target.name  # the model, before it is published
        self.candidate.parent.mkdir()
        self.names: list[str] = []  # of data files

    def __enter__(self) -> Output:
        return self

    def __exit__(self, *_: object) -> None:
        shutil.rmtree(self._folder, ignore_errors=True)
        if self._lock is not None:
            os.close(self._lock)

    def keeps(self, path: Path) -> bool:
        """Whether the path is a file of the original's."""
        return any(_same(path, kept) for kept in self.keep)

    def write(self, parts: Iterable[Any], name: str | None = None) -> None:
        """Write the model's file, or the data file of that name, from its parts.

        A part is bytes, a FileRange or another Payload. Raises UsageError where there is no room.
        """
        path = self.candidate if name is None else self.candidate.with_name(name)
        if name is not None:
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

    def publish(self) -> None:
        """Give the files their names: the data files first, then the model that refers to them.

        Raises UsageError where that fails; then the target is what it was.
        """
        published = []
        with _writing(self.target):
            if self.target.exists():
                shutil.copymode(self.target, self.candidate)
            try:
                for name in self.names:
                    path = self.target.with_name(name)
                    if not path.exists():
                        published.append(path)
                    os.replace(self.candidate.with_name(name), path)
                if self.names:
                    _sync_folder(self.target.parent)
                os.replace(self.candidate, self.target)
            except BaseException:
                for path in published:  # nothing refers to them
                    path.unlink(missing_ok=True)
                raise
            _sync_folder(self.target.parent)


def write_whole(path: Path, text: str) -> None:
    """A small text file, there whole or as it was. Raises OSError."""
    if path.is_symlink() or (path.exists() and not path.is_file()):  # /dev/stdout, a pipe
        path.write_text(text, encoding="utf-8", newline="\n")
        return
    new = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        new.write_text(text, encoding="utf-8", newline="\n")
        os.replace(new, path)
    except BaseException:
        new.unlink(missing_ok=True)
        raise


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
            "nothing was changed; make room or choose -o",
        ) from error


def _locked(path: Path) -> int | None:
    """A lock that lasts as long as this process; None where there are no such locks."""
    try:
        import fcntl
    except ImportError:  # not on Windows
        return None
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
    with contextlib.suppress(OSError):  # some file systems have none
        fcntl.flock(descriptor, fcntl.LOCK_EX)
    return descriptor


def _sweep(folder: Path) -> None:
    """Remove the private folders of runs that were killed: nobody holds their lock any more."""
    try:
        import fcntl
    except ImportError:
        return
    for stale in folder.glob(f"{_PREFIX}*"):
        with contextlib.suppress(OSError):
            if stale.is_symlink():
                continue
            descriptor = os.open(stale / _LOCK, os.O_RDWR | os.O_NOFOLLOW)
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                shutil.rmtree(stale, ignore_errors=True)
            finally:
                os.close(descriptor)


def _sync(descriptor: int) -> None:
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno not in (errno.EINVAL, errno.ENOSYS, errno.EOPNOTSUPP):  # no such thing here
            raise


def _sync_folder(folder: Path) -> None:
    with contextlib.suppress(OSError):  # some file systems do not sync folders
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def _same(one: Path, other: Path) -> bool:
    try:
        return one.samefile(other)
    except OSError:
        return False
