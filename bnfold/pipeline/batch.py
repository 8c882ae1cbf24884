"""Many models in one call: each folded, verified and written like a single one.

A model that fails does not stop the others. They run in any `concurrent.futures` Executor; by
default in a pool of processes, in which large models do not run side by side.
"""

from __future__ import annotations

import multiprocessing
import os
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import (
    FIRST_COMPLETED,
    BrokenExecutor,
    Executor,
    Future,
    ProcessPoolExecutor,
    wait,
)
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bnfold import system
from bnfold.api.files import OptimizeResult, optimize
from bnfold.errors import BnfoldError, UsageError, unexpected
from bnfold.onnx_io import atomic_output, model_file
from bnfold.onnx_io.output_paths import PathLike
from bnfold.pipeline.model_paths import Job, jobs_of
from bnfold.verification.comparison import NotEqualError

_TOGETHER = 512_000_000  # bytes of model files that run side by side; a larger one runs alone


@dataclass(frozen=True)
class ModelOutcome:
    """What became of one model: its result, or the error."""

    source: Path
    result: OptimizeResult | None = None
    error: BnfoldError | None = None

    @property
    def exit_code(self) -> int:
        """0, or that of the error."""
        return 0 if self.error is None else self.error.exit_code


def optimize_many(
    paths: Sequence[PathLike],
    *,
    out_dir: PathLike | None = None,
    recursive: bool = False,
    jobs: int = 1,
    executor: Executor | None = None,
    on_done: Callable[[ModelOutcome], None] | None = None,
    **options: Any,
) -> tuple[ModelOutcome, ...]:
    """Optimize many models; the results in the order of the models.

    `paths` are files, patterns and folders. `options` are those of `optimize`, but for where to
    write. `jobs` processes work at a time, or whatever the `executor` makes of it; `on_done` is
    called for each model as it ends. Raises UsageError for paths that stand for no model.
    """
    todo = jobs_of(paths, out_dir=out_dir, recursive=recursive)
    return optimize_jobs(todo, jobs=jobs, executor=executor, on_done=on_done, **options)


def optimize_jobs(
    todo: Sequence[Job], *, jobs: int = 1, executor: Executor | None = None,
    on_done: Callable[[ModelOutcome], None] | None = None, **options: Any,
) -> tuple[ModelOutcome, ...]:  # fmt: skip
    """`optimize_many` for callers who have looked for the models already."""
    for job in todo:
        if job.target is not None:
            _make(job.target.parent)
    if executor is not None:
        return _together(todo, executor, options, on_done, limit=None)
    if jobs == 1 or len(todo) == 1:
        return tuple(_report(_optimize(job, options), on_done) for job in todo)
    return _in_processes(todo, jobs, options, on_done)


def _make(folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UsageError(f"cannot make the folder {folder}: {error.strerror}") from error


def _in_processes(
    todo: Sequence[Job], jobs: int, options: dict[str, Any],
    on_done: Callable[[ModelOutcome], None] | None,
) -> tuple[ModelOutcome, ...]:  # fmt: skip
    """All in a pool of processes. Where one of these dies, those that it took along start again.

    Each alone then, so that only the one that kills its process is lost.
    """
    lost: dict[Path, ModelOutcome] = {}

    def tell(done: ModelOutcome) -> None:
        if isinstance(done.error, PoolProcessDiedError):
            lost[done.source] = done
        else:
            if done.result is not None:
                atomic_output.WRITTEN.append(done.result.model)
            _report(done, on_done)

    with _pool(min(jobs, len(todo))) as pool:
        found = _together(todo, pool, options, tell, limit=_TOGETHER)
    again: dict[Path, ModelOutcome] = {}
    for job in todo:
        if job.source in lost:
            with _pool(1) as pool:
                again[job.source] = _report(_result(_submitted(pool, job, options), job), on_done)
    return tuple(again.get(done.source, done) for done in found)


def _pool(jobs: int) -> ProcessPoolExecutor:
    """Processes of their own, on every system alike: none is a copy of this one and its threads.

    They end at once when they are told to, and work in the current folder.
    """
    context = multiprocessing.get_context("spawn")
    return ProcessPoolExecutor(jobs, context, initializer=_begin, initargs=(Path.cwd(),))


def _begin(folder: Path) -> None:
    system.end_at_signals()
    os.chdir(folder)


def _optimize(job: Job, options: dict[str, Any]) -> ModelOutcome:
    try:
        return ModelOutcome(job.source, optimize(job.source, job.target, **options))
    except BnfoldError as error:
        return ModelOutcome(job.source, error=error)
    except Exception as error:
        return ModelOutcome(job.source, error=unexpected(error))


def _together(
    todo: Sequence[Job], executor: Executor, options: dict[str, Any],
    on_done: Callable[[ModelOutcome], None] | None, limit: int | None,
) -> tuple[ModelOutcome, ...]:  # fmt: skip
    """All in an executor; at most `limit` bytes of models at a time, but one in any case."""
    results: dict[int, ModelOutcome] = {}
    running: dict[Future[ModelOutcome], int] = {}
    sizes = [0 if limit is None else _size(job.source) for job in todo]
    waiting = list(range(len(todo)))
    while waiting or running:
        load = sum(sizes[number] for number in running.values())
        while waiting and (limit is None or not running or load + sizes[waiting[0]] <= limit):
            number = waiting.pop(0)
            running[_submitted(executor, todo[number], options)] = number
            load += sizes[number]
        for future in wait(running, return_when=FIRST_COMPLETED).done:
            number = running.pop(future)
            results[number] = _report(_result(future, todo[number]), on_done)
    return tuple(results[number] for number in range(len(todo)))


class PoolProcessDiedError(BnfoldError):
    """The process that worked on a model ended before it was done."""


def _submitted(executor: Executor, job: Job, options: dict[str, Any]) -> Future[ModelOutcome]:
    """The job's future, also where the executor takes no more."""
    try:
        return executor.submit(_optimize, job, options)
    except BrokenExecutor as error:
        failed: Future[ModelOutcome] = Future()
        failed.set_exception(error)
        return failed


def _result(future: Future[ModelOutcome], job: Job) -> ModelOutcome:
    try:
        return future.result()
    except Exception as error:  # the worker died
        told = f"{type(error).__name__}: {error}"
        failure = PoolProcessDiedError(
            f"the process that worked on it ended: {told}",
            "it may have run out of memory: fewer `jobs`, or a lower `memory_limit`",
        )
        return ModelOutcome(job.source, error=failure)


def _report(done: ModelOutcome, on_done: Callable[[ModelOutcome], None] | None) -> ModelOutcome:
    if on_done is not None:
        on_done(done)
    return done


def _size(path: Path) -> int:
    """Bytes of a model with its data files, as far as they are there."""
    files = [path, *(path.parent / name for name in model_file.data_names(path))]
    return sum(file.stat().st_size for file in files if file.is_file())


def worst_exit_code(codes: Iterable[int]) -> int:
    """The exit code of several models together: 1 counts most, then the largest."""
    found = set(codes)
    return NotEqualError.exit_code if NotEqualError.exit_code in found else max(found, default=0)
