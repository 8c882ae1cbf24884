"""The verdict on two files: same inputs through both, every output held against its bound."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
from onnx import ModelProto, TensorProto

from bnfold import model_file
from bnfold.child import inputs as model_inputs
from bnfold.child import noise, reference
from bnfold.child.saturation import behind
from bnfold.child.sessions import Array, Feed, check_memory, is_float, load_error, open_session, run
from bnfold.comparison import Comparison, InputUsed, OutputDifference
from bnfold.errors import UndecidedError

_MARGIN = 4  # times the model's own noise: largest of a few draws against one draw of the fold
_ROUNDINGS = 4  # of the last operations: x·s, +b of the original; +b′ and b′ itself of the fold

_LEAST_GROUP = 64  # elements of a channel from which on it is judged by itself

Run = dict[str, Array]
Noise = npt.NDArray[np.float64]  # one number for each group of an output


def judge(request: dict[str, Any], folder: Path) -> dict[str, Any]:
    """Compare as the request says. Raises BnfoldError where nothing can be decided."""
    try:
        return asdict(_Judge(request, folder).compare())
    except _SaysNothingError:
        deeper = behind(request, folder)
        if deeper is None:
            raise
        return asdict(_Judge(deeper, folder).compare())


class _SaysNothingError(UndecidedError):
    """Rounding may change an output by as much as it holds."""


class _Judge:
    def __init__(self, request: dict[str, Any], folder: Path) -> None:
        self.request = request
        self.folder = folder
        self.path: str = request["original"]
        self.model: ModelProto = model_file.read(Path(self.path)).model
        self.folded: ModelProto = model_file.read(Path(request["folded"])).model
        self.feeds: list[Feed] = []

    def compare(self) -> Comparison:
        self._stage("loading the original")
        try:
            original = open_session(self.path)
        except Exception as error:
            raise load_error(error) from error
        self._stage("running the original")
        truth = self._run_original(original)
        self._require_determinism(original, truth)
        del original
        self._stage("checking the folded model")
        if mismatch := self._invalid() or self._other_interface():
            return self._comparison((), mismatch)
        try:
            self._stage("loading the folded model")
            folded = open_session(self.request["folded"])
            self._stage("running the folded model")
            results = [_tensors(run(folded, feed)) for feed in self.feeds]
        except Exception as error:
            check_memory(error)
            return self._comparison((), f"onnxruntime refuses the folded model: {error}")
        return self._comparison(tuple(self._judge_outputs(truth, results)))

    # --- running ---------------------------------------------------------------------------------

    def _run_original(self, session: Any) -> list[Run]:
        request = self.request
        specs = model_inputs.specs(self.model, request["input_shapes"])
        if request["inputs"] is not None:
            candidates = iter([[model_inputs.from_npz(request["inputs"], specs)]])
        else:
            candidates = model_inputs.feeds(self.model, specs, request["dims"], request["seed"])
        refused: Exception | None = None
        for feeds in candidates:
            try:
                runs = [_tensors(run(session, feed)) for feed in feeds]
            except UndecidedError:
                raise
            except Exception as error:
                check_memory(error)
                refused = refused or error
                continue
            self.feeds = feeds
            return runs
        raise UndecidedError(
            f"the original does not run on any input that bnfold can make up: {refused}",
            "give real inputs with --inputs FILE.npz, or shapes with --input-shape and --dim",
        )

    def _require_determinism(self, session: Any, truth: list[Run]) -> None:
        again = _tensors(run(session, self.feeds[0]))
        for name, array in truth[0].items():
            if not np.array_equal(array, again[name], equal_nan=is_float(array)):
                raise UndecidedError(
                    f"two runs of the original give different values of {name!r}: it is random",
                    "remove its random operators, or write without comparison: --verify none",
                )

    # --- what can be said without comparing numbers ----------------------------------------------

    def _invalid(self) -> str:
        """Why the folded file is not valid although the original is, "" if it is."""
        try:
            onnx.checker.check_model(self.path)
        except Exception:  # not valid to begin with: nothing to hold the folded one to
            return ""
        try:
            onnx.checker.check_model(self.request["folded"])
        except Exception as error:
            return f"the folded model is not valid ONNX: {error}"
        return ""

    def _other_interface(self) -> str:
        for what, ours, theirs in (
            ("inputs", _interface(self.model, "input"), _interface(self.folded, "input")),
            ("outputs", _interface(self.model, "output"), _interface(self.folded, "output")),
        ):
            if ours != theirs:
                return f"the {what} differ: {', '.join(ours)} became {', '.join(theirs)}"
        return ""

    # --- numbers ---------------------------------------------------------------------------------

    def _judge_outputs(self, truth: list[Run], results: list[Run]) -> Iterator[OutputDifference]:
        names = list(truth[0])
        _require_finite(names, truth)
        differences = {name: _Differences(name, truth, results) for name in names}
        moved: dict[str, Noise] = {name: np.zeros(1) for name in names}
        if any(d.beyond(moved[name]) for name, d in differences.items()):
            self._stage("measuring the original's own noise")
            moved = self._noise(truth)
        if any(d.beyond(moved[name]) for name, d in differences.items()):
            self._stage("evaluating the original in float64")
            for name, error in self._rounding_error().items():
                moved[name] = _larger(moved[name], error)
        for name, difference in differences.items():
            may_say_nothing = name in self.request.get("flattened", ())
            yield difference.judged(moved[name], may_say_nothing=may_say_nothing)

    def _noise(self, truth: list[Run]) -> dict[str, Noise]:
        moved: dict[str, Noise] = {name: np.zeros(1) for name in truth[0]}
        for draw in range(noise.DRAWS):
            rng = np.random.default_rng([self.request["seed"], draw, 1])
            copy = model_file.ModelFile(Path(self.path), noise.jiggled(self.model, rng))
            path = self.folder / f"jiggled{draw}.onnx"
            copy.external = list(model_file.tensors(copy.model)) if copy.is_large else []
            with model_file.Output(path) as output:
                output.write(copy)
                output.publish()
            session = open_session(str(path))
            for feed, reference_run in zip(self.feeds, truth, strict=True):
                jiggled = _tensors(run(session, noise.jiggled_feed(feed, rng)))
                for name, array in reference_run.items():
                    if jiggled[name].shape == array.shape:
                        moved[name] = _larger(moved[name], _distance(array, jiggled[name]))
        return moved

    def _rounding_error(self) -> dict[str, Noise]:
        worst: dict[str, Noise] = {}
        for feed in self.feeds:
            for name, (narrow, wide) in reference.in_two_precisions(self.model, feed).items():
                worst[name] = _larger(worst.get(name, np.zeros(1)), _distance(wide, narrow))
        return worst

    # --- small things ----------------------------------------------------------------------------

    def _comparison(self, outputs: tuple[OutputDifference, ...], mismatch: str = "") -> Comparison:
        used = tuple(
            InputUsed(name, str(array.dtype), array.shape) for name, array in self.feeds[0].items()
        )
        return Comparison(outputs, used, len(self.feeds), mismatch)

    def _stage(self, stage: str) -> None:
        """Leave word of what is being done, for the parent to report if this process dies."""
        (self.folder / "stage").write_text(stage)


class _Differences:
    """The differences of one output in all runs, group by group (see `_groups`)."""

    def __init__(self, name: str, truth: list[Run], results: list[Run]) -> None:
        self.name = name
        self.truth = [run[name] for run in truth]
        self.results = [run[name] for run in results]
        self.note = next(filter(None, map(_unlike, self.truth, self.results)), "")
        self.distances = [
            np.zeros(1) if self.note else _distance(a, b)
            for a, b in zip(self.truth, self.results, strict=True)
        ]

    def bounds(self, moved: Noise) -> list[Noise]:
        """What rounding explains, for each run and group."""
        return [_MARGIN * moved + _floor(array) for array in self.truth]

    def beyond(self, moved: Noise) -> bool:
        """Whether any group of any run differs by more."""
        pairs = zip(self.distances, self.bounds(moved), strict=True)
        return any(bool(np.any(distance > bound)) for distance, bound in pairs)

    def judged(self, moved: Noise, *, may_say_nothing: bool) -> OutputDifference:
        """The verdict, with the figures of the group that comes closest to its bound."""
        bounds = self.bounds(moved)
        ratios = [
            np.divide(d, b, out=(d > 0) * np.inf, where=b > 0)
            for d, b in zip(self.distances, bounds, strict=True)
        ]
        run = int(np.argmax([np.max(ratio, initial=0.0) for ratio in ratios]))
        group = int(np.argmax(ratios[run])) if ratios[run].size else 0
        array = self.truth[run]
        distance, bound = (_entry(values[run], group) for values in (self.distances, bounds))
        size = _entry(_magnitude(array), group) if is_float(array) else float(array.size)
        silent = 0 < distance <= bound and not self._tells(bounds)
        if silent and not (self.note or may_say_nothing):
            raise _SaysNothingError(
                f"rounding alone may change the output {self.name!r} by {bound:.3g}, which is as "
                f"much as it holds ({size:.3g}): equality would mean nothing",
                "give inputs with --inputs on which the model's own results are stable",
            )
        return OutputDifference(
            name=self.name, dtype=str(array.dtype), shape=array.shape, max_abs=distance,
            max_rel=distance / size if size else 0.0, bound=bound, noise=_entry(moved, group),
            equal=not self.note and not self.beyond(moved), note=self.note,
        )  # fmt: skip

    def _tells(self, bounds: list[Noise]) -> bool:
        """Whether anything was compared that is larger than its bound."""
        return any(
            bool(np.any((_magnitude(array) if is_float(array) else array.size) > bound))
            for array, bound in zip(self.truth, bounds, strict=True)
        )


def _larger(one: Noise, other: Noise) -> Noise:
    """Group by group; of all groups together where runs do not have the same ones."""
    if one.size == other.size or 1 in (one.size, other.size):
        return np.maximum(one, other)
    return np.array([max(np.max(one), np.max(other))])


def _entry(values: Noise, group: int) -> float:
    return float(values[group]) if group < values.size else float(np.max(values, initial=0.0))


def _groups(array: Array) -> Array:
    """The array as [groups, elements]: what is compared with one bound.

    Feature maps are judged channel by channel, where a channel has enough elements for its noise to
    be measured by a few draws; all else as a whole.
    """
    if array.ndim > 2 and array.shape[1] and array.size // array.shape[1] >= _LEAST_GROUP:
        return np.moveaxis(array, 1, 0).reshape(array.shape[1], -1)
    return array.reshape(1, -1)


def _unlike(a: Array, b: Array) -> str:
    """What makes two arrays incomparable, "" if nothing."""
    if a.dtype != b.dtype:
        return f"type {a.dtype} became {b.dtype}"
    if a.shape != b.shape:
        return f"shape {list(a.shape)} became {list(b.shape)}"
    if is_float(a):
        same = (np.isnan(a) == np.isnan(b)) & (~np.isinf(a) & ~np.isinf(b) | (a == b) | np.isnan(a))
        if not same.all():
            return f"NaN or infinity in different places ({np.count_nonzero(~same)} values)"
    return ""


def _distance(a: Array, b: Array) -> Noise:
    """The largest absolute difference of each group; but for floats, how many are different."""
    if not is_float(a):
        return np.array([np.count_nonzero(a != b)], np.float64)
    both = np.isfinite(a) & np.isfinite(b)
    wide = np.where(both, a, 0).astype(np.float64) - np.where(both, b, 0).astype(np.float64)
    return np.asarray(np.max(np.abs(_groups(wide)), axis=1, initial=0.0))


def _magnitude(array: Array) -> Noise:
    values = np.abs(np.where(np.isfinite(array), array, 0).astype(np.float64))
    return np.asarray(np.max(_groups(values), axis=1, initial=0.0))


def _floor(array: Array) -> Noise:
    """What the rounding of the last operations alone may do."""
    if not is_float(array):
        return np.zeros(1)
    unit_roundoff = float(np.finfo(array.dtype).eps) / 2
    return _ROUNDINGS * unit_roundoff * _magnitude(array)


def _tensors(outputs: dict[str, Any]) -> Run:
    for name, value in outputs.items():
        if not isinstance(value, np.ndarray):
            raise UndecidedError(
                f"the output {name!r} is no tensor, which bnfold cannot compare",
                "write without comparison: --verify none",
            )
    return outputs


def _require_finite(names: list[str], truth: list[Run]) -> None:
    arrays = [run[name] for run in truth for name in names]
    if not any(array.size and (not is_float(array) or np.any(array != 0)) for array in arrays):
        raise UndecidedError(
            "every output of the original is empty or zero throughout, so equality would mean "
            "nothing",
            "give real inputs with --inputs FILE.npz",
        )
    for name in names:
        arrays = [run[name] for run in truth]
        if all(a.size and is_float(a) and not np.isfinite(a).any() for a in arrays):
            raise UndecidedError(
                f"every value of the original's output {name!r} is NaN or infinite, so equality "
                "would mean nothing",
                "give real inputs with --inputs FILE.npz",
            )


def _interface(model: ModelProto, side: str) -> list[str]:
    """Names and element types, without the inputs that IR 3 lists for every initializer."""
    listed = model.graph.initializer if side == "input" and model.ir_version < 4 else ()
    hidden = {tensor.name for tensor in listed}
    return [
        f"{value.name}: {TensorProto.DataType.Name(value.type.tensor_type.elem_type).lower()}"
        for value in getattr(model.graph, side)
        if value.name not in hidden
    ]
