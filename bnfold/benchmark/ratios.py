"""What folding gains in onnxruntime: load time, memory, latency, size and nodes, side by side.

Each load is a process of its own, the two models in turn; latencies are taken in pairs within one
process, in which each model in turn is the first to be opened. A ratio, folded / original, is the
median over the processes, each of which counts once, with the median of its own pairs. Its interval
is that of order statistics for a median (the inverted sign test): it holds for any distribution, as
long as processes are independent. No model is called faster where the interval holds 1.
"""

from __future__ import annotations

import math
import os
import statistics
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from bnfold.deprecation import renamed_parameter
from bnfold.errors import UsageError
from bnfold.graph.index import Index
from bnfold.graph.node_counts import NodeCounts
from bnfold.onnx_io import model_file
from bnfold.onnx_io.output_paths import PathLike
from bnfold.options import RunOptions
from bnfold.progress import Progress, Stage, ignore
from bnfold.runtime.process import run_worker

_SURE = 0.95


@dataclass(frozen=True)
class Measurement:
    """One figure of both models: medians with quartiles, in seconds or bytes; and their ratio.

    `low` and `high` hold the median ratio with 95 % confidence; None where there are fewer than six
    processes, which cannot tell.
    """

    original: tuple[float, float, float]
    folded: tuple[float, float, float]
    ratio: float
    low: float | None
    high: float | None

    @property
    def differs(self) -> bool:
        """Whether the ratio is not 1, as far as the interval can tell."""
        return self.low is not None and self.high is not None and not self.low <= 1 <= self.high


@dataclass(frozen=True)
class ExecutedGraph:
    """What onnxruntime runs of a model."""

    nodes: int
    batch_norms: int


@dataclass(frozen=True)
class BenchMode:
    """Both models with onnxruntime's optimisations off, or on.

    `load` and `latency` are in seconds; `loaded`, what a model takes in memory once it is open, and
    `peak`, the most up to the end of one run, in bytes beyond those of onnxruntime itself.
    """

    optimised: bool
    load: Measurement
    loaded: Measurement
    peak: Measurement
    latency: Measurement
    original: ExecutedGraph | None
    folded: ExecutedGraph | None


@dataclass(frozen=True)
class BenchResult:
    """Two files side by side; sizes in bytes, with their data files."""

    sizes: tuple[int, int]
    nodes: tuple[int, int]
    batch_norms: tuple[int, int]
    inputs: tuple[str, ...]
    providers: tuple[str, ...]
    threads: int
    modes: tuple[BenchMode, ...]


@renamed_parameter("trial", "run_options")
def bench(
    original: PathLike, folded: PathLike, *, run_options: RunOptions | None = None, runs: int = 15,
    repeat: int = 10, threads: int = 0, modes: Sequence[bool] = (False, True),
    progress: Progress | None = None,
) -> BenchResult:  # fmt: skip
    """Measure two models with the same inputs, `repeat` times `runs` runs of each.

    `run_options` says on which inputs and providers, and within which limits. `threads` is the
    number of threads per operator, 0 for onnxruntime's choice; `modes` are whether its
    optimisations are on. `progress` is called with each Stage.

    Raises ModelError, UsageError, UndecidedError and WorkerError.
    """
    if runs < 1 or not 1 <= repeat <= 1000 or threads < 0 or not modes:
        raise UsageError(
            "runs is at least 1, repeat 1 to 1000, threads at least 0; one mode or both"
        )
    run_options = run_options or RunOptions()
    files = [model_file.read(Path(path)) for path in (original, folded)]
    counts = [NodeCounts.of(Index(file.model, file.storage)) for file in files]
    request = asdict(run_options) | {
        "original": os.path.abspath(original), "folded": os.path.abspath(folded),
        "inputs": os.path.abspath(run_options.inputs) if run_options.inputs else None, "check": 1,
        "threads": threads, "runs": runs,
    }  # fmt: skip
    tell = _Counting(len(modes) * repeat, progress)
    found = [_mode(request | {"optimised": on}, run_options.timeout, repeat, tell) for on in modes]
    inputs = found[0][1]
    return BenchResult(
        (files[0].size, files[1].size),
        (counts[0].nodes, counts[1].nodes),
        (counts[0].batch_norms, counts[1].batch_norms),
        tuple(f"{name} {dtype}{shape}" for name, dtype, shape in inputs),
        run_options.providers or ("CPUExecutionProvider",),
        threads,
        tuple(mode for mode, _ in found),
    )


def _mode(
    request: dict[str, Any], timeout: float, repeat: int, tell: Callable[[], None]
) -> tuple[BenchMode, Any]:
    loads: list[list[dict[str, float]]] = [[], []]
    seconds: list[list[float]] = [[], []]
    ratios: list[float] = []
    graphs: list[Any] = []
    inputs: Any = ()
    for number in range(repeat):
        asked = {"task": "latency", "graphs": number == 0, "number": number}
        answer = _ask(request | asked, timeout)
        graphs, inputs = graphs or answer["graphs"], answer["inputs"]
        for which, name in enumerate(("original", "folded")):
            seconds[which] += answer[name]
        ratios.append(statistics.median(map(_ratio, answer["original"], answer["folded"])))
        for which in (0, 1) if number % 2 else (1, 0):
            path = request["folded" if which else "original"]
            loads[which].append(_ask(request | {"task": "load", "measured": path}, timeout))
        tell()
    figures = {
        name: measured([one[name] for one in loads[0]], [one[name] for one in loads[1]])
        for name in ("seconds", "loaded", "peak")
    }
    own = [None if graph is None else ExecutedGraph(*graph) for graph in graphs]
    latency = measured(seconds[0], seconds[1], ratios)
    mode = BenchMode(
        request["optimised"], figures["seconds"], figures["loaded"], figures["peak"], latency, *own
    )
    return mode, inputs


def _ask(request: dict[str, Any], timeout: float) -> dict[str, Any]:
    return run_worker(request, timeout, lambda answer, _: answer)


class _Counting:
    """Tells how much is done."""

    def __init__(self, total: int, progress: Progress | None) -> None:
        self._done, self._total, self._progress = 0, total, progress or ignore

    def __call__(self) -> None:
        self._done += 1
        self._progress(Stage("measuring", self._done, self._total))


# --- figures -------------------------------------------------------------------------------------


def measured(
    original: Sequence[float], folded: Sequence[float], ratios: Sequence[float] | None = None
) -> Measurement:
    """The figures of measurements; each pair is independent, unless `ratios` says what is."""
    if ratios is None:
        ratios = list(map(_ratio, original, folded))
    low, high = interval(ratios)
    return Measurement(
        _quartiles(original), _quartiles(folded), statistics.median(ratios), low, high
    )  # fmt: skip


def interval(values: Sequence[float]) -> tuple[float | None, float | None]:
    """Two of the values between which the median lies with 95 % confidence, for any distribution.

    The k-th smallest and the k-th largest of n, with the largest k for which a fair coin thrown n
    times gives fewer than k heads in at most 2.5 % of all cases. (None, None) below six values.
    """
    n, ordered = len(values), sorted(values)
    k, tail = 0, 1 / 2**n
    while tail <= (1 - _SURE) / 2:
        k += 1
        tail += math.comb(n, k) / 2**n
    return (ordered[k - 1], ordered[n - k]) if k else (None, None)


def _ratio(old: float, new: float) -> float:
    return new / old if old else math.inf if new else 1.0


def _quartiles(values: Sequence[float]) -> tuple[float, float, float]:
    """The median, the first and the third quartile."""
    if len(values) == 1:
        return values[0], values[0], values[0]
    first, median, third = statistics.quantiles(values, method="inclusive")
    return median, first, third
