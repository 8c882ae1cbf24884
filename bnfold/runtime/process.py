"""The process in which onnxruntime runs: started, watched, and its answer read.

onnxruntime runs in a process of its own, because a model can crash it (an opset-9
BatchNormalization with trailing empty outputs does), hang it or eat all memory. A worker that does
not answer is a WorkerError, never a pass. What the worker does is in `bnfold.worker`.
"""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

from bnfold import errors, system
from bnfold.errors import WorkerError
from bnfold.onnx_io.private_folder import PrivateFolder
from bnfold.progress import Progress
from bnfold.runtime.answer_file import ANSWER, FALLBACK, read_stage

T = TypeVar("T")

_STDERR, _STDERR_LINES = "stderr.txt", 3
_GRACE = 5.0  # seconds by which the worker's own clock is behind ours
_PERIOD = 0.1  # seconds between two looks at the progress


def run_worker(
    request: dict[str, Any], timeout: float, read: Callable[[dict[str, Any], Path], T],
    progress: Progress | None = None,
) -> T:  # fmt: skip
    """Have a worker carry out a request; `read` makes the result of its answer and folder.

    Where the worker crashed and has left an answer for that case, the answer says so in "crash".
    Raises what the worker reports, and WorkerError if it crashed, ran out of time or hit a limit.
    """
    with PrivateFolder() as folder:
        (folder / "request.json").write_text(
            json.dumps(request | {"clock": timeout + _GRACE}), encoding="utf-8"
        )
        code = _run(folder, timeout, progress)
        answer = _answer(folder / ANSWER)
        if answer is None:
            crash = _crash(code, folder)
            answer = _answer(folder / FALLBACK)
            if answer is None:
                raise crash
            answer["crash"] = crash.message
        if "error" in answer:
            kind = getattr(errors, answer["error"])
            raise kind(answer["message"], answer["remedy"])
        return read(answer, folder)


def _run(folder: Path, timeout: float, progress: Progress | None) -> int:
    """The exit code of the worker. It ends when its stdin does, which it does with this process."""
    command = [sys.executable, "-P", "-m", "bnfold.worker", str(folder)]
    end = time.monotonic() + timeout
    with (
        (folder / _STDERR).open("wb") as stderr,
        subprocess.Popen(
            command, cwd=folder, env=system.child_environment(folder), stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL, stderr=stderr, **system.own_group(),
        ) as worker,
    ):  # fmt: skip
        try:
            return _wait(worker, end, folder, progress)
        except BaseException as error:
            system.kill(worker)
            if not isinstance(error, subprocess.TimeoutExpired):
                raise
            raise WorkerError(
                f"onnxruntime had not finished {read_stage(folder).name} after {timeout:g} s",
                "give it longer with `timeout`, or smaller inputs with `input_shapes`",
            ) from error


def _wait(
    worker: subprocess.Popen[bytes], end: float, folder: Path, progress: Progress | None
) -> int:
    """Wait until the worker has ended. Raises TimeoutExpired."""
    while True:
        left = end - time.monotonic()
        period = left if progress is None else min(left, _PERIOD)
        try:
            return worker.wait(max(period, 0))
        except subprocess.TimeoutExpired:
            if left <= period:
                raise
            assert progress is not None
            progress(read_stage(folder))


def _answer(path: Path) -> dict[str, Any] | None:
    try:
        answer: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return answer


def _crash(code: int, folder: Path) -> WorkerError:
    text = (folder / _STDERR).read_text(encoding="utf-8", errors="replace")
    lines = text.strip().splitlines()[-_STDERR_LINES:]
    said = f": {' / '.join(lines)}" if lines else ""
    return WorkerError(
        f"onnxruntime crashed while {read_stage(folder).name} ({system.describe_end(code)}){said}",
        "nothing was decided; try another onnxruntime version or a higher `memory_limit`",
    )
