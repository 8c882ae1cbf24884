"""Writes the model that a call results in: written aside, checked, and only then named.

And those that a call is given in memory, for whoever reads files.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from onnx import ModelProto

from bnfold.errors import ModelError
from bnfold.onnx_io import model_file
from bnfold.onnx_io.atomic_output import Output
from bnfold.onnx_io.data_files import FileRange
from bnfold.onnx_io.model_file import KEEP, ModelFile
from bnfold.onnx_io.output_paths import PathLike
from bnfold.onnx_io.private_folder import PrivateFolder
from bnfold.onnx_io.tensor_storage import Storage


@dataclass(frozen=True)
class Written:
    """A model that was written, and its bytes with those of its data files.

    `left_behind` are the data files of a model that was replaced, which are not deleted.
    """

    path: Path
    size: int
    data_files: tuple[Path, ...]
    left_behind: tuple[Path, ...]


def write_model(
    file: ModelFile, target: Path, *, keep: bool = True, external_data: str = KEEP,
    unchanged: bool = False, check: Callable[[Path], None] | None = None,
) -> Written:  # fmt: skip
    """Write `file.model` to `target`, which is there whole or as it was.

    `keep`: none of the files that the model was read from may be overwritten, but for its own data
    files also where it is false. `unchanged` copies the file byte for byte. `check` is called with
    the path of the new model before that gets its name; if it raises, nothing is written.

    Raises UsageError where the target cannot be written.
    """
    original = [data.path for data in file.data_files]
    with Output(target, [file.path, *original] if keep else original) as output:
        if unchanged:
            size = file.source.size
            output.write([FileRange(file.source, 0, size)])
        else:
            size = model_file.write(
                file.model, file.storage, output, external_data, origin=file.path.name
            )
        if check is not None:
            check(output.candidate)
        old = set(model_file.data_names(target)) if target.exists() else set()
        output.publish()
    left = [target.parent / name for name in sorted(old - set(output.names))]
    return Written(
        target, size, tuple(target.with_name(name) for name in output.names),
        tuple(path for path in left if path.exists()),
    )  # fmt: skip


def on_disk(model: ModelProto | PathLike, stack: contextlib.ExitStack) -> Path:
    """The path of a model; one that is only in memory is put into a temporary file."""
    if not isinstance(model, ModelProto):
        return Path(model)
    if model_file.locations(model):
        raise ModelError(
            "the model has external data that was not loaded",
            "give the path of the model, or load it with onnx.load(path)",
        )
    folder = stack.enter_context(PrivateFolder())
    return model_file.save(model, Storage(), folder / "model.onnx")
