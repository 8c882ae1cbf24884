"""The function behind `bnfold recover`."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import cast

from bnfold.errors import UsageError
from bnfold.graph.index import Index
from bnfold.onnx_io import model_file
from bnfold.onnx_io.output_paths import PathLike, output_path
from bnfold.onnx_io.private_folder import PrivateFolder
from bnfold.onnx_io.write_model import write_model
from bnfold.options import Level, RunOptions, Verify, require_choice
from bnfold.progress import Progress
from bnfold.tuning.freezing.recovery import (
    Recovered,
    put_back_folded,
    put_back_frozen,
    supported,
)
from bnfold.tuning.tensor_moments import files
from bnfold.verification.client import compare_by_proof
from bnfold.verification.comparison import Comparison


@dataclass(frozen=True)
class RecoverResult:
    """A file with BatchNormalizations put back. `comparison` is None where nothing was compared."""

    model: Path
    recovered: tuple[Recovered, ...]
    comparison: Comparison | None = None


def recover(
    path_in: PathLike,
    path_out: PathLike | None = None,
    *,
    moments_file: PathLike | None = None,
    verify: Verify = "run",
    run_options: RunOptions | None = None,
    progress: Progress | None = None,
) -> RecoverResult:
    """Put BatchNormalizations back into the main graph of a file: the model stays what it was.

    A Mul and an Add of constants per channel become a BatchNormalization. With the `moments_file`
    that `optimize` or `freeze` have written (.json), a BatchNormalization with these statistics
    also stands behind each tensor that one had made. Without it, μ is 0 and σ² is 1, which is the
    same function in inference, but not what training should start from. `verify`, `run_options`
    and `progress` are those of `optimize`; `path_out` defaults to `model.recovered.onnx`.

    Raises ModelError, UsageError (paths; IR below 4 or opset below 9), NotEqualError (nothing is
    written), UndecidedError and WorkerError.
    """
    require_choice("verify", verify, Verify)
    source = Path(path_in)
    moments = files.read(moments_file) if moments_file is not None else ()
    file = model_file.read(source)
    index = Index(file.model, file.storage)
    if not supported(index):
        raise UsageError(
            "BatchNormalizations can be put back in IR version 4 and opset 9 or newer",
            "convert the model with onnx.version_converter",
        )
    target = output_path(source, path_out, ".recovered.onnx")
    comparison: Comparison | None = None
    with PrivateFolder() as folder:
        instead, proof = put_back_frozen(index, moments)
        between = source
        if instead:
            between = model_file.save(file.model, file.storage, Path(folder, "unfrozen.onnx"))
            index = Index(file.model, file.storage)
        behind = put_back_folded(index, moments)

        def check(candidate: Path) -> None:
            """What was given is the frozen form, or the fold, of what was made of it."""
            nonlocal comparison
            steps: list[tuple[Path, Path, str]] = []
            if instead:
                steps.append((between if behind else candidate, source, proof))
            if behind:
                steps.append((candidate, between, ""))
            for original, made, own in steps:
                comparison = compare_by_proof(
                    original, made, own, run_options, level=cast(Level, verify), progress=progress
                )

        write_model(
            file, target, check=None if verify == "none" else check,
            unchanged=not (behind or instead),
        )  # fmt: skip
    return RecoverResult(target, (*behind, *instead), comparison)
