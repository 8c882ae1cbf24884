"""The verdict on two files: same inputs through both, every output held against its bound."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import ModelProto, TensorProto

from bnfold import model_file
from bnfold.child import given, noise, reference, rounding
from bnfold.child import inputs as model_inputs
from bnfold.child.differences import Differences, Noise, Run, SaysNothingError, distance, larger
from bnfold.child.saturation import behind
from bnfold.child.sessions import Feed, check_memory, is_float, load_error, open_session, run
from bnfold.comparison import Comparison, InputUsed, OutputDifference
from bnfold.errors import BnfoldError, UndecidedError
from bnfold.model_file import ModelFile

Request = dict[str, Any]


@dataclass(frozen=True)
class Pair:
    """The two models, as they are or changed alike, and the names that the change is about."""

    original: ModelFile
    folded: ModelFile
    cut: frozenset[str] = frozenset()  # fed as inputs
    inner: frozenset[str] = frozenset()  # compared as outputs
    flattened: frozenset[str] = frozenset()  # outputs whose last operator is looked behind

    def changed(self, folder: Path, change: Callable[[ModelProto], None]) -> Pair:
        """The pair after a change of both models, which are written into `folder`."""
        files = (
            _saved(file, change, folder / f"{which}_{next(_NUMBERS)}.onnx")
            for file, which in ((self.original, "original"), (self.folded, "folded"))
        )
        original, folded = files
        return replace(self, original=original, folded=folded)


_NUMBERS = itertools.count()


def _saved(file: ModelFile, change: Callable[[ModelProto], None], path: Path) -> ModelFile:
    copy = file.copy()
    change(copy.model)
    return model_file.read(model_file.save(copy.model, copy.storage, path))


def judge(request: Request, folder: Path) -> dict[str, Any]:
    """Compare as the request says. Raises BnfoldError where nothing can be decided."""
    original, folded = (model_file.read(Path(request[w])) for w in ("original", "folded"))
    whole = Pair(original, folded)
    mismatch = _other_interface(whole)
    pair, feeds = _cut_at_roundings(request, folder, whole)
    try:
        return asdict(_Judge(request, folder, pair, feeds).compare(whole, mismatch))
    except SaysNothingError:
        common = behind(pair.original.model, pair.folded.model)
        if not common:
            raise
        sources = set(common.values())
        deeper = pair.changed(folder, lambda model: rounding.expose(model, sources))
        deeper = replace(deeper, flattened=frozenset(common))
        return asdict(_Judge(request, folder, deeper, feeds).compare(whole, mismatch))


def _cut_at_roundings(request: Request, folder: Path, whole: Pair) -> tuple[Pair, list[Feed]]:
    """Both models cut open at their roundings, and what to feed them.

    As they are, and no feeds, where they round nothing.
    """
    roundings = rounding.common(whole.original, whole.folded)
    if not roundings:
        return whole, []
    names = set(roundings)
    exposed = _saved(
        whole.original, lambda model: rounding.expose(model, names), folder / "exposed.onnx"
    )
    judge = _Judge(request, folder, replace(whole, original=exposed))
    try:
        runs = judge.run_original()
    except BnfoldError:  # uncut it may run; if not, it is said of the model as it is
        return whole, []
    feeds = [
        {**feed, **{name: run[name] for name in roundings}}
        for feed, run in zip(judge.feeds, runs, strict=True)
    ]
    own = {value.name for value in whole.folded.model.graph.output}
    cut = whole.changed(folder, lambda model: rounding.cut(model, roundings, feeds[0]))
    inner = frozenset(roundings.values()) - own
    return replace(cut, cut=frozenset(roundings), inner=inner), feeds


class _Judge:
    def __init__(
        self, request: Request, folder: Path, pair: Pair, feeds: Sequence[Feed] = ()
    ) -> None:
        self.request = request
        self.folder = folder
        self.pair = pair
        self.original = pair.original
        self.feeds = list(feeds)

    def compare(self, whole: Pair, mismatch: str) -> Comparison:
        """The verdict; `mismatch` is in what the whole models differ before any is run."""
        truth = self.run_original()
        self._stage("checking the folded model")
        if mismatch := _invalid(whole) or mismatch:
            return self._comparison((), mismatch)
        try:
            self._stage("loading the folded model")
            folded = open_session(str(self.pair.folded.path))
            self._stage("running the folded model")
            results = [_tensors(run(folded, feed)) for feed in self.feeds]
        except Exception as error:
            check_memory(error)
            return self._comparison((), f"onnxruntime refuses the folded model: {error}")
        del folded  # one model in memory at a time
        return self._comparison(self._told(tuple(self._judge_outputs(truth, results))))

    # --- running ---------------------------------------------------------------------------------

    def run_original(self) -> list[Run]:
        """Its outputs on each feed; the feeds are found first where none were given."""
        self._stage("loading the original")
        try:
            session = open_session(str(self.original.path))
        except Exception as error:
            raise load_error(error) from error
        self._stage("running the original")
        truth = self._run_on_feeds(session)
        self._require_determinism(session, truth)
        return truth

    def _run_on_feeds(self, session: Any) -> list[Run]:
        if self.feeds:
            return [_tensors(run(session, feed)) for feed in self.feeds]
        request = self.request
        model = self.original.model
        specs = model_inputs.specs(model, request["input_shapes"])
        if request["inputs"] is not None:
            candidates = iter([given.read(Path(request["inputs"]), specs)])
        else:
            candidates = model_inputs.feeds(model, specs, request["dims"], _drawing(request))
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

    # --- numbers ---------------------------------------------------------------------------------

    def _judge_outputs(self, truth: list[Run], results: list[Run]) -> Iterator[OutputDifference]:
        names = list(truth[0])
        _require_finite(names, truth)
        differences = {name: Differences(name, truth, results) for name in names}
        for name in names:
            if (tolerance := self._tolerance(name)) is not None:
                yield differences.pop(name).literal(*tolerance)
        moved: dict[str, Noise] = {name: np.zeros(1) for name in names}
        if any(d.beyond(moved[name]) for name, d in differences.items()):
            self._stage("measuring the original's own noise")
            moved = self._noise(truth)
        if any(d.beyond(moved[name]) for name, d in differences.items()):
            self._stage("evaluating the original in float64")
            for name, error in self._rounding_error().items():
                moved[name] = larger(moved[name], error)
        for name, difference in differences.items():
            may_say_nothing = name in self.pair.flattened
            yield difference.judged(moved[name], may_say_nothing=may_say_nothing)

    def _tolerance(self, name: str) -> tuple[float, float] | None:
        """Rtol and atol where the user gave either for this output, or for all."""
        given = [self.request[kind] for kind in ("rtol", "atol")]
        if not any(name in values or "" in values for values in given):
            return None
        rtol, atol = (values.get(name, values.get("", 0.0)) for values in given)
        return rtol, atol

    def _noise(self, truth: list[Run]) -> dict[str, Noise]:
        moved: dict[str, Noise] = {name: np.zeros(1) for name in truth[0]}
        for draw in range(noise.DRAWS):
            rng = np.random.default_rng([self.request["seed"], draw, 1])
            storage = self.original.storage
            moved_model = noise.jiggled(self.original.model, storage, rng)
            path = model_file.save(moved_model, storage, self.folder / f"jiggled{draw}.onnx")
            session = open_session(str(path))
            for feed, reference_run in zip(self.feeds, truth, strict=True):
                jiggled = _tensors(run(session, noise.jiggled_feed(feed, rng)))
                for name, array in reference_run.items():
                    if jiggled[name].shape == array.shape:
                        moved[name] = larger(moved[name], distance(array, jiggled[name]))
        return moved

    def _rounding_error(self) -> dict[str, Noise]:
        worst: dict[str, Noise] = {}
        model = self.original.loaded()
        for feed in self.feeds:
            for name, (narrow, wide) in reference.in_two_precisions(model, feed).items():
                worst[name] = larger(worst.get(name, np.zeros(1)), distance(wide, narrow))
        return worst

    # --- small things ----------------------------------------------------------------------------

    def _told(self, outputs: tuple[OutputDifference, ...]) -> tuple[OutputDifference, ...]:
        """The model's own outputs; of what is inside, what differs and what comes closest to it."""
        worst = self._comparison(outputs).worst
        return tuple(
            output
            for output in outputs
            if output.name not in self.pair.inner or output is worst or not output.equal
        )

    def _comparison(self, outputs: tuple[OutputDifference, ...], mismatch: str = "") -> Comparison:
        used = tuple(
            InputUsed(name, str(array.dtype), array.shape)
            for name, array in self.feeds[0].items()
            if name not in self.pair.cut
        )
        return Comparison(outputs, used, len(self.feeds), mismatch)

    def _stage(self, stage: str) -> None:
        """Leave word of what is being done, for the parent to report if this process dies."""
        (self.folder / "stage").write_text(stage)


def _drawing(request: Request) -> model_inputs.Drawing:
    ranges = {name: (low, high) for name, (low, high) in request["val_range"].items()}
    return model_inputs.Drawing(request["seed"], request["check"], request["fill"], ranges)


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


# --- what can be said without comparing numbers --------------------------------------------------


def _invalid(pair: Pair) -> str:
    """Why the folded file is not valid although the original is, "" if it is."""
    try:
        onnx.checker.check_model(pair.original.path)
    except Exception:  # not valid to begin with: nothing to hold the folded one to
        return ""
    try:
        onnx.checker.check_model(pair.folded.path)
    except Exception as error:
        return f"the folded model is not valid ONNX: {error}"
    return ""


def _other_interface(pair: Pair) -> str:
    """In what inputs or outputs the models differ, "" if in none."""
    for side in ("input", "output"):
        ours, theirs = (_interface(file.model, side) for file in (pair.original, pair.folded))
        if ours != theirs:
            return f"the {side}s differ: {', '.join(ours)} became {', '.join(theirs)}"
    return ""
