"""What both models give in the end: how far apart, and how far rounding explains."""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from bnfold.errors import UndecidedError
from bnfold.onnx_io import model_file
from bnfold.onnx_io.model_file import ModelFile
from bnfold.runtime.sessions import Feed, Run, SessionFactory, is_float, require_tensors, run
from bnfold.verification.comparison import OutputDifference
from bnfold.verification.numerics import float64, noise
from bnfold.verification.numerics.differences import Differences, Exact, Noise, distance, larger


@dataclass
class OutputJudge:
    """The original's outputs on some feeds, and what there is to know of their rounding.

    Its noise and its values in float64 are found when they are needed, and once.
    """

    request: dict[str, Any]
    sessions: SessionFactory
    original: ModelFile
    feeds: list[Feed]
    truth: list[Run]
    folder: Path
    stage: Callable[[str], None]
    expected: list[Run] = field(default_factory=list)
    _exact: dict[int, dict[str, Exact]] = field(default_factory=dict)  # by the run
    _moved: dict[str, Noise] | None = None
    _evaluator: float64.BothPrecisions | None = None

    def judged(
        self, results: list[Run], saturated: Collection[str] = ()
    ) -> tuple[OutputDifference, ...]:
        """The verdict on each output. Raises SaysNothingError unless it is among `saturated`."""
        names = list(self.truth[0])
        found: dict[str, OutputDifference] = {}
        open_still: dict[str, Differences] = {}
        for name in names:
            difference = Differences(name, self.truth, results, self.expected)
            tolerance = self._tolerance(name)
            if tolerance is not None:
                found[name] = difference.literal(*tolerance)
            else:
                open_still[name] = difference
        moved: dict[str, Noise] = {name: np.zeros(1) for name in names}

        def beyond() -> bool:
            return any(d.beyond(moved[name]) for name, d in open_still.items())

        if open_still and (self.request["exact"] or beyond()):
            runs = range(len(self.feeds)) if beyond() else range(1)
            for name, difference in open_still.items():
                difference.compare_with([
                    self._in_float64(i).get(name) if i in runs else None
                    for i in range(len(self.feeds))
                ])  # fmt: skip
        if beyond():
            moved = self.noise()
        for name, difference in open_still.items():
            found[name] = difference.judged(moved[name], may_say_nothing=name in saturated)
        return tuple(found[name] for name in names)

    def _tolerance(self, name: str) -> tuple[float, float] | None:
        """Rtol and atol where the user gave either for this output, or for all."""
        given = [self.request[kind] for kind in ("rtol", "atol")]
        if not any(name in values or "" in values for values in given):
            return None
        rtol, atol = (values.get(name, values.get("", 0.0)) for values in given)
        return rtol, atol

    def _in_float64(self, place: int) -> dict[str, Exact]:
        if place not in self._exact:
            self.stage("evaluating the original in float64")
            try:
                self._evaluator = self._evaluator or float64.BothPrecisions(self.original.loaded)
                self._exact[place] = self._evaluator.run(self.feeds[place])
            except MemoryError:  # then this measure is not to be had
                self._exact[place] = {}
        return self._exact[place]

    def noise(self) -> dict[str, Noise]:
        """How far each output moves where weights and inputs move by one ulp."""
        if self._moved is not None:
            return self._moved
        self.stage("measuring the original's own noise")
        moved: dict[str, Noise] = {name: np.zeros(1) for name in self.truth[0]}
        for draw in range(noise.DRAWS):
            rng = np.random.default_rng([self.request["seed"], draw, 1])
            storage = self.original.storage
            moved_model = noise.perturbed(self.original.model, storage, rng)
            path = model_file.save(moved_model, storage, self.folder / f"jiggled{draw}.onnx")
            session = self.sessions.open(str(path))
            for feed, own in zip(self.feeds, self.truth, strict=True):
                perturbed = require_tensors(run(session, noise.perturbed_feed(feed, rng)))
                for name, array in own.items():
                    if perturbed[name].shape == array.shape:
                        moved[name] = larger(moved[name], distance(array, perturbed[name]))
        self._moved = moved
        return moved


def require_finite(truth: list[Run]) -> None:
    """Raises UndecidedError where the outputs are such that equality would mean nothing."""
    arrays = [array for run in truth for array in run.values()]
    if not any(array.size and (not is_float(array) or np.any(array != 0)) for array in arrays):
        raise UndecidedError(
            "every output of the original is empty or zero throughout, so equality would mean "
            "nothing",
            "give real inputs with `inputs`",
        )
    for name in truth[0]:
        arrays = [run[name] for run in truth]
        if all(a.size and is_float(a) and not np.isfinite(a).any() for a in arrays):
            raise UndecidedError(
                f"every value of the original's output {name!r} is NaN or infinite, so equality "
                "would mean nothing",
                "give real inputs with `inputs`",
            )
