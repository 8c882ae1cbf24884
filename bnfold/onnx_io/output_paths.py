"""Where a command writes, and what it must not touch."""

from __future__ import annotations

import os
from pathlib import Path

from bnfold.errors import UsageError
from bnfold.onnx_io import model_file
from bnfold.onnx_io.replace_file import is_same

PathLike = str | os.PathLike[str]


def require_own_data(file: model_file.ModelFile, target: Path) -> None:
    """Raises UsageError where the model's data files are not its own, so that it may not change."""
    if not file.locations:
        return
    if file.path.is_symlink():
        raise UsageError(
            f"{file.path} is a link and has external data, which it would leave behind",
            "write to a new file with `path_out` instead of `in_place=True`",
        )
    own = {os.path.normpath(location) for location in file.locations}
    for path, names in model_file.neighbours(target.parent).items():
        if own.intersection(names) and not path.samefile(target):
            raise UsageError(
                f"{path} has the same data file: in place, one model would leave the other",
                "write to a new file with `path_out` instead of `in_place=True`",
            )


def folded_path(source: Path, path_out: PathLike | None, in_place: bool) -> Path:
    """Where the folded form of a model goes. Raises UsageError."""
    if in_place:
        if path_out is not None:
            raise UsageError("`in_place` and `path_out` exclude each other", "give one of them")
        return Path(os.path.realpath(source))  # a link stays a link to the new file
    return output_path(source, path_out, ".folded.onnx", or_in_place=True)


def output_path(
    source: Path, path_out: PathLike | None, suffix: str, *, or_in_place: bool = False
) -> Path:
    """Where to write: `path_out`, a file in that folder, or the source's name with the suffix.

    Raises UsageError where that is the source itself, or there is no such folder.
    """
    target = Path(path_out) if path_out is not None else source.with_suffix(suffix)
    if target.is_dir():
        target = target / source.name
    elif path_out is not None and os.fspath(path_out).endswith(os.sep):
        raise UsageError(f"there is no folder {path_out}", "make it, or name the output file")
    if target.exists() and source.exists() and target.samefile(source):
        raise UsageError(
            f"the output {target} is the input itself",
            f"choose another name{', or replace it with `in_place=True`' if or_in_place else ''}",
        )
    return target


def require_other_than(target: Path, *inputs: PathLike | None) -> None:
    """Raises UsageError where the output is one of the files that are read."""
    if any(is_same(target, Path(path)) for path in inputs if path is not None):
        raise UsageError(f"the output {target} is a file that is read", "choose another name")
