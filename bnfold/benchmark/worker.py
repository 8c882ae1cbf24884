"""What two models cost in onnxruntime: loading and memory, a model each; latency, side by side."""

from __future__ import annotations

import contextlib
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import onnx
from onnx import helper

from bnfold.errors import UsageError, first_line
from bnfold.onnx_io import model_file
from bnfold.runtime import feeding
from bnfold.runtime.job import Job
from bnfold.runtime.sessions import Feed, SessionFactory, check_memory, load_error, run
from bnfold.verification.worker import interface

_WARM_UP = 3  # runs of each model that do not count
_LEAST = 0.002  # seconds that one measurement takes; shorter ones are repeated
_BATCH_NORM = "BatchNormalization"
_SMALLEST = helper.make_model(
    helper.make_graph(
        [helper.make_node("Identity", ["x"], ["y"])],
        "smallest",
        [helper.make_tensor_value_info("x", 1, [1])],
        [helper.make_tensor_value_info("y", 1, [1])],
    ),
    ir_version=8,
    opset_imports=[helper.make_opsetid("", 17)],
).SerializeToString()
_SIDE = "they cannot be run side by side"


def load(job: Job) -> dict[str, Any]:
    """Open one model once, and run it once; seconds, and bytes beyond those before it was opened.

    "loaded" is what stays in memory once it is open, "peak" the most up to the end of the run.
    """
    request = job.request
    job.stage("loading a model")
    factory = _factory(request)
    factory.open(_SMALLEST, optimised=request["optimised"])  # what onnxruntime itself takes
    _reset_peak()
    before = _memory("VmRSS")
    start = time.perf_counter()
    session = _opened(factory, request["measured"], request)
    seconds = time.perf_counter() - start
    loaded = _memory("VmRSS")
    job.stage("running it")
    feeding.first_that_runs(request, job.original.model, lambda feed: run(session, feed))
    peak = _memory("VmHWM")
    return {"seconds": seconds, "loaded": max(loaded - before, 0), "peak": max(peak - before, 0)}


def latency(job: Job) -> dict[str, Any]:
    """Run both models in turn; the seconds of each run, pair by pair, and the graphs that ran.

    Raises UsageError for models that do not take the same inputs.
    """
    request, original, folded = job.request, job.original, job.folded
    job.stage("loading both models")
    if difference := interface.difference(original.model, folded.model):
        raise UsageError(f"{_SIDE}: {difference}")
    factory = _factory(request)
    paths = [str(file.path) for file in (original, folded)]
    graphs = (
        [_graph(factory, path, request, job.folder) for path in paths] if request["graphs"] else []
    )
    job.stage("finding inputs")
    feed = _feed(factory, original, request)
    first, second = (1, 0) if request["number"] % 2 else (0, 1)  # being the first is no matter
    sessions: dict[int, Any] = {}
    job.stage("running both in turn")
    for which in (first, second):
        sessions[which] = _opened(factory, paths[which], request)
        try:
            run(sessions[which], feed)
        except Exception as error:
            check_memory(error)
            told = first_line(error)
            raise UsageError(f"{_SIDE}: the second refuses the inputs: {told}") from error
    made = {which: _timer(sessions[which], feed) for which in (first, second)}
    seconds: list[list[float]] = [[], []]
    for number in range(request["runs"]):
        for which in (first, second) if number % 2 else (second, first):
            seconds[which].append(made[which]())
    inputs = [[name, str(array.dtype), list(array.shape)] for name, array in feed.items()]
    return {"original": seconds[0], "folded": seconds[1], "graphs": graphs, "inputs": inputs}


def _feed(factory: SessionFactory, original: model_file.ModelFile, request: dict[str, Any]) -> Feed:
    """The first set of inputs on which the original runs, in a session that goes again."""
    session = _opened(factory, str(original.path), request)
    sets, _ = feeding.first_that_runs(request, original.model, lambda feed: run(session, feed))
    return sets[0].feed


def _factory(request: dict[str, Any]) -> SessionFactory:
    return SessionFactory.of(request["providers"], request["threads"])


def _opened(factory: SessionFactory, path: str, request: dict[str, Any]) -> Any:
    try:
        return factory.open(path, optimised=request["optimised"])
    except Exception as error:
        raise load_error(error) from error


def _timer(session: Any, feed: Feed) -> Callable[[], float]:
    """What takes the time of one run, over as many as the clock needs.

    After one that does not count: until then the threads of the other model still wait for work,
    and its data is in the caches. Without it, ResNet-50 took 60 or 100 ms, by who had run before.
    """

    def once() -> float:
        start = time.perf_counter()
        run(session, feed)
        return time.perf_counter() - start

    times = max(1, round(_LEAST / max(statistics.median(once() for _ in range(_WARM_UP)), 1e-6)))

    def timed() -> float:
        run(session, feed)
        start = time.perf_counter()
        for _ in range(times):
            run(session, feed)
        return (time.perf_counter() - start) / times

    return timed


def _graph(
    factory: SessionFactory, path: str, request: dict[str, Any], folder: Path
) -> list[int] | None:
    """How many nodes, and BatchNormalizations, onnxruntime runs; None where it cannot say."""
    saved = folder / "optimised.onnx"
    with contextlib.suppress(Exception):  # above 2 GiB, or for compiled parts
        factory.open(path, optimised=request["optimised"], save_as=str(saved))
        nodes = onnx.load(saved, load_external_data=False).graph.node
        return [len(nodes), sum(node.op_type == _BATCH_NORM for node in nodes)]
    return None


def _reset_peak() -> None:
    with contextlib.suppress(OSError):  # not on Linux, or not allowed
        Path("/proc/self/clear_refs").write_text("5", encoding="utf-8")


def _memory(field: str) -> int:
    """Bytes of memory; where there is no /proc, the most up to now, or 0."""
    with contextlib.suppress(OSError, StopIteration):
        lines = Path("/proc/self/status").read_text(encoding="utf-8").splitlines()
        return int(next(line for line in lines if line.startswith(field)).split()[1]) * 1024
    try:
        import resource
    except ImportError:  # on Windows
        return 0
    most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return most if sys.platform == "darwin" else most * 1024
