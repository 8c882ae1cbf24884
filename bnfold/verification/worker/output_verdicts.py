"""What both models give in the end: how far apart, and how far rounding explains."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator
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

    What is known is asked in the order of what it costs, and an output passes as soon as one of it
    suffices: the roundings of the last operations; what inputs moved by one ulp do, and weights
    moved by one ulp; the errors of both models against float64. Each is found once.
    """

    request: dict[str, Any]
    sessions: SessionFactory
    original: ModelFile
    feeds: list[Feed]
    truth: list[Run]
    folder: Path
    stage: Callable[[str], None]
    expected: list[Run] = field(default_factory=list)
    in_float64: bool = True
    _exact: dict[int, dict[str, Exact]] = field(default_factory=dict)  # by the run
    _moved: list[dict[str, Noise]] = field(default_factory=list)  # after each draw
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

        def beyond() -> list[Differences]:
            return [d for name, d in open_still.items() if d.beyond(moved[name])]

        if open_still and self.request["exact"]:
            self._compare_in_float64(list(open_still.values()), len(self.feeds) if beyond() else 1)
        draws = self._draws()
        while beyond() and (drawn := next(draws, None)) is not None:
            moved = drawn
        if beyond() and self.in_float64 and not self.request["exact"]:
            self._compare_in_float64(beyond(), len(self.feeds))
        for name, difference in open_still.items():
            found[name] = difference.judged(moved[name], may_say_nothing=name in saturated)
        return tuple(found[name] for name in names)

    def _compare_in_float64(self, differences: list[Differences], runs: int) -> None:
        """Take the errors of both models, of these outputs, on the first feeds."""
        exact = [self._evaluated(i) if i < runs else {} for i in range(len(self.feeds))]
        for difference in differences:
            difference.compare_with([values.get(difference.name) for values in exact])

    def _tolerance(self, name: str) -> tuple[float, float] | None:
        """Rtol and atol where the user gave either for this output, or for all."""
        given = [self.request[kind] for kind in ("rtol", "atol")]
        if not any(name in values or "" in values for values in given):
            return None
        rtol, atol = (values.get(name, values.get("", 0.0)) for values in given)
        return rtol, atol

    def _evaluated(self, place: int) -> dict[str, Exact]:
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
        return list(self._draws())[-1]

    def _draws(self) -> Iterator[dict[str, Noise]]:
        """How far each output has moved after each draw: inputs first, then weights as well."""
        yield from self._moved
        while len(self._moved) < 2 * noise.DRAWS:
            self.stage("measuring the original's own noise")
            self._moved.append(self._one_more(len(self._moved)))
            yield self._moved[-1]

    def _one_more(self, number: int) -> dict[str, Noise]:
        weights, draw = divmod(number, noise.DRAWS)
        rng = np.random.default_rng([self.request["seed"], draw, 1 if weights else 2])
        path = self.original.path
        if weights:
            storage = self.original.storage
            model = noise.perturbed(self.original.model, storage, rng)
            path = model_file.save(model, storage, self.folder / f"jiggled{draw}.onnx")
        session = self.sessions.open(str(path))
        if not number:
            require_determinism(session, self.feeds[0], self.truth[0])
        moved = dict(self._moved[-1]) if number else {n: np.zeros(1) for n in self.truth[0]}
        for feed, own in zip(self.feeds, self.truth, strict=True):
            perturbed = require_tensors(run(session, noise.perturbed_feed(feed, rng)))
            for name, array in own.items():
                if perturbed[name].shape == array.shape:
                    moved[name] = larger(moved[name], distance(array, perturbed[name]))
        return moved


def require_determinism(session: Any, feed: Feed, truth: Run) -> None:
    """Raises UndecidedError where the original gives other values each time."""
    again = require_tensors(run(session, feed))
    for name, array in truth.items():
        if name in again and not np.array_equal(array, again[name], equal_nan=is_float(array)):
            raise UndecidedError(
                f"two runs of the original give different values of {name!r}: it is random",
                'remove its random operators, or write without comparing: `verify="none"`',
            )


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
