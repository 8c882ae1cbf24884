"""Streamed mean and variance, and what is made of them."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bnfold.tuning.drift import ChannelDrift, DriftLimits, Fit, StoredStatistics, drift
from bnfold.tuning.moments import Moments, SampleMoments
from tests.support import Array


def batch(x: Array) -> SampleMoments:
    """The moments of [N, C, positions]."""
    return SampleMoments(x.mean(axis=2), x.var(axis=2), x.shape[2])


def streamed(x: Array, sizes: list[int]) -> Moments:
    moments, start = Moments(), 0
    for size in sizes:
        moments.add(batch(x[start : start + size]))
        start += size
    moments.add(batch(x[start:]))
    return moments


@settings(max_examples=60)
@given(
    st.integers(1, 40), st.integers(1, 5), st.integers(1, 9), st.lists(st.integers(0, 12)),
    st.sampled_from([0.0, 1e3, 1e8]), st.integers(0, 99),
)  # fmt: skip
def test_the_cut_into_batches_does_not_matter(
    samples: int, channels: int, positions: int, sizes: list[int], offset: float, seed: int
) -> None:
    x = np.random.default_rng(seed).normal(offset, 1, (samples, channels, positions))
    moments = streamed(x, sizes)
    flat = np.moveaxis(x, 1, 0).reshape(channels, -1)
    np.testing.assert_allclose(moments.mean, flat.mean(axis=1), rtol=1e-12, atol=1e-12)
    np.testing.assert_allclose(moments.variance, flat.var(axis=1), rtol=1e-6, atol=1e-14)
    assert moments.samples == samples


def test_a_large_mean_costs_no_digits_of_the_variance() -> None:
    x = np.random.default_rng(0).normal(0, 1e-3, (100, 1, 16)) + 1e6
    naive = np.mean(x**2) - np.mean(x) ** 2
    assert abs(naive / x.var() - 1) > 10  # what sums of squares make of it
    assert streamed(x, [7, 50]).variance[0] == pytest.approx(x.var(), rel=1e-6)


def test_errors_are_those_of_samples_not_of_pixels() -> None:
    """Samples of one brightness each: 64 pixels tell no more than one."""
    rng = np.random.default_rng(0)
    x = rng.normal(0, 1, (400, 1, 1)) + np.zeros((400, 1, 64))
    moments = streamed(x, [100, 100])
    assert moments.mean_deviation[0] == pytest.approx(x[:, 0, 0].std(ddof=1))
    squares = (x[:, 0, 0] - x.mean()) ** 2
    assert moments.variance_deviation[0] == pytest.approx(squares.std(ddof=1))


def test_one_sample_has_no_error() -> None:
    moments = streamed(np.ones((1, 2, 3)), [])
    assert np.all(np.isnan(moments.mean_deviation))


def test_batches_of_images_of_several_sizes_count_by_their_pixels() -> None:
    rng = np.random.default_rng(0)
    one, other = rng.normal(0, 1, (3, 1, 4)), rng.normal(5, 1, (2, 1, 100))
    moments = Moments()
    for part in (one, other):
        moments.add(batch(part))
    both = np.concatenate([one.reshape(-1), other.reshape(-1)])
    assert moments.mean[0] == pytest.approx(both.mean())
    assert moments.variance[0] == pytest.approx(both.var())


# --- drift ---------------------------------------------------------------------------------------


def compared(x: Array, **changes: Any) -> ChannelDrift:
    channels = x.shape[1]
    stored: dict[str, Any] = {
        "node": "bn", "gamma": np.ones(channels), "mean": np.zeros(channels),
        "variance": np.ones(channels), "epsilon": 1e-5, "momentum": 0.9,
    }  # fmt: skip
    return drift(StoredStatistics(**(stored | changes)), streamed(x, []), DriftLimits())


def normal(samples: int = 400, mean: float = 0.0, deviation: float = 1.0) -> Array:
    return np.random.default_rng(0).normal(mean, deviation, (samples, 8, 16))


def test_data_like_that_of_the_training_fits() -> None:
    found = compared(normal())
    assert (found.fit, found.drifted, found.dead) == (Fit.FITS, 0, 0)
    assert found.worst_shift < 0.1


@pytest.mark.parametrize(
    ("mean", "deviation", "drifted"),
    [(0.5, 1, True), (0.2, 1, False), (0, 1.5, True), (0, 0.6, True), (0, 1.1, False)],
)
def test_what_is_off_by_more_than_the_limits_has_drifted(
    mean: float, deviation: float, drifted: bool
) -> None:
    found = compared(normal(mean=mean, deviation=deviation))
    assert found.fit is (Fit.DRIFTED if drifted else Fit.FITS)
    assert found.drifted == (8 if drifted else 0)


@pytest.mark.parametrize("samples", [1, 2, 7])
def test_too_few_samples_tell_nothing(samples: int) -> None:
    x = np.random.default_rng(3).normal(0, 1, (samples, 8, 1)) + np.zeros((samples, 8, 16))
    assert compared(x).fit is Fit.TOO_LITTLE


def test_the_stored_statistics_have_an_error_too() -> None:
    """A moving average of batches of 2 that forgets at once is no better than a few samples."""
    x = normal(mean=0.5) * 0 + np.random.default_rng(0).normal(0.5, 1, (400, 8, 1))
    assert compared(x).fit is Fit.DRIFTED
    stored = StoredStatistics("bn", np.ones(8), np.zeros(8), np.ones(8), 1e-5, momentum=0.0)
    assert drift(stored, streamed(x, []), DriftLimits(batch=2)).fit is Fit.TOO_LITTLE


def test_dead_channels_are_counted_and_left_out() -> None:
    gamma, variance = np.ones(8), np.ones(8)
    gamma[0], variance[1] = 0, 1e-12
    found = compared(normal(mean=3), gamma=gamma, variance=variance)
    assert (found.dead, found.drifted) == (2, 6)
    assert np.isnan(found.shift[:2]).all()
    assert not np.isnan(found.shift[2:]).any()


def test_a_batch_norm_that_is_all_dead_fits() -> None:
    found = compared(normal(), gamma=np.zeros(8))
    assert (found.fit, found.dead, found.worst_shift, found.worst_ratio) == (Fit.FITS, 8, 0, 1)
