"""BatchNormalizations that do not depend on the input: weights that are standardised each time."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx import ModelProto, numpy_helper

import bnfold
from bnfold.onnx_io.tensor_storage import Storage
from bnfold.proof.kernel.outcome import Outcome
from bnfold.steps import from_json
from tests.proving import judged
from tests.support import Array, bn, initializer, numbers, parse

STANDARDISED = """
  flat = Reshape (w, rows)
  [std] n, mu, sigma = BatchNormalization <training_mode = 1, epsilon = 1e-6> (flat, g, z, z, o)
  each = Reshape (n, back)"""


def weights(outputs: int = 4, inputs: int = 3) -> dict[str, Array]:
    """Of a convolution, seen as [1, outputs, all others] for the statistics, and back."""
    return {
        "w": numbers(outputs, inputs, 3, 3), "g": numbers(outputs), "z": np.zeros(outputs, "f"),
        "o": np.ones(outputs, "f"), "rows": np.array([1, outputs, -1]),
        "back": np.array([outputs, inputs, 3, 3]),
    }  # fmt: skip


def standardised(rest: str, outputs: str = "float y", /, **more: Array) -> ModelProto:
    text = f"g (float[1,3,8,8] x) => ({outputs}) {{{STANDARDISED}\n{rest}\n}}"
    return parse(text, **weights(), **more)


def exact(w: Array, g: Array) -> Array:
    rows = w.astype(np.float64).reshape(len(w), -1)
    away = rows - rows.mean(axis=1, keepdims=True)
    normal = away / np.sqrt((away * away).mean(axis=1, keepdims=True) + 1e-6)
    return np.asarray((normal * g[:, None]).reshape(w.shape))


def test_a_standardised_weight_is_stored() -> None:
    model = standardised("  [conv] y = Conv (x, each)")
    result = bnfold.fold(model)
    assert [n.op_type for n in result.model.graph.node] == ["Conv"]
    assert [v.into for v in result.folded] == [("conv",)]
    (stored,) = result.model.graph.initializer
    wanted = exact(weights()["w"], weights()["g"])
    np.testing.assert_allclose(numpy_helper.to_array(stored), wanted, 3e-7)
    assert bnfold.verify(model, result.model, level="run").equal


def test_it_takes_the_batch_norm_behind_the_convolution_as_well() -> None:
    model = standardised(
        "  [conv] c = Conv (x, each)\n  y = BatchNormalization (c, s, b, m, v)", **bn(4)
    )
    result = bnfold.fold(model)
    assert [n.op_type for n in result.model.graph.node] == ["Conv"]
    assert len(result.folded) == 2
    assert bnfold.verify(model, result.model, level="run").equal


@pytest.mark.parametrize(
    "norm",
    [
        "r = ReduceL2 <axes = [1,2,3]> (w) u = Div (w, r) each = Mul (u, g4)",
        "i = InstanceNormalization (w, ones3, zeros3) each = Mul (i, g4)",
        "f = Flatten (w) i = LpNormalization <axis = 1> (f) each = Reshape (i, back)",
        "a = Abs (w) mu = ReduceMean (a) each = Sub (w, mu)",
        "f = Flatten (w) p = MatMul (square, f) each = Reshape (p, back)",
        'f = Flatten (w) p = Einsum <equation = "ij,jk->ik"> (square, f) each = Reshape (p, back)',
        "lo = ReduceMin (w) each = Max (w, lo)",
    ],
)
def test_whatever_computes_a_weight_of_constants_a_batch_norm_folds_into_it(norm: str) -> None:
    text = f"""g (float[1,3,8,8] x) => (float y) {{
      {norm}
      [conv] c = Conv (x, each)
      y = BatchNormalization (c, s, b, m, v)
    }}"""
    given = weights() | {
        "g4": numbers(4, 1, 1, 1), "square": numbers(4, 4), "ones3": np.ones(3, np.float32),
        "zeros3": np.zeros(3, np.float32),
    }  # fmt: skip
    read = set(text.replace("(", " ").replace(")", " ").replace(",", " ").split())
    model = parse(text, **{n: a for n, a in given.items() if n in read}, **bn(4))
    result = bnfold.fold(model)
    assert [n.op_type for n in result.model.graph.node] == ["Conv"]
    assert bnfold.verify(model, result.model, level="run").equal


def test_two_readers_share_one_result() -> None:
    model = standardised("  [one] c = Conv (x, each)\n  [two] d = Conv (x, each)\n  y = Add (c, d)")
    result = bnfold.fold(model)
    assert [n.op_type for n in result.model.graph.node] == ["Conv", "Conv", "Add"]
    assert len(result.model.graph.initializer) == 1
    assert result.folded[0].into == ("one", "two")


def test_it_is_not_stored_where_somebody_wants_to_see_it() -> None:
    model = standardised("  [conv] y = Conv (x, each)", "float y, float each")
    result = bnfold.fold(model)
    assert not result.folded
    assert result.model == model


def test_it_is_not_stored_where_its_statistics_are_read() -> None:
    model = standardised("  [conv] y = Conv (x, each)\n  k = Abs (mu)", "float y, float k")
    assert not bnfold.fold(model).folded


def test_it_is_not_stored_where_the_file_would_grow_by_all_of_it() -> None:
    """The weight as it was is an output, and so must stay: 147,456 elements beside 391 that go."""
    text = f"""g (float[1,128,8,8] x) => (float y, float w) {{{STANDARDISED}
      [conv] y = Conv (x, each)
      }}"""
    model = parse(text, **weights(128, 128))
    (refused,) = bnfold.fold(model).kept
    assert refused.refusal is not None
    assert refused.refusal.reason.code == "too-large"
    assert "147065 more elements" in refused.refusal.sentence


def test_a_large_weight_is_stored_in_place_of_what_it_is_made_of() -> None:
    text = f"g (float[1,128,8,8] x) => (float y) {{{STANDARDISED}\n  [conv] y = Conv (x, each)\n}}"
    result = bnfold.fold(parse(text, **weights(128, 128)))
    assert len(result.folded) == 1
    assert [list(t.dims) for t in result.model.graph.initializer] == [[128, 128, 3, 3]]


def test_a_weight_that_the_caller_may_replace_is_no_constant() -> None:
    model = standardised("  [conv] y = Conv (x, each)")
    model.graph.input.append(
        onnx.helper.make_tensor_value_info("w", onnx.TensorProto.FLOAT, [4, 3, 3, 3])
    )
    assert not bnfold.fold(model).folded
    frozen = bnfold.fold(model, options=bnfold.Options(freeze_initializers=True))
    assert len(frozen.folded) == 1


def test_in_a_body_it_is_stored_there() -> None:
    text = f"""g (float[1,3,8,8] x, bool c) => (float y) {{
      y = If (c) <then_branch = a () => (float p) {{{STANDARDISED}
          [conv] p = Conv (x, each)
        }}, else_branch = b () => (float q) {{ q = Conv (x, w) }}>
    }}"""
    result = bnfold.fold(parse(text, **weights()))
    assert len(result.folded) == 1
    (branch, _) = result.model.graph.node[0].attribute
    assert [n.op_type for n in branch.g.node] == ["Conv"]


def test_a_stored_weight_that_is_wrong_is_found() -> None:
    model = standardised("  [conv] y = Conv (x, each)")
    result = bnfold.fold(model)
    proof = from_json(result.proof.encode())
    right = initializer(result.model, "each").copy()
    largest = np.unravel_index(np.argmax(np.abs(right)), right.shape)
    for change in (1 + 2e-6, 1.01, -1.0, 0.0):
        spoiled, values = onnx.ModelProto(), right.copy()
        spoiled.CopyFrom(result.model)
        values[largest] *= np.float32(change)
        spoiled.graph.initializer[0].CopyFrom(numpy_helper.from_array(values, "each"))
        assert judged(model, spoiled, proof, Storage()).certificate.verdict is Outcome.INVALID
    last, values = onnx.ModelProto(), right.copy()
    last.CopyFrom(result.model)
    values[largest] = np.nextafter(values[largest], np.float32(np.inf))
    last.graph.initializer[0].CopyFrom(numpy_helper.from_array(values, "each"))
    found = judged(model, last, proof, Storage()).certificate
    assert found.verdict is Outcome.UNDECIDED, "another order of the sums may have given that"


def test_the_proof_counts_the_roundings_of_a_runtime_that_standardises_by_itself() -> None:
    model = standardised("  [conv] y = Conv (x, each)")
    result = bnfold.fold(model)
    certificate = judged(model, result.model, from_json(result.proof.encode())).certificate
    assert certificate.k >= 2 * 27, "the statistics of 27 weights are two sums of 27 terms"


def test_a_batch_norm_in_training_mode_of_the_input_stays() -> None:
    text = """g (float[2,3,8,8] x) => (float y) {
      c = Conv (x, w)
      y, k, l = BatchNormalization <training_mode = 1> (c, s, b, m, v)
    }"""
    (kept,) = bnfold.fold(parse(text, w=numbers(4, 3, 1, 1), **bn(4))).kept
    assert kept.refusal is not None
    assert kept.refusal.reason.code == "training-mode"


def test_a_constant_that_is_multiplied_is_stored_whichever_operand_it_is() -> None:
    text = """g (float[4,9] x) => (float y) {
      [std] n, i, j = BatchNormalization <training_mode = 1> (w, g, z, z, o)
      [mul] y = Mul (n, x)
    }"""
    given = {"w": numbers(4, 9), "g": numbers(9), "z": np.zeros(9, "f"), "o": np.ones(9, "f")}
    result = bnfold.fold(parse(text, **given))
    assert [v.into for v in result.folded] == [("mul",)]


def test_a_constant_that_is_convolved_stays() -> None:
    """It is no weight: what a proof says of a convolution is said of its weights."""
    text = """g (float[1] x) => (float y) {
      [std] n, i, j = BatchNormalization <training_mode = 1> (d, s, b, m, v)
      c = Conv (n, w)
      y = Mul (c, x)
    }"""
    model = parse(text, d=numbers(1, 3, 6, 6), w=numbers(4, 3, 1, 1), **bn(3))
    (kept,) = bnfold.fold(model).kept
    assert kept.refusal is not None
    assert kept.refusal.reason.code == "no-linear-producer"


def test_integers_that_are_made_of_it_stay() -> None:
    text = """g (float[9,4] x) => (float y) {
      [std] n, i, j = BatchNormalization <training_mode = 1> (w, s, b, m, v)
      k = Cast <to = 7> (n)
      a = Abs (x)
      y = Gather (a, k)
    }"""
    (kept,) = bnfold.fold(parse(text, w=numbers(2, 3), **bn(3))).kept
    assert kept.refusal is not None
    assert kept.refusal.reason.code == "dtype"


def test_what_is_made_of_a_quantised_weight_stays() -> None:
    text = """g (float[1,3,8,8] x) => (float y) {
      d = DequantizeLinear (q, k)
      [std] n, i, j = BatchNormalization <training_mode = 1> (d, s, b, m, v)
      y = Conv (x, n)
    }"""
    quantised = np.arange(-6, 6, dtype=np.int8).reshape(4, 3, 1, 1)
    model = parse(text, q=quantised, k=np.array(0.1, np.float32), **bn(3))
    assert not bnfold.fold(model).folded


def test_arithmetic_on_constants_is_stored_where_it_ends() -> None:
    text = """g (float[1,3,8,8] x) => (float y) {
      r = ReduceL2 <axes = [1,2,3]> (w)
      u = Div (w, r)
      [last] each = Mul (u, g4)
      [conv] y = Conv (x, each)
    }"""
    model = parse(text, w=numbers(4, 3, 3, 3), g4=numbers(4, 1, 1, 1))
    result = bnfold.fold(model)
    assert [n.op_type for n in result.model.graph.node] == ["Conv"]
    assert [(v.site, v.into) for v in result.folded] == [("last", ("conv",))]
