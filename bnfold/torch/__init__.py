"""PyTorch modules straight to folded ONNX files, verified against the module itself.

    import bnfold.torch

    bnfold.torch.export(module, (image,), "model.onnx")

PyTorch's own exporters fold a BatchNormalization behind a convolution in float32, and leave the
others. Here it is exported as it is, folded by bnfold, compared with the export and with what the
module gives, and written only then. Needs `pip install torch onnxscript`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from bnfold.api.comparing import verify
from bnfold.api.files import OptimizeResult, optimize
from bnfold.deprecation import renamed_parameter
from bnfold.errors import ModelError, UndecidedError, UsageError, first_line
from bnfold.onnx_io import model_file
from bnfold.onnx_io.output_paths import PathLike
from bnfold.onnx_io.private_folder import PrivateFolder
from bnfold.onnx_io.protos import Array
from bnfold.onnx_io.write_model import write_model
from bnfold.options import Options, RunOptions
from bnfold.runtime.process import run_worker
from bnfold.torch.module import (
    Call,
    ModuleDifference,
    array_of,
    bound_call,
    difference,
    evaluating,
    fresh,
    outputs,
    tensors_of,
)
from bnfold.verification.comparison import NotEqualError, require_equal

if TYPE_CHECKING:
    import torch

_REMEDY = "pip install torch onnxscript"


@dataclass(frozen=True)
class ExportResult(OptimizeResult):
    """A folded file, and how far it is from the module, output by output."""

    differences: tuple[ModuleDifference, ...] = ()


@renamed_parameter("trial", "run_options")
def export(
    module: torch.nn.Module, args: Sequence[Any], path: PathLike, *,
    kwargs: Mapping[str, Any] | None = None, options: Options | None = None,
    run_options: RunOptions | None = None, external_data: str = model_file.KEEP,
    **export_options: Any,
) -> ExportResult:  # fmt: skip
    """Export a module for inference, fold, verify against the module's own output, and write.

    `args` and `kwargs` are what the module is called with, and what all are run on. A copy of the
    module is put into eval mode and worked on; the module and the tensors are left as they are.
    `options` say what may be folded, `run_options` within which limits the models are run (its
    inputs are these). Whatever else is given goes to `torch.onnx.export`: opset_version,
    dynamic_shapes, input_names, dynamo=False …

    Raises UsageError (no PyTorch, paths, options), ModelError (PyTorch cannot export the module),
    NotEqualError (the folded model differs from the export, or from the module, by more than
    rounding explains: nothing is written), UndecidedError (the module is random, or the model does
    not run) and WorkerError.
    """
    _require_torch()
    target = Path(path)
    _require_usable(target, external_data, export_options)
    call = bound_call(module, tuple(args), dict(kwargs or {}))
    with PrivateFolder() as folder:
        exported, folded = folder / "exported.onnx", folder / "folded.onnx"
        _export(evaluating(module), fresh(call), exported, export_options)
        own, exact = outputs(module, call)
        run_options = replace(
            run_options or RunOptions(), inputs=_saved_inputs(exported, call, folder)
        )
        result = optimize(exported, folded, verify="none", options=options)
        comparison = verify(exported, folded, run_options=run_options)
        require_equal(comparison)
        if not comparison.runs:
            raise UndecidedError(
                "the folded model is certified, but was not run, and so not compared with the "
                f"module: {comparison.not_run}",
                "call torch.onnx.export and then bnfold.optimize, or export in float32",
            )
        found = _run(folded, run_options)
        if len(found) != len(own):
            raise NotEqualError(
                f"the module gives {len(own)} tensors, the export {len(found)}", comparison
            )
        differences = tuple(
            difference(output, found[output.name], *given)
            for output, *given in zip(comparison.outputs, own, exact, strict=True)
        )
        if wrong := next((d for d in differences if not d.equal), None):
            raise NotEqualError(
                f"output {wrong.name!r} differs from the module's by {wrong.max_abs:.3g}, rounding "
                f"explains {wrong.bound:.3g}",
                comparison,
                "nothing was written; the folded model equals the export, so look at the export: "
                "another opset, or the other exporter (dynamo=True or False)",
            )
        file = model_file.read(folded)
        written = write_model(file, target, external_data=external_data)
    plain = {name: getattr(result, name) for name in OptimizeResult.__dataclass_fields__}
    changed = {"model": target, "bytes_after": written.size, "data_files": written.data_files}
    return ExportResult(**(plain | changed | {"comparison": comparison}), differences=differences)


def _require_torch() -> None:
    try:
        import onnxscript
        import torch
    except ImportError as error:
        raise UsageError(
            f"exporting needs {error.name}, which is not installed", _REMEDY
        ) from error
    del onnxscript, torch


def _require_usable(target: Path, external_data: str, options: dict[str, Any]) -> None:
    """Raises UsageError before anything is done."""
    if target.is_dir() or not target.parent.is_dir():
        raise UsageError(f"{target} cannot be written: it is a folder, or in none")
    if not isinstance(external_data, str):
        raise UsageError(
            f"external_data={external_data!r} is neither 'keep', 'inline' nor the name of a file"
        )
    for name in ("f", "args", "model", "kwargs"):
        if name in options:
            raise UsageError(f"{name!r} is no option here: export gives it to PyTorch itself")


def _export(module: torch.nn.Module, call: Call, path: Path, options: dict[str, Any]) -> None:
    """With every BatchNormalization as it is. Raises ModelError."""
    import torch

    args, kwargs = call
    try:
        if options.get("dynamo", True) is False:
            # eval mode, but not TrainingMode.EVAL, in which the exporter folds by itself
            preserve = {"training": torch.onnx.TrainingMode.PRESERVE}
            torch.onnx.export(module, args, str(path), kwargs=kwargs, **(preserve | options))
            return
        quiet = {"optimize": False, "verbose": False, "dynamo": True}
        program = torch.onnx.export(module, args, kwargs=kwargs, **(quiet | options))
        assert program is not None
        from onnxscript import optimizer

        optimizer.fold_constants(program.model)
        optimizer.remove_unused_nodes(program.model)
        program.save(str(path))
    except Exception as error:  # of many kinds, by what the module does
        raise ModelError(
            f"PyTorch cannot export the module: {type(error).__name__}: {first_line(error, 300)}",
            "call torch.onnx.export with the same options to see all that it says",
        ) from error


# --- the folded model ----------------------------------------------------------------------------


def _saved_inputs(exported: Path, call: Call, folder: Path) -> str | None:
    """The tensors of the call in a file, under the names that the export gives them.

    Raises UsageError where the export has not as many inputs.
    """
    model = model_file.read(exported).model
    defaults = {tensor.name for tensor in model.graph.initializer}
    names = [value.name for value in model.graph.input if value.name not in defaults]
    arrays = [array_of(tensor) for tensor in (*tensors_of(call[0]), *tensors_of(call[1]))]
    if len(names) != len(arrays):
        raise UsageError(
            f"the module was called with {len(arrays)} tensors, and the export has "
            f"{len(names)} inputs: {', '.join(names) or 'none'}",
            "leave out tensors that the module does not read, or export with dynamo=True",
        )
    if not names:
        return None
    given: dict[str, Any] = dict(zip(names, arrays, strict=True))
    np.savez(folder / "inputs.npz", **given)
    return str(folder / "inputs.npz")


def _run(model: Path, run_options: RunOptions) -> dict[str, Array]:
    """What the model gives, by the names of its outputs."""
    request = {"task": "run", "original": str(model), **asdict(run_options), "check": 1}

    def read(answer: dict[str, Any], folder: Path) -> dict[str, Array]:
        with np.load(folder / "outputs.npz", allow_pickle=False) as archive:
            return {name: archive[f"a{number}"] for number, name in enumerate(answer["names"])}

    return run_worker(request, run_options.timeout, read)
