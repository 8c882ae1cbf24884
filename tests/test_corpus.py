"""Every model of a corpus of real and exported models, where there is one.

`BNFOLD_CORPUS` names its folder; by default `../shared/corpus` beside the checkout. Each model is
optimised and equal, or refused with a reason; none crashes bnfold.
"""

from __future__ import annotations

import importlib.util
import os
from pathlib import Path

import onnx
import pytest

import bnfold
from bnfold.options import RunOptions
from bnfold.proof.kernel.outcome import Outcome
from tests.support import assert_frame

CORPUS = Path(
    os.environ.get("BNFOLD_CORPUS", Path(__file__).parents[2] / "shared" / "corpus")
).resolve()
MODELS = sorted(CORPUS.rglob("*.onnx"))

if not MODELS:
    pytest.skip(f"there is no corpus of models at {CORPUS}", allow_module_level=True)


def run_options(path: Path) -> RunOptions:
    """Run on the sample inputs that lie beside a model, on drawn ones where there are none."""
    inputs = path.with_suffix(".npz")
    return RunOptions(inputs=str(inputs) if inputs.exists() else None, timeout=300)


@pytest.mark.parametrize("path", MODELS, ids=lambda path: str(path.relative_to(CORPUS)))
def test_the_model_is_equal_or_refused_with_a_reason(path: Path, tmp_path: Path) -> None:
    result = bnfold.optimize(path, tmp_path / "out.onnx", run_options=run_options(path))
    assert result.after.nodes <= result.before.nodes
    norms = [verdict for verdict in result.verdicts if verdict.op == "BatchNormalization"]
    assert len(norms) == result.before.batch_norms
    assert result.after.batch_norms == sum(not verdict.folded for verdict in norms)
    for verdict in result.kept:
        assert verdict.refusal is not None
        assert verdict.refusal.sentence
    if result.folded:
        assert result.comparison is not None
        assert result.comparison.equal
        for check in (result.comparison.frame, result.comparison.certificate):
            assert check is not None
            assert check.verdict is Outcome.VALID, check.findings
        assert result.comparison.certificate is not None
        assert result.comparison.certificate.k <= 1
        if result.comparison.runs:
            assert not result.comparison.folds_not_run
            # "light" models have one number for all weights, so that roundings add up
            used = 1.0 if path.name.startswith("light_") else 0.5
            assert all(
                fold.c < used * fold.gate or fold.excused for fold in result.comparison.folds
            )
            assert result.comparison.deployed is not None
            assert not result.comparison.deployed.note
    model = onnx.load(path)
    assert_frame(model, bnfold.fold(model))


@pytest.mark.parametrize("form", ["mul-add", "batchnorm"])
@pytest.mark.parametrize("path", MODELS, ids=lambda path: str(path.relative_to(CORPUS)))
def test_what_is_frozen_is_certified(path: Path, form: bnfold.FrozenForm, tmp_path: Path) -> None:
    result = bnfold.freeze(path, tmp_path / "out.onnx", form=form, verify="proof")
    norms = sum(verdict.refusal is None for verdict in result.verdicts)
    assert len(result.frozen) == norms
    if norms:
        assert result.comparison is not None
        assert result.comparison.certificate is not None
        assert result.comparison.certificate.verdict is Outcome.VALID
        # one γ′ of a published detector is 10⁻³⁹, of which float32 holds few digits
        assert result.comparison.certificate.k <= (1 if "PP-OCRv3_det" not in path.name else 13)


def test_the_table_in_the_documentation_is_of_today() -> None:
    docs = Path(__file__).parents[1] / "docs"
    spec = importlib.util.spec_from_file_location("corpus_table", docs / "corpus_table.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    assert (docs / "corpus.md").read_text() == module.table(CORPUS)
