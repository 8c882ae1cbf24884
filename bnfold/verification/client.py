"""Comparing two files: asks the worker process, and reads its answer."""

from __future__ import annotations

import os
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import asdict
from pathlib import Path
from typing import Any

import msgspec

from bnfold.errors import UsageError
from bnfold.options import Level, RunOptions
from bnfold.progress import Progress
from bnfold.runtime.process import Worker, run_worker
from bnfold.verification.comparison import (
    Comparison,
)


def compare(
    original: Path, folded: Path, run_options: RunOptions, *, level: Level = "full",
    foreign: bool = False, freeze_initializers: bool = False, exact: bool = False,
    progress: Progress | None = None, proofs: Sequence[str] = (), proven: bool = False,
    worker: Worker | None = None,
) -> Comparison:  # fmt: skip
    """Compare two files in a worker process, as far as `level` says (see `bnfold.verify`).

    `foreign`: the second file was made by another tool. `exact` also reports the errors of both
    models against float64 where nothing depends on them. The `proofs`, as JSON, say what may have
    been done; where none of them holds, one is looked for, unless `proven` says that this is it.
    `worker` is one that waits already (`comparing_worker`).

    Raises ModelError, UsageError and UndecidedError as the worker reports them, and WorkerError if
    it crashed, ran out of time or hit the memory limit.
    """
    request = {
        "task": "verify",
        "level": level,
        "foreign": foreign,
        "freeze": freeze_initializers,
        "original": os.path.abspath(original),
        "folded": os.path.abspath(folded),
        **asdict(run_options),
        "exact": exact,
        "proofs": list(proofs),
        "proven": proven,
        "inputs": os.path.abspath(run_options.inputs) if run_options.inputs else None,
        "counterexample": _new_folder(run_options.counterexample),
    }
    return run_worker(
        request, run_options.timeout, lambda answer, _: _comparison(answer, foreign=foreign),
        progress, worker,
    )  # fmt: skip


def comparing_worker(level: str) -> AbstractContextManager[Worker | None]:
    """A worker that gets ready to compare two files, while these are still in the making."""
    if level == "none":
        return nullcontext()
    modules = ["bnfold.verification.worker.levels"]
    if level != "proof":
        modules.append("bnfold.verification.worker.model_runs")
    return Worker(modules)


def _comparison(answer: dict[str, Any], *, foreign: bool) -> Comparison:
    not_run = answer.get("crash") or answer["not_run"]
    return msgspec.convert(answer | {"not_run": not_run, "foreign": foreign}, Comparison)


def _new_folder(path: str | None) -> str | None:
    if path is None:
        return None
    folder = Path(path)
    if os.path.lexists(path) and not (folder.is_dir() and not any(folder.iterdir())):
        raise UsageError(f"there is a {path} already", "name a new folder for the counterexample")
    return os.path.abspath(path)
