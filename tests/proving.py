"""Every fold that any test makes is proven, from the model before and after and the steps."""

from __future__ import annotations

from typing import Any

import onnx
import pytest

from bnfold.folding.in_place import FoldResult, fold_in_place
from bnfold.onnx_io.tensor_storage import Storage
from bnfold.options import Options
from bnfold.proof.certificate import without_functions
from bnfold.proof.kernel.judge import Judgement, judge
from bnfold.proof.reading.model import Model
from bnfold.steps import Proof, from_json


def judged(
    original: onnx.ModelProto, folded: onnx.ModelProto, proof: Proof, storage: Storage | None = None
) -> Judgement:
    """What the kernel says of two models in memory."""
    storage = storage or Storage()
    one = without_functions(original, proof.inlined)
    return judge(
        Model(one, storage, freeze=proof.freeze), Model(folded, storage, freeze=proof.freeze), proof
    )


def proven(
    original: onnx.ModelProto, folded: onnx.ModelProto, proof: Proof, storage: Storage | None = None
) -> None:
    """Fails where the proof does not hold."""
    judgement = judged(original, folded, proof, storage)
    said = [
        f"{f.verdict.value}: {f.node}: {f.sentence}"
        for f in (*judgement.certificate.findings, *judgement.frame.findings)
    ]
    assert judgement.valid, "the fold is not proven:\n" + "\n".join(said)


@pytest.fixture(autouse=True)
def every_fold_is_proven(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Has the kernel check what the engine does, in whatever test that is not marked otherwise."""
    if request.node.get_closest_marker("unproven"):
        return
    fold = fold_in_place

    def and_proven(
        model: onnx.ModelProto, storage: Storage, options: Options | None, **more: Any
    ) -> FoldResult[onnx.ModelProto]:
        before = onnx.ModelProto()
        before.CopyFrom(model)
        result = fold(model, storage, options, **more)
        proof = from_json(result.proof.encode())
        if proof != Proof():  # where a test has put something else in place of it
            proven(before, result.model, proof, storage)
        return result

    for module in ("models", "files", "comparing"):
        monkeypatch.setattr(f"bnfold.api.{module}.fold_in_place", and_proven)
