"""What the rules predict is what samples show where all that they assume holds."""

from __future__ import annotations

import numpy as np
import onnxruntime
import pytest

from bnfold.folding.weights.draft import Draft
from bnfold.graph.index import Index
from bnfold.options import Options
from bnfold.tuning.prediction.carried import INDEPENDENT, NORMAL, POOLED, STATIONARY, Carried
from bnfold.tuning.prediction.network import carried_moments
from tests.support import Array, numbers, parse

C, SAMPLES, SIZE = 4, 4000, 6
GAMMA = np.array([1.0, -0.5, 2.0, 0.0], np.float32)
BETA = np.array([0.5, 1.0, -1.0, 2.0], np.float32)
CONSTANTS: dict[str, Array] = {
    "w1": numbers(5, C, 1, 1), "w3": numbers(6, C, 3, 3), "depth": numbers(C, 1, 3, 3),
    "t3": numbers(C, 3, 3, 3), "matrix": numbers(C, 3),
    "slope": numbers(C, 1, 1), "each": numbers(1, C, 1, 1), "bias": numbers(6),
    "two": np.array(2, "f"),
    "pads": np.array([0, 0, 1, 0, 0, 0, 0, 2]), "twice": np.array([1, 1, 2, 2], "f"),
    "from1": np.array([1]), "to3": np.array([3]), "axis1": np.array([1]), "axis2": np.array([2]),
    "cut": np.array([1, 3]), "some": np.array([3, 0, 0]),
    "same": np.eye(C, dtype="f").reshape(C, C, 1, 1),
    "low": np.array(-0.5, "f"), "high": np.array(0.75, "f"),
}  # fmt: skip
EXACT: frozenset[str] = frozenset()

# what makes `h` of `a`; what its means rest on; whether its variances are told
CASES: list[tuple[str, frozenset[str], bool]] = [
    ("h = Conv (a, w1)", EXACT, True),
    ("h = Conv (a, w3, bias)", frozenset({STATIONARY}), True),
    ("h = Conv <pads = [1,0,2,1], strides = [2,1]> (a, w3)", frozenset({STATIONARY}), True),
    ("h = Conv <group = 4, pads = [2,2,2,2], dilations = [2,2]> (a, depth)",
     frozenset({STATIONARY}), True),
    ("h = ConvTranspose (a, t3)", frozenset({STATIONARY}), False),
    ("h = ConvTranspose <strides = [2,3], pads = [1,0,1,2], output_padding = [1,0]> (a, t3)",
     frozenset({STATIONARY}), False),
    ("h = Pad (a, pads, two)", frozenset({STATIONARY}), True),
    ("h = Resize (a, , twice)", frozenset({STATIONARY}), True),
    ('h = Resize <mode = "linear"> (a, , twice)', frozenset({STATIONARY}), False),
    ("h = GlobalAveragePool (a)", EXACT, True),
    ("h = ReduceMean <axes = [2, 3], keepdims = 0> (a)", EXACT, True),
    ("h = AveragePool <kernel_shape = [2,3]> (a)", frozenset({STATIONARY}), True),
    ("g = GlobalAveragePool (a) f = Flatten (g) h = Gemm (f, matrix)", EXACT, True),
    ("t = Transpose <perm = [0,2,3,1]> (a) h = MatMul (t, matrix)", EXACT, True),
    ("n = Neg (a) k = Concat <axis = 1> (a, n) h = Relu (k)", frozenset({NORMAL}), True),
    ("piece, h = Split <axis = 1> (a, cut)", EXACT, True),
    ("h = Slice (a, from1, to3, axis1)", EXACT, True),
    ("h = Slice (a, from1, to3, axis2)", frozenset({STATIONARY}), True),
    ("h = Gather <axis = 1> (a, some)", EXACT, True),
    ("q = Gather <axis = 1> (a, some) r = Relu (q) h = Mul (q, r)", frozenset({NORMAL}), True),
    ("h = SpaceToDepth <blocksize = 2> (a)", frozenset({STATIONARY}), True),
    ("r = Relu (a) h = Add (a, r)", frozenset({NORMAL}), True),
    ("c = Conv (a, w1) g = Sigmoid (c) h = Mul (c, g)", frozenset({NORMAL, INDEPENDENT}), True),
    ("c = Mul (a, two) i = Identity (c) t = Tanh (i) h = Sub (c, t)", frozenset({NORMAL}), True),
    ("e = Neg (a) f = Exp (e) g = Add (f, two) h = Div (two, g)", frozenset({NORMAL}), True),
    ("h = Clip (a, low, high)", frozenset({NORMAL}), True),
    ("h = PRelu (a, slope)", frozenset({NORMAL}), True),
    ("r = Mul (a, each) h = Sub (two, r)", EXACT, True),
    ("c = Conv (a, same) h = Sum (a, c, c)", EXACT, False),
    ("o = BatchNormalization (x2, s, b, m, v) h = Sum (a, o)", EXACT, True),
    ("o = BatchNormalization (x2, s, b, m, v) h = Sub (a, o)", EXACT, True),
    ("o = BatchNormalization (x2, s, b, m, v) g = GlobalAveragePool (o) q = HardSigmoid (g)"
     " h = Mul (a, q)", frozenset({NORMAL, INDEPENDENT, POOLED}), True),
    *((f"h = {op} (a)", frozenset({NORMAL}), True) for op in (
        "Abs", "Elu", "Erf", "HardSwish", "LeakyRelu", "Mish", "Selu", "Softplus",
    )),
]  # fmt: skip


def predicted_and_sampled(text: str) -> tuple[Carried, Array, Array]:
    """What is known of `h`, and the moments of its channels over samples of independent pixels."""
    other = f", float[N,{C},{SIZE},{SIZE}] x2" if "x2" in text else ""
    model = parse(
        f"g (float[N,{C},{SIZE},{SIZE}] x{other}) => (float h)"
        f" {{ a = BatchNormalization (x, s, b, m, v) {text} }}",
        17 if "ReduceMean" in text else 18,
        **{k: v for k, v in CONSTANTS.items() if k in text}, s=GAMMA, b=BETA,
        m=np.ones(C, "f"), v=np.full(C, 4, "f"),
    )  # fmt: skip
    index = Index(model)
    values = carried_moments(index, Draft(index, Options()))
    found = values.known[index.scopes[0], "h"]
    assert isinstance(found, Carried), found
    session = onnxruntime.InferenceSession(model.SerializeToString())
    rng = np.random.default_rng(0)
    x, x2 = (1 + 2 * rng.normal(size=(2, SAMPLES, C, SIZE, SIZE))).astype(np.float32)
    (made,) = session.run(None, {"x": x, "x2": x2} if other else {"x": x})
    rows = np.moveaxis(np.asarray(made, np.float64), found.axis, 0).reshape(len(found.mean), -1)
    return found, rows.mean(axis=1), rows.var(axis=1)


@pytest.mark.parametrize(("text", "assumes", "told"), CASES, ids=[text for text, _, _ in CASES])
def test_what_is_predicted_is_what_samples_show(
    text: str, assumes: frozenset[str], told: bool
) -> None:
    found, mean, variance = predicted_and_sampled(text)
    deviation = np.sqrt(variance)
    off = np.abs(found.mean - mean)
    assert np.all(off <= 0.03 * deviation + 1e-6)
    assert found.assumes == assumes
    assert bool(np.all(np.isfinite(found.variance))) == told
    if told and INDEPENDENT not in found.variance_assumes:
        np.testing.assert_allclose(found.variance, variance, rtol=0.05, atol=1e-5)


def test_the_variance_of_a_layer_is_what_epsilon_leaves_of_it() -> None:
    """γ²·σ²/(σ² + ε): a layer of σ² = ε makes half of γ², one of σ² = 0 a constant."""
    model = parse(
        "g (float[1,2,1,1] x) => (float h)"
        " { h = BatchNormalization <epsilon = 0.5> (x, s, b, m, v) }",
        s=np.full(2, 3, "f"), b=np.ones(2, "f"), m=np.ones(2, "f"), v=np.array([0.5, 0], "f"),
    )  # fmt: skip
    index = Index(model)
    found = carried_moments(index, Draft(index, Options())).known[index.scopes[0], "h"]
    assert isinstance(found, Carried)
    assert found.variance.tolist() == [4.5, 0]


def carried(text: str, shape: str = f"N,{C},{SIZE},{SIZE}", **more: Array) -> Carried:
    model = parse(
        f"g (float[{shape}] x) => (float h)"
        f" {{ a = BatchNormalization (x, s, b, m, v) {text} }}",
        18,
        s=GAMMA, b=BETA, m=np.ones(C, "f"), v=np.full(C, 4, "f"), **more,
    )  # fmt: skip
    index = Index(model)
    found = carried_moments(index, Draft(index, Options())).known[index.scopes[0], "h"]
    assert isinstance(found, Carried), found
    return found


def test_a_pad_in_front_of_a_convolution_is_its_padding() -> None:
    w, pads = numbers(5, C, 3, 3), np.array([0, 0, 1, 0, 0, 0, 2, 1])
    one = carried("h = Conv <pads = [1,0,2,1]> (a, w)", w=w)
    other = carried("p = Pad (a, pads) h = Conv (p, w)", w=w, pads=pads)
    np.testing.assert_allclose(one.mean, other.mean)
    np.testing.assert_allclose(one.variance, other.variance)
    assert not np.any(other.doubt)
    two = np.array(2, "f")
    filled = carried("p = Pad (a, pads, two) h = Conv (p, w)", w=w, pads=pads, two=two)
    assert np.all(np.asarray(filled.doubt) > 0)  # which taps see the 2 is not known


def test_a_value_and_its_transpose_are_not_one_value() -> None:
    found = carried("t = Transpose <perm = [0,1,3,2]> (a) h = Sub (a, t)")
    np.testing.assert_allclose(found.variance, 2 * GAMMA**2 * 4 / (4 + 1e-5), rtol=1e-6)
    assert INDEPENDENT in found.variance_assumes


def test_what_normal_values_are_off_adds_up_where_weights_have_one_sign() -> None:
    ones = np.ones((1, C, 3, 3), "f")
    mixed = ones * np.array([1, -1, 1, -1], "f").reshape(1, C, 1, 1)
    (up,), (both,) = (
        np.abs(np.asarray(carried("r = Tanh (a) h = Conv (r, w)", w=w).lean)) for w in (ones, mixed)
    )
    assert up > 0.15 * 9
    assert both < 0.75 * up
    pooled = carried("r = Tanh (a) h = GlobalAveragePool (r)")
    before = carried("h = Tanh (a)")
    np.testing.assert_allclose(pooled.lean, before.lean)  # and does not average out


def test_sizes_beyond_measure_cost_nothing() -> None:
    large = 2**31 - 1
    found = carried(
        "h = Conv <pads = [1,1]> (a, w)", f"1,{C},{large}", w=np.ones((1, C, 3), "f")
    )  # fmt: skip
    np.testing.assert_allclose(found.mean, 3 * BETA.sum(), rtol=1e-6)
    carried("h = Conv <pads = [1099511627776, 0]> (a, w)", f"1,{C},8", w=np.ones((1, C, 3), "f"))


def test_an_average_lies_between_the_ends_of_what_it_averages() -> None:
    found = carried("r = Relu (a) h = GlobalAveragePool (r)")
    low, high = found.ends
    np.testing.assert_allclose(low, np.maximum(BETA - 6 * np.abs(GAMMA), 0), rtol=1e-5)
    np.testing.assert_allclose(high, np.maximum(BETA + 6 * np.abs(GAMMA), 0), rtol=1e-5)
    behind = carried("r = Relu (a) p = GlobalAveragePool (r) h = Neg (p)")
    assert np.all(np.isnan(behind.ends))  # of what is made of it nothing is known
