"""The models in sample_models/: real, trained, with held-out images."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import pytest

import bnfold
from bnfold.options import RunOptions
from tests.support import assert_frame

SAMPLES = Path(__file__).parents[1] / "sample_models"

KEPT = {
    "digits_repvgg": ["another-reader", "another-reader"],
    "training_mode": ["training-mode"],
    "overridable_weights": ["overridable-input"],
}
BATCH_NORMS = {
    "digits_resnet": 9, "digits_depthwise": 7, "digits_repvgg": 10, "digits_mlp": 2,
    "digits_autoencoder": 4, "fp16": 1, "fp16_float_statistics": 1, "training_mode": 1,
    "overridable_weights": 1,
}  # fmt: skip


def test_the_lists_are_complete() -> None:
    assert {path.stem for path in SAMPLES.glob("*.onnx")} == BATCH_NORMS.keys()


@pytest.mark.parametrize("name", sorted(BATCH_NORMS))
def test_each_folds_what_can_be_folded(name: str, tmp_path: Path) -> None:
    source = SAMPLES / f"{name}.onnx"
    result = bnfold.optimize(source, tmp_path / "out.onnx")
    assert result.before.batch_norms == BATCH_NORMS[name]
    reasons = [v.refusal.reason.code for v in result.kept if v.refusal]
    assert reasons == KEPT.get(name, [])
    assert (result.comparison is not None) == bool(result.folded)
    model = onnx.load(source)
    assert_frame(model, bnfold.fold(model))
    onnx.checker.check_model(onnx.load(result.model), full_check=True)


@pytest.mark.parametrize("name", sorted(name for name in BATCH_NORMS if "digits" in name))
def test_real_images_give_equal_results(name: str, tmp_path: Path) -> None:
    images = np.load(SAMPLES / "digits_test.npz")["image"].astype(np.float32) / 16
    np.savez(tmp_path / "images.npz", image=images)
    result = bnfold.optimize(
        SAMPLES / f"{name}.onnx", tmp_path / "out.onnx",
        run_options=RunOptions(inputs=str(tmp_path / "images.npz")),
    )  # fmt: skip
    assert result.comparison is not None
    assert result.comparison.inputs[0].shape == (450, 1, 8, 8)


def test_the_blocks_of_repvgg_become_one_convolution_each(tmp_path: Path) -> None:
    options = bnfold.Options(merge_branches=True)
    result = bnfold.optimize(SAMPLES / "digits_repvgg.onnx", tmp_path / "out.onnx", options=options)
    assert (result.before.nodes, result.after.nodes, result.after.batch_norms) == (37, 11, 0)
    assert [v.branches for v in result.folded if v.branches] == [2, 3, 2, 3]
    assert result.comparison is not None
    model = onnx.load(SAMPLES / "digits_repvgg.onnx")
    assert_frame(model, bnfold.fold(model, options=options))


def test_the_demo_shows_the_same_accuracy_before_and_after() -> None:
    done = subprocess.run(
        [sys.executable, SAMPLES / "demo.py"], capture_output=True, text=True, check=True
    )
    lines = [line.split(maxsplit=1) for line in done.stdout.splitlines()]
    before = [rest for word, rest in filter(lambda p: len(p) == 2, lines) if word == "before"]
    after = [rest for word, rest in filter(lambda p: len(p) == 2, lines) if word == "after"]
    scores = [b for b in before if "accuracy" in b or "error" in b]
    assert len(scores) == 5
    assert scores == [a for a in after if "accuracy" in a or "error" in a]
    assert all(float(s.split()[1]) > 0.97 for s in scores if "accuracy" in s)
