"""Whatever the graph: the result is equal and valid, and the frame holds."""

from __future__ import annotations

import os
import random
from typing import Any

import numpy as np
import onnx
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from onnx.reference import ReferenceEvaluator

import bnfold
from bnfold.onnx_io.tensor_storage import Storage
from bnfold.steps import from_json
from tests.proving import proven
from tests.random_graphs import OPERATORS, build
from tests.support import assert_frame
from tests.wider_graphs import computed_weights, in_type, wider

# the long run of `make fuzz` sets this higher
EXAMPLES = int(os.environ.get("BNFOLD_EXAMPLES", "400"))


def outputs(model: onnx.ModelProto, x: Any) -> dict[str, Any]:
    evaluator = ReferenceEvaluator(model)
    with np.errstate(all="ignore"):
        return dict(zip(evaluator.output_names, evaluator.run(None, {"x": x}), strict=True))


@settings(
    max_examples=EXAMPLES, deadline=None, suppress_health_check=[HealthCheck.too_slow],
    derandomize=EXAMPLES <= 400,
)  # fmt: skip
@given(
    st.lists(
        st.one_of(
            st.sampled_from(["batch_norm", "conv", "unary", "arithmetic", "branches"]),
            st.sampled_from(sorted(OPERATORS)),
        ),
        min_size=2,
        max_size=9,
    ),
    st.integers(0, 2**32 - 1),
)
@pytest.mark.unproven
def test_a_random_graph_gives_the_same_results_after_folding(ops: list[str], seed: int) -> None:
    """Run in float64, and proven in float32: of shifts that cancel float64 itself loses digits."""
    model = build(ops, seed)
    if seed % 4 == 0:
        computed_weights(model, random.Random(seed))
    onnx.checker.check_model(model)
    options = bnfold.Options(allow_max=seed % 2 == 1, merge_branches=seed % 3 > 0)
    result = bnfold.fold(model, options=options)
    onnx.checker.check_model(result.model, full_check=True)
    assert result.after.nodes <= result.before.nodes
    assert_frame(model, result)
    single = onnx.ModelProto()
    single.CopyFrom(model)
    in_type(single, onnx.TensorProto.FLOAT)
    folded = bnfold.fold(single, options=options)
    proven(single, folded.model, from_json(folded.proof.encode()), Storage())
    x = np.random.default_rng(seed).normal(size=(2, 4, 6, 6))
    before, after = outputs(model, x), outputs(result.model, x)
    assert before.keys() == after.keys()
    for name, expected in before.items():
        assert after[name].shape == expected.shape
        scale = np.max(np.abs(expected[np.isfinite(expected)]), initial=1.0)
        np.testing.assert_allclose(after[name], expected, rtol=1e-9, atol=1e-9 * scale)


@pytest.mark.parametrize("start", range(0, EXAMPLES, 50))
def test_folds_of_graphs_in_wider_forms_are_proven(start: int) -> None:
    """As every fold of a test is, by `tests.proving`."""
    for seed in range(start, start + 50):
        options = bnfold.Options(allow_max=seed % 2 == 1, merge_branches=seed % 3 > 0)
        result = bnfold.fold(wider(seed), options=options)
        assert result.after.nodes <= result.before.nodes
