"""What differs between Linux, macOS and Windows, and nothing else: one place to look.

Each function does what the system at hand has for it, found by what its modules offer and not by
its name, and says so where there is nothing. Imports nothing of bnfold.
"""

from __future__ import annotations

import _thread
import codecs
import contextlib
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

INTERRUPTED, BROKEN_PIPE = 130, 141  # exit codes: 128 + the numbers that POSIX gives the signals

# --- signals -------------------------------------------------------------------------------------

# what asks a process to end; SIGHUP is POSIX's, SIGBREAK is Windows'
END_SIGNALS = tuple(
    getattr(signal, name) for name in ("SIGTERM", "SIGHUP", "SIGBREAK") if hasattr(signal, name)
)


def end_at_signals() -> None:
    """End at once when told to, whatever handlers were inherited."""
    for number in END_SIGNALS:
        signal.signal(number, signal.SIG_DFL)


def hear_lost_signals() -> None:
    """Have what ends this process come again where Python drops it: in finalizers and callbacks."""
    if sys.unraisablehook is not _unraisable:
        _others[:] = [sys.unraisablehook]
        sys.unraisablehook = _unraisable


_others: list[Callable[[Any], object]] = []  # the hook for all other errors


def _unraisable(dropped: Any) -> None:
    value = dropped.exc_value
    if isinstance(value, KeyboardInterrupt):
        _come_again(signal.SIGINT)
    elif isinstance(value, SystemExit) and isinstance(value.code, int) and value.code > 128:
        _come_again(value.code - 128)
    else:
        for hook in _others:
            hook(dropped)


def _come_again(number: int) -> None:
    """Send a signal to the main thread, a little later: when the finalizer is done."""
    thread = threading.Timer(0.02, _send_to_main, [number])
    thread.daemon = True
    with contextlib.suppress(RuntimeError):  # the interpreter ends anyway
        thread.start()


def _send_to_main(number: int) -> None:
    if hasattr(signal, "pthread_kill"):  # which also ends a wait
        main = threading.main_thread().ident
        assert main is not None
        signal.pthread_kill(main, number)
    else:
        _thread.interrupt_main(signal.Signals(number))


def describe_end(code: int) -> str:
    """How a process ended, by its exit code, which on POSIX is negative for a signal."""
    if code >= 0:
        return f"exit code {code}"
    with contextlib.suppress(ValueError):
        return f"signal {-code}, {signal.Signals(-code).name}"
    return f"signal {-code}"


# --- processes -----------------------------------------------------------------------------------

_KEPT_VARIABLES = (
    "PATH", "PYTHONPATH", "PYTHONHOME", "LANG", "LC_ALL",
    "LD_LIBRARY_PATH", "DYLD_LIBRARY_PATH",
    "SYSTEMROOT", "SYSTEMDRIVE", "WINDIR", "COMSPEC", "PATHEXT", "NUMBER_OF_PROCESSORS",
)  # fmt: skip
_PR_SET_PDEATHSIG = 1


def child_environment(folder: Path, environment: Mapping[str, str] = os.environ) -> dict[str, str]:
    """What a child needs of our environment; `folder` is its place for temporary files."""
    kept = {name: environment[name] for name in _KEPT_VARIABLES if name in environment}
    return kept | dict.fromkeys(("TMPDIR", "TEMP", "TMP"), str(folder))


def own_group() -> dict[str, Any]:
    """Arguments of Popen with which a child is no target of the terminal's Ctrl+C."""
    if hasattr(os, "setsid"):
        return {"start_new_session": True}
    return {"creationflags": getattr(subprocess, "CREATE_NEW_PROCESS_GROUP", 0)}


def kill(child: subprocess.Popen[bytes]) -> None:
    """End a child that was started with `own_group`, and what it has started itself."""
    with contextlib.suppress(ProcessLookupError, PermissionError):
        if hasattr(os, "killpg"):
            os.killpg(child.pid, signal.SIGKILL)
        else:
            child.kill()


def die_with_parent() -> None:
    """Have the kernel end this process with its parent. Linux; elsewhere nothing happens."""
    with contextlib.suppress(ImportError, OSError, AttributeError, TypeError):
        import ctypes

        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)


def die_after(seconds: float) -> None:
    """Have the kernel end this process when its time is over. POSIX; elsewhere nothing happens."""
    if hasattr(signal, "setitimer"):
        signal.signal(signal.SIGALRM, signal.SIG_DFL)
        signal.setitimer(signal.ITIMER_REAL, min(seconds, 1e9))  # more is too much for some


# --- memory --------------------------------------------------------------------------------------


def can_limit_memory() -> bool:
    """Whether there is a way to hold a process to some memory here."""
    return _resource() is not None


def limit_memory(size: int) -> None:
    """Hold this process to so many bytes of address space, where the system does that.

    macOS takes the call and does nothing, so `memory_used` has to be watched as well.
    """
    resource = _resource()
    if resource is None:
        return
    with contextlib.suppress(ValueError, OSError):  # a lower hard limit stays in force
        resource.setrlimit(resource.RLIMIT_AS, (size, size))
    with contextlib.suppress(ValueError, OSError):
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))


def memory_used() -> int:
    """The most bytes of memory that this process has had at a time; 0 where nobody can tell."""
    resource = _resource()
    if resource is None:
        return 0
    most = int(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)
    return most if sys.platform == "darwin" else most * 1024


def _resource() -> Any:
    try:
        import resource
    except ImportError:  # Windows
        return None
    return resource


# --- files ---------------------------------------------------------------------------------------

NO_LINK = getattr(os, "O_NOFOLLOW", 0)
FOLDER = getattr(os, "O_DIRECTORY", 0)
READ = (
    os.O_RDONLY
    | getattr(os, "O_CLOEXEC", 0)
    | getattr(os, "O_BINARY", 0)
    | getattr(os, "O_NONBLOCK", 0)  # a pipe without a writer must not make us wait
)
_MARK = "user.bnfold"  # an extended attribute


def lock(path: Path, *, new: bool) -> int | None:
    """A descriptor that holds the lock file until it is closed; None where another has it.

    `new`: the file is made if it is not there. Raises OSError where there is no such file.
    """
    flags = os.O_RDWR | NO_LINK | getattr(os, "O_CLOEXEC", 0) | (os.O_CREAT if new else 0)
    descriptor = os.open(path, flags, 0o600)
    try:
        _lock(descriptor)
    except OSError:
        os.close(descriptor)
        return None
    return descriptor


def discard_lock(path: Path, descriptor: int) -> None:
    """Delete a lock file and give up its lock: in this order where open files can be deleted."""
    with contextlib.suppress(ImportError, OSError):
        import fcntl  # noqa: F401 - of the systems that delete open files, and only of these

        path.unlink()
    os.close(descriptor)


def _lock(descriptor: int) -> None:
    try:
        import fcntl
    except ImportError:
        import msvcrt

        msvcrt.locking(descriptor, msvcrt.LK_NBLCK, 1)  # type: ignore[attr-defined]
    else:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)


def sync(descriptor: int) -> None:
    """Have a file on the disk, past the disk's own cache where the system can ask for that.

    Raises OSError.
    """
    with contextlib.suppress(ImportError):
        import fcntl

        if hasattr(fcntl, "F_FULLFSYNC"):  # macOS, whose fsync stops at the disk's cache
            with contextlib.suppress(OSError):  # not every file system has it
                fcntl.fcntl(descriptor, fcntl.F_FULLFSYNC)
                return
    os.fsync(descriptor)


def sync_folder(folder: Path) -> None:
    """Have the names in a folder on the disk. Windows and some file systems have no such thing."""
    with contextlib.suppress(OSError):
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def is_mine(path: Path) -> bool:
    """Whether a file belongs to this user, as far as the system has users."""
    return not hasattr(os, "geteuid") or path.lstat().st_uid == os.geteuid()


def mark(path: Path, text: str) -> None:
    """Note something on a file, which goes with it but is no part of what it holds. Linux."""
    with contextlib.suppress(OSError, AttributeError):
        os.setxattr(path, _MARK, text.encode("utf-8", "surrogateescape"))


def mark_of(path: Path) -> str:
    """What is noted on a file, "" for nothing."""
    try:
        return os.getxattr(path, _MARK).decode("utf-8", "surrogateescape")
    except (OSError, AttributeError, UnicodeError):
        return ""


# --- the console ---------------------------------------------------------------------------------

_SPELLED = {  # for consoles without these letters
    "→": "->", "↔": "<->", "×": "x", "·": "*", "…": "...", "′": "'", "−": "-", "–": "-", "—": "-",
    "≤": "<=", "≥": ">=", "≈": "~", "≠": "!=", "±": "+-", "√": "sqrt", "Σ": "sum", "∞": "inf",
    "²": "^2", "α": "alpha", "β": "beta", "γ": "gamma", "δ": "delta", "ε": "epsilon", "μ": "mu",
    "σ": "sigma", "✓": "ok", "✗": "no", "“": '"', "”": '"', "’": "'", "█": "#", "━": "-",
}  # fmt: skip


def _spelled(error: UnicodeError) -> tuple[str, int]:
    """Letters that an encoding does not have, spelled out; others as escapes."""
    if not isinstance(error, UnicodeEncodeError):
        raise error
    letters = error.object[error.start : error.end]
    text = "".join(
        _SPELLED.get(c) or c.encode("ascii", "backslashreplace").decode() for c in letters
    )
    return text, error.end


def spell_out_on(*streams: Any) -> None:
    """Have text streams spell what their encoding has no letters for, instead of failing."""
    codecs.register_error("bnfold.spelled", _spelled)
    for stream in streams:
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="bnfold.spelled")
