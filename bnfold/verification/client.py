"""Comparing two files: asks the worker process, and reads its answer."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import msgspec

from bnfold.errors import UsageError
from bnfold.options import Level, RunOptions
from bnfold.progress import Progress
from bnfold.runtime.process import CrashedError, run_worker
from bnfold.verification.comparison import Comparison, require_equal
from bnfold.verification.waiting import new_worker


def compare(
    original: Path, folded: Path, run_options: RunOptions, *, level: Level = "full",
    foreign: bool = False, freeze_initializers: bool = False, exact: bool = False,
    progress: Progress | None = None, proofs: Sequence[str] = (), proven: bool = False,
) -> Comparison:  # fmt: skip
    """Compare two files in a worker process, as far as `level` says (see `bnfold.verify`).

    `foreign`: the second file was made by another tool. `exact` also reports the errors of both
    models against float64 where nothing depends on them. The `proofs`, as JSON, say what may have
    been done; where none of them holds, one is looked for, unless `proven` says that this is it.

    Raises ModelError, UsageError and UndecidedError as the worker reports them, and WorkerError if
    it crashed, ran out of time or hit the memory limit.
    """
    with Comparing(
        original, run_options, level=level, foreign=foreign, exact=exact,
        freeze_initializers=freeze_initializers,
    ) as comparing:  # fmt: skip
        return comparing.with_folded(folded, proofs, proven=proven, progress=progress)


def compare_by_proof(
    original: Path, made: Path, proof: str, run_options: RunOptions | None, *, level: Level,
    progress: Progress | None = None,
) -> Comparison:  # fmt: skip
    """Compare what bnfold has made of a file with it, by the proof of what was done; "" for none.

    Raises NotEqualError where they differ, and what `compare` raises.
    """
    found = compare(
        original, made, run_options or RunOptions(), level=level, progress=progress,
        proofs=(proof,) if proof else (), proven=bool(proof),
    )  # fmt: skip
    require_equal(found)
    return found


class Comparing:
    """A comparison that begins before there is a second file.

    Its worker imports what it needs, and runs the original, while the folded model is in the
    making: `with_folded` has the verdict then.
    """

    def __init__(
        self, original: Path, run_options: RunOptions, *, level: str, foreign: bool = False,
        freeze_initializers: bool = False, exact: bool = False,
    ) -> None:  # fmt: skip
        """Likewise, as `compare`."""
        self._timeout, self._foreign = run_options.timeout, foreign
        self._request = {
            "task": "verify",
            "level": level,
            "foreign": foreign,
            "freeze": freeze_initializers,
            "original": os.path.abspath(original),
            **asdict(run_options),
            "exact": exact,
            "inputs": os.path.abspath(run_options.inputs) if run_options.inputs else None,
            "counterexample": _new_folder(run_options.counterexample),
        }
        self._worker = new_worker(level)
        self._worker.begin(self._request)

    def __enter__(self) -> Comparing:
        return self

    def __exit__(self, *_: object) -> None:
        self._worker.__exit__()

    def with_folded(
        self, folded: Path, proofs: Sequence[str] = (), *, proven: bool = False,
        progress: Progress | None = None,
    ) -> Comparison:  # fmt: skip
        """The verdict on the original and this file. Raises as `compare`."""
        more = {"folded": os.path.abspath(folded), "proofs": list(proofs), "proven": proven}

        def read(answer: dict[str, Any], _: Path) -> Comparison:
            return _comparison(answer, foreign=self._foreign)

        try:
            return run_worker(more, self._timeout, read, progress, self._worker)
        except CrashedError:  # several things were under way: one by one it shows which it was
            return run_worker(self._request | more, self._timeout, read, progress)


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
