"""What a report says, whatever its format: results as frozen dataclasses of names and numbers.

The fields are those of `schema.json`, which is versioned: what readers rely on does not change
within one `schema_version`; there may be more of it.
"""

from __future__ import annotations

import platform
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from importlib.metadata import PackageNotFoundError, version

from bnfold.api.models import Inspection
from bnfold.errors import BnfoldError
from bnfold.folding.layer_details import Layer
from bnfold.graph.node_counts import NodeCounts
from bnfold.pipeline.batch import ModelOutcome
from bnfold.pipeline.gate import CheckFault, CheckResult
from bnfold.reasons import Refusal
from bnfold.reporting.summary import closing, would_fold
from bnfold.text.flags import as_flags
from bnfold.tuning.prediction.verdicts import LayerSummary
from bnfold.verdict import Verdict
from bnfold.verification.comparison import FRAME_ALONE, Comparison, NotEqualError
from bnfold.version import __version__

SCHEMA_VERSION = 1
PASSED, FAILED, ERROR = "passed", "failed", "error"
_PACKAGES = ("numpy", "onnx", "onnxruntime")


@dataclass(frozen=True)
class Cause:
    """Why something stayed: the reason's code, the node that blocked it, sentence and remedy."""

    code: str
    node: str
    sentence: str
    remedy: str


@dataclass(frozen=True)
class SiteReport:
    """The verdict on one BatchNormalization, chain of constants or sum of branches."""

    name: str
    scope: str
    op: str
    output: str
    folded: bool
    into: tuple[str, ...]
    branches: int
    reason: Cause | None
    below: Cause | None
    layer: Layer | None
    written_out: bool = False

    @property
    def full_name(self) -> str:
        """With the body or function that it stands in."""
        return f"{self.scope}/{self.name}" if self.scope else self.name


@dataclass(frozen=True)
class Problem:
    """Why there is no result: the kind of the error, in one sentence, and what to do."""

    kind: str
    message: str
    remedy: str


@dataclass(frozen=True)
class Amounts:
    """Numbers of nodes and BatchNormalizations, and of bytes with all data files, if known."""

    nodes: int
    batch_norms: int
    bytes: int | None


@dataclass(frozen=True)
class ModelReport:
    """One model. `status` is "passed", "failed" (exit code 1) or "error" (any other)."""

    path: str
    status: str
    exit_code: int
    sentence: str
    error: Problem | None = None
    output: str | None = None
    data_files: tuple[str, ...] = ()
    before: Amounts | None = None
    after: Amounts | None = None
    sites: tuple[SiteReport, ...] = ()
    faults: tuple[CheckFault, ...] = ()
    accepted: tuple[CheckFault, ...] = ()
    stale: tuple[str, ...] = ()
    comparison: Comparison | None = None
    statistics: tuple[LayerSummary, ...] = ()


@dataclass(frozen=True)
class Report:
    """What one command found."""

    command: str
    exit_code: int
    models: tuple[ModelReport, ...]
    schema_version: int = SCHEMA_VERSION
    bnfold: str = __version__
    environment: dict[str, str] = field(default_factory=lambda: environment())

    @property
    def status(self) -> str:
        """Likewise, of all models together."""
        return _status(self.exit_code)


def environment() -> dict[str, str]:
    """On what the results were found: the system, and the versions that they depend on."""
    system = f"{platform.system()} {platform.machine()}"
    found = {"python": platform.python_version(), "system": system}
    for package in _PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:  # vendored, or built from source without metadata
            found[package] = "unknown"
    return found


def _status(exit_code: int) -> str:
    return {0: PASSED, 1: FAILED}.get(exit_code, ERROR)


# --- from results to reports ---------------------------------------------------------------------


def of_optimize(done: Iterable[ModelOutcome], exit_code: int) -> Report:
    """The report of `bnfold optimize`, of one model or many."""
    return Report("optimize", exit_code, tuple(_optimized(one) for one in done))


def of_inspect(inspection: Inspection, source: str) -> Report:
    """The report of `bnfold inspect`."""
    counts = inspection.counts
    model = ModelReport(
        source, PASSED, 0, would_fold(inspection),
        before=Amounts(counts.nodes, counts.batch_norms, None),
        sites=tuple(_sites(inspection.verdicts, inspection.layers)),
        statistics=inspection.statistics,
    )  # fmt: skip
    return Report("inspect", 0, (model,))


def of_check(checked: Iterable[CheckResult], exit_code: int) -> Report:
    """The report of `bnfold check`."""
    return Report("check", exit_code, tuple(_checked(one) for one in checked))


def of_verify(comparison: Comparison, original: str, folded: str) -> Report:
    """The report of `bnfold verify`: one model, the folded one."""
    code = 0 if comparison.passed else NotEqualError.exit_code
    sentence = f"{'equal' if comparison.equal else 'not equal'} to {original}"
    if comparison.frame_alone and comparison.passed:
        sentence = FRAME_ALONE
    model = ModelReport(folded, _status(code), code, sentence, comparison=comparison)
    return Report("verify", code, (model,))


def of_error(command: str, source: str, error: BnfoldError) -> Report:
    """The report of a command that came to no result."""
    return Report(command, error.exit_code, (_failed(source, error),))


def _failed(source: str, error: BnfoldError) -> ModelReport:
    comparison = error.comparison if isinstance(error, NotEqualError) else None
    message = as_flags(error.message)
    problem = Problem(type(error).__name__, message, as_flags(error.remedy))
    return ModelReport(
        source, _status(error.exit_code), error.exit_code, message, problem,
        comparison=comparison,
    )  # fmt: skip


def _optimized(done: ModelOutcome) -> ModelReport:
    if done.error is not None:
        return _failed(str(done.source), done.error)
    result = done.result
    assert result is not None
    return ModelReport(
        str(done.source), PASSED, 0, closing(result),
        output=str(result.model),
        data_files=tuple(map(str, result.data_files)),
        before=_amounts(result.before, result.bytes_before),
        after=_amounts(result.after, result.bytes_after),
        sites=tuple(_sites(result.verdicts, result.layers)),
        comparison=result.comparison, statistics=result.statistics,
    )  # fmt: skip


def _amounts(counts: NodeCounts, size: int) -> Amounts:
    return Amounts(counts.nodes, counts.batch_norms, size)


def _checked(checked: CheckResult) -> ModelReport:
    if checked.error is not None:
        return _failed(checked.path, checked.error)
    told = "; ".join(f"{fault.site}: {fault.sentence}" for fault in checked.faults)
    return ModelReport(
        checked.path, _status(checked.exit_code), checked.exit_code, told or "as it should be",
        faults=checked.faults, accepted=checked.accepted, stale=checked.stale,
    )  # fmt: skip


def _sites(verdicts: Sequence[Verdict], layers: Sequence[Layer]) -> Iterator[SiteReport]:
    by_place = {(layer.scope, layer.output): layer for layer in layers}
    for verdict in verdicts:
        yield SiteReport(
            verdict.site, verdict.scope, verdict.op, verdict.output, verdict.folded, verdict.into,
            verdict.branches, _cause(verdict.refusal), _cause(verdict.below),
            by_place.get((verdict.scope, verdict.output)), verdict.written_out,
        )  # fmt: skip


def _cause(refusal: Refusal | None) -> Cause | None:
    if refusal is None:
        return None
    reason = refusal.reason
    return Cause(reason.code, refusal.node, refusal.sentence, as_flags(reason.remedy))
