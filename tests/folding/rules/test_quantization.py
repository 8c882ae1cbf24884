"""Weights behind a DequantizeLinear: they take the map and stay quantised.

Scales are powers of two, so that the results agree bit for bit.
"""

from __future__ import annotations

from pathlib import Path

import ml_dtypes
import numpy as np
import onnx
import pytest
from onnx import ModelProto, TensorProto, helper, numpy_helper

import bnfold
from tests.support import (
    Array,
    Folded,
    affine,
    bn,
    folded,
    free,
    kept,
    numbers,
    parse,
    reason,
    shift_stays,
)

CONV = """
g (float[2,3,5,5] x) => (float[2,M,P,Q] y) {
  [dq] w = DequantizeLinear (q, k, z)
  [conv] c = Conv (x, w)
  [norm] y = BatchNormalization <epsilon = 0.0> (c, s, b, m, v)
}"""
WITH_BIAS = """
g (float[2,3,5,5] x) => (float[2,M,P,Q] y) {
  [dq] w = DequantizeLinear <axis = 0> (q, k, z)
  [dqb] bias = DequantizeLinear <axis = 0> (qb, kb)
  [conv] c = Conv (x, w, bias)
  [norm] y = BatchNormalization <epsilon = 0.0> (c, s, b, m, v)
}"""
PER_CHANNEL = CONV.replace("Linear (", "Linear <axis = 0> (")


def integers(*shape: int, seed: int = 0, dtype: type = np.int8) -> Array:
    """Small integers of both signs, for unsigned types around 128."""
    drawn = np.random.default_rng(seed).integers(-20, 21, shape)
    return (drawn + (128 if np.issubdtype(dtype, np.unsignedinteger) else 0)).astype(dtype)


def steps(*channels: int) -> Array:
    """Scales that are powers of two, one for each channel, or a single one."""
    drawn = np.random.default_rng(7).integers(-6, -2, channels)
    return np.asarray(2.0**drawn, np.float32)


def per_channel(**changes: Array) -> dict[str, Array]:
    """What PER_CHANNEL reads: four channels of int8."""
    own = {"q": integers(4, 3, 2, 2), "k": steps(4), "z": np.zeros(4, np.int8)}
    return {**own, **bn(4), **changes}


def per_tensor(**changes: Array) -> dict[str, Array]:
    """What CONV reads: one scale and one zero point for all."""
    own = {"q": integers(4, 3, 2, 2), "k": steps(), "z": np.array(0, np.int8)}
    return {**own, **bn(4), **changes}


def positive(**shifts: float) -> dict[str, Array]:
    """BatchNormalization parameters whose scales are positive and not all the same."""
    return {
        "s": np.array([2, 0.5, 4, 1], np.float32),
        "b": np.full(4, shifts.get("b", 0.0), np.float32),
        "m": np.zeros(4, np.float32),
        "v": np.ones(4, np.float32),
    }


def signed(*scales: float) -> dict[str, Array]:
    """The same with these scales."""
    return positive() | {"s": np.array(scales, np.float32)}


def read_by(result: Folded, name: str, slot: int) -> Array:
    """The initializer that the node reads."""
    (node,) = (node for node in result.model.graph.node if node.name == name)
    return result.tensor(node.input[slot])


def dequantized(result: Folded, name: str, axis: int = 0) -> Array:
    """What a DequantizeLinear of the folded model gives, one scale for each channel."""
    q, k, z = (read_by(result, name, slot).astype(np.float64) for slot in range(3))
    shape = [-1 if place == axis else 1 for place in range(q.ndim)]
    return (q - z.reshape(shape)) * k.reshape(shape)


# --- the scale takes it -------------------------------------------------------------------------


def test_a_scale_per_channel_takes_the_map_and_no_integer_changes() -> None:
    given = per_channel(**positive(b=1.0))
    result = folded(parse(PER_CHANNEL, **given))
    np.testing.assert_array_equal(result.tensor("k"), given["k"] * given["s"])
    assert result.tensor("q").tobytes() == given["q"].tobytes()
    assert result.ops == ["DequantizeLinear", "Conv"]
    assert result.result.verdicts[0].into == ("dq", "conv")
    assert read_by(result, "conv", 2).dtype == np.float32


def test_one_scale_for_all_becomes_one_for_each_channel() -> None:
    given = per_tensor(**positive(), z=np.array(3, np.int8))
    result = folded(parse(CONV, **given))
    node = result.model.graph.node[0]
    assert helper.get_node_attr_value(node, "axis") == 0
    np.testing.assert_array_equal(read_by(result, "dq", 1), given["k"] * given["s"])
    np.testing.assert_array_equal(read_by(result, "dq", 2), np.full(4, 3, np.int8))
    assert result.tensor("q").tobytes() == given["q"].tobytes()


def test_a_scale_of_shape_1_is_one_scale_for_all() -> None:
    folded(parse(CONV, **per_tensor(**positive(), k=steps(1), z=np.zeros(1, np.int8))))


def test_without_zero_point() -> None:
    text = CONV.replace("(q, k, z)", "(q, k)")
    given = per_tensor(**bn(4))
    del given["z"]
    result = folded(parse(text, **given))
    assert len(result.model.graph.node[0].input) == 2


def test_the_same_scale_for_all_channels_leaves_one_scale_for_all() -> None:
    given = per_tensor(**signed(4, 4, 4, 4))
    result = folded(parse(CONV, **given))
    np.testing.assert_array_equal(result.tensor("k"), given["k"] * 4)


def test_before_opset_13_a_scale_is_one_number() -> None:
    verdict = kept(parse(CONV, 12, **per_tensor(**positive())))
    assert verdict.refusal is not None
    assert verdict.refusal.reason.code == "quantized"
    assert "opset 13" in verdict.refusal.sentence
    folded(parse(CONV, 12, **per_tensor(**signed(4, 4, -4, 4))))
    folded(parse(CONV, 13, **per_tensor(**positive())))


# --- signs and dead channels go into the integers -----------------------------------------------


@pytest.mark.parametrize("dtype", [np.int8, np.uint8, np.int16, np.uint16])
def test_a_negative_scale_turns_the_integers_around_the_zero_point(dtype: type) -> None:
    zero = 128 if np.issubdtype(dtype, np.unsignedinteger) else 0
    opset = 21 if np.dtype(dtype).itemsize == 2 else 17
    given = per_channel(
        **signed(2, -0.5, 1, -1),
        q=integers(4, 3, 2, 2, dtype=dtype), z=np.full(4, zero, dtype),
    )  # fmt: skip
    result = folded(parse(PER_CHANNEL, opset, 10, **given))
    assert np.all(result.tensor("k") > 0)
    turned = result.tensor("q").astype(int) - zero
    original = given["q"].astype(int) - zero
    signs = np.sign(given["s"])[:, None, None, None]
    np.testing.assert_array_equal(turned, original * signs)


@pytest.mark.parametrize(("lowest", "zero", "dtype"), [(-128, 0, np.int8), (0, 128, np.uint8)])
def test_an_integer_without_opposite_stops_a_negative_scale(
    lowest: int, zero: int, dtype: type
) -> None:
    given = per_channel(**signed(2, -0.5, 1, -1), z=np.full(4, zero, dtype))
    given["q"] = integers(4, 3, 2, 2, dtype=dtype)
    given["q"][1, 0, 0, :] = lowest
    verdict = kept(parse(PER_CHANNEL, **given))
    assert verdict.refusal is not None
    assert verdict.refusal.reason.code == "quantized"
    assert "1 of 4 channels" in verdict.refusal.sentence
    given["q"][1, 0, 0, :] = lowest + 1
    given["q"][2, 0, 0, 0] = lowest  # of a channel that keeps its sign
    folded(parse(PER_CHANNEL, **given))


def test_a_dead_channel_keeps_its_scale_and_holds_its_zero_point() -> None:
    given = per_channel(**signed(2, 0, 1, -1), z=np.array([0, 5, 0, 0], np.int8))
    result = folded(parse(PER_CHANNEL, **given))
    assert np.all(result.tensor("q")[1] == 5)
    assert result.tensor("k")[1] == given["k"][1]


def test_float8_weights_change_their_sign() -> None:
    w = numbers(4, 3, 2, 2).astype(ml_dtypes.float8_e4m3fn)
    model = parse(PER_CHANNEL.replace(", z)", ")"), 19, 9, k=steps(4), **bn(4))
    model.graph.initializer.append(numpy_helper.from_array(w, "q"))
    result = folded(model)
    tensor = next(t for t in result.model.graph.initializer if t.name == "q")
    assert tensor.data_type == TensorProto.FLOAT8E4M3FN


# --- biases -------------------------------------------------------------------------------------


def with_bias(**changes: Array) -> dict[str, Array]:
    """What WITH_BIAS reads; the shift is a whole number of steps of the bias, unless given."""
    own = {"qb": np.array([1000, -2000, 30, 4], np.int32), "kb": steps(4)}
    own |= bn(4) | {"m": np.zeros(4, np.float32)}
    own["b"] = own["kb"] * np.abs(affine(own)[0]).astype(np.float32) * [5, 0, -7, 300]
    own["b"] = own["b"].astype(np.float32)
    return per_channel(**(own | changes))


def test_an_int32_bias_is_re_expressed_in_its_new_scale() -> None:
    given = with_bias()
    result = folded(parse(WITH_BIAS, **given))
    scale, shift = affine(given)
    k, q = read_by(result, "dqb", 1), read_by(result, "dqb", 0)
    np.testing.assert_array_equal(k, given["kb"] * np.abs(scale))
    exact = scale * given["qb"] * given["kb"] + shift
    assert q.dtype == np.int32
    np.testing.assert_array_equal(q, np.rint(exact / k))


def test_an_int32_bias_without_shift_only_takes_signs() -> None:
    given = with_bias(**signed(2, -0.5, 0, -1))
    result = folded(parse(WITH_BIAS, **given))
    np.testing.assert_array_equal(read_by(result, "dqb", 0), [1000, 2000, 0, -4])


def test_a_shift_is_rounded_to_the_steps_of_the_bias() -> None:
    p = positive() | {"b": np.full(4, 1 / 3, np.float32)}
    given = with_bias(**p)
    result = folded(parse(WITH_BIAS, **given), execute=False)
    step = given["kb"] * p["s"]
    exact = p["s"] * given["qb"] * given["kb"] + p["b"].astype(np.float64)
    now = read_by(result, "dqb", 0) * read_by(result, "dqb", 1).astype(np.float64)
    assert np.all(np.abs(now - exact) <= step / 2)
    assert np.any(now != exact)


def test_a_bias_that_needs_more_than_32_bits_takes_no_shift() -> None:
    given = with_bias(**positive(b=1.0), kb=np.full(4, 1e-12, np.float32))
    result = shift_stays(parse(WITH_BIAS, **given), execute=False)
    assert np.array_equal(result.tensor("qb"), given["qb"])


def test_an_int8_bias_has_no_room_for_a_shift_but_for_a_scale() -> None:
    small = {"qb": np.array([1, -2, 3, 4], np.int8)}
    shift_stays(parse(WITH_BIAS, **with_bias(**positive(b=1.0), **small)))
    folded(parse(WITH_BIAS, **with_bias(**positive(), **small)))


def test_a_float_bias_beside_a_quantised_weight_stays_float() -> None:
    text = PER_CHANNEL.replace("(x, w)", "(x, w, bias)")
    result = folded(parse(text, **per_channel(bias=numbers(4, seed=3))))
    assert result.tensor("bias").dtype == np.float32


# --- other nodes, other ways --------------------------------------------------------------------


def test_down_into_a_weight_with_one_scale_for_all() -> None:
    text = """
    g (float[2,3,5,5] x) => (float[2,4,P,Q] y) {
      [norm] n = BatchNormalization <epsilon = 0.0> (x, s, b, m, v)
      [dq] w = DequantizeLinear (q, k, z)
      [conv] y = Conv (n, w)
    }"""
    result = folded(parse(text, **per_tensor(**bn(3))))
    assert helper.get_node_attr_value(result.model.graph.node[0], "axis") == 1


def test_down_into_a_weight_with_a_scale_per_output_channel_is_refused() -> None:
    text = """
    g (float[2,3,5,5] x) => (float[2,4,P,Q] y) {
      [norm] n = BatchNormalization <epsilon = 0.0> (x, s, b, m, v)
      [dq] w = DequantizeLinear <axis = 0> (q, k, z)
      [conv] y = Conv (n, w)
    }"""
    verdict = kept(parse(text, **per_channel(**bn(3))))
    assert verdict.below is not None
    assert verdict.below.reason.code == "quantized"
    assert "axis 0, the map along axis 1" in verdict.below.sentence
    signs = {"s": np.array([1, -1, 1], np.float32), "v": np.ones(3, np.float32)}
    folded(parse(text, **per_channel(**(bn(3) | signs))))  # signs go along any axis


def test_depthwise_down_is_along_the_axis_of_the_scale() -> None:
    text = """
    g (float[2,4,5,5] x) => (float[2,4,P,Q] y) {
      [norm] n = BatchNormalization <epsilon = 0.0> (x, s, b, m, v)
      [dq] w = DequantizeLinear <axis = 0> (q, k, z)
      [conv] y = Conv <group = 4> (n, w)
    }"""
    folded(parse(text, **per_channel(q=integers(4, 1, 2, 2))))


def test_from_both_sides_the_bias_is_that_of_the_weights_as_they_became() -> None:
    text = """
    g (float[2,3,5,5] x) => (float[2,4,P,Q] y) {
      [below] n = BatchNormalization <epsilon = 0.0> (x, s2, b2, m2, v2)
      [dq] w = DequantizeLinear (q, k, z)
      [conv] c = Conv (n, w)
      [above] y = BatchNormalization <epsilon = 0.0> (c, s, b, m, v)
    }"""
    signs = {"s2": np.full(3, -1, np.float32), "v2": np.ones(3, np.float32)}
    folded(parse(text, **per_tensor(**(bn(3, name="2", seed=5) | signs))))


@pytest.mark.parametrize("group", [1, 4])
def test_conv_transpose(group: int) -> None:
    text = CONV.replace("[conv] c = Conv", f"[conv] c = ConvTranspose <group = {group}>")
    text = text.replace("float[2,3,5,5]", "float[2,4,5,5]")
    folded(parse(text, **per_tensor(q=integers(4, 4 // group, 2, 2))))


def test_a_grouped_conv_transpose_has_its_output_channels_along_two_axes() -> None:
    text = CONV.replace("[conv] c = Conv", "[conv] c = ConvTranspose <group = 2>")
    text = text.replace("float[2,3,5,5]", "float[2,4,5,5]")
    assert reason(parse(text, **per_tensor(q=integers(4, 2, 2, 2)))) == "quantized"


@pytest.mark.parametrize("trans_b", [0, 1])
def test_gemm_and_its_int32_c(trans_b: int) -> None:
    text = f"""
    g (float[2,3] x) => (float[2,4] y) {{
      [dq] w = DequantizeLinear <axis = {1 - trans_b}> (q, k, z)
      [dqb] c = DequantizeLinear <axis = 0> (qb, kb)
      [gemm] h = Gemm <transB = {trans_b}> (x, w, c)
      [norm] y = BatchNormalization <epsilon = 0.0> (h, s, b, m, v)
    }}"""
    q = integers(4, 3) if trans_b else integers(3, 4)
    folded(parse(text, **with_bias(q=q)))


def test_a_scale_per_channel_without_an_axis_is_along_axis_1() -> None:
    text = """
    g (float[2,3] x) => (float[2,4] y) {
      [dq] w = DequantizeLinear (q, k, z)
      [gemm] h = Gemm (x, w)
      [norm] y = BatchNormalization <epsilon = 0.0> (h, s, b, m, v)
    }"""
    folded(parse(text, **per_channel(q=integers(3, 4), z=np.array([0, 1, -2, 3], np.int8))))


def test_batch_normalizations_with_quantised_parameters_stay_two() -> None:
    text = """
    g (float[2,4,5,5] x) => (float[2,4,5,5] y) {
      [dq] s2 = DequantizeLinear (q, k)
      [one] c = BatchNormalization <epsilon = 0.0> (x, s2, b2, m2, v2)
      [two] y = BatchNormalization <epsilon = 0.0> (c, s, b, m, v)
    }"""
    p = bn(4, name="2")
    del p["s2"]
    assert not bnfold.fold(parse(text, q=integers(4), k=steps(), **p, **positive())).folded


def test_a_quantised_beta_holds_no_other_ones_shift() -> None:
    text = """
    g (float[2,4,5,5] x) => (float[2,4,5,5] y) {
      [dq] b2 = DequantizeLinear (q, k)
      [one] c = BatchNormalization <epsilon = 0.0> (x, s2, b2, m2, v2)
      [two] y = BatchNormalization <epsilon = 0.0> (c, s, b, m, v)
    }"""
    p = bn(4, name="2")
    del p["b2"]
    given = {"q": integers(4).astype(np.int32), "k": steps(), **p, **positive(b=1.0)}
    assert not bnfold.fold(parse(text, **given)).folded


def test_matmul_behind_a_transpose_of_the_weight() -> None:
    text = """
    g (float[2,3] x) => (float[2,4] y) {
      [dq] d = DequantizeLinear (q, k, z)
      [turn] w = Transpose (d)
      [product] h = MatMul (x, w)
      [norm] y = BatchNormalization <epsilon = 0.0> (h, s, b, m, v)
    }"""
    result = folded(parse(text, **per_tensor(q=integers(4, 3))))
    assert result.ops == ["DequantizeLinear", "Transpose", "Gemm"]


def test_a_weight_quantised_in_the_graph_takes_the_map_into_its_dequantisation() -> None:
    text = CONV.replace("[dq] w", "[quant] q = QuantizeLinear (f, k, z)\n[dq] w")
    given = per_tensor(**positive(), f=numbers(4, 3, 2, 2))
    del given["q"]
    result = folded(parse(text, **given))
    assert result.ops == ["QuantizeLinear", "DequantizeLinear", "Conv"]
    np.testing.assert_array_equal(result.tensor("f"), given["f"])
    np.testing.assert_array_equal(result.tensor("k"), given["k"])  # which the QuantizeLinear reads


def test_where_such_a_weight_changes_its_sign_its_integers_are_stored() -> None:
    text = CONV.replace("[dq] w", "[quant] q = QuantizeLinear (f, k, z)\n[dq] w")
    given = per_tensor(**signed(2, -0.5, 1, -1), f=numbers(4, 3, 2, 2))
    del given["q"]
    result = folded(parse(text, **given))
    assert result.ops == ["DequantizeLinear", "Conv"]
    assert result.tensor("q").dtype == np.int8


@pytest.mark.parametrize("axis", [1, 2])
def test_blocks_of_one_axis_take_a_map_along_another(axis: int) -> None:
    text = CONV.replace("Linear (", f"Linear <axis = {axis}, block_size = 2> (")
    shape = [4, 4, 4, 1]
    blocks = [n // 2 if place == axis else n for place, n in enumerate(shape)]
    given = per_tensor(
        q=integers(*shape), k=steps(*blocks), z=integers(*blocks, seed=4), **positive()
    )
    text = text.replace("float[2,3,5,5]", "float[2,4,5,5]")
    folded(parse(text, 21, 10, **given))
    folded(parse(text, 21, 10, **given | signed(2, -1, 0, 1)))


def test_blocks_along_the_channels_are_refused() -> None:
    text = CONV.replace("Linear (", "Linear <axis = 0, block_size = 2> (")
    given = per_tensor(q=integers(4, 3, 2, 2), k=steps(2, 3, 2, 2), z=np.zeros((2, 3, 2, 2), "i1"))
    verdict = kept(parse(text, 21, 10, **given))
    assert verdict.refusal is not None
    assert verdict.refusal.reason.code == "quantized"


def test_four_bit_weights() -> None:
    model = parse(PER_CHANNEL, 21, 10, k=steps(4), **bn(4))
    for name, array in (("q", integers(4, 3, 2, 2) % 7), ("z", np.zeros(4, np.int8))):
        packed = numpy_helper.from_array(array.astype(ml_dtypes.int4), name)
        model.graph.initializer.append(packed)
    result = folded(model)
    assert {t.data_type for t in result.model.graph.initializer if t.name in "qz"} == {
        TensorProto.INT4
    }


def test_parameters_of_a_batch_norm_may_be_quantised() -> None:
    text = """
    g (float[2,3,5,5] x) => (float[2,4,P,Q] y) {
      [conv] c = Conv (x, w)
      [dq] s = DequantizeLinear (q, k)
      [norm] y = BatchNormalization <epsilon = 0.0> (c, s, b, m, v)
    }"""
    p = bn(4)
    del p["s"]
    given = {"q": integers(4), "k": steps(), "w": numbers(4, 3, 2, 2), **p}
    assert folded(parse(text, **given)).ops == ["Conv"]


def test_two_scales_that_share_a_tensor_part() -> None:
    text = """
    g (float[2,3,5,5] x) => (float[2,4,P,Q] y, float[2,4,R,S] other) {
      [dq] w = DequantizeLinear (q, k, z)
      [conv] c = Conv (x, w)
      [norm] y = BatchNormalization <epsilon = 0.0> (c, s, b, m, v)
      [dq2] w2 = DequantizeLinear (q, k, z)
      [conv2] other = Conv (x, w2)
    }"""
    given = per_tensor()
    result = folded(parse(text, **given))
    np.testing.assert_array_equal(result.tensor("q"), given["q"])
    np.testing.assert_array_equal(result.tensor("k"), given["k"])


# --- what is refused ----------------------------------------------------------------------------


def test_a_weight_that_another_node_reads_too_is_refused() -> None:
    text = """
    g (float[2,3,5,5] x) => (float[2,4,P,Q] y, float[2,4,R,S] other) {
      [dq] w = DequantizeLinear (q, k, z)
      [conv] c = Conv (x, w)
      [norm] y = BatchNormalization <epsilon = 0.0> (c, s, b, m, v)
      [conv2] other = Conv (x, w)
    }"""
    assert reason(parse(text, **per_tensor())) == "another-reader"


BETWEEN = """
g (float[2,4,5,5] x) => (float[2,4,5,5] y) {
  [q1] xq = QuantizeLinear (x, k, z)
  [dq1] xd = DequantizeLinear (xq, k, z)
  [norm] n = BatchNormalization <epsilon = 0.0> (xd, s, b, m, v)
  [q2] nq = QuantizeLinear (n, k, z)
  [dq2] y = DequantizeLinear (nq, k, z)
}"""


def test_between_activations_that_are_rounded_nothing_moves() -> None:
    verdict = kept(parse(BETWEEN, k=steps(), z=np.array(0, np.int8), **bn(4)))
    assert verdict.refusal is not None
    assert verdict.below is not None
    assert (verdict.refusal.reason.code, verdict.refusal.node) == ("rounding", "dq1")
    assert (verdict.below.reason.code, verdict.below.node) == ("rounding", "q2")


def test_a_scale_that_callers_may_replace_is_refused() -> None:
    text = PER_CHANNEL.replace("x)", "x, float[4] k)")
    assert reason(parse(text, **per_channel())) == "overridable-input"


def test_a_scale_of_a_channel_that_would_vanish_is_refused() -> None:
    tiny = {"v": np.array([1, 1e38, 1, 1], np.float32), "k": np.full(4, 1e-36, np.float32)}
    assert reason(parse(PER_CHANNEL, **per_channel(**tiny))) == "underflow"


def test_a_step_of_zero_takes_no_shift() -> None:
    given = with_bias(**positive(b=1.0), kb=np.zeros(4, np.float32))
    shift_stays(parse(WITH_BIAS, **given))


def test_a_scale_that_would_leave_the_normal_numbers_is_refused() -> None:
    text = PER_CHANNEL.replace("float[", "float16[")
    given = per_channel(**signed(2, 1, 0.125, 1), k=np.full(4, 3e-4, np.float16))
    given = {n: a.astype(np.float16) if a.dtype == np.float32 else a for n, a in given.items()}
    assert reason(parse(text, 21, 10, **given)) == "underflow"
    given["s"] = np.array([2, 1, 0.25, 1], np.float16)
    folded(parse(text, 21, 10, **given), execute=False)


def test_a_scale_that_does_not_fit_its_integers_makes_no_weight() -> None:
    model = parse(PER_CHANNEL, **per_channel(k=steps(3)))
    assert reason(model, check=False) == "not-evaluated"


def test_zero_points_without_scales_are_refused() -> None:
    text = """
    g (float[2,3,5,5] x, int8[4] t) => (float[2,4,P,Q] y) {
      [dq] w = DequantizeLinear <axis = 0> (q, k, z)
      [conv] c = Conv (x, w)
      [norm] y = BatchNormalization <epsilon = 0.0> (c, s, b, m, v)
    }"""
    model = parse(text, **per_tensor(z=np.zeros(4, np.int8)))
    assert reason(model, check=False) == "shape-mismatch"


def test_one_block_is_no_scale_for_all() -> None:
    text = """
    g (float[3,4] x) => (float[3,1] y) {
      [norm] n = BatchNormalization <epsilon = 0.0> (x, s, b, m, v)
      [dq] w = DequantizeLinear <axis = 0, block_size = 4> (q, k)
      [product] y = MatMul (n, w)
    }"""
    given = {"q": integers(4, 1), "k": np.full((1, 1), 0.5, np.float32)}
    verdict = kept(parse(text, 21, 10, **given, **signed(2, 0.5, 4, 1)))
    assert verdict.below is not None
    assert verdict.below.reason.code == "quantized"
    folded(parse(text, 21, 10, **given, **signed(2, -2, 2, 2)))


def test_a_bias_in_blocks_takes_no_map_per_channel() -> None:
    text = """
    g (float[2,3,5,5] x) => (float[2,4,P,Q] y) {
      [dqb] bias = DequantizeLinear <axis = 0, block_size = 2> (qb, kb)
      [conv] c = Conv (x, w, bias)
      [norm] y = BatchNormalization <epsilon = 0.0> (c, s, b, m, v)
    }"""
    given = {"qb": np.array([1, 2, 3, 4], np.int32), "kb": steps(2), "w": numbers(4, 3, 2, 2)}
    assert reason(parse(text, 21, 10, **given, **positive(b=1.0))) == "quantized"
    folded(parse(text, 21, 10, **given, **signed(2, 2, -2, 2)))


@pytest.mark.parametrize("shape", [(1,), (), (1, 1, 1)])
def test_one_channel_and_a_constant_of_any_rank(shape: tuple[int, ...]) -> None:
    text = """
    g (float[2,1,5,5] x) => (float[2,1,5,5] y) {
      [dq] w = DequantizeLinear (q, k)
      [mul] c = Mul (x, w)
      [relu] r = Relu (c)
      [norm] y = BatchNormalization <epsilon = 0.0> (r, s, b, m, v)
    }"""
    one = {name: np.ones(1, np.float32) for name in "sv"}
    zero = {name: np.zeros(1, np.float32) for name in "bm"}
    given = {"q": np.full(shape, 3, np.int8), "k": steps(), **one, **zero}
    folded(parse(text, **given | {"s": np.array([4], np.float32)}), count=1)  # the Mul stays


def test_a_quantised_constant_of_an_add_is_no_place_for_another_ones_shift() -> None:
    text = """
    g (float[8,3] x) => (float[8,4] y) {
      [product] c = MatMul (x, w)
      [dq] d = DequantizeLinear (q, k)
      [add] a = Add (c, d)
      [norm] y = BatchNormalization <epsilon = 0.0> (a, s, b, m, v)
    }"""
    given = {"w": numbers(3, 4), "q": np.array([100, 200, -50, 7], np.int32), "k": steps()}
    assert folded(parse(text, **given, **signed(1, 2, -1, 4))).ops == ["Gemm"]


def test_what_a_float16_quantisation_gives_depends_on_the_runtime() -> None:
    text = CONV.replace("[dq] w", "[quant] q = QuantizeLinear (f, k, z)\n[dq] w")
    text = text.replace("float[", "float16[")
    given = per_tensor(f=numbers(4, 3, 2, 2))
    del given["q"]
    given = {n: a.astype(np.float16) if a.dtype == np.float32 else a for n, a in given.items()}
    assert reason(parse(text, 19, 9, **given)) == "not-evaluated"


def test_constants_made_for_a_node_that_goes_after_all_go_too() -> None:
    text = """
    g (float[2,3,5,5] x) => (float[2,4,P,Q] y, float[4] other) {
      [conv] c = Conv (x, w)
      [dq] g1 = DequantizeLinear (q, k, z)
      [first] f = BatchNormalization <epsilon = 0.0> (c, g1, b1, m1, v1)
      [relu] r = Relu (f)
      [second] y = BatchNormalization <epsilon = 0.0> (r, s, b, m, v)
      [dq2] other = DequantizeLinear (q, k, z)
    }"""
    first = bn(4, name="1")
    del first["s1"]
    given = per_tensor(q=integers(4), w=numbers(4, 3, 2, 2), **first, **positive())
    result = folded(parse(text, **given))
    names = {t.name for t in result.model.graph.initializer}
    assert names == {"w", "w_bias", "q", "k", "z"}


# --- the whole way ------------------------------------------------------------------------------


def quantised_net(seed: int) -> ModelProto:
    """Two blocks as a quantiser writes them, with BatchNormalizations behind the convolutions.

    Weights have 7 bits: on CPUs without VNNI onnxruntime adds pairs of products in 16 bits, which
    saturate where both have 8.
    """
    rng = np.random.default_rng(seed)
    text = """
    g (float[1,3,24,24] x) => (float[1,8,24,24] y) {
      xq = QuantizeLinear (x, kx, zx)
      xd = DequantizeLinear (xq, kx, zx)
      w1 = DequantizeLinear <axis = 0> (q1, k1, z1)
      b1 = DequantizeLinear <axis = 0> (qb1, kb1)
      [conv1] c1 = Conv <pads = [1,1,1,1]> (xd, w1, b1)
      [norm1] n1 = BatchNormalization (c1, s, b, m, v)
      r1 = Relu (n1)
      aq = QuantizeLinear (r1, ka, za)
      ad = DequantizeLinear (aq, ka, za)
      w2 = DequantizeLinear <axis = 0> (q2, k1, z1)
      b2 = DequantizeLinear <axis = 0> (qb1, kb2)
      [conv2] c2 = Conv <pads = [1,1,1,1]> (ad, w2, b2)
      [norm2] n2 = BatchNormalization (c2, s, b, m, v)
      y = Relu (n2)
    }"""
    f32 = np.float32
    k1 = rng.uniform(1e-3, 5e-3, 8).astype(f32)
    return parse(
        text, kx=np.array(0.03, f32), zx=np.array(128, np.uint8),
        ka=np.array(0.02, f32), za=np.array(0, np.uint8),
        q1=rng.integers(-64, 65, (8, 3, 3, 3)).astype(np.int8),
        q2=rng.integers(-64, 65, (8, 8, 3, 3)).astype(np.int8),
        k1=k1, z1=np.zeros(8, np.int8), kb1=f32(0.03) * k1, kb2=f32(0.02) * k1,
        qb1=rng.integers(-3000, 3000, 8).astype(np.int32),
        s=rng.uniform(-1, 2, 8).astype(f32), b=rng.normal(size=8).astype(f32),
        m=rng.normal(size=8).astype(f32), v=rng.uniform(0.5, 2, 8).astype(f32),
    )  # fmt: skip


@pytest.mark.parametrize("seed", range(4))
def test_a_quantised_net_folds_and_is_found_equal(seed: int) -> None:
    model = quantised_net(seed)
    onnx.checker.check_model(model, full_check=True)
    result = bnfold.fold(model)
    assert result.after.batch_norms == 0
    assert {t.data_type for t in result.model.graph.initializer if t.name in ("q1", "q2")} == {
        TensorProto.INT8
    }
    comparison = bnfold.verify(model, result.model)
    assert comparison.equal, comparison
    assert [used.name for used in comparison.inputs] == ["x"]
    worst = comparison.worst
    assert worst is not None
    assert worst.bound < 1e-3  # each part is held to its own rounding, not to a step of 0.02


def test_one_weight_off_by_one_step_is_found_behind_a_rounding() -> None:
    model = quantised_net(1)
    wrong = bnfold.fold(model).model
    tensor = next(t for t in wrong.graph.initializer if t.name == "q1")
    values = numpy_helper.to_array(tensor).copy()
    values[3, 1, 1, 1] += 1
    tensor.CopyFrom(numpy_helper.from_array(values, "q1"))
    comparison = bnfold.verify(model, wrong)
    assert not comparison.equal
    assert [o.name for o in comparison.outputs if not o.equal] == ["r1"]  # before its rounding


def test_an_output_that_is_itself_rounded_is_judged_before_that() -> None:
    model = quantised_net(2)
    model.graph.output[0].name = "aq"
    model.graph.output[0].type.tensor_type.elem_type = TensorProto.UINT8
    del model.graph.node[9:]
    comparison = bnfold.verify(model, bnfold.fold(model).model)
    assert comparison.equal
    assert [output.name for output in comparison.outputs] == ["r1"]


@pytest.mark.parametrize("scale", ["one", "axis 0", "axis 1"])
@pytest.mark.parametrize("dtype", [np.int8, np.uint8])
@pytest.mark.parametrize("head", ["Conv", "ConvTranspose", "Gemm", "MatMul"])
@pytest.mark.parametrize("direction", ["up", "down"])
def test_whatever_the_form_it_is_equal_or_refused(
    direction: str, head: str, dtype: type, scale: str
) -> None:
    matrix = head in ("Gemm", "MatMul")
    text = f"""
    g (float[{"3,4" if matrix else "2,4,5,5"}] x) => (float y) {{
      [dq] w = DequantizeLinear <axis = {scale[-1] if scale != "one" else 1}> (q, k, z)
      %s
    }}""" % (
        f"[a] c = {head} (x, w) [b] y = BatchNormalization <epsilon = 0.0> (c, s, b, m, v)"
        if direction == "up"
        else f"[a] c = BatchNormalization <epsilon = 0.0> (x, s, b, m, v) [b] y = {head} (c, w)"
    )
    count = {"one": 1, "axis 0": 4, "axis 1": 4}[scale]
    zero: Array = (np.arange(count) - 1 + (128 if dtype is np.uint8 else 0)).astype(dtype)
    given = {
        "q": integers(*((4, 4) if matrix else (4, 4, 2, 2)), dtype=dtype),
        "k": steps(count), "z": zero, **bn(4),
    }  # fmt: skip
    if direction == "down" and head == "ConvTranspose":
        given |= {"b": np.zeros(4, np.float32), "m": np.zeros(4, np.float32)}
    model = free(parse(text, **given))
    output_axis = 0 if head == "Conv" else 1
    axis = output_axis if direction == "up" else 1 - output_axis
    if scale in ("one", f"axis {axis}"):
        folded(model)
    else:
        assert bnfold.fold(model).kept[0].op == "BatchNormalization"


# --- what the comparison must not overlook ------------------------------------------------------


def pair() -> tuple[ModelProto, ModelProto]:
    model = quantised_net(1)
    return model, bnfold.fold(model).model


def rounding_of(model: ModelProto, name: str) -> onnx.NodeProto:
    return next(node for node in model.graph.node if name in node.output)


@pytest.mark.parametrize(
    ("slot", "value"), [(1, np.array(0.04, np.float32)), (2, np.array(77, np.uint8))]
)
def test_a_rounding_with_another_scale_or_zero_point(slot: int, value: Array) -> None:
    model, wrong = pair()
    wrong.graph.initializer.append(numpy_helper.from_array(value, "other"))
    rounding_of(wrong, "aq").input[slot] = "other"
    assert not bnfold.verify(model, wrong).equal


def test_an_output_that_is_a_rounded_value_must_be_there() -> None:
    model = quantised_net(1)
    output = helper.make_tensor_value_info("aq", TensorProto.UINT8, [1, 8, 24, 24])
    model.graph.output.append(output)
    result = bnfold.fold(model).model
    assert bnfold.verify(model, result).equal
    del result.graph.output[1]
    assert "outputs differ" in bnfold.verify(model, result).mismatch


def test_a_folded_model_that_is_not_valid() -> None:
    model, wrong = pair()
    nodes = list(wrong.graph.node)
    del wrong.graph.node[:]
    wrong.graph.node.extend(reversed(nodes))
    assert "not valid ONNX" in bnfold.verify(model, wrong).mismatch


def test_a_value_before_a_rounding_that_is_all_noise_decides_nothing() -> None:
    text = """
    g (float[1,3,8,8] x) => (float[1,4,8,8] y) {
      c = Conv (x, w)
      a = Add (c, huge)
      n = BatchNormalization <epsilon = 0.0> (a, s, b, m, v)
      q = QuantizeLinear (n, k, z)
      d = DequantizeLinear (q, k, z)
      y = Conv (d, w2)
    }"""
    given = positive() | {"m": np.full(4, 1e9, np.float32)}
    model = parse(
        text, w=numbers(4, 3, 1, 1), w2=numbers(4, 4, 1, 1), huge=np.array(1e9, np.float32),
        k=np.array(0.1, np.float32), z=np.array(0, np.int8), **given,
    )  # fmt: skip
    assert "would mean nothing" in bnfold.verify(model, bnfold.fold(model).model).not_run


@pytest.mark.parametrize("form", ["float32", "float16"])
def test_a_weight_quantised_in_the_graph_and_off_by_one_step(form: str) -> None:
    rng = np.random.default_rng(0)
    kind = np.dtype(form)
    name = "float" if form == "float32" else form
    text = f"""
    g ({name}[1,16,8,8] x) => ({name} y) {{
      q = QuantizeLinear (f, k, z)
      w = DequantizeLinear (q, k, z)
      c = Conv (x, w)
      y = Relu (c)
    }}"""
    k = np.array(2**-6, kind)
    values = (rng.integers(-100, 100, (8, 16, 3, 3)) + 0.5 * rng.integers(0, 2)) * k
    given = {"f": values.astype(kind), "k": k, "z": np.array(0, np.int8)}
    model = free(parse(text, 19, 9, **given))
    given["f"].flat[77] += 8 * k
    wrong = free(parse(text, 19, 9, **given))
    assert not bnfold.verify(model, wrong).equal


@pytest.mark.parametrize(
    "way", ["bias = Squeeze (b0, ax)", "flat = Squeeze (b0, ax) bias = Cast <to = 1> (flat)"]
)
def test_the_steps_of_a_bias_count_however_it_reaches_its_node(way: str) -> None:
    text = f"""
    g (float[1,3,16,16] x) => (float[1,4,P,Q] y) {{
      [dqb] b0 = DequantizeLinear (qb, kb)
      {way}
      [conv] c = Conv (x, w, bias)
      [norm] y = BatchNormalization (c, s, b, m, v)
    }}"""
    rng = np.random.default_rng(0)
    normal = {n: rng.normal(size=4).astype(np.float32) for n in "sbm"}
    model = parse(
        text, qb=np.array([[100, -50, 7, 1]], np.int32), kb=np.array(1e-3, np.float32),
        ax=np.array([0]), w=rng.normal(size=(4, 3, 2, 2)).astype(np.float32),
        v=np.ones(4, np.float32), **normal,
    )  # fmt: skip
    result = bnfold.fold(model)
    assert result.after.batch_norms == 0
    assert bnfold.verify(model, result.model).equal


def test_external_data(tmp_path: Path) -> None:
    source = tmp_path / "m.onnx"
    onnx.save(
        quantised_net(1), source, save_as_external_data=True, size_threshold=0, location="w.bin"
    )
    result = bnfold.optimize(source, tmp_path / "o.onnx")
    assert result.after.batch_norms == 0
    assert result.comparison is not None
