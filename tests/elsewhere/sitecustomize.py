"""Makes Python look as it does on Windows, as far as bnfold can tell: loaded at every start.

What POSIX alone has is hidden, files that are open or mapped cannot be replaced or deleted, folders
that somebody works in cannot go, and text files are cp1252 unless somebody says what they are.
BNFOLD_TEST_LOG, if set, is where it is noted what was refused.
"""

from __future__ import annotations

import fcntl
import multiprocessing.popen_spawn_posix
import os
import shutil
import signal
import subprocess
import sys
import types
from collections.abc import Callable
from pathlib import Path
from typing import Any

_SIGNALS = (
    "SIGHUP", "SIGKILL", "SIGPIPE", "SIGALRM", "SIGUSR1", "SIGUSR2", "SIGCHLD", "setitimer",
    "alarm", "ITIMER_REAL",
)  # fmt: skip
_OS = (
    "O_NOFOLLOW", "O_DIRECTORY", "O_NONBLOCK", "O_CLOEXEC", "killpg", "setsid", "fork", "geteuid",
    "getuid", "mkfifo", "mknod", "pwrite", "pread", "copy_file_range", "setxattr", "getxattr",
    "register_at_fork", "sched_getaffinity",
)  # fmt: skip
_MODULES = ("fcntl", "resource", "pwd", "grp", "termios", "tty", "pty")

_kill, _sigkill = os.kill, signal.SIGKILL


def _hide() -> None:
    for name in _SIGNALS:
        if hasattr(signal, name):
            delattr(signal, name)
    for name in _OS:
        if hasattr(os, name):
            delattr(os, name)
    os.supports_dir_fd.clear()
    for name in _MODULES:
        sys.modules[name] = None  # type: ignore[assignment]  # an ImportError for who wants it
    subprocess.Popen.kill = lambda self: _kill(self.pid, _sigkill)  # type: ignore[method-assign]


def _held(path: Any) -> str:
    """How this process holds a file, "" if it does not."""
    try:
        real = os.path.realpath(path)
        for descriptor in Path("/proc/self/fd").iterdir():
            if os.path.realpath(descriptor) == real:
                return "open"
        if f" {real}\n" in Path("/proc/self/maps").read_text(encoding="utf-8"):
            return "mapped"
    except OSError:
        return ""
    return ""


def _refusing(function: Callable[..., Any]) -> Callable[..., Any]:
    def call(*arguments: Any, **keywords: Any) -> Any:
        for path in arguments[:2]:
            if isinstance(path, (str, os.PathLike)) and (how := _held(path)):
                if log := os.environ.get("BNFOLD_TEST_LOG"):
                    with open(log, "a", encoding="utf-8") as file:  # noqa: PTH123
                        file.write(f"{function.__name__} {path}: {how}\n")
                raise PermissionError(13, f"the file is {how} in this process", str(path))
        return function(*arguments, **keywords)

    return call


def _msvcrt() -> types.ModuleType:
    """What bnfold uses of Windows' own module."""
    module = types.ModuleType("msvcrt")
    flock, how = fcntl.flock, fcntl.LOCK_EX | fcntl.LOCK_NB
    module.LK_NBLCK = 2  # type: ignore[attr-defined]
    module.locking = lambda descriptor, _mode, _bytes: flock(descriptor, how)  # type: ignore[attr-defined]
    return module


sys.modules["msvcrt"] = _msvcrt()
_hide()
os.replace, os.rename = map(_refusing, (os.replace, os.rename))
os.unlink, os.remove = map(_refusing, (os.unlink, os.remove))
shutil._use_fd_functions = False  # type: ignore[attr-defined]
assert multiprocessing.popen_spawn_posix
