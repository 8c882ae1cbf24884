"""Every fold by itself: the folded node, fed what it reads in the original, against the original.

Fed so, no error of one fold reaches the next, and what is wrong is found where it is. The bound is
that of roundings alone, in units of u·A(x), the size of what is added up (`absolute`).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from bnfold.errors import first_line
from bnfold.onnx_io import model_file
from bnfold.onnx_io.model_file import ModelFile
from bnfold.onnx_io.protos import Array
from bnfold.proof.kernel.regions import Part, Region, Regions
from bnfold.proof.numbers.correct_rounding import unit_roundoff
from bnfold.proof.reading.model import Model
from bnfold.runtime.job import Job
from bnfold.runtime.sessions import Feed, SessionFactory, check_memory, run
from bnfold.verification.comparison import FoldRun
from bnfold.verification.numerics import float64
from bnfold.verification.numerics.differences import Differences
from bnfold.verification.numerics.error_scale import ErrorScale, UnfitError, fold_tolerance
from bnfold.verification.worker import submodels

_AT_ONCE = 32  # regions whose values are in memory together


@dataclass(frozen=True)
class Failure:
    """The fold furthest beyond its bound, and the values that its region starts from."""

    run: FoldRun
    region: Region
    values: Feed  # by the original's names, with that of the end


@dataclass(frozen=True)
class FoldRuns:
    """What became of every fold; `beyond` says of which nothing, and why."""

    runs: tuple[FoldRun, ...]
    beyond: tuple[str, ...]
    failure: Failure | None


def run_folds(
    regions: Regions, feeds: Sequence[Feed], sessions: SessionFactory, job: Job
) -> FoldRuns:
    """Run every fold on the values that the original computes there from each feed."""
    folder = job.folder
    runner = _FoldRunner(regions, sessions, folder)
    beyond = [f"{label}: it stands where no values can be compared" for label in regions.beyond]
    if not regions.found:
        return FoldRuns((), tuple(beyond), None)
    names = {name for region in regions.found for name in runner.names(region)}
    made = {name for node in regions.models[0].main.nodes for name in node.proto.output}
    session = sessions.open(str(submodels.exposed(regions.models[0], names & made, folder)))
    for start in range(0, len(regions.found), _AT_ONCE):
        some = regions.found[start : start + _AT_ONCE]
        job.stage("running each fold by itself", start, len(regions.found))
        try:
            runner.run(session, some, feeds)
        except Exception as error:
            check_memory(error)
            why = f"onnxruntime does not run it alone: {first_line(error, 800)}"
            beyond += [f"{label(region)}: {why}" for region in some]
    failed = [best for best in runner.worst.values() if not best.run.valid]
    worst = max(failed, key=lambda best: best.run.c / best.run.gate, default=None)
    if worst is not None:
        worst = runner.worst[worst.region.original.end] = _with_truth(regions, worst, folder)
    runs = tuple(best.run for best in runner.worst.values())
    return FoldRuns(runs, tuple(beyond + runner.unfit), worst)


class _FoldRunner:
    def __init__(self, regions: Regions, sessions: SessionFactory, folder: Path) -> None:
        self.regions = regions
        self.original, self.folded = regions.models
        self.sessions = sessions
        self.folder = folder
        self.worst: dict[str, Failure] = {}  # by the end
        self.unfit: list[str] = []

    def names(self, region: Region) -> list[str]:
        """The original's values between which a region lies."""
        starts = (self.regions.same[name] for name in region.folded.starts)
        return list(dict.fromkeys([*region.original.starts, *starts, region.original.end]))

    def run(self, session: Any, found: Sequence[Region], feeds: Sequence[Feed]) -> None:
        """Run some regions on all feeds."""
        error_scale = ErrorScale(self.original)
        fit = [region for region in found if self._fits(error_scale, region)]
        if not fit:
            return
        wanted = {name for region in fit for name in self.names(region)}
        outputs = [output.name for output in session.get_outputs() if output.name in wanted]
        sessions: tuple[Any, Any] | None = None
        for feed in feeds:
            values = self._given(wanted) | feed | run(session, feed, outputs)
            if sessions is None:
                sessions = self._sessions(error_scale, fit, values)
            got = run(sessions[0], self._starts(fit, values))
            bounds = run(sessions[1], {n: values[n] for r in fit for n in r.original.starts})
            for region in fit:
                end = region.folded.end
                result = got[end if region.folded.nodes else submodels.passed(end)]
                self._compare(region, values, result, bounds[error_scale.of(region.original.end)])

    def _fits(self, error_scale: ErrorScale, region: Region) -> bool:
        try:
            error_scale.add(region.original)
        except UnfitError as unfit:
            self.unfit.append(f"{label(region)}: no bound is known for {unfit}")
            return False
        return True

    def _given(self, wanted: set[str]) -> Feed:
        """The defaults of inputs that nobody fed."""
        main = self.original.main
        names = wanted & main.initializers.keys()
        return {n: self.original.storage.array(main.initializers[n]) for n in names}

    def _starts(self, found: Sequence[Region], values: Feed) -> Feed:
        names = {name for region in found for name in region.folded.starts}
        return {_called(name): values[self.regions.same[name]] for name in names}

    def _sessions(
        self, error_scale: ErrorScale, found: Sequence[Region], values: Feed
    ) -> tuple[Any, Any]:
        """Of the folded parts, and of what computes the sizes."""
        starts = self._starts(found, values)
        called = {name: _called(name) for region in found for name in region.folded.starts}
        folded = submodels.of_parts(
            self.folded, [region.folded for region in found], starts, self.folder, called
        )
        inputs = {name: values[name] for region in found for name in region.original.starts}
        output_judge = dict.fromkeys(error_scale.of(region.original.end) for region in found)
        sized = submodels.of_nodes(
            self.original, error_scale.nodes, error_scale.tensors, inputs, output_judge, self.folder
        )  # fmt: skip
        return self.sessions.open(str(folded)), self.sessions.open(str(sized))

    def _compare(self, region: Region, values: Feed, result: Array, size: Array) -> None:
        truth = values[region.original.end]
        starts = [values[name] for name in region.original.starts]
        if truth.shape != result.shape or size.shape != truth.shape:
            self.unfit.append(f"{label(region)}: its values have not the same shape")
            return
        unit = max(unit_roundoff(a.dtype) for a in (truth, *starts) if a.dtype.kind in "fV")
        told = np.isfinite(truth)  # where it is not, the fold may give something else
        if not np.all(np.isfinite(size[told])):
            self.unfit.append(f"{label(region)}: the sizes of what it adds overflow")
            return
        wide = [np.where(told, a, 0).astype(np.float64) for a in (result, truth, size)]
        largest_difference = np.abs(wide[0] - wide[1])
        with np.errstate(invalid="ignore"):
            c = np.divide(
                largest_difference,
                unit * wide[2],
                out=np.where(largest_difference > 0, np.inf, 0.0),
                where=wide[2] > 0,
            )
        c = np.where(np.isfinite(largest_difference), c, np.inf)
        place = np.unravel_index(int(np.argmax(c)), c.shape) if c.size else ()
        most = float(c[place]) if c.size else 0.0
        spatial = max((math.prod(a.shape[2:]) for a in starts), default=1)
        bound = fold_tolerance(self.original, region.original, spatial) + region.k
        excused = most > bound and self._excused(region, values, result)
        found = FoldRun(
            node=label(region), sites=region.sites, output=region.original.end, c=most,
            gate=bound, valid=most <= bound or excused, place=tuple(int(i) for i in place),
            channel=_channel(region, place), excused=excused,
            original=float(truth[place]) if c.size else 0.0,
            folded=float(result[place]) if c.size else 0.0,
        )  # fmt: skip
        best = self.worst.get(region.original.end)
        if best is None or found.c > best.run.c:
            kept = {} if found.valid else {name: values[name] for name in self.names(region)}
            self.worst[region.original.end] = Failure(found, region, kept)

    def _excused(self, region: Region, values: Feed, result: Array) -> bool:
        """Whether the fold is no further from float64 than twice as far as the original.

        Roundings of equal weights, or of equal values, are not independent: both models are off by
        more than √n then, and both alike.
        """
        end = region.original.end
        file, inputs = _alone(self.original, region.original, values, self.folder)
        exact = float64.BothPrecisions(file.loaded).run(inputs).get(end)
        differences = Differences(end, [{end: values[end]}], [{end: result}])
        differences.compare_with([exact])
        return not differences.beyond(np.zeros(1))


def _called(start: str) -> str:
    """What a start is called where another region may end in it."""
    return f"bnfold:fed:{start}"


def label(region: Region) -> str:
    """The nodes of a region that took something, or that went."""
    return ", ".join(region.took or region.sites)


def _channel(region: Region, place: Sequence[Any]) -> int:
    for node in reversed(region.original.nodes):
        if node.op == "MatMul":
            return int(place[-1]) if place else 0
    return int(place[1]) if len(place) > 1 else 0


def _alone(original: Model, part: Part, values: Feed, folder: Path) -> tuple[ModelFile, Feed]:
    """A part of the original as a model of its own, and what it starts from."""
    inputs = {name: values[name] for name in part.starts}
    return model_file.read(submodels.of_parts(original, [part], inputs, folder, {})), inputs


def _with_truth(regions: Regions, failure: Failure, folder: Path) -> Failure:
    """The failure with what the original would give there without rounding."""
    end = failure.region.original.end
    file, inputs = _alone(regions.models[0], failure.region.original, failure.values, folder)
    exact = float64.Evaluator(file.loaded(), wide=True).run(inputs).get(end)
    if exact is None or exact.shape != failure.values[end].shape:
        return failure
    return replace(failure, run=replace(failure.run, exact=float(exact[failure.run.place])))
