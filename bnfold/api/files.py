"""Files: `optimize` folds one, verifies the result and writes it."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, cast

import onnx

from bnfold.api.models import copied
from bnfold.deprecation import renamed_parameter
from bnfold.errors import UsageError
from bnfold.folding.in_place import FoldResult, fold_in_place
from bnfold.folding.layer_details import Layer, layers
from bnfold.folding.selection import helpful_flags
from bnfold.graph.index import Index
from bnfold.onnx_io import model_file
from bnfold.onnx_io.output_paths import PathLike, folded_path, require_own_data
from bnfold.onnx_io.private_folder import PrivateFolder
from bnfold.onnx_io.replace_file import Kind, require_replaceable
from bnfold.onnx_io.write_model import write_model
from bnfold.options import (
    Level,
    Options,
    RunOptions,
    Scales,
    Verify,
    current_choice,
    require_choice,
)
from bnfold.progress import Progress, Stage, ignore
from bnfold.quantization.equalization import EqualizeResult
from bnfold.tuning.prediction.verdicts import LayerSummary
from bnfold.verdict import Verdict
from bnfold.verification import proof_file as proof_files
from bnfold.verification.client import Comparing, compare_by_proof
from bnfold.verification.comparison import Comparison, require_equal

if TYPE_CHECKING:
    from bnfold.tuning.tensor_moments.moments_of_tensors import Watch
from bnfold.tuning.tensor_moments.tensors import TensorMoments


@dataclass(frozen=True)
class OptimizeResult(FoldResult[Path]):
    """A folded file. `model` is its path; sizes are in bytes and include external data.

    `data_files` are those that belong to the model; `left_behind` are the data files of a model
    that was replaced, which are not deleted. `flags` are fields of Options, and how many sites more
    would fold if they were set.
    """

    bytes_before: int = 0
    bytes_after: int = 0
    data_files: tuple[Path, ...] = ()
    left_behind: tuple[Path, ...] = ()
    comparison: Comparison | None = None  # None: nothing folded, or verify="none"
    layers: tuple[Layer, ...] = ()  # with details=True, one for each verdict
    flags: Mapping[str, int] = field(default_factory=dict)  # only where nothing folded
    statistics: tuple[LayerSummary, ...] = ()  # with details=True, see `consistency`
    equalized: EqualizeResult | None = None  # where that was asked for


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
    equalize: Scales | None = None,
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
    onnxruntime's quantiser). `equalize` moves scales between layers afterwards, which is verified
    by itself: see `bnfold.equalize`. `progress` is called with each Stage of the work.

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
    if proof_file is not None and equalize is not None:
        raise UsageError(
            "`proof_file` is for one proof, and `equalize` has one of its own",
            "equalise the folded model afterwards: `bnfold.equalize`",
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
        original = copied(file.model) if details else None
        before = proof_files.resources(source) if proof_file is not None else ()
        if proof_file is not None:
            require_replaceable(Path(proof_file), Kind.PROOF, [source, target])
        watch: Watch | None = None
        if moments_file is not None:
            from bnfold.tuning.tensor_moments import files as moment_files

            moment_files.require_writable(moments_file, [source, target])
        if moments_file is not None or equalize is not None:
            from bnfold.tuning.tensor_moments.moments_of_tensors import Watch

            watch = Watch()
        tell(Stage("planning what to fold"))
        result = fold_in_place(file.model, file.storage, options, watch=watch)
        flags: dict[str, int] = {}
        if not result.folded:
            flags = helpful_flags(Index(file.model, file.storage), options, 0)
        equalizing: _Equalizing | None = None
        if equalize is not None and watch is not None:
            tell(Stage("moving scales between layers"))
            folder = stack.enter_context(PrivateFolder())
            equalizing = _Equalizing(file, folder, equalize, watch.tensors)
        drawn, statistics = _details(original, file, result.verdicts, options)
        comparison: Comparison | None = None

        def check(candidate: Path) -> None:
            nonlocal comparison
            if comparing is not None and result.folded:
                comparison = comparing.with_folded(
                    equalizing.folded if equalizing else candidate, (result.proof,), proven=True,
                    progress=progress,
                )  # fmt: skip
                require_equal(comparison)
            if equalizing and verify != "none":
                equalizing.verify(candidate, verify, run_options, progress)

        changed = bool(result.folded) or (equalizing is not None and bool(equalizing.found.proof))
        tell(Stage("writing the model"))
        written = write_model(
            file, target, keep=not in_place, external_data=external_data, check=check,
            unchanged=not (changed or file.locations or external_data != model_file.KEEP),
        )  # fmt: skip
        if proof_file is not None:
            certificate = comparison.certificate if comparison is not None else None
            proof_files.write(
                proof_file, before, target, result.proof, options or Options(), certificate
            )
        if moments_file is not None and watch is not None:
            tensors = equalizing.found.moments if equalizing else watch.tensors
            moment_files.save(tensors, moments_file, target.name)
        return OptimizeResult(
            target, result.verdicts, result.before, result.after, result.copied_bytes, result.proof,
            size,
            written.size, written.data_files, written.left_behind, comparison, drawn, flags,
            statistics, equalizing.result(target) if equalizing else None,
        )  # fmt: skip


class _Equalizing:
    """A folded model that is equalised; what it was is kept, since each step is verified alone."""

    def __init__(
        self, file: model_file.ModelFile, folder: Path, scales: Scales,
        moments: tuple[TensorMoments, ...],
    ) -> None:  # fmt: skip
        """Changes the model in `file`."""
        from bnfold.quantization.equalize import equalize_in_place

        self.folded = model_file.save(file.model, file.storage, folder / "folded.onnx")
        self.found = equalize_in_place(file.model, file.storage, moments=moments, scales=scales)
        self._comparison: Comparison | None = None

    def verify(
        self, candidate: Path, level: Level, run_options: RunOptions | None,
        progress: Progress | None,
    ) -> None:  # fmt: skip
        """Compare the equalised model with the folded one. Raises NotEqualError."""
        if self.found.proof:
            self._comparison = compare_by_proof(
                self.folded, candidate, self.found.proof, run_options, level=level,
                progress=progress,
            )  # fmt: skip

    def result(self, target: Path) -> EqualizeResult:
        """What became of it."""
        return EqualizeResult(**vars(self.found), model=target, comparison=self._comparison)


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
