"""Many models in one call: each folded, verified and written like a single one.

A model that fails does not stop the others. They run in any `concurrent.futures` Executor; by
default in a pool of processes, in which large models do not run side by side.
"""

from __future__ import annotations

import glob
import multiprocessing
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
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
from bnfold.api import OptimizeResult, optimize
from bnfold.errors import BnfoldError, UsageError, unexpected
from bnfold.onnx_io import atomic_output, model_file
from bnfold.onnx_io.output_paths import PathLike
from bnfold.verification.comparison import NotEqualError

_TOGETHER = 512_000_000  # bytes of model files that run side by side; a larger one runs alone
_FOLDED = ".folded.onnx"
_WILD = frozenset("*?[")


@dataclass(frozen=True)
class Job:
    """One model, and where its folded form goes; None: beside it."""

    source: Path
    target: Path | None


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


def jobs_of(
    paths: Sequence[PathLike], *, out_dir: PathLike | None = None, recursive: bool = False
) -> list[Job]:
    """The models that files, patterns and folders stand for, in order and each once.

    A folder stands for the .onnx files in it, with `recursive` also for those in its folders. Below
    `out_dir` the tree is kept, from the folder that was given. Raises UsageError where nothing is
    found, or two models would be written to one file.
    """
    found = _found(paths, recursive=recursive, folded=False, without=out_dir)
    jobs = [
        Job(s, None if out_dir is None else Path(out_dir) / below) for s, below in found.items()
    ]
    targets: dict[Path, Path] = {}
    for job in jobs:
        if job.target is not None and targets.setdefault(job.target, job.source) != job.source:
            raise UsageError(
                f"{targets[job.target]} and {job.source} would both be written to {job.target}",
                "give the folder that both are in",
            )
    return jobs


def models_of(paths: Sequence[PathLike], *, recursive: bool = False) -> list[str]:
    """The models that paths stand for, folded ones among them. Raises UsageError."""
    return [str(source) for source in _found(paths, recursive=recursive, folded=True)]


def is_many(paths: Sequence[PathLike]) -> bool:
    """Whether paths may stand for other than one model each."""
    return len(paths) > 1 or any(Path(p).is_dir() or _is_pattern(os.fspath(p)) for p in paths)


def _is_pattern(path: str) -> bool:
    """Whether there is something to expand; a file may have such a name."""
    return bool(_WILD & set(path)) and not os.path.lexists(path)


def _found(
    paths: Sequence[PathLike], *, recursive: bool, folded: bool, without: PathLike | None = None
) -> dict[Path, Path]:
    """Models, and what they are called below the output folder; with the `folded` form of others.

    Of folders not what lies below `without`, where earlier output may be. Raises UsageError for a
    path that stands for none.
    """
    found: dict[Path, Path] = {}
    for path in paths:
        models = _models(os.fspath(path), recursive=recursive)
        own = [
            (source, below)
            for source, below in models
            if source == Path(path)
            or ((folded or not _is_ours(source)) and not _lies_below(source, without))
        ]
        if not own:
            raise UsageError(
                f"there is no model in {path}",
                "" if recursive else "for those in its folders say --recursive",
            )
        for source, below in own:
            found.setdefault(source, below)
    return found


def _models(path: str, *, recursive: bool) -> Iterator[tuple[Path, Path]]:
    if _is_pattern(path):
        for match in sorted(glob.glob(path, recursive=recursive)):  # noqa: PTH207
            yield from _models(match, recursive=recursive)
        return
    folder = Path(path)
    if not folder.is_dir():
        yield folder, Path(folder.name)
        return
    for source in sorted(folder.rglob("*.onnx") if recursive else folder.glob("*.onnx")):
        if source.is_file():
            yield source, source.relative_to(folder)


def _lies_below(source: Path, folder: PathLike | None) -> bool:
    return folder is not None and Path(folder).resolve() in source.resolve().parents


def _is_ours(path: Path) -> bool:
    """Whether a model is the folded form of one beside it."""
    return (
        path.name.endswith(_FOLDED)
        and path.with_name(f"{path.name.removesuffix(_FOLDED)}.onnx").exists()
    )


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
            "it may have run out of memory: fewer --jobs, or a lower --memory-limit",
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
