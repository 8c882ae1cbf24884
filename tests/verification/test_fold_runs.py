"""Every fold by itself, the truth in float64, and the folded model as it is deployed."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import ModelProto, helper, numpy_helper

import bnfold
from bnfold import Comparison, RunOptions
from bnfold.runtime.sessions import SessionFactory, run
from bnfold.verification.numerics import float64
from tests.proof.test_certificate import norm, real, replace, values_of
from tests.support import Array, parse

TWO = """g (float[1,3,8,8] x) => (float[1,5,8,8] y) {
  [first] c = Conv (x, w) [norm1] d = BatchNormalization (c, s, b, m, v)
  r = Relu (d)
  [second] e = Conv <pads = [1,1,1,1]> (r, w2) [norm2] y = BatchNormalization (e, s2, b2, m2, v2)
}"""


def two() -> tuple[ModelProto, ModelProto]:
    model = parse(TWO, w=real(4, 3, 1, 1), w2=real(5, 4, 3, 3, seed=1), **norm(4), **norm(5, "2"))
    folded = bnfold.fold(model).model
    assert [node.op_type for node in folded.graph.node] == ["Conv", "Relu", "Conv"]
    return model, folded


def spoiled(model: ModelProto, name: str, place: Any, factor: float) -> ModelProto:
    values = values_of(model, name).copy()
    values[place] *= np.float32(factor)
    replace(model, name, values)
    return model


def test_correct_folds_stay_far_below_their_gates() -> None:
    comparison = bnfold.verify(*two(), level="folds")
    assert comparison.equal
    assert not comparison.outputs
    assert not comparison.folds_not_run
    assert [(f.node, f.sites) for f in comparison.folds] == [
        ("first", ("norm1",)), ("second", ("norm2",)),
    ]  # fmt: skip
    gates = [2 * np.sqrt(n) + 8 for n in (3, 36)]
    for fold, gate in zip(comparison.folds, gates, strict=True):
        assert fold.gate == pytest.approx(gate)
        assert fold.c < gate / 2


@pytest.mark.parametrize(
    ("name", "place", "node"), [("w", (2, 1, 0, 0), "first"), ("w2", (3, 2, 1, 1), "second")]
)
def test_one_weight_off_by_a_percent_is_blamed_on_its_fold_alone(
    name: str, place: Any, node: str
) -> None:
    model, folded = two()
    comparison = bnfold.verify(model, spoiled(folded, name, place, 1.01), level="folds")
    assert not comparison.equal
    (wrong,) = (fold for fold in comparison.folds if not fold.valid)
    assert (wrong.node, wrong.channel) == (node, place[0])
    assert wrong.c > 100 * wrong.gate
    assert wrong.exact == pytest.approx(wrong.original, rel=1e-5)
    assert wrong.exact != pytest.approx(wrong.folded, rel=1e-5)


def test_a_wrong_fold_is_saved_as_two_models_and_test_data(tmp_path: Path) -> None:
    model, folded = two()
    run_options = RunOptions(counterexample=str(tmp_path / "bug"))
    comparison = bnfold.verify(
        model, spoiled(folded, "w2", (3, 2, 1, 1), 1.01), run_options=run_options
    )
    assert comparison.counterexample == str(tmp_path / "bug")
    found = {path.name: onnx.load(path) for path in (tmp_path / "bug").glob("*.onnx")}
    assert [n.name for n in found["original.onnx"].graph.node] == ["second", "norm2"]
    assert [n.name for n in found["model.onnx"].graph.node] == ["second"]
    again = bnfold.verify(
        tmp_path / "bug/original.onnx", tmp_path / "bug/model.onnx",
        run_options=RunOptions(inputs=str(tmp_path / "bug")),
    )  # fmt: skip
    assert not again.equal
    (output,) = again.outputs
    assert output.note == "it does not give the expected output any more"
    assert output.expected_original == 0
    assert output.expected_folded is not None
    assert output.expected_folded > 0


def test_whole_models_are_saved_where_no_single_fold_is_wrong(tmp_path: Path) -> None:
    model = parse("g (float[1,4] x) => (float[1,4] y) { a = Sigmoid (x) y = Mul (a, x) }")
    other = parse("g (float[1,4] x) => (float[1,4] y) { a = Tanh (x) y = Mul (a, x) }")
    run_options = RunOptions(counterexample=str(tmp_path / "bug"))
    assert not bnfold.verify(model, other, run_options=run_options).equal
    names = {path.name for path in (tmp_path / "bug").rglob("*") if path.is_file()}
    assert names == {"model.onnx", "original.onnx", "input_0.pb", "output_0.pb"}


def test_a_counterexample_overwrites_nothing(tmp_path: Path) -> None:
    (tmp_path / "mine").touch()
    with pytest.raises(bnfold.UsageError, match="already"):
        bnfold.verify(*two(), run_options=RunOptions(counterexample=str(tmp_path)))


def test_a_map_that_travels_is_run_from_the_value_before_to_the_value_behind() -> None:
    """The Relu in front stops the shift, the sum behind it the scale: each goes its own way."""
    text = """g (float[2,3,8,8] x, float[2,4,2,2] z) => (float[2,5,2,2] y) {
      [conv] c = Conv (x, w)
      r = Relu (c)
      n = BatchNormalization (r, s, b, m, v)
      p = MaxPool <kernel_shape = [4,4], strides = [4,4]> (n)
      a = Add (p, z)
      [next] y = Conv (a, w2)
    }"""
    given = norm(4) | {"s": np.abs(norm(4)["s"])}
    model = parse(text, w=real(4, 3, 1, 1), w2=real(5, 4, 1, 1, seed=1), **given)
    folded = bnfold.fold(model).model
    assert "BatchNormalization" not in [n.op_type for n in folded.graph.node]
    comparison = bnfold.verify(model, folded, level="folds")
    (fold,) = comparison.folds
    assert fold.node == "conv, next"
    assert fold.c < fold.gate / 2
    assert not bnfold.verify(model, spoiled(folded, "w", (1, 1, 0, 0), 1.01), level="folds").equal


def test_a_map_that_changes_nothing_is_compared_as_well() -> None:
    text = """g (float[1,3,8,8] x) => (float[1,3,8,8] y) {
      r = Relu (x) n = BatchNormalization <epsilon = 0.0> (r, s, b, m, v) y = Relu (n) }"""
    one, none = np.ones(3, np.float32), np.zeros(3, np.float32)
    model = parse(text, s=one, b=none, m=none, v=one)
    folded = bnfold.fold(model).model
    assert len(folded.graph.node) == 2
    (fold,) = bnfold.verify(model, folded).folds
    assert (fold.sites, fold.c) == (("BatchNormalization→n",), 0)


def test_a_fold_in_a_body_is_said_not_to_be_run_alone() -> None:
    text = """g (float[1,3,4,4] x, bool cond) => (float[1,3,4,4] y) {
      y = If (cond) <
        then_branch = t () => (float[1,3,4,4] p) {
          [inside] a = Conv (x, w) p = BatchNormalization (a, s, b, m, v) },
        else_branch = e () => (float[1,3,4,4] p) { p = Relu (x) }
      > }"""
    model = parse(text, w=real(3, 3, 1, 1), **norm(3))
    comparison = bnfold.verify(model, bnfold.fold(model).model)
    assert comparison.equal
    assert comparison.folds == ()
    assert comparison.folds_not_run == ("inside: it stands where no values can be compared",)


def test_equal_weights_whose_roundings_add_up_are_decided_against_float64() -> None:
    """Thousands of equal terms: both models are off by more than √n, and both alike."""
    text = """g (float[1,2048,6,6] x) => (float[1,8,6,6] y) {
      c = Conv (x, w) y = BatchNormalization (c, s, b, m, v) }"""
    w = np.full((8, 2048, 1, 1), 0.7071, np.float32)
    model = parse(text, w=w, **norm(8))
    comparison = bnfold.verify(model, bnfold.fold(model).model, run_options=RunOptions(fill="ones"))
    (fold,) = comparison.folds
    assert comparison.equal
    assert fold.valid
    assert fold.excused == (fold.c > fold.gate)


@pytest.mark.parametrize("dtype", [np.float32, np.float16])
def test_folds_of_either_width_are_run(dtype: Any) -> None:
    kind = "float" if dtype == np.float32 else "float16"
    text = TWO.replace("float[", f"{kind}[")
    model = parse(
        text, w=real(4, 3, 1, 1, dtype=dtype), w2=real(5, 4, 3, 3, seed=1, dtype=dtype),
        **norm(4, dtype=dtype), **norm(5, "2", dtype=dtype),
    )  # fmt: skip
    comparison = bnfold.verify(model, bnfold.fold(model).model)
    assert [fold.valid for fold in comparison.folds] == [True, True]
    assert comparison.equal


# --- the truth in float64 ------------------------------------------------------------------------


def test_errors_against_float64_are_told_by_verify() -> None:
    (output,) = bnfold.verify(*two()).outputs
    assert output.error_original is not None
    assert output.error_folded is not None
    assert 0 < output.error_folded < 1e-5
    assert output.exact is not None


def test_a_fold_that_removes_the_originals_error_is_accepted() -> None:
    """|μ| = 10⁶·σ, in the bias: the original loses six digits, the folded model none."""
    text = """g (float[1,8,8,8] x) => (float[1,8,8,8] y) {
      c = Conv (x, w, i) y = BatchNormalization (c, s, b, m, v) }"""
    given = norm(8) | {"m": np.full(8, 1e6, np.float32)}
    model = parse(text, w=real(8, 8, 1, 1), i=np.full(8, 1e6, np.float32), **given)
    comparison = bnfold.verify(model, bnfold.fold(model).model)
    assert comparison.equal
    (output,) = comparison.outputs
    assert output.error_original is not None
    assert output.error_folded is not None
    assert output.error_folded < output.error_original / 1e3


OPERATORS = {
    "ConvTranspose":
        "y = ConvTranspose <strides = [2,2], pads = [1,0,0,1], output_padding = [1,1]> (x, w)",
    "grouped": "y = ConvTranspose <group = 2, dilations = [2,1]> (x, w)",
    "MaxPool": "y = MaxPool <kernel_shape = [3,2], strides = [2,2], pads = [1,0,1,1]> (x)",
    "ceil": "y = MaxPool <kernel_shape = [3,3], strides = [2,2], ceil_mode = 1> (x)",
    "dilated": "y = MaxPool <kernel_shape = [2,2], dilations = [2,3]> (x)",
    "AveragePool": "y = AveragePool <kernel_shape = [3,3], strides = [2,2], pads = [1,1,0,1]> (x)",
    "padded": "y = AveragePool <kernel_shape = [3,3], pads = [1,1,1,1], count_include_pad = 1> (x)",
    "average ceil": "y = AveragePool <kernel_shape = [2,2], strides = [2,2], ceil_mode = 1> (x)",
    "same": 'y = AveragePool <kernel_shape = [3,2], strides = [2,2], auto_pad = "SAME_UPPER"> (x)',
    "lower": 'y = MaxPool <kernel_shape = [3,2], strides = [2,2], auto_pad = "SAME_LOWER"> (x)',
    "BatchNormalization": "y = BatchNormalization (x, s, b, m, v)",
    "integers": "q = QuantizeLinear (x, k, z) y = DequantizeLinear (q, k, z)",
}  # fmt: skip


@pytest.mark.parametrize("opset", [9, 11, 13, 17])
@pytest.mark.parametrize("name", OPERATORS)
def test_the_mended_operators_give_what_onnxruntime_gives(name: str, opset: int) -> None:
    needs = {"ceil": 11, "dilated": 11, "average ceil": 11, "integers": 11}
    if opset < needs.get(name, 9):
        pytest.skip(f"from opset {needs[name]} on")
    w = real(4, 3 if name != "grouped" else 2, 3, 3)
    given: dict[str, Array] = {"w": w, "k": np.array(0.01, np.float32), "z": np.array(3, np.uint8)}
    text = f"g (float[2,4,7,9] x) => (float y) {{ {OPERATORS[name]} }}"
    model = parse(text, opset, **{n: a for n, a in (given | norm(4)).items() if n in text})
    model.graph.output[0].CopyFrom(helper.make_tensor_value_info("y", onnx.TensorProto.FLOAT, None))
    feed = {"x": real(2, 4, 7, 9, seed=3)}
    expected = run(SessionFactory().open(model.SerializeToString()), feed)["y"]
    found = float64.Evaluator(model, wide=True).run(feed)["y"]
    assert found.dtype == np.float64
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-5)


def test_unsorted_nodes_are_evaluated() -> None:
    model = two()[0]
    nodes = list(model.graph.node)
    del model.graph.node[:]
    model.graph.node.extend(reversed(nodes))
    assert "y" in float64.Evaluator(model, wide=True).run({"x": real(1, 3, 8, 8)})


# --- as it is deployed ---------------------------------------------------------------------------


def test_the_folded_model_is_run_with_optimisations_as_well() -> None:
    deployed = bnfold.verify(*two()).deployed
    assert deployed is not None
    assert deployed.equal
    assert deployed.note == ""


def test_a_provider_that_is_not_there() -> None:
    with pytest.raises(bnfold.UsageError, match=r"it has .*CPUExecutionProvider"):
        bnfold.verify(*two(), run_options=RunOptions(providers=("NoSuchProvider",)))


def test_the_flags_that_would_settle_a_guess_are_named() -> None:
    text = """g (float[N,C,H,W] x, int64[K] i) => (float y) {
      a = Reshape (x, shape) g = Gather (a, i) END }"""
    models = [
        parse(text.replace("END", end), shape=np.array([7, 13, 17], np.int64))
        for end in ("y = Abs (g)", "n = Neg (g) y = Max (g, n)")  # not told equal by the files
    ]
    with pytest.raises(bnfold.UndecidedError) as caught:
        bnfold.verify(*models)
    for flag in ("`dims=N=N`", "`dims=H=N`", "`val_range=i:LOW,HIGH`", "`inputs`"):
        assert flag in caught.value.remedy


# --- expected outputs ----------------------------------------------------------------------------


def with_data(model: ModelProto, folder: Path, off: float = 0.0) -> Comparison:
    """Verify with test data whose expected output is off by so much."""
    original, folded = model, bnfold.fold(model).model
    feed = {"x": real(1, 3, 8, 8, seed=2)}
    expected = run(SessionFactory().open(original.SerializeToString()), feed)["y"] + np.float32(off)
    data = folder / "test_data_set_0"
    data.mkdir()
    for name, array in (("input_0", feed["x"]), ("output_0", expected)):
        (data / f"{name}.pb").write_bytes(numpy_helper.from_array(array).SerializeToString())
    return bnfold.verify(original, folded, run_options=RunOptions(inputs=str(folder)))


def test_expected_outputs_are_checked(tmp_path: Path) -> None:
    comparison = with_data(two()[0], tmp_path)
    (output,) = comparison.outputs
    assert comparison.equal
    assert output.expected_original == 0
    assert output.expected_folded is not None
    assert output.max_abs <= output.expected_folded < 1e-5


def test_what_the_original_does_not_give_either_is_told_and_not_held_against_the_fold(
    tmp_path: Path,
) -> None:
    comparison = with_data(two()[0], tmp_path, off=0.5)
    (output,) = comparison.outputs
    assert comparison.equal
    assert output.expected_original == pytest.approx(0.5, rel=1e-3)
