"""The verdict on two files: same inputs through both, fold by fold and in the end."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np

from bnfold.errors import BnfoldError, UndecidedError, first_line
from bnfold.onnx_io.model_file import ModelFile
from bnfold.onnx_io.protos import expose
from bnfold.proof.certificate import Static
from bnfold.runtime import feeding, input_files
from bnfold.runtime.answer_file import FALLBACK
from bnfold.runtime.job import Job
from bnfold.runtime.sessions import (
    Feed,
    Run,
    SessionFactory,
    check_memory,
    load_error,
    require_tensors,
    run,
)
from bnfold.verification.comparison import Comparison, Deployed, InputUsed, OutputDifference
from bnfold.verification.numerics.differences import MeaninglessOutputError
from bnfold.verification.worker import (
    counterexample,
    cut_points,
    fold_runs,
    interface,
    optimised_run,
)
from bnfold.verification.worker.cut_points import before_saturation
from bnfold.verification.worker.output_verdicts import (
    OutputJudge,
    require_determinism,
    require_finite,
)
from bnfold.verification.worker.pair import Pair, _saved


def compare_by_running(job: Job, static: Static) -> dict[str, Any]:
    """Compare as the request says. Raises BnfoldError where nothing can be decided.

    The cheapest evidence comes first: with "run", folds are run by themselves only to find out
    which of them is to blame.
    """
    request, folder, level = job.request, job.folder, job.request["level"]
    whole = Pair(job.original, job.folded)
    mismatch = interface.difference(whole.original.model, whole.folded.model)
    pair, sets = _cut_at_roundings(job, whole)
    runner = Runner(job, pair, sets, first=None if pair.cut else job.first)
    truth = runner.run_original()
    (folder / FALLBACK).unlink(missing_ok=True)  # what crashes from here on is no crash of it
    found = fold_runs.FoldRuns((), (), None)
    if level != "run" and not mismatch:
        found = _run_folds(job, runner, static)
    if level == "folds":
        comparison = runner.comparison((), mismatch)
    else:
        try:
            comparison = _compare_outputs(runner, whole, truth, mismatch)
        except UndecidedError:
            if level == "run" and not mismatch:
                found = _run_folds(job, runner, static)
            if found.failure is None:
                raise
            comparison = runner.comparison((), mismatch)
        else:
            if level == "run" and not comparison.equal and not mismatch:
                found = _run_folds(job, runner, static)
    comparison = replace(comparison, folds=found.runs, folds_not_run=found.beyond)
    if request["counterexample"] and not comparison.equal:
        path = Path(request["counterexample"])
        with counterexample.making(path) as new:
            if found.failure is not None and static.regions is not None:
                counterexample.of_fold(static.regions, found.failure, new, folder)
            else:
                run = comparison.worst.run if comparison.worst else 0
                counterexample.of_output(whole, runner.feeds, truth, run, new)
        comparison = replace(comparison, counterexample=str(path))
    return asdict(comparison)


def _run_folds(job: Job, runner: Runner, static: Static) -> fold_runs.FoldRuns:
    """Every fold by itself, on the values that the original computes there."""
    if static.regions is None:
        return fold_runs.FoldRuns((), (), None)
    try:
        return fold_runs.run_folds(static.regions, runner.own_feeds(), runner.sessions, job)
    except MemoryError:  # the other levels may do with less
        labels = tuple(
            f"{fold_runs.label(r)}: the memory limit was reached" for r in static.regions.found
        )
        return fold_runs.FoldRuns((), labels, None)


def _compare_outputs(runner: Runner, whole: Pair, truth: list[Run], mismatch: str) -> Comparison:
    try:
        return runner.compare(whole, truth, mismatch)
    except MeaninglessOutputError:
        pair = runner.pair
        saturated = before_saturation(pair.original.model, pair.folded.model)
        if not saturated:
            raise
        sources = set(saturated.values())
        deeper = pair.changed(runner.folder, lambda model: expose(model.graph, sources))
        deeper = replace(deeper, saturated=frozenset(saturated))
        again = Runner(runner.job, deeper, runner.sets)
        return again.compare(whole, again.run_original(), mismatch)


def _cut_at_roundings(job: Job, whole: Pair) -> tuple[Pair, list[input_files.InputSet]]:
    """Both models cut open at their roundings, and what to feed them.

    As they are, and no feeds, where they round nothing.
    """
    roundings = cut_points.common_roundings(whole.original, whole.folded)
    if not roundings:
        return whole, []
    names = set(roundings)
    exposed = _saved(
        whole.original, lambda model: expose(model.graph, names), job.folder / "exposed.onnx"
    )
    runner = Runner(job, replace(whole, original=exposed))
    try:
        runs = runner.run_original()
    except BnfoldError:  # uncut it may run; if not, it is said of the model as it is
        return whole, []
    sets = [
        replace(own, feed={**own.feed, **{name: run[name] for name in roundings}})
        for own, run in zip(runner.sets, runs, strict=True)
    ]
    own = {value.name for value in whole.folded.model.graph.output}
    cut = whole.changed(job.folder, lambda model: cut_points.cut(model, roundings, sets[0].feed))
    inner = frozenset(roundings.values()) - own
    return replace(cut, cut=frozenset(roundings), inner=inner), sets


class Runner:
    """Runs a pair of models on sets of inputs, which are found first where none are given."""

    def __init__(
        self, job: Job, pair: Pair, sets: Sequence[input_files.InputSet] = (), first: Any = None,
    ) -> None:  # fmt: skip
        """`first` are the first runs of the pair, where they were begun before (`FirstRuns`)."""
        self.job, self.first = job, first
        self.request, self.folder, self.stage = job.request, job.folder, job.stage
        self.pair = pair
        self.original = pair.original
        self.sets = list(sets)
        self.sessions = SessionFactory.of(job.request["providers"])

    @property
    def feeds(self) -> list[Feed]:
        """What the models are fed, run by run."""
        return [each_set.feed for each_set in self.sets]

    def compare(self, whole: Pair, truth: list[Run], mismatch: str) -> Comparison:
        """The verdict; `mismatch` is in what the whole models differ before any is run."""
        self.stage("checking the folded model")
        if mismatch := interface.invalid(whole.original.path, whole.folded.path) or mismatch:
            return self.comparison((), mismatch)
        try:
            results = self.run_folded(self.pair.folded)
        except Exception as error:
            check_memory(error)
            return self.comparison((), f"onnxruntime refuses the folded model: {error}")
        require_finite(truth)
        expected = [each_set.expected for each_set in self.sets]
        output_judge = OutputJudge(
            self.request, self.sessions, self.original, self.feeds, truth, self.folder, self.stage,
            expected if any(expected) else [],
        )  # fmt: skip
        outputs = output_judge.judged(results, self.pair.saturated)
        comparison = self.comparison(self._reported(outputs))
        if not comparison.equal:
            return comparison
        return replace(comparison, deployed=self._run_optimised(whole, output_judge))

    # --- running ---------------------------------------------------------------------------------

    def run_original(self) -> list[Run]:
        """Its outputs on each feed; the feeds are found first where none were given."""
        if self.first is not None:
            self.stage("running the original")
            self.sets, truth = self.first.of_original()
            return truth  # type: ignore[no-any-return]
        self.stage("loading the original")
        try:
            session = self.sessions.open(str(self.original.path))
        except Exception as error:
            raise load_error(error) from error
        self.stage("running the original")
        truth = self._run_on_feeds(session)
        if self.request["level"] != "run":  # else it is asked where results differ
            require_determinism(session, self.feeds[0], truth[0])
        return truth

    def run_folded(self, folded: ModelFile) -> list[Run]:
        """Its outputs on each feed."""
        if self.first is not None:
            self.stage("running the folded model")
            return self.first.of_folded()  # type: ignore[no-any-return]
        self.stage("loading the folded model")
        session = self.sessions.open(str(folded.path))
        return self._run_all(session, "running the folded model")

    def run_optimised(self, file: ModelFile) -> list[Run]:
        """The outputs of either model with onnxruntime's optimisations on."""
        if self.first is not None and file is self.job.folded:
            return self.first.of_optimised()  # type: ignore[no-any-return]
        session = self.sessions.open(str(file.path), optimised=True)
        names = [output.name for output in self.job.original.model.graph.output]
        return [require_tensors(run(session, feed, names)) for feed in self.own_feeds()]

    def own_feeds(self) -> list[Feed]:
        """Without what only models that were cut open are fed."""
        return [{n: a for n, a in f.items() if n not in self.pair.cut} for f in self.feeds]

    def _run_on_feeds(self, session: Any) -> list[Run]:
        if self.sets:
            return self._run_all(session, "running the original")
        self.sets, runs = feeding.first_that_runs(
            self.request, self.original.model, lambda feed: require_tensors(run(session, feed))
        )
        return runs

    def _run_all(self, session: Any, stage: str) -> list[Run]:
        found = []
        for number, feed in enumerate(self.feeds):
            self.stage(stage, number, len(self.feeds))
            found.append(require_tensors(run(session, feed)))
        return found

    # --- as it will be deployed ------------------------------------------------------------------

    def _run_optimised(self, whole: Pair, output_judge: OutputJudge) -> Deployed:
        """The folded model with onnxruntime's optimisations on, against the original without."""
        self.stage("running the folded model with onnxruntime's optimisations")
        names = [value.name for value in whole.original.model.graph.output]
        own = replace(
            output_judge, truth=[{n: r[n] for n in names if n in r} for r in output_judge.truth],
            in_float64=self.request["level"] != "run",
        )  # fmt: skip
        folded = self._optimised(whole.folded, own)
        wrong = next((d for d in folded.differences if not d.equal), None)
        if wrong is None and not folded.refused:
            return Deployed(True, folded.most)
        original = self._optimised(whole.original, own)
        if folded.refused:
            return optimised_run.verdict_on_refusal(folded, original)
        assert wrong is not None
        if not self.pair.cut:
            return optimised_run.verdict(folded, original, wrong)
        step = optimised_run.step_of(whole.original, wrong.name, own.truth)
        moved = self._moved_by_roundings(wrong.name, whole, own)
        fused = self._fused(whole)
        return optimised_run.verdict_in_steps(
            folded, original, own.truth, wrong, step, moved, fused
        )

    def _optimised(self, file: ModelFile, output_judge: OutputJudge) -> optimised_run.Optimised:
        """What it gives with optimisations, and how far that is from the original without."""
        try:
            results = self.run_optimised(file)
        except UndecidedError:
            raise
        except Exception as error:
            check_memory(error)
            return optimised_run.Optimised((), (), first_line(error, 200))
        found = output_judge.judged(results, frozenset(output_judge.truth[0]))
        return optimised_run.Optimised(found, tuple(results))

    def _moved_by_roundings(self, name: str, whole: Pair, output_judge: OutputJudge) -> float:
        """How far an output moves where roundings fall differently.

        The larger of what they do by themselves, where all numbers move by one ulp, and of what one
        step does to each part between them.
        """
        self.stage("measuring what roundings that fall differently make")
        feeds = self.own_feeds()
        own = replace(output_judge, original=whole.original, feeds=feeds, _moved=[])
        moved = float(np.max(own.noise()[name], initial=0.0))
        session = self.sessions.open(str(self.pair.original.path))
        if name not in {output.name for output in session.get_outputs()}:
            return moved  # which is an integer itself, and moves by the step
        rng = np.random.default_rng([self.request["seed"], 2])
        off = [optimised_run.one_step_off(feed, self.pair.cut, rng) for feed in self.feeds]
        return max(
            moved,
            optimised_run.largest_difference(
                [run(session, f, [name]) for f in off], output_judge.truth, name
            ),
        )

    def _fused(self, whole: Pair) -> str:
        """The quantised operators that onnxruntime has made of the folded model alone."""
        saved = [self.folder / f"optimised_{which}.onnx" for which in ("original", "folded")]
        try:
            for file, path in zip((whole.original, whole.folded), saved, strict=True):
                self.sessions.open(str(file.path), optimised=True, save_as=str(path))
            return optimised_run.fused(*saved)
        except Exception as error:  # which only costs their names
            check_memory(error)
            return ""

    # --- small things ----------------------------------------------------------------------------

    def _reported(self, outputs: tuple[OutputDifference, ...]) -> tuple[OutputDifference, ...]:
        """The model's own outputs; of what is inside, what differs and what comes closest to it."""
        worst = self.comparison(outputs).worst
        return tuple(
            output
            for output in outputs
            if output.name not in self.pair.inner or output is worst or not output.equal
        )

    def comparison(self, outputs: tuple[OutputDifference, ...], mismatch: str = "") -> Comparison:
        """What the comparison is so far."""
        used = tuple(
            InputUsed(name, str(array.dtype), array.shape)
            for name, array in self.feeds[0].items()
            if name not in self.pair.cut
        )
        return Comparison(outputs, used, len(self.feeds), mismatch)
