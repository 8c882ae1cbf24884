"""Constants in their disguises, where the result of folding them is written, and rounding."""

from __future__ import annotations

import subprocess
import sys
from decimal import Decimal, getcontext
from fractions import Fraction
from typing import Any

import ml_dtypes
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import ModelProto, TensorProto, helper, numpy_helper
from onnx.reference import ReferenceEvaluator

import bnfold
from bnfold.folding.weights.constants import rounded
from bnfold.graph.budget import Budget
from bnfold.graph.constant_evaluation import evaluate
from bnfold.graph.index import Index
from bnfold.onnx_io.private_folder import PrivateFolder
from bnfold.tuning.stored_statistics import norms
from tests.support import Array, affine, bn, folded, nodes, numbers, parse, reason

CONV_BN = """
g (float[1,4,6,6] x) => (float[1,6,P,Q] y) {
  BEFORE
  [conv] c = Conv (x, w)
  [norm] y = BatchNormalization <epsilon = 0.0> (c, s, b, m, v)
}"""


def with_weight(before: str, **tensors: Array) -> ModelProto:
    return parse(CONV_BN.replace("BEFORE", before), **bn(6), **tensors)


W = numbers(6, 4, 3, 3)


@pytest.mark.parametrize(
    ("before", "raw"),
    [
        ("w = Identity (raw)", W),
        ("w = Transpose <perm = [3,2,0,1]> (raw)", W.transpose(2, 3, 1, 0)),
        ("w = Reshape (raw, shape)", W.reshape(6, -1)),
        ("w = Cast <to = 1> (raw)", W.astype(np.float16)),
        ("w = Unsqueeze (raw, axis)", W[..., 0]),
        ("w = Mul (raw, two)", W),
        ("h = Neg (raw)\n w = Sub (h, two)", W),
        ("h = Reciprocal (two)\n w = Div (raw, h)", W),
        ("h = Sqrt (four)\n w = Add (raw, h)", W),
        ("w = Concat <axis = 0> (raw, raw)", W[:3]),
        ("w = Gather <axis = 0> (raw, order)", W),
        ("w = CastLike (raw, x)", W.astype(np.float64)),
    ],
)
def test_a_weight_that_is_computed_from_constants_becomes_one(before: str, raw: Array) -> None:
    model = with_weight(
        before, raw=raw, shape=np.array(W.shape), axis=np.array([3]), two=np.array([2], np.float32),
        four=np.array([4], np.float32), order=np.array([5, 4, 3, 2, 1, 0]),
    )  # fmt: skip
    result = folded(model)
    assert result.ops == ["Conv"]
    assert result.node.input[1] == "w", "the value keeps its name"


def test_a_computation_that_somebody_else_reads_stays() -> None:
    text = CONV_BN.replace("float[1,6,P,Q] y)", "float[1,6,P,Q] y, float[6,4,3,3] w)")
    result = folded(parse(text.replace("BEFORE", "w = Neg (raw)"), raw=W, **bn(6)))
    assert result.ops == ["Neg", "Conv"]
    assert nodes(result.model, "Conv")[0].input[1] != "w"


def test_a_bias_computed_from_the_shape_of_the_weight_does_not_make_the_weight_shared() -> None:
    """What torch.onnx.export(optimize=False) writes for every convolution without bias."""
    text = """
    g (float[1,4,6,6] x) => (float[1,6,P,Q] y) {
      shape = Shape <start = 0, end = 1> (w)
      zero = Constant <value = float {0}> ()
      like = CastLike (zero, x)
      bias = Expand (like, shape)
      [conv] c = Conv (x, w, bias)
      [norm] y = BatchNormalization <epsilon = 0.0> (c, s, b, m, v)
    }"""
    result = folded(parse(text, w=W, **bn(6)))
    assert list(result.node.input) == ["x", "w", "bias"]


@pytest.mark.parametrize(
    "attribute",
    [
        helper.make_attribute("value_floats", [1.0, 2.0, -3.0, 4.0, 5.0, -6.0]),
        helper.make_attribute(
            "value", numpy_helper.from_array(np.array([1, 2, -3, 4, 5, -6], np.float32), "anything")
        ),
    ],
)
def test_parameters_and_biases_in_constant_nodes(attribute: Any) -> None:
    text = CONV_BN.replace("Conv (x, w)", "Conv (x, w, k)").replace("(c, s,", "(c, k,")
    p = bn(6)
    del p["s"]
    model = parse(text.replace("BEFORE", ""), w=W, **p)
    model.graph.node.insert(0, helper.make_node("Constant", [], ["k"], "kernel_bias"))
    model.graph.node[0].attribute.append(attribute)
    result = folded(model)
    # the node reads its bias from k, which is the bias and γ at once: a copy is written
    assert result.ops == ["Conv"]


def test_a_bias_in_a_constant_node_of_its_own_is_rewritten_there() -> None:
    text = CONV_BN.replace("Conv (x, w)", "Conv (x, w, k)")
    for form in ("value_floats = [1.0, 2.0, 3.0, 4.0, 5.0, 6.0]", "value = float[6] {1,2,3,4,5,6}"):
        p = bn(6)
        result = folded(parse(text.replace("BEFORE", f"k = Constant <{form}> ()"), w=W, **p))
        assert result.ops == ["Constant", "Conv"]
        scale, shift = affine(p)
        (attribute,) = result.model.graph.node[0].attribute
        np.testing.assert_array_equal(
            numpy_helper.to_array(attribute.t), scale * [1, 2, 3, 4, 5, 6] + shift
        )


@pytest.mark.parametrize(
    ("before", "code"),
    [
        ("k = ConstantOfShape (huge)\n w = Add (raw, k)", "too-large"),
        ("w = Expand (raw, huge)", "too-large"),
        ("w = Tile (raw, huge)", "shape-mismatch"),  # a weight of another number of channels
    ],
)
def test_a_computation_that_would_fill_the_memory_is_not_made(before: str, code: str) -> None:
    model = with_weight(before, raw=W, huge=np.array([10**6] * 4))
    assert reason(model, check=False) == code


DOUBLED = "k{1} = Concat <axis = 0> (k{0}, k{0})"


def test_constants_that_are_large_together_are_not_computed() -> None:
    """Each is but twice the one before; what all of them take is bounded."""
    chain = " ".join(DOUBLED.format(i, i + 1) for i in range(24))
    model = with_weight(
        f"{chain} f = Slice (k24, start, end) w = Reshape (f, shape)",
        k0=np.ones(64, np.float32), start=np.array([0]), end=np.array([W.size]),
        shape=np.array(W.shape),
    )  # fmt: skip
    assert reason(model, check=False) == "too-large"


def test_where_constants_are_large_together_none_is_computed() -> None:
    """Which of them comes first must not decide what folds."""
    chain = " ".join(DOUBLED.format(i, i + 1) for i in range(24))
    text = f"""
    g (float[1,4,6,6] x) => (float[1,6,4,4] y, float[1,6,4,4] q) {{
      small = Neg (raw)
      c = Conv (x, small)
      y = BatchNormalization <epsilon = 0.0> (c, s, b, m, v)
      {chain} f = Slice (k24, start, end) large = Reshape (f, shape)
      d = Conv (x, large)
      q = BatchNormalization <epsilon = 0.0> (d, s, b, m, v)
    }}"""
    model = parse(
        text, raw=W, k0=np.ones(64, np.float32), start=np.array([0]), end=np.array([W.size]),
        shape=np.array(W.shape), **bn(6),
    )  # fmt: skip
    result = bnfold.fold(model)
    codes = [verdict.refusal.reason.code for verdict in result.kept if verdict.refusal]
    assert codes == ["too-large", "too-large"]
    assert not result.folded


def test_long_vectors_do_not_go_through_data_propagation() -> None:
    """Which makes a list of all elements: 2²⁸ of them here, in a file of 2 kB."""
    chain = " ".join(DOUBLED.format(i, i + 1) for i in range(24))
    model = with_weight(f"{chain} w = Identity (raw)", raw=W, k0=np.ones(16))
    assert len(folded(model, execute=False).ops) == 25


def test_shapes_that_are_computed_of_shapes_are_known() -> None:
    """A view as exporters write it: what the sizes are, is known through Shape, Gather, Concat."""
    text = """
    g (float[N,6,4,4] x) => (float[M,5] y) {
      [norm] n = BatchNormalization <epsilon = 0.0> (x, s, b, m, v)
      shape = Shape (n)
      batch = Gather (shape, zero)
      rows = Unsqueeze (batch, axis)
      size = Concat <axis = 0> (rows, rest)
      flat = Reshape (n, size)
      y = Gemm (flat, w)
    }"""
    given = {"zero": np.array(0), "axis": np.array([0]), "rest": np.array([96])}
    # the checker knows no Reshape to a size that is computed
    folded(parse(text, w=numbers(96, 5), **given, **bn(6)))


def test_statistics_that_are_computed_from_constants_are_known() -> None:
    text = CONV_BN.replace("BEFORE", "variance = Sqrt (v)").replace("m, v)", "m, variance)")
    model = parse(text, w=W, **bn(6) | {"v": bn(6)["v"] ** 2})
    ((_, stored),), refused = norms(Index(model))
    assert not refused
    np.testing.assert_allclose(stored.variance, bn(6)["v"], rtol=1e-6)


def test_a_computation_whose_operands_do_not_fit_is_not_made() -> None:
    model = with_weight("w = Reshape (raw, shape)", raw=W, shape=np.array([7, 7]))
    assert reason(model, check=False) == "not-evaluated"


def test_an_endless_chain_of_computations_is_not_followed() -> None:
    chain = "\n".join(f"w{i + 1} = Neg (w{i})" for i in range(3000))
    model = with_weight(f"{chain}\n w = Neg (w3000)", w0=W)
    assert reason(model) == "too-far"


@pytest.mark.parametrize("value", [helper.make_attribute("value_string", "text")])
def test_a_constant_without_numbers(value: Any) -> None:
    model = with_weight("w = Constant <value_int = 1> ()")
    del model.graph.node[0].attribute[:]
    model.graph.node[0].attribute.append(value)
    assert reason(model, check=False) == "dtype"


def test_evaluate_gives_up_without_raising() -> None:
    node = helper.make_node("Add", ["a", "b"], ["c"])
    assert evaluate(node, 17, [np.ones(3), np.ones(4)], Budget(0)) is None


# --- who else reads it ----------------------------------------------------------------------------

TWO_CONVS = """
g (float[1,4,6,6] x) => (float[1,6,P,Q] y, float[1,6,P,Q] z) {
  [conv1] c = Conv (x, w, bias)
  [norm] y = BatchNormalization <epsilon = 0.0> (c, s, b, m, v)
  [conv2] z = Conv (x, w, bias)
}"""


def test_a_shared_weight_is_copied_on_write() -> None:
    result = folded(parse(TWO_CONVS, w=W, bias=numbers(6), **bn(6)))
    one, two = result.model.graph.node
    assert list(two.input) == ["x", "w", "bias"]
    assert not set(one.input[1:]) & {"w", "bias"}
    np.testing.assert_array_equal(result.tensor("w"), W)


def test_a_weight_shared_by_two_folds_is_copied_once() -> None:
    text = TWO_CONVS.replace("z = Conv (x, w, bias)", "d = Conv (x, w, bias)\n NORM").replace(
        "NORM", "[norm2] z = BatchNormalization <epsilon = 0.0> (d, s2, b2, m2, v2)"
    )
    two = {f"{k}2": v for k, v in bn(6, seed=5).items()}
    result = folded(parse(text, w=W, bias=numbers(6), **bn(6), **two))
    assert sorted(t.name for t in result.model.graph.initializer) == ["bias", "bias_1", "w", "w_1"]


def test_the_same_fold_of_all_readers_of_a_weight_is_done_once() -> None:
    text = TWO_CONVS.replace("z = Conv (x, w, bias)", "d = Conv (x, w, bias)\n NORM").replace(
        "NORM", "[norm2] z = BatchNormalization <epsilon = 0.0> (d, s, b, m, v)"
    )
    result = folded(parse(text, w=W, bias=numbers(6), **bn(6)))
    assert sorted(t.name for t in result.model.graph.initializer) == ["bias", "w"]
    assert result.result.copied_bytes == 0


def test_the_same_fold_of_some_readers_of_a_weight_makes_one_copy() -> None:
    text = """
    g (float[1,4,6,6] x) => (float[1,6,P,Q] y, float[1,6,P,Q] z, float[1,6,P,Q] o) {
      [conv1] c = Conv (x, w)
      [norm1] y = BatchNormalization <epsilon = 0.0> (c, s, b, m, v)
      [conv2] d = Conv (x, w)
      [norm2] z = BatchNormalization <epsilon = 0.0> (d, s, b, m, v)
      [conv3] o = Conv (x, w)
    }"""
    result = folded(parse(text, w=W, **bn(6)))
    assert sorted(t.name for t in result.model.graph.initializer) == ["w", "w_1", "w_bias"]
    assert result.result.copied_bytes == W.nbytes


def test_what_two_folds_made_alike_goes_only_with_the_last_reader() -> None:
    text = """
    g (float[1,4,6,6] x) => (float[1,6,P,Q] y, float[1,6,P,Q] z) {
      [conv1] c = Conv (x, w)
      [norm1] y = BatchNormalization <epsilon = 0.0> (c, s, b, m, v)
      [gone] t = Transpose <perm = [0, 1, 2, 3]> (w)
      [conv2] d = Conv (x, t)
      [norm2] z = BatchNormalization <epsilon = 0.0> (d, s, b, m, v)
    }"""
    result = folded(parse(text, w=W, **bn(6)))
    assert all(name in {t.name for t in result.model.graph.initializer}
               for node in result.model.graph.node for name in node.input[1:])  # fmt: skip


def test_a_weight_that_is_a_graph_output_keeps_its_value() -> None:
    text = CONV_BN.replace("float[1,6,P,Q] y)", "float[1,6,P,Q] y, float[6,4,3,3] w)")
    result = folded(parse(text.replace("BEFORE", ""), w=W, **bn(6)))
    np.testing.assert_array_equal(result.tensor("w"), W)


def test_a_weight_that_a_body_reads_keeps_its_value() -> None:
    text = """
    g (float[1,4,6,6] x, bool cond) => (float[1,6,P,Q] y, float[1,6,P,Q] z) {
      [conv] c = Conv (x, w)
      [norm] y = BatchNormalization <epsilon = 0.0> (c, s, b, m, v)
      z = If (cond) <
        then_branch = t () => (float[1,6,P,Q] p) { p = Conv (x, w) },
        else_branch = e () => (float[1,6,P,Q] q) { q = Conv (x, w) }
      >
    }"""
    np.testing.assert_array_equal(folded(parse(text, w=W, **bn(6))).tensor("w"), W)


def test_a_weight_with_a_quantization_annotation_keeps_its_value() -> None:
    model = with_weight("", w=W)
    annotation = model.graph.quantization_annotation.add(tensor_name="w")
    annotation.quant_parameter_tensor_names.add(key="SCALE_TENSOR", value="s")
    result = folded(model)
    np.testing.assert_array_equal(result.tensor("w"), W)
    result.tensor("s")  # named by the annotation, so it stays


def test_a_weight_named_in_training_info_keeps_its_value() -> None:
    model = with_weight("", w=W)
    model.training_info.add().update_binding.add(key="w", value="w_new")
    result = bnfold.fold(model)
    assert [v.folded for v in result.verdicts] == [True]
    assert any(t.name == "w" and t == i for t, i in zip(
        result.model.graph.initializer, [i for i in model.graph.initializer if i.name == "w"],
        strict=False,
    ))  # fmt: skip


@pytest.mark.parametrize("where", ["initializer", "node output", "body", "value_info", "input"])
def test_a_new_name_is_free_in_every_scope(where: str) -> None:
    text = """
    g (float[1,4,6,6] x, bool cond INPUT) => (float[1,6,P,Q] y, float[1,4,6,6] z) {
      [conv] c = Conv (x, w)
      [norm] y = BatchNormalization <epsilon = 0.0> (c, s, b, m, v)
      t0 = OUTPUT (x)
      z = If (cond) <
        then_branch = t () => (float[1,4,6,6] p) { BODY = Relu (x) p = Relu (BODY) },
        else_branch = e () => (float[1,4,6,6] q) { q = Relu (t0) }
      >
    }"""
    taken = "w_bias"
    text = text.replace("INPUT", f", float[1] {taken}" if where == "input" else "")
    text = text.replace("BODY", taken if where == "body" else "inner")
    text = text.replace("OUTPUT", "Relu")
    if where == "node output":
        text = text.replace("t0", taken)
    model = parse(text, w=W, **bn(6))
    if where == "initializer":
        model.graph.initializer.append(numpy_helper.from_array(numbers(1), taken))
    if where == "value_info":
        model.graph.value_info.append(helper.make_tensor_value_info(taken, 1, [1]))
    result = folded(model)
    assert nodes(result.model, "Conv")[0].input[2] == "w_bias_1"


# --- rounding -------------------------------------------------------------------------------------

getcontext().prec = 120


def exactly_rounded(value: Fraction, precision: int, smallest: int, largest: Fraction) -> float:
    """Nearest number with `precision` bits and exponents from `smallest` on, ties to even."""
    if value == 0:
        return 0.0
    size, exponent = abs(value), smallest
    while size >= Fraction(2) ** (exponent + precision):
        exponent += 1
    steps = size / Fraction(2) ** exponent
    whole = steps.numerator // steps.denominator
    rest = steps - whole
    if rest > Fraction(1, 2) or (rest == Fraction(1, 2) and whole % 2):
        whole += 1
    magnitude = whole * Fraction(2) ** exponent
    result = float("inf") if magnitude > largest else float(magnitude)
    return result if value > 0 else -result


FORMATS: dict[int, tuple[int, int, Fraction]] = {
    TensorProto.FLOAT: (24, -149, Fraction(2) ** 128 - Fraction(2) ** 104),
    TensorProto.FLOAT16: (11, -24, Fraction(65504)),
    TensorProto.BFLOAT16: (8, -133, Fraction(2) ** 128 - Fraction(2) ** 120),
}


@settings(max_examples=300, deadline=None)
@given(st.floats(allow_nan=False, allow_infinity=False), st.sampled_from(sorted(FORMATS)))
def test_rounding_is_to_nearest_even_once(value: float, dtype: int) -> None:
    got = float(rounded(np.array([value]), dtype).astype(np.float64)[0])
    assert got == exactly_rounded(Fraction(value), *FORMATS[dtype])


@settings(max_examples=300, deadline=None)
@given(
    st.integers(1, 2**12), st.integers(-140, 120), st.integers(-3, 3), st.booleans(),
    st.sampled_from(sorted(FORMATS)),
)  # fmt: skip
def test_rounding_next_to_ties(
    mantissa: int, exponent: int, nudge: int, negative: bool, dtype: int
) -> None:
    """Halfway cases, and those a float64 ulp beside them, where rounding twice goes wrong."""
    value = float(mantissa) * 2.0**exponent * (1 + nudge * 2.0**-52)
    value = -value if negative else value
    got = float(rounded(np.array([value]), dtype).astype(np.float64)[0])
    assert got == exactly_rounded(Fraction(value), *FORMATS[dtype])


def exact_fold(w: Array, bias: Array | None, p: dict[str, Array], eps: float) -> tuple[Any, Any]:
    """W′ and b′ of the first weight of each channel, in 120 digits."""
    s, b, m, v = ([Decimal(float(x)) for x in p[k]] for k in "sbmv")
    gamma = [g / (x + Decimal(eps)).sqrt() for g, x in zip(s, v, strict=True)]
    weights = [
        [Decimal(float(x)) * g for x in row.ravel()] for row, g in zip(w, gamma, strict=True)
    ]
    old = [Decimal(0)] * len(s) if bias is None else [Decimal(float(x)) for x in bias]
    biases = [g * (o - mu) + be for g, o, mu, be in zip(gamma, old, m, b, strict=True)]
    return weights, biases


@pytest.mark.parametrize("dtype", [np.float32, np.float16, ml_dtypes.bfloat16])
@pytest.mark.parametrize("bias", [False, True])
def test_folded_values_are_the_exact_ones_rounded_once(dtype: Any, bias: bool) -> None:
    rng = np.random.default_rng(3)
    w = rng.normal(size=(6, 4, 3, 3)).astype(dtype)
    old = rng.normal(0, 100, size=6).astype(dtype) if bias else None
    p = {
        "s": rng.normal(size=6).astype(np.float32), "b": rng.normal(size=6).astype(np.float32),
        "m": rng.normal(0, 100, size=6).astype(np.float32),
        "v": rng.uniform(1e-3, 4, size=6).astype(np.float32),
    }  # fmt: skip
    text = CONV_BN.replace("BEFORE", "").replace("epsilon = 0.0", "epsilon = 0.001")
    text = text.replace("Conv (x, w)", "Conv (x, w, bias)") if bias else text
    model = parse(text, w=w, **p, **({"bias": old} if old is not None else {}))
    result = bnfold.fold(model)
    assert result.folded
    number = helper.np_dtype_to_tensor_dtype(np.dtype(dtype))
    weights, biases = exact_fold(w, old, p, float(np.float32(0.001)))
    tensors = {t.name: numpy_helper.to_array(t) for t in result.model.graph.initializer}
    precision, smallest, largest = FORMATS[number]
    for row, exact in zip(tensors["w"], weights, strict=True):
        assert row.dtype == dtype
        expected = [exactly_rounded(Fraction(x), precision, smallest, largest) for x in exact]
        np.testing.assert_array_equal(row.ravel().astype(np.float64), expected)
    got = tensors["bias" if bias else "w_bias"].astype(np.float64)
    expected = [exactly_rounded(Fraction(x), precision, smallest, largest) for x in biases]
    np.testing.assert_array_equal(got, expected)


def test_float64_weights_stay_float64() -> None:
    model = with_weight("", w=W.astype(np.float64))
    result = bnfold.fold(model)
    tensors = {t.name: numpy_helper.to_array(t) for t in result.model.graph.initializer}
    assert {array.dtype for array in tensors.values()} == {np.dtype(np.float64)}


def test_the_default_epsilon_is_the_float32_number() -> None:
    text = CONV_BN.replace("BEFORE", "").replace("<epsilon = 0.0> ", "")
    p = bn(6) | {"v": np.full(6, 1e-5, np.float32), "m": np.zeros(6, np.float32)}
    result = bnfold.fold(parse(text, w=W.astype(np.float64), **p))
    tensors = {t.name: numpy_helper.to_array(t) for t in result.model.graph.initializer}
    tiny = float(np.float32(1e-5))
    expected = W * (p["s"].astype(np.float64) / np.sqrt(tiny + tiny))[:, None, None, None]
    np.testing.assert_array_equal(tensors["w"], expected)


# --- what a node carries ------------------------------------------------------------------------


def test_names_docs_and_metadata_stay_and_the_vanished_value_is_not_declared() -> None:
    model = with_weight("", w=W)
    conv, norm = model.graph.node
    conv.metadata_props.add(key="pkg.torch.onnx.name_scopes", value="['', 'stem.0']")
    conv.doc_string, norm.doc_string = "from model.py", "gone"
    model.producer_name, model.model_version, model.domain = "somebody", 7, "example.org"
    model.doc_string = "doc"
    model.metadata_props.add(key="author", value="me")
    model.graph.doc_string = "graph doc"
    model.graph.metadata_props.add(key="k", value="v")
    for tensor in model.graph.initializer:
        tensor.doc_string = f"doc of {tensor.name}"
        tensor.metadata_props.add(key="name", value=tensor.name)
    for name, shape in (("c", [1, 6, 4, 4]), ("y", None), ("w", [6, 4, 3, 3]), ("s", [6])):
        if shape:
            model.graph.value_info.append(helper.make_tensor_value_info(name, 1, shape))
    result = folded(model)
    node = result.node
    assert node.metadata_props == conv.metadata_props
    assert node.doc_string == "from model.py"
    assert [value.name for value in result.model.graph.value_info] == ["w"]
    (w,) = (t for t in result.model.graph.initializer if t.name == "w")
    assert (w.doc_string, w.metadata_props[0].value) == ("doc of w", "w")


# --- what NumPy computes by itself ---------------------------------------------------------------

A, B = np.array([[1, -2, 3], [0.1, 0, 7]], "f"), np.array([[2, 0, 0.3]], "f")


@pytest.mark.parametrize("dtype", [np.float32, np.float64, np.float16, np.int32])
@pytest.mark.parametrize(
    ("op", "operands", "attributes"),
    [
        ("Add", [A, B], {}), ("Sub", [B, A], {}), ("Mul", [A, B], {}), ("Div", [A, B], {}),
        ("Neg", [A], {}), ("Sqrt", [A], {}), ("Transpose", [A], {}),
        ("Transpose", [A[None]], {"perm": [1, 2, 0]}), ("Reshape", [A, [3, -1]], {}),
        ("Reshape", [A, [0, 3]], {}), ("Reshape", [A, [4, 4]], {}), ("Reshape", [A, [-2]], {}),
        ("Unsqueeze", [A, [0, -1]], {}), ("Unsqueeze", [A, [9]], {}), ("Squeeze", [B, [0]], {}),
    ],
)  # fmt: skip
def test_it_is_what_the_reference_gives(
    op: str, operands: list[Any], attributes: dict[str, Any], dtype: Any
) -> None:
    given = [np.array(o, np.int64 if isinstance(o, list) else dtype) for o in operands]
    names = [f"x{k}" for k in range(len(given))]
    node = helper.make_node(op, names, ["y"], **attributes)
    found = evaluate(
        node, 17, given, Budget.of(Index(parse("g (float[1] x) => (float[1] y) { y = Relu (x) }")))
    )
    try:
        with np.errstate(all="ignore"):
            feed = dict(zip(names, given, strict=True))
            (wanted,) = ReferenceEvaluator(node, opsets={"": 17}).run(None, feed)
    except Exception:
        assert found is None
        return
    assert found is not None
    assert found.dtype == np.asarray(wanted).dtype
    np.testing.assert_array_equal(found, wanted)


def test_a_transposed_weight_needs_no_reference_evaluator() -> None:
    """Importing it takes longer than folding a small model."""
    code = (
        "import sys, onnx, bnfold\n"
        "bnfold.optimize('sample_models/digits_mlp.onnx', sys.argv[1], verify='none')\n"
        "sys.exit('onnx.reference' in sys.modules)"
    )
    with PrivateFolder() as folder:
        target = str(folder / "folded.onnx")
        done = subprocess.run([sys.executable, "-c", code, target], check=False)
    assert done.returncode == 0
