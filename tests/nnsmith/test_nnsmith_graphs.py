"""Graphs that another tool drew: what folds is proven, and gives the same results."""

from __future__ import annotations

import numpy as np
import onnx
import pytest

import bnfold
from tests.nnsmith.stored import feeds, graphs, model, outputs


@pytest.mark.parametrize("start", range(0, 300, 20))
def test_what_folds_is_proven_and_gives_the_same(start: int) -> None:
    """Proven in float32 by `tests.proving`, as every fold of a test is, and run in float64."""
    for number in range(start, start + 20):
        options = bnfold.Options(merge_branches=number % 2 == 1)
        original = model(number)
        onnx.checker.check_model(original, full_check=True)
        result = bnfold.fold(original, options=options)
        assert result.after.nodes <= result.before.nodes
        exact = model(number, np.float64)
        given = feeds(exact, number)
        before = outputs(exact, given)
        after = outputs(bnfold.fold(exact, options=options).model, given)
        for one, other in zip(before, after, strict=True):
            scale = np.max(np.abs(one[np.isfinite(one)]), initial=1.0)
            np.testing.assert_allclose(other, one, rtol=1e-9, atol=1e-9 * scale)


def test_something_folds_in_each_of_them() -> None:
    assert len(graphs()) == 300
    assert all(bnfold.fold(model(number)).folded for number in range(0, 300, 10))
