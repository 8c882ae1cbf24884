"""The two models that are compared, as they are or both changed alike."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

from onnx import ModelProto

from bnfold.onnx_io import model_file
from bnfold.onnx_io.model_file import ModelFile


@dataclass(frozen=True)
class Pair:
    """The two models, as they are or changed alike, and the names that the change is about."""

    original: ModelFile
    folded: ModelFile
    cut: frozenset[str] = frozenset()  # fed as inputs
    inner: frozenset[str] = frozenset()  # compared as outputs
    saturated: frozenset[str] = frozenset()  # outputs whose last operator is looked behind

    def changed(self, folder: Path, change: Callable[[ModelProto], None]) -> Pair:
        """The pair after a change of both models, which are written into `folder`."""
        files = (
            _saved(file, change, folder / f"{which}_{next(_NUMBERS)}.onnx")
            for file, which in ((self.original, "original"), (self.folded, "folded"))
        )
        original, folded = files
        return replace(self, original=original, folded=folded)


_NUMBERS = itertools.count()


def _saved(file: ModelFile, change: Callable[[ModelProto], None], path: Path) -> ModelFile:
    copy = file.copy()
    change(copy.model)
    return model_file.read(model_file.save(copy.model, copy.storage, path))
