"""Moments of tensors as a file: JSON, a table, or what onnxruntime's quantiser takes.

.json             everything, channel by channel, which `bnfold recover` reads
.overrides.json   {tensor: [{"rmin": …, "rmax": …}]}, for `TensorQuantOverrides`
.csv              a line for each channel of each tensor
"""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import fields
from os import PathLike, fspath
from pathlib import Path
from typing import Any

import numpy as np

from bnfold.errors import UsageError
from bnfold.onnx_io.replace_file import Kind, require_replaceable, write_whole
from bnfold.tuning.moments import FloatArray
from bnfold.tuning.prediction.carried import REACH
from bnfold.tuning.tensor_moments.tensors import TensorMoments

_OVERRIDES = ".overrides.json"
_ARRAYS = ("mean", "deviation", "low", "high")
_VERSION = 1


def require_writable(path: str | PathLike[str], others: Iterable[str | PathLike[str]]) -> None:
    """Raises UsageError for a name of no such file, or one that must not be replaced."""
    require_replaceable(Path(path), _kind(Path(path)), others)


def _kind(path: Path) -> Kind:
    if path.name.endswith(_OVERRIDES):
        return Kind.OVERRIDES
    kinds = {".json": Kind.MOMENTS, ".csv": Kind.MOMENTS_TABLE}
    if path.suffix not in kinds:
        raise UsageError(
            f"{path} is neither .json, .overrides.json nor .csv", "name the moments out.json"
        )
    return kinds[path.suffix]


def save(tensors: Sequence[TensorMoments], path: str | PathLike[str], model: str) -> None:
    """Write the moments of a model's tensors. Raises UsageError."""
    kind = _kind(Path(path))
    text = {
        Kind.OVERRIDES: lambda: _overrides(tensors),
        Kind.MOMENTS: lambda: _everything(tensors, model),
        Kind.MOMENTS_TABLE: lambda: _table(tensors),
    }[kind]()
    write_whole(Path(path), text, kind)


def _everything(tensors: Sequence[TensorMoments], model: str) -> str:
    entries = [
        {f.name: _plain(getattr(tensor, f.name)) for f in fields(tensor)} for tensor in tensors
    ]
    head = {"moments": _VERSION, "model": model, "deviations": REACH, "tensors": entries}
    return json.dumps(head, ensure_ascii=False, allow_nan=False, indent=1) + "\n"


def _plain(value: Any) -> Any:
    if isinstance(value, np.ndarray):
        return [float(v) if np.isfinite(v) else None for v in value]
    return list(value) if isinstance(value, tuple) else value


def _overrides(tensors: Sequence[TensorMoments]) -> str:
    found = {}
    for tensor in tensors:
        ends = np.concatenate([tensor.low, tensor.high])
        if not tensor.scope and np.all(np.isfinite(ends)):
            found[tensor.name] = [{"rmin": float(ends.min()), "rmax": float(ends.max())}]
    return json.dumps(found, ensure_ascii=False, indent=1) + "\n"


def _table(tensors: Sequence[TensorMoments]) -> str:
    text = io.StringIO()
    table = csv.writer(text, lineterminator="\n")
    table.writerow(["tensor", "scope", "batch_norm", "channel", *_ARRAYS, "assumes"])
    for tensor in tensors:
        for channel in range(len(tensor.mean)):
            figures = [repr(float(getattr(tensor, name)[channel])) for name in _ARRAYS]
            names = [tensor.name, tensor.scope, tensor.batch_norm, channel]
            table.writerow([*names, *figures, " ".join(tensor.assumes)])
    return text.getvalue()


def read(path: str | PathLike[str]) -> tuple[TensorMoments, ...]:
    """What `save` has written into a .json file. Raises UsageError for any other."""
    try:
        stored = json.loads(Path(path).read_text(encoding="utf-8"))
        if stored["moments"] != _VERSION:
            raise ValueError("version")
        return tuple(_tensors(stored["tensors"]))
    except OSError as error:
        raise UsageError(f"{fspath(path)} cannot be read: {error}", "name a file") from error
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise UsageError(
            f"{fspath(path)} is no file of moments",
            '`bnfold.optimize(moments_file="out.json")` writes one',
        ) from error


def _tensors(entries: Sequence[dict[str, Any]]) -> Iterator[TensorMoments]:
    for entry in entries:
        arrays = {name: _array(entry[name]) for name in _ARRAYS}
        if len({len(array) for array in arrays.values()}) > 1:
            raise ValueError("lengths")
        if np.any(arrays["deviation"] < 0):
            raise ValueError("deviations")
        yield TensorMoments(
            str(entry["name"]), str(entry["scope"]), str(entry["batch_norm"]), int(entry["axis"]),
            assumes=tuple(map(str, entry["assumes"])), **arrays,
        )  # fmt: skip


def _array(values: Sequence[float | None]) -> FloatArray:
    return np.array([np.nan if v is None else float(v) for v in values], np.float64)
