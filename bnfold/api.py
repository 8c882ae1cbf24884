"""The functions that fold and verify: fold, inspect, optimize, verify.

Each takes plain arguments and returns a frozen result; the command line is a thin layer over them.
"""

from __future__ import annotations

import contextlib
import dataclasses
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, cast

import onnx

from bnfold.deprecation import renamed_parameter
from bnfold.errors import ModelError, UsageError
from bnfold.folding.in_place import FoldResult, Model, fold_in_place
from bnfold.folding.inlining import inlined
from bnfold.folding.layer_details import Layer, layers
from bnfold.folding.plan import plan
from bnfold.folding.selection import helpful_flags, require_sites
from bnfold.graph.index import BATCH_NORM, Index
from bnfold.graph.node_counts import NodeCounts
from bnfold.onnx_io import graphsurgeon, model_file
from bnfold.onnx_io.data_files import DataFolder
from bnfold.onnx_io.output_paths import PathLike, folded_path, require_own_data
from bnfold.onnx_io.replace_file import Kind, require_replaceable
from bnfold.onnx_io.tensor_storage import Storage
from bnfold.onnx_io.write_model import on_disk, write_model
from bnfold.options import Level, Options, Rest, RunOptions, Verify, current_choice, require_choice
from bnfold.progress import Progress, Stage, ignore
from bnfold.tuning.prediction.verdicts import LayerSummary
from bnfold.verdict import Verdict
from bnfold.verification import proof_file as proof_files
from bnfold.verification.client import Comparing, compare
from bnfold.verification.comparison import Comparison, require_equal

if TYPE_CHECKING:
    from bnfold.tuning.tensor_moments.moments_of_tensors import Watch


@dataclass(frozen=True)
class Inspection:
    """What bnfold would do to a model, without doing it."""

    verdicts: tuple[Verdict, ...]
    counts: NodeCounts
    layers: tuple[Layer, ...] = ()  # with details=True, one for each verdict
    flags: tuple[str, ...] = ()  # where nothing folds: fields of Options with which it would
    statistics: tuple[LayerSummary, ...] = ()  # whether what is stored fits, see `consistency`


@dataclass(frozen=True)
class OptimizeResult(FoldResult[Path]):
    """A folded file. `model` is its path; sizes are in bytes and include external data.

    `data_files` are those that belong to the model; `left_behind` are the data files of a model
    that was replaced, which are not deleted.
    """

    bytes_before: int = 0
    bytes_after: int = 0
    data_files: tuple[Path, ...] = ()
    left_behind: tuple[Path, ...] = ()
    comparison: Comparison | None = None  # None: nothing folded, or verify="none"
    layers: tuple[Layer, ...] = ()  # with details=True, one for each verdict
    flags: tuple[str, ...] = ()  # where nothing folded: fields of Options with which it would
    statistics: tuple[LayerSummary, ...] = ()  # with details=True, see `consistency`


def fold(
    model: Model, *, options: Options | None = None, base_dir: PathLike | None = None
) -> FoldResult[Model]:
    """Fold every BatchNormalization that can be folded; returns a new model.

    `model` is an onnx.ModelProto or an onnx_graphsurgeon.Graph and is left as it is; the result's
    `model` is of the same type. Nothing is run: `verify` compares two models in onnxruntime.

    Where a ModelProto has external data that was not loaded, `base_dir` is the folder that it is
    in. What is folded is then in the result's model, and the rest is external as before.

    Raises ModelError where a name is read that nothing makes, a name is made twice or a tensor is
    damaged (it is no full check of the model), TypeError for anything but the two types.
    """
    if isinstance(model, onnx.ModelProto):
        return fold_in_place(_copy(model), _storage(base_dir), options)  # type: ignore[return-value]
    if graphsurgeon.is_graph(model):
        result = fold_in_place(graphsurgeon.to_model(model), Storage(), options)
        return dataclasses.replace(result, model=graphsurgeon.to_graph(result.model))  # type: ignore
    raise TypeError(f"fold takes a ModelProto or an onnx_graphsurgeon Graph, not {type(model)}")


def inspect(
    model: onnx.ModelProto | PathLike,
    *,
    options: Options | None = None,
    base_dir: PathLike | None = None,
    details: bool = False,
) -> Inspection:
    """The verdict on every BatchNormalization of a model or a file; nothing is changed or run.

    `base_dir` is where the external data of a ModelProto is. `details` adds what a report draws.
    Raises ModelError where the file cannot be read or the model is not valid.
    """
    if isinstance(model, onnx.ModelProto):
        proto, storage = model, _storage(base_dir)
    else:
        file = model_file.read(Path(model))
        proto, storage = file.model, file.storage
    index = Index(proto, storage)
    require_sites(index, options)
    before, verdicts = NodeCounts.of(index), plan(index, options).verdicts
    named = options is not None and (options.skip or options.only)
    if (
        not named and inlined(proto, verdicts) is not None
    ):  # whether that pays shows only when it is done
        verdicts = fold_in_place(_copy(proto), storage, options).verdicts
    drawn = layers(index, None, verdicts, options or Options()) if details else ()
    flags: tuple[str, ...] = ()
    if not any(verdict.folded for verdict in verdicts):
        flags = helpful_flags(index, options)
    from bnfold.tuning.prediction.consistency import consistency_of

    statistics = consistency_of(index).summaries
    return Inspection(verdicts, before, drawn, flags, statistics)


@renamed_parameter("trial", "run_options")
def optimize(
    path_in: PathLike,
    path_out: PathLike | None = None,
    *,
    in_place: bool = False,
    verify: Verify = "run",
    external_data: str = model_file.KEEP,
    options: Options | None = None,
    run_options: RunOptions | None = None,
    details: bool = False,
    proof_file: PathLike | None = None,
    moments_file: PathLike | None = None,
    progress: Progress | None = None,
) -> OptimizeResult:
    """Fold a file, verify the result against the original, and write it.

    `path_out` defaults to `model.folded.onnx` beside `model.onnx`. `verify` is "none", "proof"
    (check the fold from the two files), "run" (and run both models on the same inputs) or "full"
    (and every fold by itself, and in float64). `options` says what is allowed beyond the default,
    `run_options` on which inputs and within which limits the two models are run. The output gets
    its name only after the verification; a file of that name is replaced.

    `external_data` is "keep" (tensors stay in the model or in as many data files as before),
    "inline" (everything in the model) or the name of one data file beside the output. `details`
    adds what a report draws: the maps of all layers and the ranges of their weights. `proof_file`
    is where to write the proof, which `verify` can check again, and `moments_file` what the folded
    BatchNormalizations said of the tensors that are left, as .json, .csv or .overrides.json (for
    onnxruntime's quantiser). `progress` is called with each Stage of the work.

    Raises ModelError (unreadable, invalid), UsageError (paths, inputs), NotEqualError (nothing is
    written), UndecidedError (neither proven nor runnable), WorkerError (the worker crashed).
    """
    verify = cast(Verify, current_choice("verify", verify))
    require_choice("verify", verify, Verify)
    if proof_file is not None and verify == "none":
        raise UsageError(
            '`proof_file` asks for a proof, and `verify="none"` for checking none',
            'use `verify="proof"`, which checks it and runs nothing',
        )
    source = Path(path_in)
    freeze = options is not None and options.freeze_initializers
    with contextlib.ExitStack() as stack:
        comparing: Comparing | None = None
        if verify != "none":  # it begins while we read and plan
            comparing = stack.enter_context(
                Comparing(source, run_options or RunOptions(), level=verify,
                          freeze_initializers=freeze)
            )  # fmt: skip
        tell = progress or ignore
        tell(Stage("reading the model"))
        file = model_file.read(source)
        size = file.size  # with data files that nothing may be left in
        target = folded_path(source, path_out, in_place)
        if in_place:
            require_own_data(file, target)
        original = _copy(file.model) if details else None
        before = proof_files.resources(source) if proof_file is not None else ()
        if proof_file is not None:
            require_replaceable(Path(proof_file), Kind.PROOF, [source, target])
        watch: Watch | None = None
        if moments_file is not None:
            from bnfold.tuning.tensor_moments import files as moment_files
            from bnfold.tuning.tensor_moments.moments_of_tensors import Watch

            moment_files.require_writable(moments_file, [source, target])
            watch = Watch()
        tell(Stage("planning what to fold"))
        result = fold_in_place(file.model, file.storage, options, watch=watch)
        drawn, statistics = _details(original, file, result.verdicts, options)
        flags: tuple[str, ...] = ()
        if not result.folded:
            flags = helpful_flags(Index(file.model, file.storage), options)
        comparison: Comparison | None = None

        def check(candidate: Path) -> None:
            nonlocal comparison
            if comparing is not None and result.folded:
                comparison = comparing.with_folded(
                    candidate, (result.proof,), proven=True, progress=progress
                )
                require_equal(comparison)

        tell(Stage("writing the model"))
        written = write_model(
            file, target, keep=not in_place, external_data=external_data, check=check,
            unchanged=not (result.folded or file.locations or external_data != model_file.KEEP),
        )  # fmt: skip
        if proof_file is not None:
            certificate = comparison.certificate if comparison is not None else None
            proof_files.write(
                proof_file, before, target, result.proof, options or Options(), certificate
            )
        if moments_file is not None and watch is not None:
            moment_files.save(watch.tensors, moments_file, target.name)
        return OptimizeResult(
            target, result.verdicts, result.before, result.after, result.copied_bytes, result.proof,
            size,
            written.size, written.data_files, written.left_behind, comparison, drawn, flags,
            statistics,
        )  # fmt: skip


@renamed_parameter("trial", "run_options")
def verify(
    original: onnx.ModelProto | PathLike,
    folded: onnx.ModelProto | PathLike,
    *,
    run_options: RunOptions | None = None,
    level: Level = "full",
    foreign: bool = False,
    freeze_initializers: bool = False,
    proof_file: PathLike | None = None,
    progress: Progress | None = None,
) -> Comparison:
    """Compare two models: what the files tell, and what they give in onnxruntime.

    `level` is how far to go: "frame" (nothing changed but what folds explain; whether that is right
    is not looked at, and the result is never `equal`, see its `passed`), "proof" (and what
    was folded is right for every input), "folds" (and every folded node, fed what the original
    computes there, gives the same), "run" (a proof, and both models on the same inputs) or "full"
    (all of these, and the errors of both models against float64). `foreign`: the second
    model was made by another tool; changes of names and metadata are reported but not held against
    it, and its constants may be rounded more than once. `freeze_initializers`: callers do not
    replace initializers that are also graph inputs. `proof_file` is a proof that `optimize` wrote
    of these two files: it is believed in nothing, and proven again. `progress` is called with each
    Stage.

    Raises ModelError, UndecidedError or WorkerError where no comparison was possible; a difference
    is not an error here: look at the result's `equal`.
    """
    level = cast(Level, current_choice("level", level))
    require_choice("level", level, Level)
    if foreign and proof_file is not None:
        raise UsageError(
            "`foreign` and `proof_file` exclude each other",
            "a proof says all that has changed: omit `foreign`",
        )
    if foreign and level == "frame":
        raise UsageError(
            '`level="frame"` asks whether files are the same but for folds; those of another tool '
            "are not",
            'use `level="proof"`',
        )
    with contextlib.ExitStack() as stack:
        one, two = on_disk(original, stack), on_disk(folded, stack)
        if proof_file is not None:
            proofs = [proof_files.read(proof_file, one, two)]
        else:
            proofs = [] if foreign else _own_folds(one, two, freeze=freeze_initializers)
        return compare(
            one, two, run_options or RunOptions(), level=level, foreign=foreign,
            freeze_initializers=freeze_initializers, exact=level == "full", progress=progress,
            proofs=proofs, proven=proof_file is not None,
        )  # fmt: skip


def _own_folds(original: Path, folded: Path, *, freeze: bool) -> list[str]:
    """What bnfold itself would do to a model, with the options that two files make likely.

    Nobody believes it: it is tried on the two files, and proves them equal or does not.
    """
    try:
        before, after = model_file.read(original), model_file.read(folded)
        counts = [
            Counter(node.op for node in Index(file.model, file.storage).nodes())
            for file in (before, after)
        ]
        if counts[1][BATCH_NORM] and not counts[0][BATCH_NORM]:
            raise UsageError(
                f"{folded} has a BatchNormalization, {original} has none: no fold adds any",
                "swap the two files; or compare any two models with `foreign`",
            )
        options = Options(
            freeze_initializers=freeze,
            allow_max=counts[1]["Max"] > counts[0]["Max"],
            merge_branches=counts[1]["Conv"] < counts[0]["Conv"],
            rest=_likely_rest(*counts),
        )
        return [fold_in_place(before.model, before.storage, options).proof]
    except ModelError:  # said by whoever compares them
        return []


def _likely_rest(before: Counter[str], after: Counter[str]) -> Rest:
    """What two models say of the BatchNormalizations that nothing took."""
    if after[BATCH_NORM] or not before[BATCH_NORM]:
        return "keep"
    if after["Conv"] > before["Conv"]:
        return "conv"
    return "affine" if after["Mul"] + after["Add"] > before["Mul"] + before["Add"] else "keep"


def _copy(model: onnx.ModelProto) -> onnx.ModelProto:
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    return copy


def _details(
    original: onnx.ModelProto | None, folded: model_file.ModelFile, verdicts: tuple[Verdict, ...],
    options: Options | None,
) -> tuple[tuple[Layer, ...], tuple[LayerSummary, ...]]:  # fmt: skip
    """What a report shows, of a model that was kept for it."""
    if original is None:
        return (), ()
    before, after = (Index(model, folded.storage) for model in (original, folded.model))
    from bnfold.tuning.prediction.consistency import consistency_of

    drawn = layers(before, after, verdicts, options or Options())
    return drawn, consistency_of(before).summaries


def _storage(base_dir: PathLike | None) -> Storage:
    return Storage(None if base_dir is None else DataFolder(Path(base_dir)))
