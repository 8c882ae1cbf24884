"""One request, as the tasks of the worker process see it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bnfold.onnx_io import model_file
from bnfold.onnx_io.model_file import ModelFile
from bnfold.progress import Stage
from bnfold.runtime.answer_file import write_stage


@dataclass(frozen=True)
class Job:
    """What is asked, the models that it is about, each read once, and the folder for the answer."""

    request: dict[str, Any]
    folder: Path
    models: Mapping[str, ModelFile]  # "original", and "folded" where there are two
    first: Any = None  # what was begun before all of the request was there

    @classmethod
    def of(
        cls, request: dict[str, Any], folder: Path, known: Mapping[str, ModelFile] | None = None
    ) -> Job:  # fmt: skip
        """Read the models of a request, but for those that are `known`. Raises ModelError."""
        models = dict(known or {})
        for name in ("original", "folded"):
            if name in request and name not in models:
                models[name] = model_file.read(Path(request[name]))
        return cls(request, folder, models)

    @property
    def original(self) -> ModelFile:
        """The model that is asked about, or compared with."""
        return self.models["original"]

    @property
    def folded(self) -> ModelFile:
        """The second model."""
        return self.models["folded"]

    def stage(self, name: str, done: int = 0, total: int = 0) -> None:
        """Say what is being done, and how much of it is done."""
        write_stage(Stage(name, done, total), self.folder)
