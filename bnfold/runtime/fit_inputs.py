"""Whether arrays that a user gives are what a model's inputs take."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from onnx import TensorProto, numpy_helper

from bnfold.errors import UsageError
from bnfold.onnx_io.protos import Array
from bnfold.runtime.sessions import Feed
from bnfold.runtime.synthetic_inputs import InputSpec, dims_text


def require_all(where: Path, arrays: Feed, inputs: Sequence[InputSpec]) -> None:
    """Raises UsageError where there is no array for an input."""
    wanted = [spec.name for spec in inputs]
    if missing := [name for name in wanted if name not in arrays]:
        raise UsageError(
            f"{where} has no array for the input {missing[0]!r}",
            f"it holds {', '.join(arrays) or 'nothing'}; the model wants {', '.join(wanted)}",
        )


def require_fit(where: Path, spec: InputSpec, array: Array, *, batched: bool = False) -> None:
    """Raises UsageError for a type or shape that the input does not take.

    `batched`: the first axis counts samples, however many the input takes at a time.
    """
    if not np.can_cast(array.dtype, spec.dtype, "same_kind"):
        raise UsageError(
            f"the array {spec.name!r} in {where} is {array.dtype}, the model wants {spec.dtype}",
            "convert it as the model's user would, with the same scaling",
        )
    first = int(batched)
    fits = spec.open_rank or (
        array.ndim == len(spec.dims)
        and all(
            isinstance(dim, str) or dim == size
            for dim, size in zip(spec.dims[first:], array.shape[first:], strict=True)
        )
    )
    if not fits or (batched and not array.ndim):
        wanted = ("N", *spec.dims[1:]) if batched else spec.dims
        raise UsageError(
            f"the array {spec.name!r} in {where} has shape {dims_text(array.shape)}, the model "
            f"wants {dims_text(wanted)}"
        )


def from_protos(folder: Path, kind: str, names: Sequence[str]) -> Feed:
    """The arrays of one of ONNX's test_data_set folders: `kind` "input" or "output"."""
    arrays = {}
    for number, name in enumerate(names):
        file = folder / f"{kind}_{number}.pb"
        if file.exists():
            arrays[name] = numpy_helper.to_array(TensorProto.FromString(file.read_bytes()))
    return arrays
