"""How much stored statistics count: by what was held out."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest

from bnfold import Dataset, NotBetterError, UsageError, recalibrate
from bnfold.tuning.drift import StoredStatistics
from bnfold.tuning.moments import Moments, SampleMoments
from bnfold.tuning.prior import likeliest_prior
from tests.support import invoke, parse

C = 64


def layer(mean: float, variance: float) -> StoredStatistics:
    return StoredStatistics("n", np.ones(C), np.full(C, mean), np.full(C, variance), 1e-5, 0.9)


def seen(samples: int, seed: int, mean: float = 0.0) -> Moments:
    found = Moments()
    values = np.random.default_rng(seed).normal(mean, 1, (samples, C))
    found.add(SampleMoments(values, np.zeros_like(values), 1))
    return found


@pytest.mark.parametrize(("stored", "samples", "least", "most"), [
    (layer(0, 1), 8, 128, np.inf),  # what is stored is right: the few samples count for little
    (layer(3, 1), 8, 0, 1),  # it is wrong: whatever the samples say is better
    (layer(0.35, 1), 8, 2, 64),  # about as wrong as a mean of eight samples is uncertain
    (layer(0.35, 1), 2000, 0, 100),  # and of many
])  # fmt: skip
def test_the_better_of_two_estimates_counts_more(
    stored: StoredStatistics, samples: int, least: float, most: float
) -> None:
    found = likeliest_prior([(stored, seen(samples, 0), seen(500, 1))])
    assert least <= (np.inf if found is None else found) <= most


def test_without_a_layer_nothing_speaks_for_other_statistics() -> None:
    assert likeliest_prior([]) is None


MODEL = parse(
    f"g (float[N,{C}] x) => (float[N,{C}] y) {{ y = BatchNormalization (x, s, b, m, v) }}",
    s=np.ones(C, "f"), b=np.zeros(C, "f"), m=np.zeros(C, "f"), v=np.ones(C, "f"),
)  # fmt: skip


def data(
    tmp_path: Path, mean: float, samples: int = 40, **more: np.ndarray
) -> tuple[Path, Dataset]:
    onnx.save(MODEL, tmp_path / "m.onnx")
    x = np.random.default_rng(2).normal(mean, 1, (samples, C)).astype(np.float32)
    np.savez(tmp_path / "d.npz", x=x, **more)  # type: ignore[arg-type]
    return tmp_path / "m.onnx", Dataset(tmp_path / "d.npz", 8)


def test_data_that_has_moved_is_believed(tmp_path: Path) -> None:
    model, own = data(tmp_path, 2.0)
    result = recalibrate(model, own, tmp_path / "o.onnx", prior="auto")
    assert result.samples == 30  # a quarter is held out
    assert 0 <= result.prior < 5
    assert result.before is None  # there are no labels


def test_stored_statistics_that_are_as_good_are_kept(tmp_path: Path) -> None:
    model, own = data(tmp_path, 0.0, samples=8)
    out = tmp_path / "o.onnx"
    with pytest.raises(NotBetterError, match="under the stored statistics"):
        recalibrate(model, own, out, prior="auto")
    assert not out.exists()


def test_too_few_samples_to_hold_any_out_are_said_to_be(tmp_path: Path) -> None:
    model, own = data(tmp_path, 50.0, samples=3)
    with pytest.raises(UsageError, match="too few samples to hold any of them out"):
        recalibrate(model, own, tmp_path / "o.onnx", prior="auto")


def test_an_accuracy_that_falls_is_not_written(tmp_path: Path) -> None:
    """Labels that the stored statistics get right, of data that has moved."""
    x = np.random.default_rng(2).normal(2.0, 1, (40, C)).astype(np.float32)
    model, own = data(tmp_path, 2.0, y=np.argmax(x, axis=1))
    out = tmp_path / "o.onnx"
    moved = onnx.load(model)
    scale = next(t for t in moved.graph.initializer if t.name == "v")
    scale.CopyFrom(onnx.numpy_helper.from_array(np.full(C, 4, "f"), "v"))
    onnx.save(moved, model)
    with pytest.raises(NotBetterError, match=r"the accuracy was 1\.0000 and would be"):
        recalibrate(model, own, out, prior="auto")
    assert not out.exists()


def test_the_command_tells_what_it_has_chosen(tmp_path: Path) -> None:
    model, own = data(tmp_path, 0.7)
    words = ("recalibrate", model, "--inputs", own.path, "-o", tmp_path / "o.onnx")
    result = invoke(*words, "--prior", "auto")
    assert result.exit_code == 0, result.output
    assert "what was stored counted like " in result.output or "on 30 samples" in result.output
    assert invoke(*words, "--prior", "much").exit_code == 2
