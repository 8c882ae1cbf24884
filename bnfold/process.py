"""The process in which onnxruntime runs: started, watched, and its answer read.

onnxruntime runs in a process of its own, because a model can crash it (an opset-9
BatchNormalization with trailing empty outputs does), hang it or eat all memory. A child that does
not answer is a ChildError, never a pass. What the child does is in `bnfold.child`.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

from bnfold import errors
from bnfold.child import ANSWER, FALLBACK
from bnfold.errors import ChildError

T = TypeVar("T")
Progress = Callable[[int, int], None]  # how much is done, of how much

_KEPT_VARIABLES = ("PATH", "PYTHONPATH", "PYTHONHOME", "LD_LIBRARY_PATH", "SYSTEMROOT", "LANG")
_STDERR_LINES = 3
_PERIOD = 0.1  # seconds between two looks at the progress


def ask(
    request: dict[str, Any], timeout: float, read: Callable[[dict[str, Any], Path], T],
    progress: Progress | None = None,
) -> T:  # fmt: skip
    """Have a child carry out a request; `read` makes the result of its answer and its folder.

    Where the child crashed and has left an answer for that case, the answer says so in "crash".
    Raises what the child reports, and ChildError where it crashed, ran out of time or hit a limit.
    """
    with tempfile.TemporaryDirectory(prefix="bnfold-") as name:
        folder = Path(name)
        (folder / "request.json").write_text(json.dumps(request))
        ended = _run(folder, timeout, progress)
        answer = _answer(folder / ANSWER)
        if answer is None:
            crash = _crash(ended, folder / "stage")
            answer = _answer(folder / FALLBACK)
            if answer is None:
                raise crash
            answer["crash"] = crash.message
        if "error" in answer:
            kind = getattr(errors, answer["error"])
            raise kind(answer["message"], answer["remedy"])
        return read(answer, folder)


def _run(
    folder: Path, timeout: float, progress: Progress | None
) -> subprocess.CompletedProcess[bytes]:  # fmt: skip
    command = [sys.executable, "-P", "-m", "bnfold.child", str(folder)]
    environment = {name: os.environ[name] for name in _KEPT_VARIABLES if name in os.environ}
    environment["TMPDIR"] = str(folder)
    end = time.monotonic() + timeout
    with subprocess.Popen(
        command, cwd=folder, env=environment, start_new_session=True,
        stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE,
    ) as child:  # fmt: skip
        try:
            errors_text = _wait(child, end, folder, progress)
        except BaseException as error:
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(child.pid, signal.SIGKILL)
            if not isinstance(error, subprocess.TimeoutExpired):
                raise
            raise ChildError(
                f"onnxruntime had not finished {_stage(folder / 'stage')} after {timeout:g} s",
                "give it longer with --timeout, or smaller inputs with --input-shape",
            ) from error
    return subprocess.CompletedProcess(command, child.returncode, b"", errors_text)


def _wait(
    child: subprocess.Popen[bytes], end: float, folder: Path, progress: Progress | None
) -> bytes:
    """Wait until the child has ended. Raises TimeoutExpired."""
    while True:
        left = end - time.monotonic()
        period = left if progress is None else min(left, _PERIOD)
        try:
            return child.communicate(timeout=max(period, 0))[1]
        except subprocess.TimeoutExpired:
            if left <= period:
                raise
            assert progress is not None
            _tell(folder / "progress", progress)


def _tell(path: Path, progress: Progress) -> None:
    with contextlib.suppress(OSError, ValueError):
        done, total = map(int, path.read_text().split())
        progress(done, total)


def _answer(path: Path) -> dict[str, Any] | None:
    try:
        answer: dict[str, Any] = json.loads(path.read_text())
    except (OSError, ValueError):
        return None
    return answer


def _crash(ended: subprocess.CompletedProcess[bytes], stage: Path) -> ChildError:
    how = f"exit code {ended.returncode}"
    if ended.returncode < 0:
        how = f"signal {-ended.returncode}"
        with contextlib.suppress(ValueError):
            how += f", {signal.Signals(-ended.returncode).name}"
    lines = ended.stderr.decode(errors="replace").strip().splitlines()[-_STDERR_LINES:]
    said = f": {' / '.join(lines)}" if lines else ""
    return ChildError(
        f"onnxruntime crashed while {_stage(stage)} ({how}){said}",
        "nothing was decided; try another onnxruntime version or a higher --memory-limit",
    )


def _stage(path: Path) -> str:
    try:
        return path.read_text()
    except OSError:
        return "starting"
