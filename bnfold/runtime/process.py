"""The process in which onnxruntime runs: started, watched, and its answer read.

onnxruntime runs in a process of its own, because a model can crash it (an opset-9
BatchNormalization with trailing empty outputs does), hang it or eat all memory. A worker that does
not answer is a WorkerError, never a pass. What the worker does is in `bnfold.worker`.
"""

from __future__ import annotations

import contextlib
import json
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, TypeVar

from bnfold import errors, system
from bnfold.errors import WorkerError
from bnfold.onnx_io.private_folder import PrivateFolder
from bnfold.progress import Progress
from bnfold.runtime.answer_file import ANSWER, FALLBACK, REQUEST, read_stage

T = TypeVar("T")

_STDERR, _STDERR_LINES = "stderr.txt", 3
_GRACE = 5.0  # seconds by which the worker's own clock is behind ours
_PERIOD = 0.1  # seconds between two looks at the progress


class CrashedError(WorkerError):
    """The worker ended without an answer."""


class Worker:
    """A worker that waits for a request. It may be started before there is one: it imports then.

    A request may come in two parts: what the worker can begin with, and the rest.

    It ends when its stdin does, which it does with this process.
    """

    def __init__(self, modules: Sequence[str] = ()) -> None:
        """`modules` are what it is to import while it waits."""
        self._private = PrivateFolder()
        self.folder = self._private.path
        self._sent = 0  # parts of the request
        command = [sys.executable, "-P", "-m", "bnfold.worker", str(self.folder), *modules]
        with (self.folder / _STDERR).open("wb") as stderr:
            self._process = subprocess.Popen(
                command, cwd=self.folder, env=system.child_environment(self.folder),
                stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, stderr=stderr,
                **system.own_group(),
            )  # fmt: skip

    def __enter__(self) -> Worker:
        return self

    def __exit__(self, *_: object) -> None:
        if self._process.poll() is None:
            system.kill(self._process)
        assert self._process.stdin is not None
        with contextlib.suppress(OSError):
            self._process.stdin.close()
        self._process.wait()
        self._private.__exit__()

    def begin(self, request: dict[str, Any]) -> None:
        """Hand over what it can begin with."""
        self._send(request | {"more": True})

    def run(self, request: dict[str, Any], timeout: float, progress: Progress | None) -> int:
        """Its exit code, when it has carried out the request. Raises WorkerError."""
        self._send(request | {"clock": timeout + _GRACE, "more": False})
        try:
            return _wait(self._process, time.monotonic() + timeout, self.folder, progress)
        except subprocess.TimeoutExpired as error:
            raise WorkerError(
                f"onnxruntime had not finished {read_stage(self.folder).name} after {timeout:g} s",
                "give it longer with `timeout`, or smaller inputs with `input_shapes`",
            ) from error

    def _send(self, part: dict[str, Any]) -> None:
        path = self.folder / REQUEST.format(self._sent)
        path.write_text(json.dumps(part), encoding="utf-8")
        self._sent += 1
        assert self._process.stdin is not None
        with contextlib.suppress(OSError):  # it has ended, which its answer or exit code explains
            self._process.stdin.write(b"!")
            self._process.stdin.flush()


def run_worker(
    request: dict[str, Any], timeout: float, read: Callable[[dict[str, Any], Path], T],
    progress: Progress | None = None, worker: Worker | None = None,
) -> T:  # fmt: skip
    """Have a worker carry out a request; `read` makes the result of its answer and folder.

    `worker` is one that waits already, by default a new one. Where it crashed and has left an
    answer for that case, the answer says so in "crash".

    Raises what the worker reports, and WorkerError if it crashed, ran out of time or hit a limit.
    """
    with contextlib.nullcontext(worker) if worker else Worker() as started:
        folder = started.folder
        code = started.run(request, timeout, progress)
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


def _crash(code: int, folder: Path) -> CrashedError:
    text = (folder / _STDERR).read_text(encoding="utf-8", errors="replace")
    lines = text.strip().splitlines()[-_STDERR_LINES:]
    said = f": {' / '.join(lines)}" if lines else ""
    return CrashedError(
        f"onnxruntime crashed while {read_stage(folder).name} ({system.describe_end(code)}){said}",
        "nothing was decided; try another onnxruntime version or a higher `memory_limit`",
    )
