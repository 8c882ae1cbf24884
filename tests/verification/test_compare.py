"""The comparison in onnxruntime: what is equal, what is not, and what cannot be decided."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import ModelProto, helper, numpy_helper

import bnfold
from bnfold.options import RunOptions
from tests.support import Array, parse

TEXT = """
g (float[N,3,8,8] x) => (float[N,4,M,K] y) {
  [conv] c = Conv (x, w, d)
  [norm] y = BatchNormalization <epsilon = 0.001> (c, s, b, m, v)
}"""


def real(channels: int = 4, *, mean: float = 0.0) -> dict[str, Array]:
    """Weights as training leaves them; `mean` is |μ|/σ, put into the Conv's bias and the BN."""
    rng = np.random.default_rng(7)
    parameters = {
        "w": rng.normal(0, 0.2, (channels, 3, 3, 3)), "d": np.full(channels, mean),
        "s": rng.uniform(0.5, 1.5, channels), "b": rng.normal(size=channels),
        "m": np.full(channels, mean), "v": rng.uniform(0.5, 2, channels),
    }  # fmt: skip
    return {name: array.astype(np.float32) for name, array in parameters.items()}


def pair(text: str = TEXT, **tensors: Array) -> tuple[ModelProto, ModelProto]:
    model = parse(text, **(tensors or real()))
    return model, bnfold.fold(model).model


def change(model: ModelProto, name: str, edit: Any) -> ModelProto:
    """A copy in which `edit` has been made to the values of an initializer."""
    copy = ModelProto()
    copy.CopyFrom(model)
    (tensor,) = (t for t in copy.graph.initializer if t.name == name)
    values = numpy_helper.to_array(tensor).copy()
    edit(values)
    tensor.CopyFrom(numpy_helper.from_array(values, name))
    return copy


def test_a_fold_is_equal_within_what_rounding_explains() -> None:
    comparison = bnfold.verify(*pair())
    assert comparison.equal
    (output,) = comparison.outputs
    assert output.name == "y"
    assert 0 < output.max_abs <= output.bound
    assert comparison.inputs[0].shape == (1, 3, 8, 8)
    assert comparison.runs == 3


def test_a_model_is_equal_to_itself() -> None:
    model, _ = pair()
    (output,) = bnfold.verify(model, model).outputs
    assert output.max_abs == 0
    assert output.equal


@pytest.mark.parametrize("ratio", [1e2, 1e4, 1e6])
def test_a_model_that_loses_digits_itself_is_not_held_against_the_fold(ratio: float) -> None:
    """|μ|/σ up to 1e6: fixed tolerances from 1e-5 on reject these correct folds."""
    model, result = pair(TEXT, **real(mean=ratio))
    comparison = bnfold.verify(model, result)
    assert comparison.equal, comparison
    if ratio >= 1e4:
        assert comparison.outputs[0].max_abs > 1e-4


@pytest.mark.parametrize("ratio", [1e2, 1e4])
def test_nor_where_the_offset_comes_in_with_the_data(ratio: float, tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    tensors = real() | {"d": np.zeros(4, np.float32)}
    tensors["m"] = (ratio * tensors["w"].sum(axis=(1, 2, 3))).astype(np.float32)
    np.savez(tmp_path / "x.npz", x=(rng.normal(size=(2, 3, 8, 8)) + ratio).astype(np.float32))
    comparison = bnfold.verify(
        *pair(TEXT, **tensors), run_options=RunOptions(inputs=str(tmp_path / "x.npz"))
    )
    assert comparison.equal, comparison


def scale_one(values: Array) -> None:
    values.flat[5] *= 1.01


def flip_one(values: Array) -> None:
    values.flat[5] *= -1


def swap(values: Array) -> None:
    values[[0, 1]] = values[[1, 0]]


@pytest.mark.parametrize(
    ("name", "edit"),
    [("w", scale_one), ("w", flip_one), ("w", swap), ("d", swap), ("d", lambda a: a.fill(0))],
)
def test_a_wrong_fold_is_found(name: str, edit: Any) -> None:
    model, result = pair()
    comparison = bnfold.verify(model, change(result, name, edit))
    assert not comparison.equal
    assert comparison.worst is not None
    assert comparison.worst.max_abs > comparison.worst.bound


def test_epsilon_left_out_is_found() -> None:
    model, _ = pair()
    other = ModelProto()
    other.CopyFrom(model)
    other.graph.node[1].attribute[0].f = 0.0
    assert not bnfold.verify(model, other).equal


def test_another_value_of_an_integer_output_is_found() -> None:
    text = "g (float[1,6] x) => (int64[1,1] y) { y = ArgMax <axis = 1, keepdims = 1> (x) }"
    other = text.replace("ArgMax", "ArgMin")
    comparison = bnfold.verify(parse(text), parse(other))
    assert not comparison.equal
    assert comparison.outputs[0].dtype == "int64"


def test_nan_in_another_place_is_found() -> None:
    text = "g (float[1,6] x) => (float[1,6] y) { y = Relu (x) }"
    other = "g (float[1,6] x) => (float[1,6] y) { z = Sqrt (x) y = Relu (z) }"
    comparison = bnfold.verify(parse(text), parse(other))
    assert not comparison.equal
    assert "NaN" in comparison.outputs[0].note


def test_another_shape_is_found() -> None:
    text = "g (float[1,6] x) => (float[A,B] y) { y = Relu (x) }"
    other = "g (float[1,6] x) => (float[A,B] y) { z = Relu (x) y = Transpose (z) }"
    comparison = bnfold.verify(parse(text), parse(other))
    assert not comparison.equal
    assert comparison.outputs[0].note == "shape [1, 6] became [6, 1]"


@pytest.mark.parametrize(
    "other",
    [
        "g (float[1,6] x) => (float[1,6] z) { z = Relu (x) }",
        "g (float[1,6] z) => (float[1,6] y) { y = Relu (z) }",
        "g (float[1,6] x, float[1] k) => (float[1,6] y) { y = Add (x, k) }",
        "g (float16[1,6] x) => (float16[1,6] y) { y = Relu (x) }",
    ],
)
def test_another_interface_is_found(other: str) -> None:
    model = parse("g (float[1,6] x) => (float[1,6] y) { y = Relu (x) }")
    comparison = bnfold.verify(model, parse(other))
    assert not comparison.equal
    assert "differ" in comparison.mismatch


def test_a_folded_model_that_does_not_run_is_not_equal() -> None:
    model = parse("g (float[A,6] x) => (float[P,Q] y) { y = Relu (x) }")
    other = parse("g (float[A,6] x) => (float[P,Q] y) { y = Reshape (x, k) }", k=np.array([7, 7]))
    assert "refuses the folded model" in bnfold.verify(model, other).mismatch


def test_a_folded_model_that_is_not_valid_is_not_equal() -> None:
    model, result = pair()
    result.graph.node[0].attribute.append(helper.make_attribute("no_such_attribute", 1))
    assert "not valid ONNX" in bnfold.verify(model, result).mismatch


@pytest.mark.parametrize(
    ("rtol", "atol", "equal"),
    [({}, {"": 0.02}, True), ({}, {"": 1e-9}, False), ({"y": 1e6}, {}, True),
     ({"y": 1e-9}, {"": 1.0}, True), ({"": 1e6}, {"y": 0.0}, True), ({"other": 1.0}, {}, False)],
)  # fmt: skip
def test_tolerances_are_obeyed_literally(rtol: Any, atol: Any, equal: bool) -> None:
    """A wrong fold passes where it is told to, of what is run; the certificate finds it still."""
    model, result = pair()
    wrong = change(result, "d", lambda values: np.add(values, 0.01, out=values))
    comparison = bnfold.verify(model, wrong, run_options=RunOptions(rtol=rtol, atol=atol))
    assert comparison.outputs[0].equal is equal
    assert comparison.outputs[0].max_abs == pytest.approx(0.01, rel=1e-3)
    assert not comparison.equal


def test_what_people_ask_for_is_told() -> None:
    text = "g (float[4,3] x) => (float[4,3] y) { y = Mul (x, k) }"
    one, other = (parse(text, k=np.array(v, np.float32)) for v in (1.0, 1.5))
    (output,) = bnfold.verify(one, other).outputs
    assert output.snr_db == pytest.approx(10 * np.log10(4))
    assert output.cosine == pytest.approx(1)
    assert output.top1 == 1
    (same,) = bnfold.verify(one, one).outputs
    assert (same.rmse, same.snr_db) == (0, None)


# --- not decided --------------------------------------------------------------------------------


def certified(*models: ModelProto) -> str:
    """Why two models were not run that were found equal nevertheless, by their certificate."""
    comparison = bnfold.verify(*models)
    assert comparison.equal
    assert comparison.runs == 0
    return comparison.not_run


def test_no_kernel() -> None:
    text = TEXT.replace("float[", "double[")
    tensors = {name: array.astype(np.float64) for name, array in real().items()}
    assert "no kernel" in certified(*pair(text, **tensors))


def test_what_neither_runs_nor_is_certified_is_not_decided() -> None:
    text = "g (double[1,3,8,8] x) => (double[1,4,8,8] y) { c = Conv (x, w) %s }"
    w = real()["w"].astype(np.float64)
    one = parse(text % "y = Abs (c)", w=w)
    other = parse(text % "n = Neg (c) y = Max (c, n)", w=w)
    with pytest.raises(bnfold.UndecidedError, match="no kernel"):
        bnfold.verify(one, other)


def test_what_does_not_run_and_is_wrong_is_not_equal() -> None:
    text = TEXT.replace("float[", "double[")
    tensors = {name: array.astype(np.float64) for name, array in real().items()}
    model, result = pair(text, **tensors)
    comparison = bnfold.verify(model, change(result, "w", scale_one))
    assert not comparison.equal
    assert comparison.certificate is not None
    assert "w[0, 0, 1, 2]" in comparison.certificate.findings[0].sentence


def test_custom_operators() -> None:
    model = parse(
        '<ir_version: 8, opset_import: ["": 17, "own": 1]>'
        "g (float[2] x) => (float[2] y) { y = own.Thing (x) }"
    )
    assert "own:Thing" in certified(model, model)


def test_a_model_that_is_random() -> None:
    model = parse("g (float[2] x) => (float[2] y) { y = RandomNormalLike (x) }")
    assert "random" in certified(model, model)


def test_a_model_whose_output_is_nan_everywhere() -> None:
    model = parse("g (float[2] x) => (float[2] y) { y = Add (x, k) }", k=np.full(2, np.nan, "f4"))
    assert "NaN" in certified(model, model)


@pytest.mark.parametrize("kind", ["string[2]", "seq(float[2])"])
def test_inputs_that_cannot_be_made_up(kind: str) -> None:
    model = parse(f"g ({kind} x) => ({kind} y) {{ y = Identity (x) }}")
    assert "no tensor of numbers" in certified(model, model)


def test_an_input_without_a_shape() -> None:
    model = parse("g (float x) => (float y) { y = Relu (x) }")
    model.graph.input[0].type.tensor_type.ClearField("shape")
    assert "`input_shapes=x:" in certified(model, model)
    assert bnfold.verify(model, model, run_options=RunOptions(input_shapes={"x": (2, 3)})).equal


def test_inputs_that_fit_no_guess() -> None:
    model = parse("g (float[A] x) => (float[2,5] y) { y = Reshape (x, k) }", k=np.array([2, 5]))
    assert "`inputs`" in certified(model, model)
    assert bnfold.verify(model, model, run_options=RunOptions(dims={"A": 10})).equal


def test_an_invalid_model() -> None:
    model = parse("g (float[2] x) => (float[2] y) { y = Relu (x, x, x) }")
    with pytest.raises(bnfold.ModelError):
        bnfold.verify(model, model)


# --- the child ----------------------------------------------------------------------------------


def crashing() -> ModelProto:
    """An opset-9 BatchNormalization with trailing empty outputs is a segmentation fault there."""
    model = parse(TEXT, 9, **real())
    model.graph.node[1].output.extend(["", "", "", ""])
    return model


def test_an_original_that_crashes_onnxruntime_is_not_run_where_its_certificate_is_valid() -> None:
    model = crashing()
    found = bnfold.verify(model, bnfold.fold(model).model)
    assert found.equal
    assert "crashed while running the original" in found.not_run
    assert "SIGSEGV" in found.not_run


def test_an_original_that_crashes_onnxruntime_decides_nothing_without_a_certificate() -> None:
    model, other = crashing(), crashing()
    other.graph.doc_string = "another"  # the frame says that it has changed
    with pytest.raises(bnfold.WorkerError, match="crashed while running the original") as caught:
        bnfold.verify(model, other)
    assert caught.value.exit_code == 5
    assert "SIGSEGV" in caught.value.message


def test_a_folded_model_that_crashes_onnxruntime_is_no_fold() -> None:
    model = parse(TEXT, 9, **real())
    with pytest.raises(bnfold.WorkerError, match="crashed while"):
        bnfold.verify(model, crashing(), foreign=True)


def endless() -> ModelProto:
    text = """
    g (float[2] x) => (float[2] y) {
      y = Loop (trips, yes, x) <body = b (int64 i, bool c, float[2] h) => (bool d, float[2] p) {
        d = Identity (c)
        p = Relu (h)
      }>
    }"""
    return parse(text, trips=np.array(1 << 62), yes=np.array(True))


def test_a_model_that_never_ends() -> None:
    with pytest.raises(bnfold.WorkerError, match=r"had not finished .* after 3 s"):
        bnfold.verify(endless(), endless(), run_options=RunOptions(timeout=3))


def test_nested_functions_that_never_end() -> None:
    """Eleven functions, each of which calls the one before ten times: 10¹¹ operators."""
    levels = ["Add (x, x)", *(f"own.F{i} (x)" for i in range(11))]
    functions = "".join(
        f'<domain: "own", opset_import: ["": 17, "own": 1]> F{i} (x) => (y) {{'
        + "".join(
            f"t{k} = {call.replace('(x)', f'(t{k - 1})' if k else '(x)')}\n" for k in range(9)
        )
        + f"y = {call.replace('(x)', '(t8)')} }}"
        for i, call in enumerate(levels)
    ).replace("Add (x, x)", "Relu (x)")
    model = parse(
        '<ir_version: 8, opset_import: ["": 17, "own": 1]>'
        f"g (float[2] x) => (float[2] y) {{ y = own.F11 (x) }} {functions}"
    )
    assert bnfold.inspect(model).verdicts == ()
    with pytest.raises(bnfold.WorkerError):
        bnfold.verify(model, model, run_options=RunOptions(timeout=4))


def test_a_model_that_needs_more_memory_than_allowed() -> None:
    model = parse("g (float[1] x) => (float[N] y) { y = Expand (x, k) }", k=np.array([1 << 34]))
    with pytest.raises(bnfold.WorkerError, match="memory limit"):
        bnfold.verify(model, model)


# --- inputs -------------------------------------------------------------------------------------


def test_open_dimensions_take_the_size_that_the_weights_ask_for() -> None:
    text = """
    g (float[batch,channels,height,width] x, float[batch,features] z)
      => (float[A,B,C,D] y, float[E,F] q) {
      y = Conv <group = 2> (x, w)
      q = Gemm <transB = 1> (z, k)
    }"""
    rng = np.random.default_rng(0)
    model = parse(
        text, w=rng.normal(size=(4, 3, 3, 3)).astype("f4"), k=rng.normal(size=(5, 7)).astype("f4")
    )
    shapes = {i.name: i.shape for i in bnfold.verify(model, model).inputs}
    assert shapes == {"x": (1, 6, 64, 64), "z": (1, 7)}


def test_dims_and_input_shapes_are_obeyed() -> None:
    model = parse("g (float[batch,3,h,w] x) => (float[batch,3,h,w] y) { y = Relu (x) }")
    run_options = RunOptions(dims={"batch": 5, "h": 7})
    assert bnfold.verify(model, model, run_options=run_options).inputs[0].shape == (5, 3, 7, 64)
    run_options = RunOptions(input_shapes={"x": (2, 3, 4, 5)})
    assert bnfold.verify(model, model, run_options=run_options).inputs[0].shape == (2, 3, 4, 5)


@pytest.mark.parametrize(
    "run_options",
    [
        RunOptions(dims={"depth": 5}),
        RunOptions(input_shapes={"z": (2, 3)}),
        RunOptions(input_shapes={"x": (2, 3)}),
        RunOptions(input_shapes={"x": (2, 4, 5, 5)}),
    ],
)
def test_shapes_for_what_is_not_there(run_options: RunOptions) -> None:
    model = parse("g (float[batch,3,h,w] x) => (float[batch,3,h,w] y) { y = Relu (x) }")
    with pytest.raises(bnfold.UsageError):
        bnfold.verify(model, model, run_options=run_options)


@pytest.mark.parametrize(
    "arrays",
    [
        {},
        {"z": np.zeros((1, 3), np.float32)},
        {"x": np.zeros((1, 4), np.float32)},
        {"x": np.zeros((3,), np.float32)},
        {"x": np.zeros((1, 3), np.complex64)},
        {"x": np.array([["a", "b", "c"]], dtype=object)},
    ],
)
def test_data_that_does_not_fit(arrays: dict[str, Array], tmp_path: Path) -> None:
    np.savez(tmp_path / "x.npz", **arrays)  # type: ignore[arg-type]
    model = parse("g (float[batch,3] x) => (float[batch,3] y) { y = Relu (x) }")
    with pytest.raises(bnfold.UsageError):
        bnfold.verify(model, model, run_options=RunOptions(inputs=str(tmp_path / "x.npz")))


def test_data_that_fits_is_what_the_models_are_run_on(tmp_path: Path) -> None:
    np.savez(tmp_path / "x.npz", x=np.ones((9, 3)), unused=np.zeros(1))  # float64 is cast
    model = parse("g (float[batch,3] x) => (float[batch,3] y) { y = Relu (x) }")
    comparison = bnfold.verify(model, model, run_options=RunOptions(inputs=str(tmp_path / "x.npz")))
    assert (comparison.runs, comparison.inputs[0].shape) == (1, (9, 3))


@pytest.mark.parametrize("name", ["missing.npz", "no.npz"])
def test_data_that_cannot_be_read(name: str, tmp_path: Path) -> None:
    (tmp_path / "no.npz").write_text("nothing")
    model = parse("g (float[batch,3] x) => (float[batch,3] y) { y = Relu (x) }")
    with pytest.raises(bnfold.UsageError, match="cannot read the inputs"):
        bnfold.verify(model, model, run_options=RunOptions(inputs=str(tmp_path / name)))


def test_inputs_of_every_type() -> None:
    text = """
    g (float16[2] a, double[2] b, int32[2] c, uint8[2] d, int8[2] e, bool[2] f, int64[2] i)
      => (float16[2] oa, double[2] ob, int32[2] oc, uint8[2] od, int8[2] oe, bool[2] of,
          int64[2] oi) {
      oa = Identity (a) ob = Identity (b) oc = Identity (c) od = Identity (d) oe = Identity (e)
      of = Identity (f) oi = Identity (i)
    }"""
    assert len(bnfold.verify(parse(text), parse(text)).outputs) == 7


def test_models_in_files_and_in_memory_can_be_mixed(tmp_path: Path) -> None:
    model, result = pair()
    onnx.save(model, tmp_path / "model.onnx")
    assert bnfold.verify(tmp_path / "model.onnx", result).equal


# --- what onnxruntime does not load ---------------------------------------------------------------


def refused_as(model: ModelProto, folder: Path) -> str:
    """What is said of a model that does not load, in a folder of that name."""
    folder.mkdir(parents=True)
    onnx.save(model, folder / "m.onnx")
    try:
        return bnfold.verify(folder / "m.onnx", folder / "m.onnx").not_run
    except bnfold.BnfoldError as error:
        return f"{type(error).__name__}: {error}"


@pytest.mark.parametrize("name", ["plain", "opset17", "ir_version", "out of memory", "bad_alloc"])
def test_the_name_of_a_folder_says_nothing_of_a_model(name: str, tmp_path: Path) -> None:
    model = parse("g (float[2] x) => (float[2] y) { y = Relu (x) }")
    model.graph.node[0].op_type = "NoSuchOperator"
    found = refused_as(model, tmp_path / name)
    assert found.startswith("ModelError: onnxruntime refuses the model"), found
    assert name not in found


def test_a_model_newer_than_onnxruntime_is_told_by_both_numbers(tmp_path: Path) -> None:
    model = parse("g (float[2] x) => (float[2] y) { y = Relu (x) }")
    model.ir_version = 99
    found = refused_as(model, tmp_path / "ir")
    assert re.search(r"IR version 99, onnxruntime \S+ reads up to \d+ .*model.ir_version = ", found)
    model.ir_version, model.opset_import[0].version = 8, 99
    found = refused_as(model, tmp_path / "opset")
    assert re.search(r"opset 99 of ai.onnx, onnxruntime \S+ knows them up to \d+", found)
    assert "convert_version(model, " in found


def test_custom_operators_are_not_run(tmp_path: Path) -> None:
    model = parse("g (float[2] x) => (float[2] y) { y = Relu (x) }")
    model.graph.node[0].domain = "own"
    model.opset_import.add(domain="own", version=1)
    assert "it has custom operators" in refused_as(model, tmp_path / "custom")
