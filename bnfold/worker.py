"""Entry of the worker: what ends it first, then limits, then what is asked for, one JSON answer."""

from __future__ import annotations

import contextlib
import importlib
import json
import os
import sys
import threading
import time
import traceback
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from bnfold import system
from bnfold.errors import BnfoldError, WorkerError
from bnfold.runtime.answer_file import REQUEST, read_stage, write_answer
from bnfold.runtime.job import Job

_GIB = 1 << 30
_PERIOD = 0.1  # seconds between two looks at the memory


def main(folder: Path, modules: Sequence[str] = ()) -> None:
    """Answer the request in `folder`, whose parts are there when a byte on stdin says so.

    `modules` are imported meanwhile; where that fails, it is said of the request.
    """
    system.die_with_parent()
    for module in modules:
        with contextlib.suppress(Exception):
            importlib.import_module(module)
    answer: dict[str, Any]
    try:
        answer = _carried_out(_part(folder, 0), folder)
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
            "message": f"bnfold's own worker failed: {type(error).__name__}: {error}",
            "remedy": "please report it",
        }
    write_answer(answer, folder)


def _part(folder: Path, number: int) -> dict[str, Any]:
    """A part of the request, when a byte on stdin says that it is there."""
    if not os.read(sys.stdin.fileno(), 1):
        os._exit(1)
    text = (folder / REQUEST.format(number)).read_text(encoding="utf-8")
    part: dict[str, Any] = json.loads(text)
    return part


def _carried_out(request: dict[str, Any], folder: Path) -> dict[str, Any]:
    carry_out = _task(request["task"])  # before the limit: a failing import is no verdict
    job = Job.of(request, folder)
    _limit(job)
    if request["more"]:
        from bnfold.verification.worker.first_runs import FirstRuns

        first = FirstRuns.begin(job)
        job = replace(Job.of(request | _part(folder, 1), folder, job.models), first=first)
    _watch(_end_with_stdin)
    system.die_after(job.request["clock"])
    _watch(_end_after, job.request["clock"])
    return _within_limits(carry_out, job)


def _task(name: str) -> Callable[[Job], dict[str, Any]]:
    if name == "verify":
        from bnfold.verification.worker.levels import verify

        return verify
    if name == "run":
        from bnfold.runtime.feeding import run_once

        return run_once
    if name in ("load", "latency"):
        from bnfold.benchmark import worker

        return worker.load if name == "load" else worker.latency
    from bnfold.tuning.worker import tasks

    return {"stats": tasks.stats, "means": tasks.means, "recalibrate": tasks.recalibrate}[name]


def _public(error: BnfoldError) -> str:
    """The name under which the parent knows the error."""
    return next(c.__name__ for c in type(error).__mro__ if c.__module__ == BnfoldError.__module__)


def _within_limits(carry_out: Callable[[Job], dict[str, Any]], job: Job) -> dict[str, Any]:
    try:
        return carry_out(job)
    except ImportError:  # a library that finds no room any more
        return _out_of_memory(job.folder)


def _end_with_stdin() -> None:
    """End when the parent does, which alone holds the other end of our stdin.

    Linux does that by itself (`die_with_parent`), but not for a parent that has ended before.
    """
    while os.read(sys.stdin.fileno(), 1):
        pass
    os._exit(1)


def _end_after(seconds: float) -> None:
    """End when the time is over, whatever has become of the parent."""
    time.sleep(min(seconds, 1e9))
    os._exit(1)


def _watch(function: Callable[..., None], *arguments: Any) -> None:
    """In a thread beside the work. Raises MemoryError where there is no room for one."""
    try:
        threading.Thread(target=function, args=arguments, daemon=True).start()
    except RuntimeError as error:
        raise MemoryError from error


def _limit(job: Job) -> None:
    size = max(model.size for model in job.models.values())
    limit = job.request["memory_limit"] or max(4 * _GIB, 8 * size + 2 * _GIB)
    _watch(_watch_memory, limit, job.folder)
    system.limit_memory(limit)


def _watch_memory(limit: int, folder: Path) -> None:
    """Hold to the limit where the system takes it and does nothing."""
    while system.memory_used() <= limit:
        time.sleep(_PERIOD)
    write_answer(_out_of_memory(folder), folder)
    os._exit(1)


def _out_of_memory(folder: Path) -> dict[str, Any]:
    return {
        "error": WorkerError.__name__,
        "message": f"the memory limit was reached while {read_stage(folder).name}",
        "remedy": "raise it with `memory_limit`, or give smaller inputs with `input_shapes`",
    }


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2:])
