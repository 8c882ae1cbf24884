"""Two models on the same inputs in onnxruntime, from outside: asks the child, reads its answer."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from bnfold.check.outcome import Certificate, CertifiedFold, Finding, Frame, Outcome
from bnfold.comparison import Comparison, Deployed, FoldRun, InputUsed, OutputDifference
from bnfold.errors import UsageError
from bnfold.process import ask


@dataclass(frozen=True)
class Trial:
    """On which inputs, and within which limits, two models are compared.

    `inputs` is the path of an .npz file with one array per input name, a folder of .npy or .npz
    files, ONNX's test_data_set folders, or polygraphy's JSON. Without it, `check` sets of inputs
    are drawn from `seed`: `fill` is "mixed", "normal", "uniform", "zeros", "ones" or "arange", and
    `val_range` gives the least and the largest number by input name, "" for all. `input_shapes`
    (by input name) and `dims` (by symbol) fill dimensions that the model leaves open. `rtol` and
    `atol` by output name, "" for all, take the place of the measured bound. `providers` are
    onnxruntime's execution providers, the CPU's by default. `timeout` is in seconds; `memory_limit`
    in bytes of address space, None for the larger of 4 GiB and 8 × the model + 2 GiB (there is no
    such limit on Windows).
    `counterexample` is a folder to be made, where what shows a difference is saved: two models and
    test_data_set_0 with inputs and the outputs that are right.
    """

    inputs: str | None = None
    input_shapes: Mapping[str, tuple[int, ...]] = field(default_factory=dict)
    dims: Mapping[str, int] = field(default_factory=dict)
    seed: int = 0
    check: int = 3
    fill: str = "mixed"
    val_range: Mapping[str, tuple[float, float]] = field(default_factory=dict)
    rtol: Mapping[str, float] = field(default_factory=dict)
    atol: Mapping[str, float] = field(default_factory=dict)
    providers: tuple[str, ...] = ()
    timeout: float = 600.0
    memory_limit: int | None = None
    counterexample: str | None = None


def compare(
    original: Path, folded: Path, trial: Trial, *, level: str = "full", foreign: bool = False,
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
    return ask(request, trial.timeout, lambda answer, _: _comparison(answer, foreign=foreign))


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
