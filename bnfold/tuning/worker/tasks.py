"""Running data through a model for the statistics of what its BatchNormalizations read."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from bnfold.errors import UndecidedError, UsageError, first_line
from bnfold.graph.index import Index, Node
from bnfold.onnx_io import model_file
from bnfold.onnx_io.model_file import ModelFile
from bnfold.onnx_io.protos import Array
from bnfold.reasons import Refusal
from bnfold.runtime import synthetic_inputs as model_inputs
from bnfold.runtime.job import Job
from bnfold.runtime.sessions import SessionFactory, check_memory, load_error, run
from bnfold.tuning.drift import DriftLimits, StoredStatistics, drift, severity
from bnfold.tuning.moments import FloatArray, Moments, SampleMoments
from bnfold.tuning.prior import likeliest_prior
from bnfold.tuning.stored_statistics import Place, assign_statistics, norms, place_of
from bnfold.tuning.training_mode import assume_inference
from bnfold.tuning.worker.dataset import Batch, DatasetReader, Pictures
from bnfold.tuning.worker.lifting import Exported
from bnfold.tuning.worker.moment_probes import Value, levels, probed, sample_moments


class _Runner:
    """One model and the data that goes through it."""

    def __init__(self, job: Job) -> None:
        self.request = request = job.request
        self.folder = job.folder
        self.job = job
        self.file: ModelFile = job.original
        self.refused = {}
        if request["assume_inference"]:
            index = Index(self.file.model, self.file.storage)
            dummies = request["task"] == "recalibrate"
            self.refused = assume_inference(index, even_dummies=dummies)
        self.input_specs = tuple(model_inputs.input_specs(self.file.model, {}, given=True))
        pictures = Pictures(**request["pictures"])
        self.data = DatasetReader(Path(request["inputs"]), self.input_specs, pictures)
        self.sessions = SessionFactory.of(request["providers"])
        self.size = self._batch_size()
        self.unreached: list[str] = []
        self.name = ""
        self.done = 0
        self.total = 0

    def _batch_size(self) -> int:
        fixed = {s.dims[0] for s in self.input_specs if s.dims and isinstance(s.dims[0], int)}
        if not self.input_specs or len(fixed) > 1:
            raise UsageError("the model's inputs have no common batch axis in front")
        return int(next(iter(fixed))) if fixed else int(self.request["batch"])

    def stage(self, name: str) -> None:
        """Say what is being done."""
        self.name = name
        self.job.stage(name, self.done, self.total)

    def step(self) -> None:
        """One batch more."""
        self.done += 1
        self.job.stage(self.name, self.done, max(self.total, self.done))

    def batches(self) -> Iterator[tuple[Batch, Array]]:
        """All batches, with what says which of their rows are held out."""
        share, number = float(self.request["holdout"]), 0
        for batch in self.data.batches(self.size):
            places = number + np.arange(batch.rows)
            held = np.floor((places + 1) * share) > np.floor(places * share)
            number += batch.rows
            yield batch, held

    def session(self, path: Path) -> Any:
        """A session on a model that was made of the original."""
        try:
            return self.sessions.open(str(path))
        except Exception as error:
            raise load_error(error) from error

    def results(self, session: Any, batch: Batch) -> dict[str, Array]:
        """What a model gives on a batch. Raises UsageError."""
        try:
            return run(session, batch.feed)
        except Exception as error:
            check_memory(error)
            shapes = ", ".join(f"{n} {list(a.shape)}" for n, a in batch.feed.items())
            raise UsageError(
                f"onnxruntime cannot run the model on {shapes}: {first_line(error, 300)}",
                "the data has other sizes than the model wants",
            ) from error

    def moments(self, wanted: Iterable[Node], *, held_out: bool = False) -> dict[Value, Moments]:
        """Of what these nodes read, over all samples that are not held out; or over those."""
        values = dict.fromkeys(map(Value.read_by, wanted))
        found = {value: Moments() for value in values}
        index = Index(self.file.model, self.file.storage)
        path, exported = probed(index, values, self.folder, self.done)
        session = self.session(path)
        for batch, held in self.batches():
            results = self.results(session, batch)
            for value, places in exported.items():
                for place in places:
                    left = ~held if held_out else held
                    found[value].add(self._part(results, value, place, batch, left))
            self.step()
        path.unlink(missing_ok=True)
        return found

    def _part(
        self, results: dict[str, Array], value: Value, place: Exported, batch: Batch, left: Array
    ) -> SampleMoments:
        size = len(next(iter(batch.feed.values())))
        part = sample_moments(results, place, size, batch.rows)
        if part is None:
            raise UsageError(
                f"{value.name} has no row for each sample: the last batch cannot be filled up",
                f"give a number of samples that {size} divides",
            )
        if len(part.means) == len(left):
            return SampleMoments(part.means[~left], part.spreads[~left], part.positions)
        if np.any(left) and len(part.means):
            raise UsageError(
                f"{value.name} has no row for each sample, so that none can be held out",
                "omit `holdout`",
            )
        return part

    def has_labels(self) -> bool:
        """Whether the data says what should come out."""
        return next(self.batches())[0].labels is not None

    def accuracy(self) -> float:
        """The share of the held-out samples whose label is the largest of the first output."""
        path = self.folder / f"whole{self.done}.onnx"
        session = self.session(model_file.save(self.file.model, self.file.storage, path))
        right = count = 0
        for batch, held in self.batches():
            if batch.labels is None:
                raise UsageError(
                    "`holdout` needs labels", "put them into the .npz file as the array y"
                )
            scores = next(iter(self.results(session, batch).values()))[: batch.rows]
            labels = np.asarray(batch.labels)
            if scores.ndim != 2 or labels.ndim != 1 or labels.dtype.kind not in "iu":
                raise UsageError(
                    f"`holdout` needs scores [N, classes] and whole numbers [N] as labels, not "
                    f"{list(scores.shape)} and {labels.dtype}{list(labels.shape)}"
                )
            right += int(np.count_nonzero((np.argmax(scores, axis=1) == labels)[held]))
            count += int(np.count_nonzero(held))
            self.step()
        if not count:
            raise UsageError("`holdout` leaves no sample aside", "hold out a larger share")
        return right / count

    def answer(self, **more: Any) -> dict[str, Any]:
        """What every task tells."""
        refusals = [*self.refused.values(), *norms(Index(self.file.model, self.file.storage))[1]]
        told = {r.node: {"node": r.node, "sentence": r.sentence} for r in reversed(refusals)}
        for node in self.unreached:
            told[node] = {"node": node, "sentence": f"{node} is in a branch that no sample takes"}
        return {"left": list(told.values())} | more


def stats(job: Job) -> dict[str, Any]:
    """Compare the statistics of the data with the stored ones, the worst first."""
    request = job.request
    runner = _Runner(job)
    runner.stage("running the data through the model")
    found, refused = norms(Index(runner.file.model, runner.file.storage))
    _require_some(found, refused)
    data = runner.moments(node for node, _ in found)
    limits = DriftLimits(**request["limits"])
    seen = [(node, stored) for node, stored in found if data[Value.read_by(node)].samples]
    runner.unreached = [node.label for node, _ in found if not data[Value.read_by(node)].samples]
    drifts = [drift(stored, data[Value.read_by(node)], limits) for node, stored in seen]
    drifts.sort(key=severity, reverse=True)
    arrays = {f"{i}/{k}": v for i, d in enumerate(drifts) for k, v in asdict(d).items()
              if isinstance(v, np.ndarray)}  # fmt: skip
    _save(job.folder, arrays)
    plain = [
        {k: v for k, v in asdict(d).items() if not isinstance(v, np.ndarray)} for d in drifts
    ]  # fmt: skip
    return runner.answer(drifts=plain)


def means(job: Job) -> dict[str, Any]:
    """The means of values of the main graph, by their names."""
    runner = _Runner(job)
    runner.stage("running the data through the model")
    index = Index(runner.file.model, runner.file.storage)
    wanted = set(job.request["values"])
    data = runner.moments(node for node in index.scopes[0].nodes if node.input(0) in wanted)
    found = {value.name: moments.mean for value, moments in data.items()}
    return {"names": _save_named(job.folder, found)}


def recalibrate(job: Job) -> dict[str, Any]:
    """Estimate μ and σ² anew, layer after layer; each sees what those before it give then."""
    request = job.request
    runner = _Runner(job)
    index = Index(runner.file.model, runner.file.storage)
    found, refused = norms(index)
    _require_some(found, refused)
    prior: float | None = _prior(runner, found)
    before = _accuracy_sentence(runner)
    layers = {
        level: [place_of(node) for node in nodes]
        for level, nodes in levels(index, [node for node, _ in found]).items()
    }
    estimates: dict[Place, tuple[FloatArray, FloatArray]] = {}
    samples = 0
    for number, level in enumerate(sorted(layers), start=1):
        runner.stage(f"estimating layer {number} of {len(layers)}")
        index = Index(runner.file.model, runner.file.storage)
        now = {place_of(node): (node, stored) for node, stored in norms(index)[0]}
        data = runner.moments(now[place][0] for place in layers[level])
        new = {}
        for place in layers[level]:
            node, old = now[place]
            moments = data[Value.read_by(node)]
            if not moments.samples:
                runner.unreached.append(node.label)
                continue
            samples = max(samples, moments.samples)
            share = float(request["momentum"])
            if prior is None:
                share = 1.0
            elif prior:  # (N·stored + n·estimated)/(N + n)
                share = prior / (prior + moments.samples)
            new[place] = (
                share * old.mean + (1 - share) * moments.mean,
                share * old.variance + (1 - share) * moments.variance,
            )
        estimates |= new
        for refusal in assign_statistics(index, new):
            raise UndecidedError(refusal.sentence, refusal.reason.remedy)
        if number == 1:  # now it is known how many batches a pass has
            done = runner.done if before is None else runner.done // 2
            passes = len(layers) + (2 if before is not None else 0)
            runner.total = done * passes
    after = _accuracy_sentence(runner)
    flat = {f"{scope}/{name}/{what}": value for (scope, name), both in estimates.items()
            for what, value in zip(("mean", "variance"), both, strict=True)}  # fmt: skip
    return runner.answer(
        names=_save_named(job.folder, flat), layers=len(layers), samples=samples, before=before,
        after=after, prior=prior,
    )  # fmt: skip


def _prior(runner: _Runner, found: list[tuple[Node, StoredStatistics]]) -> float | None:
    """As how many samples the stored statistics count; None where nothing else should."""
    if runner.request["prior"] != "auto":
        return float(runner.request["prior"])
    runner.stage("choosing a prior")
    nodes = [node for node, _ in found]
    kept, held = runner.moments(nodes), runner.moments(nodes, held_out=True)
    both = [(old, kept[Value.read_by(node)], held[Value.read_by(node)]) for node, old in found]
    known = [entry for entry in both if entry[1].samples and entry[2].samples]
    if not known and any(entry[1].samples for entry in both):
        raise UsageError(
            "there are too few samples to hold any of them out", "give a number for the prior"
        )
    return likeliest_prior(known)


def _save(folder: Path, arrays: dict[str, Any]) -> None:
    np.savez(folder / "result.npz", **arrays)


def _save_named(folder: Path, arrays: dict[str, Any]) -> list[str]:
    """Save arrays by their number, since an archive takes not every name; gives the names."""
    _save(folder, {f"a{number}": array for number, array in enumerate(arrays.values())})
    return list(arrays)


def _accuracy_sentence(runner: _Runner) -> float | None:
    chosen = runner.request["prior"] == "auto"
    if not runner.request["holdout"] or (chosen and not runner.has_labels()):
        return None
    runner.stage("measuring the accuracy")
    return runner.accuracy()


def _require_some(found: list[Any], refused: list[Refusal]) -> None:
    """Raises UsageError where there is nothing to estimate."""
    if found:
        return
    if not refused:
        raise UsageError("the model has no BatchNormalization", "there is nothing to estimate")
    more = f", and {len(refused) - 1} more like it" if len(refused) > 1 else ""
    raise UsageError(
        "the model has no inference BatchNormalization with constant statistics: "
        f"{refused[0].sentence}{more}",
        refused[0].reason.remedy,
    )
