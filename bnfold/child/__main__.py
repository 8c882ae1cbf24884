"""Entry of the child: limits first, then what is asked for, then one JSON answer."""

from __future__ import annotations

import contextlib
import ctypes
import json
import signal
import sys
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

from bnfold.child import leave
from bnfold.errors import BnfoldError, ChildError

_GIB = 1 << 30
_PR_SET_PDEATHSIG = 1


def main(folder: Path) -> None:
    """Answer the request in `folder`."""
    request = json.loads((folder / "request.json").read_text())
    answer: dict[str, Any]
    try:
        carry_out = _task(request["task"])  # before the limit: a failing import is no verdict
        _limit(request)
        answer = carry_out(request, folder)
    except BnfoldError as error:
        answer = {
            "error": _public(error), "message": error.message, "remedy": error.remedy,
        }  # fmt: skip
    except MemoryError:
        answer = _out_of_memory(folder)
    except Exception as error:  # a fault of ours must not read as a crash of onnxruntime
        traceback.print_exc()
        answer = {
            "error": BnfoldError.__name__,
            "message": f"bnfold's own child failed: {type(error).__name__}: {error}",
            "remedy": "please report it",
        }
    leave(answer, folder)


def _task(name: str) -> Callable[[dict[str, Any], Path], dict[str, Any]]:
    if name == "verify":
        from bnfold.child.levels import verify

        return verify
    if name == "run":
        from bnfold.child.feeding import run_once

        return run_once
    if name in ("load", "latency"):
        from bnfold.child import bench

        return bench.load if name == "load" else bench.latency
    from bnfold.child import population

    return population.stats if name == "stats" else population.recalibrate


def _public(error: BnfoldError) -> str:
    """The name under which the parent knows the error."""
    return next(c.__name__ for c in type(error).__mro__ if c.__module__ == BnfoldError.__module__)


def _limit(request: dict[str, Any]) -> None:
    with contextlib.suppress(OSError, AttributeError):  # Linux: die with the parent
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    try:
        import resource
    except ImportError:  # not on Windows
        return
    sizes = [_size(Path(request[w])) for w in ("original", "folded") if w in request]
    limit = request["memory_limit"] or max(4 * _GIB, 8 * max(sizes) + 2 * _GIB)
    with contextlib.suppress(ValueError, OSError):  # a lower hard limit stays in force
        resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))


def _size(path: Path) -> int:
    """Bytes of the model and its data files; 0 for what cannot be read, which is said later."""
    from bnfold import model_file

    try:
        return model_file.read(path).size
    except BnfoldError:
        return 0


def _out_of_memory(folder: Path) -> dict[str, Any]:
    stage = (folder / "stage").read_text() if (folder / "stage").exists() else "starting"
    return {
        "error": ChildError.__name__,
        "message": f"the memory limit was reached while {stage}",
        "remedy": "raise it with --memory-limit, or give smaller inputs with --input-shape",
    }


if __name__ == "__main__":
    main(Path(sys.argv[1]))
