"""Models from standard input and to standard output, for pipes: "-" in place of a path."""

from __future__ import annotations

import contextlib
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path

from bnfold.errors import BnfoldError, ModelError, UsageError
from bnfold.onnx_io.private_folder import PrivateFolder

STREAM = "-"


@contextlib.contextmanager
def source(path: str) -> Iterator[Path]:
    """The path itself; for "-" a file with what comes from standard input.

    Raises ModelError for a model with external data, which does not come through a pipe.
    """
    if path != STREAM:
        yield Path(path)
        return
    with PrivateFolder() as folder:
        file = Path(folder, "stdin.onnx")
        if sys.stdin is None:
            raise UsageError("standard input is closed", "pipe a model in, or give its path")
        with file.open("wb") as copy:
            shutil.copyfileobj(sys.stdin.buffer, copy)
        try:
            _require_whole(file)
            yield file
        except BnfoldError as error:
            error.message = error.message.replace(str(file), "standard input")
            raise


@contextlib.contextmanager
def target(path: str | None) -> Iterator[Path | None]:
    """The path itself; for "-" a file, which goes to standard output once it is done."""
    if path != STREAM:
        yield None if path is None else Path(path)
        return
    if sys.stdout is None:
        raise UsageError("standard output is closed", "name a file with -o")
    if sys.stdout.isatty():
        raise UsageError("a model is no text for a terminal", "pipe it on, or name a file with -o")
    with PrivateFolder() as folder:
        file = Path(folder, "stdout.onnx")
        yield file
        out = sys.stdout.buffer
        try:
            with file.open("rb") as done:
                shutil.copyfileobj(done, out)
            out.flush()
        except BrokenPipeError:
            raise
        except OSError as error:
            raise UsageError(f"cannot write to standard output: {error.strerror}") from error


def _require_whole(file: Path) -> None:
    from bnfold.onnx_io import model_file

    if model_file.data_names(file):
        raise ModelError(
            f"the model from {file} has external data, which does not come through a pipe",
            "give the path of the model",
        )
