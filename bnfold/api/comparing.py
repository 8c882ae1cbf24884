"""Two models: `verify` compares them."""

from __future__ import annotations

import contextlib
import shutil
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import cast

import onnx

from bnfold.deprecation import renamed_parameter
from bnfold.errors import BnfoldError, ModelError, UndecidedError, UsageError
from bnfold.folding.in_place import FoldResult, fold_in_place
from bnfold.graph.index import BATCH_NORM, Index
from bnfold.onnx_io import model_file
from bnfold.onnx_io.output_paths import PathLike
from bnfold.onnx_io.private_folder import PrivateFolder
from bnfold.onnx_io.write_model import on_disk
from bnfold.options import Level, Options, Rest, RunOptions, current_choice, require_choice
from bnfold.progress import Progress
from bnfold.proof.kernel.outcome import Outcome
from bnfold.verification import proof_file as proof_files
from bnfold.verification.client import compare
from bnfold.verification.comparison import Comparison


@renamed_parameter("trial", "run_options")
def verify(
    original: onnx.ModelProto | PathLike,
    folded: onnx.ModelProto | PathLike,
    *,
    run_options: RunOptions | None = None,
    level: Level = "full",
    foreign: bool = False,
    freeze_initializers: bool = False,
    proof_file: PathLike | None = None,
    progress: Progress | None = None,
) -> Comparison:
    """Compare two models: what the files tell, and what they give in onnxruntime.

    `level` is how far to go: "frame" (nothing changed but what folds explain; whether that is right
    is not looked at, and the result is never `equal`, see its `passed`), "proof" (and what
    was folded is right for every input), "folds" (and every folded node, fed what the original
    computes there, gives the same), "run" (a proof, and both models on the same inputs) or "full"
    (all of these, and the errors of both models against float64). `foreign`: the second
    model was made by another tool; changes of names and metadata are reported but not held against
    it, and its constants may be rounded more than once. `freeze_initializers`: callers do not
    replace initializers that are also graph inputs. `proof_file` is a proof that `optimize` wrote
    of these two files: it is believed in nothing, and proven again. `progress` is called with each
    Stage.

    Raises ModelError, UndecidedError or WorkerError where no comparison was possible; a difference
    is not an error here: look at the result's `equal`.
    """
    level = cast(Level, current_choice("level", level))
    require_choice("level", level, Level)
    if foreign and proof_file is not None:
        raise UsageError(
            "`foreign` and `proof_file` exclude each other",
            "a proof says all that has changed: omit `foreign`",
        )
    if foreign and level == "frame":
        raise UsageError(
            '`level="frame"` asks whether files are the same but for folds; those of another tool '
            "are not",
            'use `level="proof"`',
        )
    with contextlib.ExitStack() as stack:
        one, two = on_disk(original, stack), on_disk(folded, stack)
        own: _Folded | None = None
        if proof_file is not None:
            proofs = [proof_files.read(proof_file, one, two)]
        else:
            own = None if foreign else _own_fold(one, two, freeze_initializers)
            proofs = [] if own is None else [own[1].proof]
        given = run_options or RunOptions()
        ask = partial(
            compare, level=level, freeze_initializers=freeze_initializers, exact=level == "full",
            progress=progress,
        )  # fmt: skip
        undecided: UndecidedError | None = None
        found: Comparison | None = None
        try:
            found = ask(
                one, two, given, foreign=foreign, proofs=proofs, proven=proof_file is not None
            )
        except UndecidedError as error:
            undecided = error
        if own is not None and level != "frame" and not _is_settled(found):
            quietly = partial(ask, run_options=replace(given, counterexample=None))
            again = _equalised(one, two, own, quietly, freeze_initializers)
            if again is not None and found is not None and found.counterexample:
                shutil.rmtree(found.counterexample)  # there is none after all
            found = again or found
        if found is None:
            assert undecided is not None
            raise undecided
        return found


def _is_settled(found: Comparison | None) -> bool:
    """Whether two files are equal, and proven to be."""
    if found is None or not found.passed or found.certificate is None:
        return False
    return found.certificate.verdict is Outcome.VALID


_Folded = tuple[model_file.ModelFile, FoldResult[onnx.ModelProto]]  # a file, folded in memory


def _equalised(
    original: Path, other: Path, own: _Folded, ask: Callable[..., Comparison], freeze: bool
) -> Comparison | None:
    """What `optimize` with `equalize` has made of a model, step by step; None if it is not that.

    Powers of two change no bit of any result, so that what folding changed is all that has changed.
    The `own` fold is equalised here; where that pays, it is made once more to stand between.
    """
    from bnfold.quantization.equalize import equalized_as

    middle, result = own
    with contextlib.suppress(BnfoldError), PrivateFolder() as folder:
        after = model_file.read(other)
        proof = equalized_as(middle.model, middle.storage, Index(after.model, after.storage))
        if not proof:
            return None
        middle, _ = _folded(original, other, freeze)
        path = model_file.save(middle.model, middle.storage, folder / "folded.onnx")
        second = ask(path, other, proofs=[proof], proven=True)
        if not second.passed or not result.folded:
            return second if second.passed else None
        first = ask(original, path, proofs=[result.proof], proven=True)
        return replace(first, deployed=second.deployed) if first.passed else None
    return None


def _own_fold(original: Path, folded: Path, freeze: bool) -> _Folded | None:
    """What bnfold itself would do to a model, with the options that two files make likely.

    Nobody believes its proof: it is tried on the two files, and proves them equal or does not.
    """
    try:
        return _folded(original, folded, freeze)
    except ModelError:  # said by whoever compares them
        return None


def _folded(original: Path, other: Path, freeze: bool) -> _Folded:
    file, after = model_file.read(original), model_file.read(other)
    options = _likely_options(file, after, freeze)
    return file, fold_in_place(file.model, file.storage, options)


def _likely_options(
    before: model_file.ModelFile, after: model_file.ModelFile, freeze: bool
) -> Options:
    """The options that two files make likely. Raises UsageError for files in the wrong order."""
    counts = [
        Counter(node.op for node in Index(file.model, file.storage).nodes())
        for file in (before, after)
    ]
    if counts[1][BATCH_NORM] and not counts[0][BATCH_NORM]:
        raise UsageError(
            f"{after.path} has a BatchNormalization, {before.path} has none: no fold adds any",
            "swap the two files; or compare any two models with `foreign`",
        )
    return Options(
        freeze_initializers=freeze,
        allow_max=counts[1]["Max"] > counts[0]["Max"],
        merge_branches=counts[1]["Conv"] < counts[0]["Conv"],
        rest=_likely_rest(*counts),
    )


def _likely_rest(before: Counter[str], after: Counter[str]) -> Rest:
    """What two models say of the BatchNormalizations that nothing took."""
    if after[BATCH_NORM] or not before[BATCH_NORM]:
        return "keep"
    if after["Conv"] > before["Conv"]:
        return "conv"
    return "affine" if after["Mul"] + after["Add"] > before["Mul"] + before["Add"] else "keep"
