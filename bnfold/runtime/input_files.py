"""Inputs that the user gives, in the forms in which people keep them.

x.npz                    one array for each input, under its name
x.json                   polygraphy's --save-inputs: a list of such sets
folder/NAME.npy          one array for each input, in files of their names
folder/*.npz             a set in each
test_data_set_0/         ONNX's own: input_0.pb, … in the order of the model's inputs, and
                         output_0.pb, … with what is expected of its outputs
folder/test_data_set_*/  several of these
"""

from __future__ import annotations

import base64
import io
import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from bnfold.errors import UsageError
from bnfold.onnx_io.protos import Array
from bnfold.runtime.fit_inputs import from_protos, require_all, require_fit
from bnfold.runtime.sessions import Feed
from bnfold.runtime.synthetic_inputs import InputSpec

_REMEDY = (
    "give an .npz file with one array for each input, a folder of .npy files named after them, "
    "a test_data_set_0 folder, or polygraphy's JSON"
)


@dataclass(frozen=True)
class InputSet:
    """One set of inputs, and the outputs that are expected of it, if any are known."""

    feed: Feed
    expected: Feed = field(default_factory=dict)


def read(path: Path, inputs: list[InputSpec], outputs: list[str]) -> list[InputSet]:
    """All sets of inputs at `path`, in the model's own types, for a model with these outputs.

    Raises UsageError where they cannot be read or do not fit the model.
    """
    try:
        sets = list(_sets(path, inputs, outputs))
    except (MemoryError, UsageError):
        raise
    except Exception as error:  # of many kinds, by what is wrong with the file
        raise UsageError(f"cannot read the inputs in {path}: {error}", _REMEDY) from error
    if not sets:
        raise UsageError(f"there are no inputs in {path}", _REMEDY)
    return [InputSet(_fitted(where, s.feed, inputs), s.expected) for where, s in sets]


def _sets(
    path: Path, inputs: list[InputSpec], outputs: list[str]
) -> Iterator[tuple[Path, InputSet]]:  # fmt: skip
    if not path.is_dir():
        reader = _from_json if path.suffix == ".json" else _from_npz
        for arrays in reader(path):
            yield path, InputSet(arrays)
        return
    sets = sorted(path.glob("test_data_set_*"), key=_number) or [path]
    for folder in sets:
        if any(folder.glob("input_*.pb")):
            names = [spec.name for spec in inputs]
            feed = from_protos(folder, "input", names)
            yield folder, InputSet(feed, from_protos(folder, "output", outputs))
    for archive in sorted(path.glob("*.npz")):
        for arrays in _from_npz(archive):
            yield archive, InputSet(arrays)
    if arrays := {file.stem: _load(file) for file in sorted(path.glob("*.npy"))}:
        yield path, InputSet(arrays)


def _number(path: Path) -> tuple[int, str]:
    digits = path.stem.rpartition("_")[2]
    return (int(digits) if digits.isdecimal() else 0, path.name)


def _from_npz(path: Path) -> Iterator[Feed]:
    with np.load(path, allow_pickle=False) as archive:
        yield {name: archive[name] for name in archive.files}


def _from_json(path: Path) -> Iterator[Feed]:
    for entry in json.loads(path.read_text(encoding="utf-8")):
        yield {name: _decoded(value["array"]) for name, value in entry.items()}


def _decoded(text: str) -> Array:
    return np.asarray(np.load(io.BytesIO(base64.b64decode(text)), allow_pickle=False))


def _load(path: Path) -> Array:
    return np.asarray(np.load(path, allow_pickle=False))


def _fitted(where: Path, arrays: Feed, inputs: list[InputSpec]) -> Feed:
    require_all(where, arrays, inputs)
    for spec in inputs:
        require_fit(where, spec, arrays[spec.name])
    return {spec.name: arrays[spec.name].astype(spec.dtype) for spec in inputs}
