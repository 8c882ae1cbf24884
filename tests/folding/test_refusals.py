"""One test for each precondition: it alone fails, nothing changes, and the verdict says so.

Each model folds if the one thing the test names is taken away; `SITE` is what remains.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import pytest
from onnx import ModelProto, TensorProto, helper, numpy_helper

import bnfold
from bnfold import Reason
from bnfold.graph.index import Index
from bnfold.tuning.stored_statistics import norms
from bnfold.tuning.training_mode import assume_inference
from tests.support import Array, bn, folded, kept, numbers, parse, reason

SITE = """
g (float[1,3,4,4] x) => (float[1,3,4,4] y) {
  [conv] c = Conv (x, w, d)
  [norm] y = BatchNormalization <epsilon = 0.0> (c, s, b, m, v)
}"""


def constants(**changed: Array) -> dict[str, Array]:
    return {"w": numbers(3, 3, 1, 1), "d": numbers(3, seed=4), **bn(3)} | changed


def site(text: str = SITE, opset: int = 17, ir_version: int = 8, /, **changed: Array) -> ModelProto:
    return parse(text, opset, ir_version, **constants(**changed))


def test_the_site_that_these_tests_break_folds() -> None:
    folded(site())


def with_attributes(**attributes: Any) -> ModelProto:
    model = site()
    model.graph.node[1].attribute.extend(
        helper.make_attribute(name, value) for name, value in attributes.items()
    )
    return model


# --- the BatchNormalization is no inference one -------------------------------------------------


@pytest.mark.parametrize("opset", [14, 15, 17])
def test_training_mode(opset: int) -> None:
    model = with_attributes(training_mode=1)
    model.opset_import[0].version = opset
    model.graph.node[1].output.extend(["running_mean", "running_var"])
    assert reason(model) == "training-mode"


def test_training_mode_with_its_other_outputs_left_out() -> None:
    assert reason(with_attributes(training_mode=1), check=False) == "training-mode"


MERGED = """
g (float[2,3,4,4] x) => (float[2,3,4,4] y) {
  f = Reshape (x, merged)
  [norm] n, k, l = BatchNormalization <training_mode = 1> (f, s, b, m, v)
  y = Reshape (n, apart)
}"""


def merged(*shape: int, of: tuple[int, ...] = (2, 3, 4, 4), text: str = MERGED) -> ModelProto:
    """A BatchNormalization in training mode that reads `shape`, between two Reshapes."""
    shapes = {"merged": np.array(shape), "apart": np.array(of)}
    text = text.replace("[2,3,4,4]", f"[{','.join(map(str, of))}]")
    return parse(text, **shapes, **bn(shape[1]))


@pytest.mark.parametrize(("of", "shape"), [((2, 3, 4, 4), (1, 6, 4, 4)), ((2, 3, 16), (1, 6, 16))])
def test_an_instance_normalization_written_as_a_batch_normalization(
    of: tuple[int, ...], shape: tuple[int, ...]
) -> None:
    model = merged(*shape, of=of)
    assert reason(model) == "instance-norm"
    assert assume_inference(Index(model))["norm"].reason is Reason.INSTANCE_NORM


@pytest.mark.parametrize(
    "model",
    [
        pytest.param(merged(3, 2, 4, 4), id="samples-that-are-normalised-together"),
        pytest.param(merged(1, 3, 8, 4), id="other-pixels"),
        pytest.param(merged(1, 6, 4, 4, of=(6, 16)), id="another-rank"),
        pytest.param(merged(1, 6, of=(2, 3)), id="no-pixels"),
        pytest.param(
            merged(1, 6, 4, 4, text=MERGED.replace("y = Reshape", "r = Relu (n) y = Reshape")),
            id="another-reader",
        ),
        pytest.param(
            merged(2, 3, 4, 4, text=MERGED.replace("Reshape (x, merged)", "Relu (x)")),
            id="no-reshape-before",
        ),
    ],
)
def test_what_is_only_like_an_instance_normalization(model: ModelProto) -> None:
    assert reason(model) == "training-mode"


def test_statistics_of_a_branch_in_a_loop_are_not_measured() -> None:
    text = """
    g (float[1,3,4,4] x, int64 n, bool yes) => (float[1,3,4,4] y) {
      y = Loop (n, yes, x) <body = l (int64 i, bool c, float[1,3,4,4] h) =>
        (bool d, float[1,3,4,4] k) {
          d = Identity (c)
          k = If (c) <
            then_branch = t () => (float[1,3,4,4] p) {
              [norm] p = BatchNormalization (h, s, b, m, v) },
            else_branch = e () => (float[1,3,4,4] r) { r = Relu (h) }
          >
        }>
    }"""
    (refusal,) = norms(Index(parse(text, **bn(3))))[1]
    assert refusal.reason.code == "other-graph"


@pytest.mark.parametrize("opset", [9, 13])
def test_the_five_outputs_that_meant_training_below_opset_14(opset: int) -> None:
    model = site(SITE, opset)
    model.graph.node[1].output.extend(["mean", "var", "saved_mean", "saved_var"])
    assert reason(model) == "training-outputs"


def test_a_second_output_where_training_mode_is_off() -> None:
    model = site()
    model.graph.node[1].output.append("mean")
    assert reason(model, check=False) == "training-outputs"


def test_trailing_outputs_without_a_name_are_no_outputs() -> None:
    model = site(SITE, 9)
    model.graph.node[1].output.extend(["", "", "", ""])
    # onnxruntime crashes on such a BatchNormalization, so the two are not run here
    folded(model, execute=False)


@pytest.mark.parametrize("is_test", [{}, {"is_test": 0}])
def test_is_test_0_below_opset_7(is_test: dict[str, int]) -> None:
    model = site(SITE, 6, 4)
    model.graph.node[1].attribute.extend(
        helper.make_attribute(name, value) for name, value in is_test.items()
    )
    assert reason(model, check=False) == "is-test-0"


def test_is_test_1_below_opset_7_folds() -> None:
    model = site(SITE, 6, 4)
    model.graph.node[1].attribute.append(helper.make_attribute("is_test", 1))
    folded(model, execute=False)  # no runtime here executes a BatchNormalization of opset 6


@pytest.mark.parametrize("is_test", [0, 1])
def test_opset_1_with_its_consumed_inputs(is_test: int) -> None:
    model = site(SITE, 1, 3)
    model.graph.node[1].attribute.extend([
        helper.make_attribute("is_test", is_test),
        helper.make_attribute("consumed_inputs", [0, 0, 0, 1, 1]),
    ])  # fmt: skip
    model.graph.input.extend(
        helper.make_tensor_value_info(t.name, t.data_type, t.dims) for t in model.graph.initializer
    )
    if is_test:
        folded(model, execute=False)  # which no runtime here executes
    else:
        assert reason(model, check=False) == "is-test-0"


@pytest.mark.parametrize("opset", [7, 8])
def test_spatial_0(opset: int) -> None:
    model = site(SITE, opset)
    model.graph.node[1].attribute.append(helper.make_attribute("spatial", 0))
    assert reason(model, check=False) == "spatial-0"


@pytest.mark.parametrize("shape", ["2,3,4", "N,3,4"])
def test_spatial_0_has_statistics_for_each_pixel(shape: str) -> None:
    text = f"""
    g (float[{shape}] x) => (float[{shape}] y) {{
      y = BatchNormalization <spatial = 0> (x, s, b, m, v)
    }}"""
    (verdict,) = bnfold.fold(parse(text, 7, **bn(3))).kept
    assert verdict.refusal is not None
    assert verdict.refusal.detail == "its statistics differ from pixel to pixel"


def test_spatial_0_is_spatial_1_where_there_are_no_pixels() -> None:
    text = """
    g (float[2,3] x) => (float[2,4] y) {
      [gemm] z = Gemm (x, w, c) y = BatchNormalization <spatial = 0, epsilon = 0.0> (z, s, b, m, v)
    }"""
    folded(parse(text, 7, w=numbers(3, 4), c=numbers(4), **bn(4)))


def test_an_operator_of_the_same_name_in_another_domain_is_no_batch_normalization() -> None:
    model = site()
    model.graph.node[1].domain = "own"
    model.opset_import.append(helper.make_opsetid("own", 1))
    import bnfold

    assert not bnfold.fold(model).verdicts


# --- the parameters -----------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["s", "b", "m", "v", "w", "d"])
def test_a_parameter_or_weight_that_is_a_graph_input(name: str) -> None:
    model = site()
    (tensor,) = (t for t in model.graph.initializer if t.name == name)
    model.graph.input.append(helper.make_tensor_value_info(name, tensor.data_type, tensor.dims))
    model.graph.initializer.remove(tensor)
    assert reason(model) == "computed-at-run-time"


@pytest.mark.parametrize("name", ["s", "b", "m", "v", "w", "d"])
def test_a_parameter_or_weight_that_callers_may_override(name: str) -> None:
    model = site(SITE, 17, 4)
    (tensor,) = (t for t in model.graph.initializer if t.name == name)
    model.graph.input.append(helper.make_tensor_value_info(name, tensor.data_type, tensor.dims))
    assert reason(model) == "overridable-input"


@pytest.mark.parametrize("name", ["s", "b", "m", "v", "w", "d"])
def test_a_parameter_or_weight_that_is_computed_from_an_input(name: str) -> None:
    model = site()
    (tensor,) = (t for t in model.graph.initializer if t.name == name)
    model.graph.input.append(helper.make_tensor_value_info("factor", 1, []))
    tensor.name = "raw"
    model.graph.node.insert(0, helper.make_node("Mul", ["raw", "factor"], [name], "scale_it"))
    verdict = kept(model)
    assert verdict.refusal is not None
    assert verdict.refusal.reason is Reason.COMPUTED
    # the deepest cause is named, not the constant on the way
    assert "factor" in verdict.refusal.detail


def test_a_sparse_parameter() -> None:
    model = site()
    (tensor,) = (t for t in model.graph.initializer if t.name == "m")
    model.graph.initializer.remove(tensor)
    values = numpy_helper.from_array(np.array([5], np.float32), "m")
    indices = numpy_helper.from_array(np.array([1], np.int64), "m_indices")
    model.graph.sparse_initializer.append(helper.make_sparse_tensor(values, indices, [3]))
    assert reason(model) == "sparse-constant"


def test_a_parameter_that_is_missing() -> None:
    model = site()
    model.graph.node[1].input[4] = ""
    assert reason(model, check=False) == "malformed"


def test_no_output_name() -> None:
    model = site()
    model.graph.node[1].output[0] = ""
    model.graph.node.append(helper.make_node("Relu", ["x"], ["y"]))
    assert reason(model, check=False) == "malformed"


@pytest.mark.parametrize("name", ["s", "b", "m", "v"])
def test_a_parameter_of_another_length(name: str) -> None:
    assert reason(site(**{name: numbers(1)}), check=False) == "shape-mismatch"


def test_parameters_that_are_no_vectors() -> None:
    changed = {name: array.reshape(3, 1) for name, array in bn(3).items()}
    assert reason(site(**changed), check=False) == "shape-mismatch"


@pytest.mark.parametrize("name", ["s", "b", "m", "v", "w", "d"])
@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_a_value_that_is_not_finite(name: str, value: float) -> None:
    array = constants()[name].copy()
    array.flat[1] = value
    verdict = kept(site(**{name: array}))
    assert verdict.refusal is not None
    assert verdict.refusal.reason.code == "not-finite"
    assert name in verdict.refusal.detail.split(" ")


@pytest.mark.parametrize("epsilon", [np.nan, np.inf])
def test_an_epsilon_that_is_not_finite(epsilon: float) -> None:
    model = site()
    model.graph.node[1].attribute[0].f = epsilon
    assert reason(model) == "not-finite"


@pytest.mark.parametrize("variance", [0.0, -1.0])
def test_a_variance_without_a_square_root(variance: float) -> None:
    verdict = kept(site(v=np.array([1, variance, 4], np.float32)))
    assert verdict.refusal is not None
    assert verdict.refusal.reason is Reason.VARIANCE_NOT_POSITIVE
    assert verdict.refusal.detail == "1 of 3 channels"


def test_a_negative_variance_that_epsilon_makes_positive_folds() -> None:
    model = site(v=np.array([1, -0.75, 4], np.float32))
    model.graph.node[1].attribute[0].f = 1.0
    folded(model, execute=False)  # 1/√2 rounds


# --- the weights --------------------------------------------------------------------------------


def test_a_weight_for_another_number_of_channels() -> None:
    changed = {"w": numbers(4, 3, 1, 1), "d": numbers(4)}
    assert reason(site(**changed), check=False) == "shape-mismatch"


@pytest.mark.parametrize("length", [1, 2, 4])
def test_a_bias_of_the_wrong_length_is_not_broadcast(length: int) -> None:
    assert reason(site(d=numbers(length)), check=False) == "shape-mismatch"


@pytest.mark.parametrize("group", [0, -1, 2])
def test_groups_that_do_not_divide_the_channels(group: int) -> None:
    model = site()
    model.graph.node[0].attribute.append(helper.make_attribute("group", group))
    assert reason(model, check=False) == "shape-mismatch"


def test_a_weight_of_too_low_a_rank() -> None:
    assert reason(site(w=numbers(3, 3)), check=False) == "shape-mismatch"


@pytest.mark.parametrize("shape", [(2,), (5, 2), (1, 5, 6)])
def test_a_gemm_with_a_c_that_does_not_broadcast(shape: tuple[int, ...]) -> None:
    text = """
    g (float[5,4] x) => (float[5,6] y) {
      z = Gemm (x, w, c)
      y = BatchNormalization <epsilon = 0.0> (z, s, b, m, v)
    }"""
    model = parse(text, w=numbers(4, 6), c=numbers(*shape), **bn(6))
    assert reason(model, check=False) == "shape-mismatch"


def test_a_gemm_with_a_weight_that_is_no_matrix() -> None:
    text = """
    g (float[5,4] x) => (float[5,6] y) {
      z = Gemm (x, w)
      y = BatchNormalization <epsilon = 0.0> (z, s, b, m, v)
    }"""
    assert reason(parse(text, w=numbers(1, 4, 6), **bn(6)), check=False) == "shape-mismatch"


def test_a_weight_of_another_type() -> None:
    model = site(w=numbers(3, 3, 1, 1, dtype=np.int32))
    assert reason(model, check=False) == "dtype"


def test_a_fold_that_overflows_its_type() -> None:
    half = {name: array.astype(np.float16) for name, array in constants().items()}
    half["w"][1] = 30000
    half["s"][:], half["v"][:] = 4, 1
    model = site(**half)
    for value in (model.graph.input[0], model.graph.output[0]):
        value.type.tensor_type.elem_type = TensorProto.FLOAT16
    verdict = kept(model)
    assert verdict.refusal is not None
    assert verdict.refusal.reason is Reason.OVERFLOW
    assert "w of conv" in verdict.refusal.sentence


def test_a_bias_that_overflows_its_type() -> None:
    half = {name: array.astype(np.float16) for name, array in constants().items()}
    half["d"][1] = 30000
    half["s"][:], half["v"][:] = 4, 1
    assert reason(site(**half), check=False) == "overflow"


@pytest.mark.parametrize(("shift", "code"), [(10000, "overflow"), (-10000, "")])
def test_a_constant_that_overflows_when_it_holds_a_shift(shift: int, code: str) -> None:
    text = """
    g (float16[1,3,4,4] x) => (float16[1,3,4,4] y) {
      c = Conv (x, w)
      e = Add (c, k)
      y = BatchNormalization <epsilon = 0.0> (e, s, b, m, v)
    }"""
    given = constants(k=np.full((3, 1, 1), 60000), s=np.ones(3), v=np.ones(3), m=np.zeros(3))
    given |= {"b": np.full(3, shift)}
    del given["d"]
    model = parse(text, **{name: array.astype(np.float16) for name, array in given.items()})
    if code:
        assert reason(model, check=False) == code
    else:
        folded(model, execute=False)


def test_a_fold_that_loses_a_channel_to_underflow() -> None:
    half = {name: array.astype(np.float16) for name, array in constants().items()}
    half["w"][1] = np.float16(6e-8)
    half["s"][1], half["v"][1] = 1, 16
    assert reason(site(**half), check=False) == "underflow"


def dying(dtype: Any = np.float32, **changed: float) -> ModelProto:
    """Channel 1 is as small as weight decay makes it; `changed` are numbers of that channel."""
    real = {name: array.astype(dtype) for name, array in constants().items()}
    real["m"][1], real["d"][1] = 0, 0
    for name, number in ({"w": 2.0**-133, "s": 2.0**-24, "b": -1.5, "v": 1} | changed).items():
        real[name][1] = number
    model = site(**real)
    for value in (model.graph.input[0], model.graph.output[0]):
        value.type.tensor_type.elem_type = helper.np_dtype_to_tensor_dtype(np.dtype(dtype))
    return model


def test_a_channel_that_vanishes_beside_its_bias_folds() -> None:
    """3 · 2⁻¹⁵⁷ · 2¹²⁸ is less than what rounding 1.5 may make: no finite input shows it."""
    after = folded(dying())
    assert not after.tensor("w")[1].any()
    assert after.tensor("d")[1] == -1.5


def test_the_bias_of_another_channel_does_not_count() -> None:
    model = dying(b=-1.5)
    others = bn(3) | {name: np.zeros(3, np.float32) for name in "bm"}
    others["b"][1], others["s"][1], others["v"][1] = -1.5, 2.0**-24, 1
    for tensor in model.graph.initializer:
        if tensor.name in others:
            tensor.CopyFrom(numpy_helper.from_array(others[tensor.name], tensor.name))
        elif tensor.name == "d":
            tensor.CopyFrom(numpy_helper.from_array(np.zeros(3, np.float32), "d"))
    folded(model)


@pytest.mark.parametrize(("bias", "code"), [(0.0067, ""), (0.00665, "underflow")])
def test_the_bound_is_14_roundings_of_the_bias_for_a_sum_of_3(bias: float, code: str) -> None:
    """3 · 2⁻¹⁵⁷ · 2¹²⁸ = (2·3 + 8) · 2⁻²⁴ · 0.006696"""
    if code:
        assert reason(dying(b=bias)) == code
    else:
        folded(dying(b=bias))


@pytest.mark.parametrize("bias", [0.0, 2.0**-12])
def test_a_channel_that_vanishes_beside_less_is_refused(bias: float) -> None:
    assert reason(dying(b=bias)) == "underflow"


def test_a_channel_that_is_zero_in_the_original_as_well_folds() -> None:
    """Inputs up to 2⁶⁴ give less than half of 2⁻¹⁴⁹, the smallest number of float32."""
    folded(dying(s=2.0**-90, b=0.0))
    assert reason(dying(s=2.0**-80, b=0.0)) == "underflow"


@pytest.mark.parametrize(
    ("attributes", "bias", "code"),
    [
        ("transA = 0", 0.0067, ""),
        ("transA = 0", 0.00665, "underflow"),
        ("alpha = 16.0", 0.1072, ""),
        ("alpha = 16.0", 0.1064, "underflow"),
        ("beta = 4.0", 0.0067, ""),
        ("beta = 4.0", 0.00665, "underflow"),
    ],
)
def test_alpha_and_beta_of_a_gemm_count_where_a_channel_vanishes(
    attributes: str, bias: float, code: str
) -> None:
    """α·(x·w) is weighed against β·c, which is x·w against c·β/α."""
    text = f"""
    g (float[1,3] x) => (float[1,3] y) {{
      [gemm] c = Gemm <{attributes}> (x, w, d)
      [norm] y = BatchNormalization <epsilon = 0.0> (c, s, b, m, v)
    }}"""
    given = constants(w=numbers(3, 3))
    given["w"][:, 1], given["d"][1], given["m"][1] = 2.0**-133, 0, 0
    given["s"][1], given["b"][1], given["v"][1] = 2.0**-24, bias, 1
    model = parse(text, **given)
    if code:
        assert reason(model) == code
    else:
        folded(model)


@pytest.mark.parametrize("gamma", [0.0, 2.0**-24])
def test_a_dead_channel_in_float64_folds(gamma: float) -> None:
    folded(dying(np.float64, w=1.0, s=gamma), execute=False)


def test_a_channel_that_vanishes_in_float64_is_refused() -> None:
    assert reason(dying(np.float64, w=2.0**-600, s=2.0**-500, b=0.0)) == "underflow"
    folded(dying(np.float64, w=2.0**-600, s=2.0**-500, b=-4.0), execute=False)


@pytest.mark.parametrize(
    ("vanishing", "bias", "code"),
    [
        ([1], 0.0, "underflow"),
        ([1], -1.5, ""),
        ([1], 0.01, ""),
        ([0, 1], 0.01, "underflow"),
        ([0, 1], -1.5, ""),
        ([1], [0.0, -1.5, -1.5], "underflow"),
    ],
)
def test_input_channels_that_vanish_are_weighed_together(
    vanishing: list[int], bias: float | list[float], code: str
) -> None:
    """Each of them gives up to 3 · 2⁻¹⁵⁷ · 2¹²⁸ = 5.6e-9; beside 0.01, roundings hide 8.3e-9."""
    text = """
    g (float[1,3,4,4] x) => (float[1,3,4,4] y) {
      [norm] c = BatchNormalization <epsilon = 0.0> (x, s, b, m, v)
      [conv] y = Conv (c, w, d)
    }"""
    given = constants(b=np.zeros(3, np.float32), m=np.zeros(3, np.float32))
    given["w"][:, vanishing], given["d"][:] = 2.0**-133, bias
    given["s"][vanishing], given["v"][vanishing] = 2.0**-24, 1
    if code:
        below = kept(parse(text, **given)).below
        assert below is not None
        assert below.reason.code == code
    else:
        folded(parse(text, **given))


def test_single_weights_lost_to_underflow_are_rounding() -> None:
    half = {name: array.astype(np.float16) for name, array in constants().items()}
    half["w"][1, 1] = np.float16(6e-8)
    half["s"][1], half["v"][1] = 1, 16
    model = site(**half)
    for value in (model.graph.input[0], model.graph.output[0]):
        value.type.tensor_type.elem_type = TensorProto.FLOAT16
    folded(model, execute=False)


def test_a_damaged_weight_is_an_invalid_model() -> None:
    import bnfold

    model = site()
    model.graph.initializer[0].raw_data = model.graph.initializer[0].raw_data[:-3]
    with pytest.raises(bnfold.ModelError, match="'w' is damaged"):
        bnfold.fold(model)


# --- the way ------------------------------------------------------------------------------------


def test_another_reader() -> None:
    text = SITE.replace("y = Batch", "z = Batch").replace(
        "s, b, m, v)", "s, b, m, v)\ny = Add (c, z)"
    )
    verdict = kept(site(text))
    assert verdict.refusal is not None
    assert verdict.refusal.reason is Reason.ANOTHER_READER
    assert (verdict.refusal.node, verdict.refusal.detail) == ("conv", "Add→y")


def test_a_graph_output_before_normalisation() -> None:
    text = SITE.replace("=> (", "=> (float[1,3,4,4] c, ")
    verdict = kept(site(text))
    assert verdict.refusal is not None
    assert verdict.below is not None
    assert (verdict.refusal.reason, verdict.refusal.node) == (Reason.GRAPH_OUTPUT, "conv")
    assert (verdict.below.reason.code, verdict.below.node) == ("result", "norm")


def test_an_output_further_down_is_a_result_that_stays() -> None:
    """Whoever dropped it would drop what the model is for."""
    text = SITE.replace("=> (", "=> (float[1,3,4,4] c, ").replace("y = Batch", "z = Batch")
    verdict = kept(site(text.replace("s, b, m, v)", "s, b, m, v) [id] y = Identity (z)")))
    assert verdict.below is not None
    assert (verdict.below.reason, verdict.below.node) == (Reason.RESULT, "id")


BODY = """
g (float[1,3,4,4] x, bool cond) => (float[1,3,4,4] y, float[1,3,4,4] q) {
  [conv] c = Conv (x, w, d)
  [norm] y = BatchNormalization <epsilon = 0.0> (c, s, b, m, v)
  [choice] q = If (cond) <
    then_branch = t () => (float[1,3,4,4] p) { p = Relu (READ) },
    else_branch = e () => (float[1,3,4,4] r) { r = Relu (x) }
  >
}"""


def test_a_reader_inside_a_body() -> None:
    verdict = kept(site(BODY.replace("READ", "c")))
    assert verdict.refusal is not None
    assert verdict.refusal.reason is Reason.CAPTURED
    assert verdict.refusal.detail == "choice.then_branch"


def test_a_body_may_read_what_is_normalised() -> None:
    folded(site(BODY.replace("READ", "y")))


def test_a_batch_normalization_in_a_body_does_not_reach_a_conv_around_it() -> None:
    text = """
    g (float[1,3,4,4] x, bool cond) => (float[1,3,4,4] y) {
      [conv] c = Conv (x, w, d)
      [choice] y = If (cond) <
        then_branch = t () => (float[1,3,4,4] p) {
          [norm] p = BatchNormalization <epsilon = 0.0> (c, s, b, m, v)
        },
        else_branch = e () => (float[1,3,4,4] r) { r = Relu (x) }
      >
    }"""
    assert reason(site(text)) == "no-linear-producer"


def test_a_quantization_annotation() -> None:
    model = site()
    annotation = model.graph.quantization_annotation.add(tensor_name="c")
    annotation.quant_parameter_tensor_names.add(key="SCALE_TENSOR", value="s")
    assert reason(model) == "annotated"


@pytest.mark.parametrize(
    "producer", ["Relu (x)", "Add (x, x)", "Softmax (x)", "own.Conv (x, w, d)", "Conv (x, t)"]
)
def test_what_is_not_linear(producer: str) -> None:
    text = '<ir_version: 8, opset_import: ["": 17, "own": 1]>' + SITE.replace(
        "Conv (x, w, d)", producer
    ).replace("x)", "x, float[3,3,1,1] t)", 1)
    expected = {
        "Relu (x)": "negative-scale",
        "Conv (x, t)": "computed-at-run-time",
    }.get(producer, "no-linear-producer")  # fmt: skip
    model = site(text)
    for tensor in [t for t in model.graph.initializer if t.name in "wd" and "own" not in producer]:
        model.graph.initializer.remove(tensor)
    assert reason(model, check=False) == expected


@pytest.mark.parametrize("source", ["graph input", "constant"])
def test_nothing_in_front(source: str) -> None:
    model = parse(
        "g (float[1,3,4,4] x) => (float[1,3,4,4] y)"
        "{ [norm] y = BatchNormalization <epsilon = 0.0> (x, s, b, m, v) }",
        **bn(3),
    )
    if source == "constant":
        del model.graph.input[0]
        model.graph.initializer.append(numpy_helper.from_array(numbers(1, 3, 4, 4), "x"))
    verdict = kept(model)
    assert verdict.refusal is not None
    assert verdict.refusal.reason is Reason.NO_LINEAR_PRODUCER
    assert source in verdict.refusal.detail


def test_every_reason_is_reached_by_a_test() -> None:
    """Each code stands in this folder's tests, or, for functions, in test_scopes."""
    from pathlib import Path

    text = "".join(path.read_text() for path in Path(__file__).parents[1].rglob("test_*.py"))
    missing = [
        r.code for r in Reason if f'"{r.code}"' not in text and f"Reason.{r.name}\n" not in text
    ]
    assert not missing


def test_the_text_of_every_reason_is_whole() -> None:
    codes = [reason.code for reason in Reason]
    assert len(set(codes)) == len(codes)
    for entry in Reason:
        assert entry.sentence
        assert entry.remedy
        assert not entry.sentence.endswith(".")
    assert onnx.__version__


def test_a_map_of_more_channels_than_a_model_of_this_size_needs() -> None:
    """8 · 512² channels; a file of a few bytes may not ask for that many numbers."""
    text = """
    g (float[1,2097152,1,1] x) => (float[1,8,512,512] y) {
      r = DepthToSpace <blocksize = 512> (x)
      y = BatchNormalization <epsilon = 0.0> (r, s, b, m, v)
    }"""
    assert reason(parse(text, **bn(8)), check=False) == "too-large"


def test_pads_that_do_not_fit_what_is_padded() -> None:
    text = """
    g (float[1,3,4,4] x) => (float[1,3,4,4] y) {
      c = Conv (x, w, d)
      e = Pad (c, p)
      y = BatchNormalization <epsilon = 0.0> (e, s, b, m, v)
    }"""
    model = parse(text, p=np.zeros(6, np.int64), **constants())
    assert reason(model, check=False) == "shape-mismatch"


def test_a_batch_normalization_of_more_inputs_than_there_are() -> None:
    model = site()
    model.graph.node[1].input.append("s")
    assert reason(model, check=False) == "malformed"


def test_broadcasting_along_an_axis_below_opset_7() -> None:
    """Which lines operands up in another way than the broadcasting that the rules know."""
    text = """
    g (float[1,3,4,4] x, float[1,3,4,4] z) => (float[1,3,4,4] y) {{
      [conv] c = Conv (x, w, d)
      k = {} (c, z)
      [norm] y = BatchNormalization <epsilon = 0.0, is_test = 1> (k, s, none, none, v)
    }}"""
    none = np.zeros(3, np.float32)
    assert reason(site(text.format("Mul <broadcast = 1>"), 6, none=none)) == "not-transparent"
    folded(site(text.format("Mul"), 6, none=none), execute=False)
