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


class PrivateFolder:
    """A new folder inside `place`, or where the system has temporary files; gone when closed."""

    def __init__(self, place: Path | None = None) -> None:
        """Raises OSError where nothing can be made in that place."""
        place = Path(tempfile.gettempdir()) if place is None else place
        _sweep(place)
        self._folder = Path(tempfile.mkdtemp(prefix=_PREFIX, dir=place))
        self._lock = system.lock(self._folder / _LOCK, new=True)
        self.path = self._folder / "files"
        self.path.mkdir()

    def __enter__(self) -> Path:
        return self.path

    def __exit__(self, *_: object) -> None:
        if self._lock is not None:  # first: Windows deletes no open files
            os.close(self._lock)
            self._lock = None
        shutil.rmtree(self._folder, ignore_errors=True)


def _sweep(place: Path) -> None:
    """Remove the folders of processes that were killed: nobody holds their lock any more."""
    for stale in place.glob(f"{_PREFIX}*"):
        with contextlib.suppress(OSError):
            if not stale.is_symlink() and system.is_mine(stale) and _is_left(stale):
                shutil.rmtree(stale, ignore_errors=True)


def _is_left(folder: Path) -> bool:
    try:
        lock = system.lock(folder / _LOCK, new=False)
    except FileNotFoundError:
        return folder.is_dir() and time.time() - folder.stat().st_mtime > _YOUNG
    if lock is None:
        return False
    os.close(lock)
    return True
