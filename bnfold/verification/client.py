"""Two models on the same inputs in onnxruntime, from outside: asks the child, reads its answer."""

from __future__ import annotations

import os
from dataclasses import asdict
from pathlib import Path
from typing import Any

from bnfold.errors import UsageError
from bnfold.options import RunOptions
from bnfold.proof.outcome import Certificate, CertifiedFold, Finding, Frame, Outcome
from bnfold.runtime.process import run_worker
from bnfold.verification.comparison import (
    Comparison,
    Deployed,
    FoldRun,
    InputUsed,
    OutputDifference,
)


def compare(
    original: Path, folded: Path, trial: RunOptions, *, level: str = "full", foreign: bool = False,
    freeze_initializers: bool = False, exact: bool = False,
) -> Comparison:  # fmt: skip
    """Compare two files in a child process, as far as `level` says.

    "frame": whether all that no fold explains is the same. "certificate": and whether what was
    folded is right for every input. "folds": and every fold is run by itself. "full": and both
    models are run. `foreign`: the second file was made by another tool. `exact` has their errors
    against float64 told even where nothing depends on them.

    Raises ModelError, UsageError and UndecidedError as the child reports them, and ChildError where
    it crashed, ran out of time or hit the memory limit.
    """
    request = {
        "task": "verify",
        "level": level,
        "foreign": foreign,
        "freeze": freeze_initializers,
        "original": os.path.abspath(original),
        "folded": os.path.abspath(folded),
        **asdict(trial),
        "exact": exact,
        "inputs": os.path.abspath(trial.inputs) if trial.inputs else None,
        "counterexample": _new_folder(trial.counterexample),
    }
    return run_worker(
        request, trial.timeout, lambda answer, _: _comparison(answer, foreign=foreign)
    )


def _comparison(answer: dict[str, Any], *, foreign: bool) -> Comparison:
    return Comparison(
        outputs=tuple(OutputDifference(**_tupled(o, "shape", "place")) for o in answer["outputs"]),
        inputs=tuple(InputUsed(**_tupled(i, "shape")) for i in answer["inputs"]),
        runs=answer["runs"],
        mismatch=answer["mismatch"],
        frame=_frame(answer["frame"]),
        certificate=_certificate(answer["certificate"]),
        not_run=answer.get("crash") or answer["not_run"],
        foreign=foreign,
        folds=tuple(FoldRun(**_tupled(fold, "sites", "place")) for fold in answer["folds"]),
        folds_not_run=tuple(answer["folds_not_run"]),
        deployed=Deployed(**answer["deployed"]) if answer["deployed"] else None,
        counterexample=answer["counterexample"],
    )


def _new_folder(path: str | None) -> str | None:
    if path is None:
        return None
    folder = Path(path)
    if os.path.lexists(path) and not (folder.is_dir() and not any(folder.iterdir())):
        raise UsageError(f"there is a {path} already", "name a new folder for the counterexample")
    return os.path.abspath(path)


def _frame(said: dict[str, Any]) -> Frame:
    return Frame(Outcome(said["verdict"]), _findings(said["findings"]))


def _certificate(said: dict[str, Any]) -> Certificate:
    folds = tuple(CertifiedFold(**fold | {"sites": tuple(fold["sites"])}) for fold in said["folds"])
    return Certificate(Outcome(said["verdict"]), folds, _findings(said["findings"]))


def _findings(said: list[dict[str, Any]]) -> tuple[Finding, ...]:
    return tuple(Finding(**finding | {"verdict": Outcome(finding["verdict"])}) for finding in said)


def _tupled(values: dict[str, Any], *names: str) -> dict[str, Any]:
    return values | {name: tuple(values[name]) for name in names}
