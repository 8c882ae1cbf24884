"""Frozen models: `freeze` writes them, `assign` puts learned values back."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import numpy as np
import numpy.typing as npt
from onnx import ModelProto, TensorProto, helper, numpy_helper

from bnfold.deprecation import renamed_parameter
from bnfold.errors import UsageError
from bnfold.folding.apply import apply
from bnfold.graph.index import Index
from bnfold.onnx_io import model_file
from bnfold.onnx_io.output_paths import PathLike, output_path
from bnfold.onnx_io.private_folder import PrivateFolder
from bnfold.onnx_io.protos import without
from bnfold.onnx_io.replace_file import Kind, require_replaceable, write_whole
from bnfold.onnx_io.write_model import write_model
from bnfold.options import FrozenForm, RunOptions, Verify, current_choice, require_choice
from bnfold.progress import Progress
from bnfold.steps import to_json
from bnfold.text.json_encoding import dumps
from bnfold.tuning.freezing.affine_form import FrozenNode, frozen, plan_freezing
from bnfold.tuning.tensor_moments import files as moment_files
from bnfold.tuning.tensor_moments.moments_of_tensors import Watch
from bnfold.tuning.training_mode import assume_inference as put_into_inference
from bnfold.verdict import Verdict
from bnfold.verification.client import compare_by_proof
from bnfold.verification.comparison import Comparison

LEARNABLE = "bnfold.learnable"  # the key in metadata_props


@dataclass(frozen=True)
class FreezeResult:
    """A frozen file: what was frozen, and a verdict for every BatchNormalization.

    `learnable` is the JSON file that lists γ′ and β′, where these were made graph inputs.
    """

    model: Path
    frozen: tuple[FrozenNode, ...]
    verdicts: tuple[Verdict, ...]
    comparison: Comparison | None
    learnable: Path | None = None


@dataclass(frozen=True)
class AssignResult:
    """A file with learned values, and how far they moved from what was there.

    `moved` gives max|new − old| by the parameter's name.
    """

    model: Path
    moved: Mapping[str, float]


@renamed_parameter("trial", "run_options")
def freeze(
    path_in: PathLike,
    path_out: PathLike | None = None,
    *,
    form: FrozenForm = "mul-add",
    learnable: bool = False,
    assume_inference: bool = False,
    verify: Verify = "run",
    run_options: RunOptions | None = None,
    moments_file: PathLike | None = None,
    progress: Progress | None = None,
) -> FreezeResult:
    """Write every inference BatchNormalization of a file as its affine map γ′x + β′.

    `form` is "mul-add": a Mul and an Add with initializers `<name>.gamma_prime` and
    `<name>.beta_prime` of shape [C, 1, …] and x's type, or "batchnorm": a BatchNormalization with
    mean 0, variance 1 and ε 0. `learnable` makes γ′ and β′ graph inputs with their values as
    defaults, and lists them in metadata_props and in a JSON file beside the output.
    `assume_inference` treats BatchNormalizations in training mode as inference with their running
    statistics. `verify`, `run_options`, `moments_file` and `progress` are those of `optimize`.

    Raises ModelError, UsageError (paths; IR below 4 with `learnable`), NotEqualError (nothing is
    written), UndecidedError and WorkerError.
    """
    require_choice("form", form, FrozenForm)
    verify = cast(Verify, current_choice("verify", verify))
    require_choice("verify", verify, Verify)
    source = Path(path_in)
    file = model_file.read(source)
    if learnable and file.model.ir_version < 4:
        raise UsageError(
            f"in IR version {file.model.ir_version} every initializer is an input: none can be "
            "marked as learnable",
            "save the model with ir_version 4 or newer",
        )
    target = output_path(source, path_out, ".frozen.onnx")
    listed = target.with_suffix(".learnable.json") if learnable else None
    if listed is not None:
        require_replaceable(listed, Kind.PARAMETERS, [source, target])
    if moments_file is not None:
        moment_files.require_writable(moments_file, [source, target])
    comparison: Comparison | None = None
    watch = Watch()
    with PrivateFolder() as folder:
        reference, refused = source, {}
        if assume_inference:
            refused = put_into_inference(Index(file.model, file.storage))
            reference = model_file.save(file.model, file.storage, Path(folder, source.name))
        index = Index(file.model, file.storage)
        plan = plan_freezing(index, form)
        if moments_file is not None:
            watch.planned(index, plan)
        steps = apply(index, plan).proof
        proof = to_json(steps).decode()
        if moments_file is not None:
            watch.applied(Index(file.model, file.storage), steps)
        done = tuple(frozen(plan))
        plain = model_file.save(file.model, file.storage, Path(folder, "frozen.onnx"))
        if learnable:
            _make_learnable(file.model, done)

        def check(_: Path) -> None:
            nonlocal comparison
            if done and verify != "none":
                comparison = compare_by_proof(
                    reference, plain, proof, run_options, level=verify, progress=progress
                )

        write_model(file, target, check=check)
    verdicts = tuple(
        Verdict(v.site, v.op, v.scope, v.output, refusal=refused.get(v.site, v.refusal))
        for v in plan.verdicts
    )
    if listed is not None:
        _list(file.model, done, target, listed)
    if moments_file is not None:
        moment_files.save(watch.tensors, moments_file, target.name)
    return FreezeResult(target, done, verdicts, comparison, listed)


# --- learnable parameters ------------------------------------------------------------------------


def _make_learnable(model: ModelProto, done: tuple[FrozenNode, ...]) -> None:
    """Graph inputs with the initializers as their defaults, and a list in metadata_props.

    What an earlier freeze has listed stays.
    """
    tensors = {tensor.name: tensor for tensor in model.graph.initializer}
    earlier = _listed(model) or []
    found = [name for one in done for name in (one.gamma_prime, one.beta_prime)]
    names = [name for name in found if name in tensors]  # not those of bodies
    for name in names:
        tensor = tensors[name]
        model.graph.input.append(
            helper.make_tensor_value_info(name, tensor.data_type, list(tensor.dims))
        )
    entries = [entry for entry in model.metadata_props if entry.key == LEARNABLE]
    entry = entries[0] if entries else model.metadata_props.add()
    entry.key, entry.value = LEARNABLE, json.dumps([*earlier, *names])


def _list(model: ModelProto, done: tuple[FrozenNode, ...], target: Path, path: Path) -> None:
    """A JSON file with what a training loop needs to know of each parameter."""
    tensors = {tensor.name: tensor for tensor in model.graph.initializer}
    sites = {name: one.site for one in done for name in (one.gamma_prime, one.beta_prime)}
    entries = []
    for name in filter(tensors.__contains__, _listed(model) or []):
        site, _, role = name.rpartition(".")
        entries.append(
            {
                "batchnorm": sites.get(name, site),
                "name": name,
                "role": "gamma_prime" if role.startswith("gamma") else "beta_prime",
                "shape": list(tensors[name].dims),
                "dtype": helper.tensor_dtype_to_np_dtype(tensors[name].data_type).name,
            }
        )
    text = dumps({"model": target.name, "parameters": entries})
    write_whole(path, text, Kind.PARAMETERS)


def learnable_names(model: ModelProto) -> list[str]:
    """The parameters that `freeze` made learnable. Raises UsageError where there are none."""
    names = _listed(model)
    if names is None:
        raise UsageError(
            "the model lists no learnable parameters",
            "make it with `bnfold.freeze(learnable=True)`",
        )
    return names


def _listed(model: ModelProto) -> list[str] | None:
    for entry in model.metadata_props:
        if entry.key == LEARNABLE:
            try:
                names = json.loads(entry.value)
            except ValueError:
                return None
            if isinstance(names, list) and all(isinstance(name, str) for name in names):
                return names
    return None


def assign(path_in: PathLike, params: PathLike, path_out: PathLike) -> AssignResult:
    """Write learned γ′ and β′ into a frozen file, and make them plain initializers again.

    `params` is an .npz file with an array for each learnable parameter, under its name, of its
    shape and of a floating-point type. After that `optimize` folds them.

    Raises UsageError where names are missing or unknown, shapes or types do not fit, values are not
    finite, or the model has no learnable parameters.
    """
    source = Path(path_in)
    file = model_file.read(source)
    names = learnable_names(file.model)
    arrays = _arrays(Path(params), names)
    tensors = {tensor.name: tensor for tensor in file.model.graph.initializer}
    moved = {}
    for name in names:
        if name not in tensors:
            raise UsageError(f"the model lists {name!r} as learnable, and has no such initializer")
        new = _fitting(name, arrays[name], tensors[name])
        before = file.storage.array(tensors[name]).astype(np.float64)
        moved[name] = float(np.max(np.abs(new.astype(np.float64) - before), initial=0.0))
        tensors[name].CopyFrom(_with_values(tensors[name], new))
    inputs = [value for value in file.model.graph.input if value.name not in set(names)]
    kept = [entry for entry in file.model.metadata_props if entry.key != LEARNABLE]
    _replace(file.model.graph.input, inputs)
    _replace(file.model.metadata_props, kept)
    target = output_path(source, path_out, "")
    if target.exists() and target.samefile(params):
        raise UsageError(f"the output {target} is {params} itself", "choose another name")
    write_model(file, target)
    return AssignResult(target, moved)


def _arrays(path: Path, names: list[str]) -> dict[str, npt.NDArray[Any]]:
    try:
        with path.open("rb") as file, np.load(file, allow_pickle=False) as archive:
            arrays = {name: archive[name] for name in archive.files}
    except (OSError, ValueError, KeyError, EOFError) as error:
        raise UsageError(
            f"cannot read {path}: {error}", "give an .npz file, as numpy.savez writes it"
        ) from error
    except Exception as error:  # of zipfile, for a damaged archive
        raise UsageError(f"{path} is no .npz file: {error}", "write it with numpy.savez") from error
    if missing := [name for name in names if name not in arrays]:
        raise UsageError(
            f"{path} has no array for {', '.join(missing[:3])}"
            f"{f' and {len(missing) - 3} more' if len(missing) > 3 else ''}",
            "save all of them: the model's learnable parameters are in its .learnable.json",
        )
    if unknown := [name for name in arrays if name not in names]:
        raise UsageError(
            f"{path} has {', '.join(unknown[:3])}, which is no learnable parameter of the model"
        )
    return arrays


def _fitting(name: str, array: npt.NDArray[Any], tensor: TensorProto) -> npt.NDArray[Any]:
    wanted = helper.tensor_dtype_to_np_dtype(tensor.data_type)
    if array.shape != tuple(tensor.dims):
        raise UsageError(
            f"{name} has shape {list(array.shape)}, the model wants {list(tensor.dims)}"
        )
    if not np.issubdtype(array.dtype, np.floating):
        raise UsageError(f"{name} is {array.dtype}, the model wants {wanted}")
    with np.errstate(over="ignore"):
        cast = array.astype(wanted)
    if not np.all(np.isfinite(cast.astype(np.float64))):
        raise UsageError(f"{name} has NaN or infinity in it, as {wanted}")
    return cast


def _with_values(tensor: TensorProto, values: npt.NDArray[Any]) -> TensorProto:
    """The tensor with other data; doc string and metadata stay."""
    new = without(tensor, (
        "raw_data", "float_data", "int32_data", "double_data", "external_data", "data_location",
    ))  # fmt: skip
    new.raw_data = numpy_helper.from_array(values).raw_data
    return new


def _replace(field: Any, entries: list[Any]) -> None:
    copies = [type(entry).FromString(entry.SerializeToString()) for entry in entries]
    del field[:]
    field.extend(copies)


def as_json(result: FreezeResult) -> str:
    """What was frozen, to be read by programs."""
    return dumps(
        {
            "model": str(result.model),
            "frozen": result.frozen,
            "kept": [
                {"site": v.site, "reason": v.refusal.reason.code, "sentence": v.refusal.sentence}
                for v in result.verdicts
                if v.refusal is not None
            ],
        }
    )
