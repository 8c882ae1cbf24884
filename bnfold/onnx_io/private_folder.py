"""Private folders: places for files in the making, which leave nothing behind.

A folder goes with the process that made it. Where that is killed, the next process that makes one
in the same place removes it: it knows a folder that is in use by the lock that its maker holds.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import tempfile
import time
from pathlib import Path

from bnfold import system

_PREFIX = ".bnfold-"
_LOCK = "lock"
_YOUNG = 3600.0  # seconds for which a folder without a lock may be one that is just being made
_TRIES = 8


class PrivateFolder:
    """A new folder inside `place`, or where the system has temporary files; gone when closed."""

    def __init__(self, place: Path | None = None) -> None:
        """Raises OSError where nothing can be made in that place."""
        place = Path(tempfile.gettempdir()) if place is None else place
        _sweep(place)
        self._folder, self._lock = _locked_folder(place)
        self.path = self._folder / "files"
        self.path.mkdir()

    def __enter__(self) -> Path:
        return self.path

    def __exit__(self, *_: object) -> None:
        if self._lock is not None:  # first: Windows deletes no open files
            os.close(self._lock)
            self._lock = None
        shutil.rmtree(self._folder, ignore_errors=True)


def _locked_folder(place: Path) -> tuple[Path, int | None]:
    """A new folder and the descriptor that holds its lock; None where files cannot be locked.

    Another process that sweeps may find the lock file before we have locked it, take the folder
    for one that was left, and remove it. Once we hold the lock of a file that is still there,
    nobody does.
    """
    for _ in range(_TRIES):
        folder = Path(tempfile.mkdtemp(prefix=_PREFIX, dir=place))
        lock = system.lock(folder / _LOCK, new=True)
        if lock is not None and (folder / _LOCK).exists():
            return folder, lock
        if lock is not None:
            os.close(lock)
        shutil.rmtree(folder, ignore_errors=True)
    return Path(tempfile.mkdtemp(prefix=_PREFIX, dir=place)), None


def _sweep(place: Path) -> None:
    """Remove the folders of processes that were killed: nobody holds their lock any more."""
    for stale in place.glob(f"{_PREFIX}*"):
        with contextlib.suppress(OSError):
            if not stale.is_symlink() and system.is_mine(stale):
                _remove_if_left(stale)


def _remove_if_left(folder: Path) -> None:
    try:
        lock = system.lock(folder / _LOCK, new=False)
    except FileNotFoundError:
        if folder.is_dir() and time.time() - folder.stat().st_mtime > _YOUNG:
            shutil.rmtree(folder, ignore_errors=True)
        return
    if lock is None:
        return
    system.discard_lock(folder / _LOCK, lock)  # so that a maker that comes late sees it gone
    shutil.rmtree(folder, ignore_errors=True)
