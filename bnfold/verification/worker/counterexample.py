"""What shows a difference, saved in the form of ONNX's own test data.

FOLDER/model.onnx                      the folded model, or the folded part of it that is wrong
FOLDER/original.onnx                   the same of the original
FOLDER/test_data_set_0/input_0.pb …    what the models are fed, in the order of their inputs
FOLDER/test_data_set_0/output_0.pb …   what the original gives
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from onnx import numpy_helper

from bnfold.onnx_io import model_file
from bnfold.onnx_io.model_file import ModelFile
from bnfold.onnx_io.private_folder import PrivateFolder
from bnfold.onnx_io.protos import Array
from bnfold.proof.kernel.regions import Regions
from bnfold.runtime.sessions import Feed
from bnfold.verification.worker import submodels

if TYPE_CHECKING:
    from bnfold.runtime.sessions import Run
    from bnfold.verification.worker.fold_runs import Failure
    from bnfold.verification.worker.pair import Pair


@contextlib.contextmanager
def making(target: Path) -> Iterator[Path]:
    """A folder to put it in, which gets its name when all is there."""
    target.parent.mkdir(parents=True, exist_ok=True)
    with PrivateFolder(target.parent) as place:
        new = place / "counterexample"
        new.mkdir()
        yield new
        with contextlib.suppress(FileNotFoundError):
            target.rmdir()  # an empty one, which Windows replaces by nothing
        new.rename(target)


def of_fold(regions: Regions, failure: Failure, target: Path, folder: Path) -> None:
    """Save both models' part around a fold that is wrong."""
    region, (original, folded) = failure.region, regions.models
    before = {name: failure.values[name] for name in region.original.starts}
    after = {name: failure.values[regions.same[name]] for name in region.folded.starts}
    for name, model, part, values in (
        ("original.onnx", original, region.original, before),
        ("model.onnx", folded, region.folded, after),
    ):
        _save(model_file.read(submodels.of_parts(model, [part], values, folder, {})), target / name)
    _save_data(target, after.items(), [(region.original.end, failure.values[region.original.end])])


def of_output(
    pair: Pair, feeds: Sequence[Feed], truth: Sequence[Run], run: int, path: Path
) -> None:
    """Save both models whole, with the inputs of one run and what the original gives for them."""
    for name, file in (("original.onnx", pair.original), ("model.onnx", pair.folded)):
        _save(file, path / name)
    feed, given = feeds[run], truth[run]
    model = pair.folded.model
    inputs = [(v.name, feed[v.name]) for v in model.graph.input if v.name in feed]
    outputs = [(v.name, given[v.name]) for v in model.graph.output if v.name in given]
    _save_data(path, inputs, outputs)


def _save(file: ModelFile, path: Path) -> None:
    model_file.save(file.model, file.storage, path)


def _save_data(
    target: Path, inputs: Iterable[tuple[str, Array]], outputs: Iterable[tuple[str, Array]]
) -> None:
    folder = target / "test_data_set_0"
    folder.mkdir()
    for kind, arrays in (("input", inputs), ("output", outputs)):
        for number, (name, array) in enumerate(arrays):
            tensor = numpy_helper.from_array(array, name)
            (folder / f"{kind}_{number}.pb").write_bytes(tensor.SerializeToString())
