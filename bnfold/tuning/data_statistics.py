"""Statistics that fit the data: `stats` looks at them, `recalibrate` mends them.

Both run the data through the model in a process of their own, batch by batch; what is in memory is
one batch, whatever the size of the data.
"""

from __future__ import annotations

import math
import os
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import msgspec
import numpy as np

from bnfold.errors import NotBetterError, UndecidedError, UsageError
from bnfold.graph.index import Index, Node
from bnfold.onnx_io import model_file
from bnfold.onnx_io.output_paths import PathLike, output_path
from bnfold.onnx_io.write_model import write_model
from bnfold.options import ImageLayout, require_choice
from bnfold.progress import Progress
from bnfold.runtime.process import run_worker
from bnfold.tuning.drift import ChannelDrift, DriftLimits, Fit
from bnfold.tuning.moments import FloatArray
from bnfold.tuning.stored_statistics import assign_statistics
from bnfold.tuning.training_mode import assume_inference as put_into_inference

_HELD_OUT = 0.25  # the share of samples that choose a prior


@dataclass(frozen=True)
class Dataset:
    """Data for a model: what, and how it is read.

    `path` is an .npz file with an array [N, …] for each input (and `y`, labels), a folder of .npz
    or .npy files, test_data_set folders, or a folder of images. `batch` samples are run at a time,
    where the model leaves that open. Images are read as (value/255 − mean)/std, in `layout` "NCHW"
    or "NHWC", resized to `resize` (height, width) or to what the model declares.
    """

    path: PathLike
    batch: int = 32
    mean: Sequence[float] = ()
    std: Sequence[float] = ()
    layout: ImageLayout = "NCHW"
    resize: tuple[int, int] | None = None
    providers: tuple[str, ...] = ()
    timeout: float = 86_400.0
    memory_limit: int | None = None


@dataclass(frozen=True)
class SkippedNode:
    """A BatchNormalization that was not looked at, and why."""

    node: str
    sentence: str


@dataclass(frozen=True)
class StatsResult:
    """How the stored statistics fit the data, a BatchNormalization each, the worst first."""

    drifts: tuple[ChannelDrift, ...]
    left: tuple[SkippedNode, ...]

    @property
    def drifted(self) -> tuple[ChannelDrift, ...]:
        """Those that do not fit."""
        return tuple(d for d in self.drifts if d.fit is Fit.DRIFTED)


@dataclass(frozen=True)
class RecalibrateResult:
    """A file with new statistics.

    `layers` is how many BatchNormalizations stand in a row at most, which is how often the data was
    read; `before` and `after` are the accuracies on what was held out, None without. `prior` is as
    how many samples the stored statistics counted.
    """

    model: Path
    norms: int
    layers: int
    samples: int
    left: tuple[SkippedNode, ...]
    before: float | None = None
    after: float | None = None
    prior: float = 0.0


def stats(
    model: PathLike, data: Dataset, *, limits: DriftLimits | None = None,
    assume_inference: bool = False, progress: Progress | None = None,
) -> StatsResult:  # fmt: skip
    """Compare what a file's BatchNormalizations have stored with what they see of the data.

    Nothing is written. Raises ModelError, UsageError (the data cannot be read or does not fit),
    UndecidedError (onnxruntime has no kernel) and WorkerError.
    """
    request = _request("stats", model, data, assume_inference=assume_inference)
    request["limits"] = asdict(limits or DriftLimits())
    return run_worker(request, data.timeout, _stats, progress)


def _stats(answer: dict[str, Any], folder: Path) -> StatsResult:
    with np.load(folder / "result.npz", allow_pickle=False) as archive:
        arrays = {name: archive[name] for name in archive.files}
    drifts = []
    for number, plain in enumerate(answer["drifts"]):
        own = {n.partition("/")[2]: a for n, a in arrays.items() if n.startswith(f"{number}/")}
        drifts.append(ChannelDrift(**(plain | own | {"fit": Fit(plain["fit"])})))
    return StatsResult(tuple(drifts), _skipped(answer))


def recalibrate(
    path_in: PathLike, data: Dataset, path_out: PathLike | None = None, *, momentum: float = 0.0,
    prior: float | Literal["auto"] = 0.0, holdout: float = 0.0, require_improvement: bool = False,
    assume_inference: bool = False, progress: Progress | None = None,
) -> RecalibrateResult:  # fmt: skip
    """Estimate μ and σ² of every BatchNormalization anew over all of the data, and write the model.

    Layer after layer, so that each sees what those before it give with their new statistics, as if
    all data were one batch in training mode (precise BN: Wu & Johnson, *Rethinking "Batch" in
    BatchNorm*, 2021, arXiv:2105.07576, §3). σ² is the mean squared deviation, not the unbiased
    estimate. Nothing else of the model changes. With `momentum` m, what is written is m·stored +
    (1 − m)·estimated. With a `prior` of N, for few samples, what is stored counts like N of them:
    (N·stored + n·estimated)/(N + n) of n samples (Schneider et al., *Improving Robustness Against
    Common Corruptions by Covariate Shift Adaptation*, 2020, arXiv:2006.16971, §3). "auto" takes the
    N under which samples that are held out (a quarter, where `holdout` says no other share) are the
    likeliest, and writes nothing where these are the stored statistics themselves, or where the
    accuracy on them falls.

    `holdout` is the share of samples, evenly spread, that are not used for it, and on which the
    accuracy is measured against the labels `y` before and after;
    `require_improvement` refuses to write unless it rises.

    Raises what `stats` raises, and NotBetterError.
    """
    if not 0 <= momentum < 1 or not 0 <= holdout < 1:
        raise UsageError("momentum and holdout are shares: at least 0, and below 1")
    if prior == "auto":
        holdout = holdout or _HELD_OUT
    elif isinstance(prior, str) or not 0 <= prior < math.inf:
        raise UsageError("`prior` is a number of samples", "give one, or auto")
    if prior and momentum:
        raise UsageError(
            "`prior` is a number of samples, which decides what `momentum` would",
            "give one of them",
        )
    if require_improvement and not holdout:
        raise UsageError("`require_improvement` needs `holdout`: samples to measure it on")
    source = Path(path_in)
    target = output_path(source, path_out, ".recalibrated.onnx")
    require_not_data(target, Path(data.path))
    request = _request("recalibrate", source, data, assume_inference=assume_inference)
    request |= {"momentum": momentum, "prior": prior, "holdout": holdout}
    answer, estimates = run_worker(request, data.timeout, _estimates, progress)
    before, after = answer["before"], answer["after"]
    if not answer["samples"]:
        raise UsageError(
            "no sample reaches a BatchNormalization", "the data takes other branches than these"
        )
    if answer["samples"] < 2:
        raise UsageError(
            "there is one sample, and one sample has no spread",
            "give as many as the model would see in a batch, at least",
        )
    if answer["prior"] is None:
        raise NotBetterError(
            "under the stored statistics what is held out is the likeliest",
            "nothing was written; the data does not call for others",
        )
    falls = before is not None and after < before
    if (prior == "auto" and falls) or (require_improvement and not after > before):
        raise NotBetterError(
            f"the accuracy was {before:.4f} and would be {after:.4f}",
            "nothing was written; the stored statistics fit the held-out data as well",
        )
    file = model_file.read(source)
    if assume_inference:
        put_into_inference(Index(file.model, file.storage), even_dummies=True)
    for refusal in assign_statistics(Index(file.model, file.storage), estimates):
        raise UndecidedError(refusal.sentence, refusal.reason.remedy)
    write_model(file, target)
    return RecalibrateResult(
        target,
        len(estimates),
        answer["layers"],
        answer["samples"],
        _skipped(answer),
        before,
        after,
        answer["prior"],
    )


def means(
    model: PathLike, data: Dataset, readers: Iterable[Node], progress: Progress | None = None
) -> dict[str, FloatArray]:
    """The means of what these nodes of the main graph read, over all of the data, by its name.

    Channels are on the second axis. Raises what `stats` raises.
    """
    request = _request("means", model, data, assume_inference=False)
    request["values"] = list(dict.fromkeys(node.input(0) for node in readers))
    if not request["values"]:
        return {}
    return run_worker(request, data.timeout, _named_arrays, progress)


def require_not_data(target: Path, data: Path) -> None:
    """Raises UsageError where what would be written is (a file of) the data."""
    if not target.exists() or not data.exists():
        return
    inside = data.is_dir() and data.resolve() in target.resolve().parents
    if target.samefile(data) or (inside and target.suffix.lower() != ".onnx"):
        raise UsageError(f"the output {target} is the data itself", "choose another name")


def _named_arrays(answer: dict[str, Any], folder: Path) -> dict[str, FloatArray]:
    """What the worker has saved, by names that no archive would take."""
    with np.load(folder / "result.npz", allow_pickle=False) as archive:
        return {name: archive[f"a{number}"] for number, name in enumerate(answer["names"])}


def _estimates(answer: dict[str, Any], folder: Path) -> tuple[dict[str, Any], Any]:
    flat = _named_arrays(answer, folder)
    found = {}
    for place in dict.fromkeys(name.rpartition("/")[0] for name in flat):
        scope, _, output = place.partition("/")
        found[int(scope), output] = (flat[f"{place}/mean"], flat[f"{place}/variance"])
    return answer, found


def _skipped(answer: dict[str, Any]) -> tuple[SkippedNode, ...]:
    return msgspec.convert(answer["left"], tuple[SkippedNode, ...])


def _request(
    task: str, model: PathLike, data: Dataset, *, assume_inference: bool
) -> dict[str, Any]:  # fmt: skip
    require_choice("layout", data.layout, ImageLayout)
    if data.batch < 1:
        raise UsageError("a batch has at least one sample")
    return {
        "task": task,
        "original": os.path.abspath(model),
        "inputs": os.path.abspath(data.path),
        "batch": data.batch,
        "pictures": {
            "mean": list(data.mean),
            "std": list(data.std),
            "layout": data.layout,
            "resize": data.resize,
        },
        "providers": data.providers,
        "memory_limit": data.memory_limit,
        "assume_inference": assume_inference,
        "holdout": 0.0,
    }
