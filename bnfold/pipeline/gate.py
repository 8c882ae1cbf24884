"""The gate of a pipeline: whether models are as they should be, without writing any.

In the manner of `black --check`. What is accepted stands in a baseline: a JSON file with the names
of BatchNormalizations (or chains of constants) by the model's path, as it was given.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from bnfold.api.models import inspect
from bnfold.errors import BnfoldError, UsageError, unexpected
from bnfold.graph.index import BATCH_NORM
from bnfold.onnx_io.output_paths import PathLike
from bnfold.onnx_io.replace_file import Kind, write_whole
from bnfold.options import FailOn, Options, require_choice
from bnfold.pipeline.model_paths import models_of
from bnfold.progress import Progress, Stage, ignore
from bnfold.tuning.data_statistics import Dataset, StatsResult, stats
from bnfold.tuning.drift import DriftLimits
from bnfold.tuning.prediction.consistency import consistency
from bnfold.tuning.prediction.verdicts import ConsistencyResult

Baseline = Mapping[str, Sequence[str]]


@dataclass(frozen=True)
class CheckFault:
    """What should not be there: a site, and what is wrong with it."""

    site: str
    sentence: str


@dataclass(frozen=True)
class CheckResult:
    """One model: its faults, those that the baseline accepts, or the error why it was not checked.

    `stale` are entries of the baseline that nothing fits any more.
    """

    path: str
    faults: tuple[CheckFault, ...] = ()
    accepted: tuple[CheckFault, ...] = ()
    stale: tuple[str, ...] = ()
    error: BnfoldError | None = None

    @property
    def exit_code(self) -> int:
        """0 for a model as it should be, 1 for one with faults, else that of its error."""
        return self.error.exit_code if self.error is not None else int(bool(self.faults))


def check(
    models: Sequence[PathLike],
    *,
    recursive: bool = False,
    fail_on: FailOn = "foldable",
    options: Options | None = None,
    baseline: Baseline | None = None,
    data: Dataset | None = None,
    limits: DriftLimits | None = None,
    assume_inference: bool = False,
    progress: Progress | None = None,
) -> tuple[CheckResult, ...]:
    """Check models one by one; one that cannot be read does not stop the others.

    `models` are files, patterns and folders, which `recursive` searches with their subfolders.
    `fail_on` is "foldable" (something would fold), "any" (there is a BatchNormalization at all),
    "drifted" (one whose stored statistics do not fit `data`; with `assume_inference` also those in
    training mode) or "statistics" (one whose stored statistics contradict what stands before it, as
    `consistency` tells without data). `baseline` lists accepted sites by model path.

    Raises UsageError for paths that stand for no model, and for "drifted" without data.
    """
    require_choice("fail_on", fail_on, FailOn)
    if fail_on == "drifted" and data is None:
        raise UsageError('`fail_on="drifted"` needs data to compare with', "pass it with `data`")
    accepted = baseline or {}
    tell = progress or ignore
    found = models_of(models, recursive=recursive)

    def faults(model: PathLike) -> Iterable[CheckFault]:
        if fail_on == "statistics":
            return _of_consistency(consistency(model, assume_inference=assume_inference))
        if fail_on != "drifted":
            return _foldable_faults(model, fail_on, options)
        assert data is not None
        return _of_drift(stats(model, data, limits=limits, assume_inference=assume_inference))

    results = []
    for number, model in enumerate(found):
        tell(Stage("checking models", number, len(found)))
        results.append(_checked(model, faults, accepted.get(model, ())))
    return tuple(results)


def _checked(
    model: PathLike, look: Callable[[PathLike], Iterable[CheckFault]], accepted: Sequence[str]
) -> CheckResult:  # fmt: skip
    try:
        faults = list(look(model))
    except BnfoldError as error:
        return CheckResult(str(model), error=error)
    except Exception as error:
        return CheckResult(str(model), error=unexpected(error))
    own = set(accepted)
    return CheckResult(
        str(model),
        tuple(fault for fault in faults if fault.site not in own),
        tuple(fault for fault in faults if fault.site in own),
        tuple(name for name in accepted if name not in {fault.site for fault in faults}),
    )


def _foldable_faults(
    model: PathLike, fail_on: str, options: Options | None
) -> Iterable[CheckFault]:
    for verdict in inspect(model, options=options).verdicts:
        site = f"{verdict.scope}/{verdict.site}" if verdict.scope else verdict.site
        if verdict.refusal is None:
            into = ", ".join(verdict.into)
            yield CheckFault(site, f"would fold into {into}" if into else "does nothing")
        elif fail_on == "any" and verdict.op == BATCH_NORM:
            yield CheckFault(site, verdict.refusal.sentence)


def _of_drift(result: StatsResult) -> Iterable[CheckFault]:
    for drift in result.drifted:
        yield CheckFault(
            drift.node,
            f"{drift.drifted} of {drift.channels - drift.dead} channels have drifted: mean by up "
            f"to {drift.worst_shift:.2f} σ, variance × {drift.worst_ratio:.3g}",
        )


def _of_consistency(result: ConsistencyResult) -> Iterable[CheckFault]:
    for layer in result.contradicting:
        yield CheckFault(layer.node, layer.sentence)


# --- baselines -----------------------------------------------------------------------------------


def read_baseline(path: Path) -> Baseline:
    """What a baseline file accepts. Raises UsageError."""
    try:
        found = json.loads(path.read_text(encoding="utf-8"))["accepted"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UsageError(
            f"cannot read the baseline {path}: {error}", "write one with `write_baseline=True`"
        ) from error
    if not isinstance(found, dict) or not all(
        isinstance(names, list) and all(isinstance(name, str) for name in names)
        for names in found.values()
    ):
        raise UsageError(f"{path} is no baseline", "write one with `write_baseline=True`")
    return found


def write_baseline(path: Path, checked: Iterable[CheckResult]) -> None:
    """Accept whatever was found. Raises UsageError."""
    accepted = {
        one.path: sorted({fault.site for fault in (*one.faults, *one.accepted)})
        for one in checked
        if one.faults or one.accepted
    }
    text = json.dumps({"accepted": accepted}, indent=2) + "\n"  # ASCII: any name can be written
    write_whole(path, text, Kind.BASELINE)


def accepting(checked: Iterable[CheckResult]) -> tuple[CheckResult, ...]:
    """The same with every fault accepted."""
    return tuple(
        replace(one, faults=(), accepted=(*one.accepted, *one.faults), stale=()) for one in checked
    )
