"""What a model is fed: the user's own sets of inputs, or the first drawn ones that it runs on."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from onnx import ModelProto

from bnfold.errors import UndecidedError
from bnfold.runtime import input_files, synthetic_inputs
from bnfold.runtime.input_files import InputSet
from bnfold.runtime.job import Job
from bnfold.runtime.sessions import (
    Feed,
    SessionFactory,
    check_memory,
    load_error,
    require_tensors,
    run,
)
from bnfold.runtime.synthetic_inputs import InputSpec, SyntheticInputs

T = TypeVar("T")

_SETS = 3  # of generated inputs


def first_that_runs(
    request: dict[str, Any], model: ModelProto, run: Callable[[Feed], T]
) -> tuple[list[InputSet], list[T]]:
    """The sets of inputs that a request asks for, and what `run` makes of each.

    Raises UsageError for a request that does not fit the model, and UndecidedError where it runs
    on nothing.
    """
    input_specs = synthetic_inputs.input_specs(
        model, request["input_shapes"], given=request["inputs"] is not None
    )
    refused: Exception | None = None
    for sets in _candidates(request, model, input_specs):
        try:
            return sets, [run(one.feed) for one in sets]
        except UndecidedError:
            raise
        except Exception as error:
            check_memory(error)
            refused = refused or error
    raise UndecidedError(
        f"the original does not run on any input that bnfold can make up: {refused}",
        synthetic_inputs.remedy_for_guesses(input_specs),
    )


def run_once(job: Job) -> dict[str, Any]:
    """Run a model on the first of its sets of inputs; the outputs are in outputs.npz."""
    job.stage("running the model")
    request, file = job.request, job.original
    try:
        session = SessionFactory.of(request["providers"]).open(str(file.path))
    except Exception as error:
        raise load_error(error) from error
    _, results = first_that_runs(
        request, file.model, lambda feed: require_tensors(run(session, feed))
    )
    arrays = {f"a{number}": array for number, array in enumerate(results[0].values())}
    np.savez(job.folder / "outputs.npz", **arrays)  # type: ignore[arg-type]
    return {"names": list(results[0])}


def _candidates(
    request: dict[str, Any], model: ModelProto, input_specs: list[InputSpec]
) -> Iterator[list[InputSet]]:
    if request["inputs"] is not None:
        outputs = [value.name for value in model.graph.output]
        yield input_files.read(Path(request["inputs"]), input_specs, outputs)
        return
    ranges = {name: (low, high) for name, (low, high) in request["val_range"].items()}
    count = request["check"] or (1 if request.get("level") == "run" else _SETS)
    drawing = SyntheticInputs(request["seed"], count, request["fill"], ranges)
    for feeds in synthetic_inputs.synthetic_feeds(model, input_specs, request["dims"], drawing):
        yield [InputSet(feed) for feed in feeds]
