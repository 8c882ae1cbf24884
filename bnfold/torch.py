"""PyTorch modules straight to folded ONNX files, verified against the module itself.

    import bnfold.torch

    bnfold.torch.export(module, (image,), "model.onnx")

PyTorch's own exporters fold a BatchNormalization behind a convolution in float32, and leave the
others. Here it is exported as it is, folded by bnfold, compared with the export and with what the
module gives, and written only then. Needs `pip install torch onnxscript`.
"""

from __future__ import annotations

import contextlib
import copy
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
from onnx import numpy_helper

from bnfold import model_file
from bnfold.api import OptimizeResult, optimize, require_equal, verify
from bnfold.compare import Trial
from bnfold.comparison import OutputDifference
from bnfold.errors import NotEqualError, UndecidedError, UsageError
from bnfold.options import Options
from bnfold.output import Output
from bnfold.targets import PathLike

if TYPE_CHECKING:
    import torch

_AMPLE = 4  # times the module's own rounding error that the folded model's may be
_REMEDY = "pip install torch onnxscript"


@dataclass(frozen=True)
class ModuleDifference:
    """One output of the folded model against the module's.

    `max_abs` is the largest |folded − module|, the module being run in float64 where it can be;
    `rounding` how far the module itself is from that in its own type; `bound` what `max_abs` may
    be: 4 × `rounding` + what rounding explains between the export and its folded form.
    """

    name: str
    max_abs: float
    rounding: float
    bound: float

    @property
    def equal(self) -> bool:
        """Whether rounding explains the difference."""
        return self.max_abs <= self.bound


@dataclass(frozen=True)
class ExportResult(OptimizeResult):
    """A folded file, and how far it is from the module, output by output."""

    differences: tuple[ModuleDifference, ...] = ()


def export(
    module: torch.nn.Module, args: Sequence[Any], path: PathLike, *,
    kwargs: Mapping[str, Any] | None = None, options: Options | None = None,
    trial: Trial | None = None, external_data: str = model_file.KEEP, **export_options: Any,
) -> ExportResult:  # fmt: skip
    """Export a module for inference, fold, verify against the module's own output, and write.

    `args` and `kwargs` are what the module is called with, and what all are run on. The module is
    put into eval mode for the time of the call, and left as it was. `options` say what may be
    folded, `trial` within which limits the models are run (its inputs are these). Whatever else is
    given goes to `torch.onnx.export`: opset_version, dynamic_shapes, input_names, dynamo=False …

    Raises UsageError (no PyTorch, paths), NotEqualError (the folded model differs from the export,
    or from the module, by more than rounding explains: nothing is written), and what `verify`
    raises.
    """
    _require_torch()
    target = Path(path)
    kwargs = dict(kwargs or {})
    with _evaluating(module), tempfile.TemporaryDirectory(prefix="bnfold-") as name:
        folder = Path(name)
        exported, folded = folder / "exported.onnx", folder / f"folded{target.suffix or '.onnx'}"
        _export(module, tuple(args), kwargs, exported, export_options)
        own, exact = _outputs(module, tuple(args), kwargs)
        data = _test_data(folder / "test_data_set_0", (*args, *kwargs.values()), exact)
        result = optimize(exported, folded, verify="none", options=options)
        comparison = verify(exported, folded, trial=replace(trial or Trial(), inputs=str(data)))
        require_equal(comparison)
        if not comparison.runs:
            raise UndecidedError(
                "the folded model is certified, but was not run, and so not compared with "
                f"the module: {comparison.not_run}",
                "export in float32, or call torch.onnx.export and then bnfold.optimize",
            )
        differences = tuple(map(_difference, comparison.outputs, own, exact))
        if wrong := next((d for d in differences if not d.equal), None):
            raise NotEqualError(
                f"output {wrong.name!r} differs from the module's by {wrong.max_abs:.3g}, rounding "
                f"explains {wrong.bound:.3g}",
                comparison,
                "nothing was written; the folded model equals the export, so look at the export: "
                "another opset, or dynamo=False",
            )
        file = model_file.read(folded)
        with Output(target, []) as output:
            size = model_file.write(
                file.model, file.storage, output, external_data, origin=folded.name
            )
            output.publish()
    data_files = tuple(target.with_name(name) for name in output.names)
    plain = {name: getattr(result, name) for name in OptimizeResult.__dataclass_fields__}
    changed = {"model": target, "bytes_after": size, "data_files": data_files}
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


@contextlib.contextmanager
def _evaluating(module: torch.nn.Module) -> Iterator[None]:
    """The module in eval mode; each part is left in the mode that it was in."""
    modes = [(part, part.training) for part in module.modules()]
    module.eval()
    try:
        yield
    finally:
        for part, training in modes:
            part.training = training


def _export(
    module: torch.nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], path: Path,
    options: dict[str, Any],
) -> None:  # fmt: skip
    """With every BatchNormalization as it is."""
    import torch

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


# --- what the module gives -----------------------------------------------------------------------

Array = npt.NDArray[Any]


def _outputs(
    module: torch.nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]
) -> tuple[list[Array], list[Array]]:
    """Its outputs, and the same in float64; these are the first ones where it has no float64."""
    import torch

    with torch.no_grad():
        own = [_array(tensor) for tensor in _tensors(module(*args, **kwargs))]
        try:
            wide = copy.deepcopy(module).double()
            found = wide(*_widened(args), **_widened(kwargs))
            exact = [_array(tensor) for tensor in _tensors(found)]
        except Exception:  # types that it insists on, kernels that there are not
            return own, own
    if [array.shape for array in own] != [array.shape for array in exact]:
        return own, own
    pairs = zip(own, exact, strict=True)
    return own, [e if np.issubdtype(e.dtype, np.floating) else o for o, e in pairs]


def _tensors(value: Any) -> list[Any]:
    """The tensors of nested tuples, lists and dictionaries, in the order of the exporters."""
    import torch

    if isinstance(value, torch.Tensor):
        return [value]
    parts = value.values() if isinstance(value, Mapping) else value
    nested = isinstance(value, (Mapping, tuple, list))
    return [tensor for part in parts for tensor in _tensors(part)] if nested else []


def _widened(value: Any) -> Any:
    """The same with tensors of floating-point numbers in float64."""
    import torch

    if isinstance(value, torch.Tensor):
        return value.double() if value.is_floating_point() else value
    if isinstance(value, Mapping):
        return {key: _widened(part) for key, part in value.items()}
    return type(value)(map(_widened, value)) if type(value) in (tuple, list) else value


def _array(tensor: torch.Tensor) -> Array:
    import torch

    tensor = tensor.detach().cpu()
    array: Array = (tensor.float() if tensor.dtype == torch.bfloat16 else tensor).numpy()
    return array


def _test_data(folder: Path, given: Sequence[Any], expected: Sequence[Array]) -> Path:
    """The inputs, and what the module gives, as ONNX's test data."""
    folder.mkdir()
    inputs = [_array(tensor) for tensor in _tensors(tuple(given))]
    for kind, arrays in (("input", inputs), ("output", expected)):
        for number, array in enumerate(arrays):
            tensor = numpy_helper.from_array(np.ascontiguousarray(array))
            (folder / f"{kind}_{number}.pb").write_bytes(tensor.SerializeToString())
    return folder


def _difference(output: OutputDifference, own: Array, exact: Array) -> ModuleDifference:
    rounding = float(np.max(np.abs(own.astype(np.float64) - exact), initial=0.0))
    apart = output.expected_folded
    return ModuleDifference(
        output.name, float("inf") if apart is None else apart, rounding,
        _AMPLE * rounding + output.bound,
    )  # fmt: skip
