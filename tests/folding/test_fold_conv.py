"""Conv→BatchNormalization and ConvTranspose→BatchNormalization."""

from __future__ import annotations

import numpy as np
import pytest

from tests.support import affine, bn, folded, numbers, parse

CONV_BN = """
g (float[N,4,6,6] x) => (float[N,6,P,Q] y) {
  [conv] c = Conv (x, w)
  [norm] y = BatchNormalization <epsilon = 0.0> (c, s, b, m, v)
}"""


def test_conv_without_bias_takes_scale_into_its_weight_and_shift_into_a_new_bias() -> None:
    w, p = numbers(6, 4, 3, 3), bn(6)
    result = folded(parse(CONV_BN, w=w, **p))
    scale, shift = affine(p)
    assert (result.node.name, result.node.op_type) == ("conv", "Conv")
    assert list(result.node.input) == ["x", "w", "w_bias"]
    assert list(result.node.output) == ["y"]
    np.testing.assert_array_equal(result.tensor("w"), w * scale[:, None, None, None])
    np.testing.assert_array_equal(result.tensor("w_bias"), shift)
    assert {t.name for t in result.model.graph.initializer} == {"w", "w_bias"}


def test_a_weight_named_like_pytorchs_gets_a_bias_named_like_pytorchs() -> None:
    model = parse(CONV_BN, w=numbers(6, 4, 3, 3), **bn(6))
    model.graph.initializer[0].name = model.graph.node[0].input[1] = "stem.0.weight"
    assert list(folded(model).node.input) == ["x", "stem.0.weight", "stem.0.bias"]


def test_conv_with_bias_keeps_the_names_of_weight_and_bias() -> None:
    text = CONV_BN.replace("Conv (x, w)", "Conv (x, w, bias)")
    w, bias, p = numbers(6, 4, 3, 3), numbers(6, seed=9), bn(6)
    result = folded(parse(text, w=w, bias=bias, **p))
    scale, shift = affine(p)
    assert list(result.node.input) == ["x", "w", "bias"]
    np.testing.assert_array_equal(result.tensor("bias"), scale * bias + shift)


def test_a_bias_given_as_empty_string_is_no_bias() -> None:
    text = CONV_BN.replace("Conv (x, w)", 'Conv (x, w, "")')
    assert list(folded(parse(text, w=numbers(6, 4, 3, 3), **bn(6))).node.input) == [
        "x", "w", "w_bias",
    ]  # fmt: skip


def test_a_shift_of_zero_adds_no_bias() -> None:
    p = bn(6) | {"b": np.zeros(6, np.float32), "m": np.zeros(6, np.float32)}
    assert list(folded(parse(CONV_BN, w=numbers(6, 4, 3, 3), **p)).node.input) == ["x", "w"]


@pytest.mark.parametrize("group", [1, 2, 4])
@pytest.mark.parametrize("attributes", ["", "pads = [1,1,1,1], strides = [2,2], dilations = [2,1]"])
def test_grouped_and_depthwise_conv_with_any_geometry(group: int, attributes: str) -> None:
    options = ", ".join(filter(None, [f"group = {group}", attributes]))
    text = CONV_BN.replace("Conv (", f"Conv <{options}> (").replace("float[N,6,", "float[N,8,")
    folded(parse(text, w=numbers(8, 4 // group, 3, 3), **bn(8)))


@pytest.mark.parametrize(
    ("shape", "kernel"), [("N,4,9", (3,)), ("N,4,5,5", (3, 1)), ("N,4,3,4,3", (2, 2, 2))]
)
def test_conv_in_one_two_and_three_dimensions(shape: str, kernel: tuple[int, ...]) -> None:
    out = ",".join(["N", "6", *"PQR"[: len(kernel)]])
    text = CONV_BN.replace("float[N,4,6,6]", f"float[{shape}]").replace("N,6,P,Q", out)
    folded(parse(text, w=numbers(6, 4, *kernel), **bn(6)))


@pytest.mark.parametrize("auto_pad", ["SAME_UPPER", "SAME_LOWER", "VALID"])
def test_auto_pad_does_not_matter_behind_the_weights(auto_pad: str) -> None:
    text = CONV_BN.replace("Conv (", f'Conv <auto_pad = "{auto_pad}"> (')
    folded(parse(text, w=numbers(6, 4, 3, 3), **bn(6)))


@pytest.mark.parametrize("group", [1, 2, 4])
@pytest.mark.parametrize("bias", ["", ", bias"])
def test_conv_transpose_scales_the_output_channels_of_each_group(group: int, bias: str) -> None:
    text = CONV_BN.replace(
        "Conv (x, w)", f"ConvTranspose <group = {group}, strides = [2,2]> (x, w{bias})"
    ).replace("float[N,6,", "float[N,8,")
    w, p = numbers(4, 8 // group, 3, 3), bn(8)
    extra = {"bias": numbers(8, seed=9)} if bias else {}
    result = folded(parse(text, w=w, **p, **extra))
    scale, _ = affine(p)
    expected = w.copy().astype(np.float64)
    for i in range(4):  # input channel i belongs to group i // (4 / group)
        for j in range(8 // group):
            expected[i, j] *= scale[i // (4 // group) * (8 // group) + j]
    np.testing.assert_array_equal(result.tensor("w"), expected)


@pytest.mark.parametrize("rank", [1, 3])
def test_conv_transpose_in_one_and_three_dimensions(rank: int) -> None:
    sizes = ",".join("3" * rank)
    out = ",".join("PQR"[:rank])
    text = f"""
    g (float[N,4,{sizes}] x) => (float[N,6,{out}] y) {{
      [up] c = ConvTranspose (x, w)
      [norm] y = BatchNormalization <epsilon = 0.0> (c, s, b, m, v)
    }}"""
    folded(parse(text, w=numbers(4, 6, *(2,) * rank), **bn(6)))


def test_a_dead_channel_becomes_a_constant_one() -> None:
    p = bn(6)
    p["s"][2] = 0
    result = folded(parse(CONV_BN, w=numbers(6, 4, 3, 3), **p))
    assert not result.tensor("w")[2].any()
    assert result.tensor("w_bias")[2] == p["b"][2]


def test_several_convs_in_a_row_each_take_their_own() -> None:
    text = """
    g (float[1,2,8,8] x) => (float[1,4,4,4] y) {
      [conv1] a = Conv (x, w1)
      [norm1] c = BatchNormalization <epsilon = 0.0> (a, s1, b1, m1, v1)
      [relu] d = Relu (c)
      [conv2] e = Conv (d, w2)
      [norm2] y = BatchNormalization <epsilon = 0.0> (e, s2, b2, m2, v2)
    }"""
    one = {f"{k}1": v for k, v in bn(3).items()}
    two = {f"{k}2": v for k, v in bn(4, seed=5).items()}
    result = folded(
        parse(text, w1=numbers(3, 2, 3, 3), w2=numbers(4, 3, 3, 3, seed=4), **one, **two)
    )
    assert result.ops == ["Conv", "Relu", "Conv"]
    assert [v.into for v in result.result.verdicts] == [("conv1",), ("conv2",)]


def test_two_batch_normalizations_behind_one_conv_both_fold_with_one_rounding() -> None:
    text = """
    g (float[1,2,8,8] x) => (float[1,3,6,6] y) {
      [conv] a = Conv (x, w)
      [norm1] c = BatchNormalization <epsilon = 0.0> (a, s1, b1, m1, v1)
      [norm2] y = BatchNormalization <epsilon = 0.0> (c, s2, b2, m2, v2)
    }"""
    one = {f"{k}1": v for k, v in bn(3).items()}
    two = {f"{k}2": v for k, v in bn(3, seed=5).items()}
    result = folded(parse(text, w=numbers(3, 2, 3, 3), **one, **two))
    assert (result.node.name, list(result.node.output)) == ("conv", ["y"])
    assert [v.into for v in result.result.verdicts] == [("conv",), ("conv",)]


def test_a_batch_normalization_without_a_weight_takes_the_next_one_in() -> None:
    text = """
    g (float[1,3,4,4] x) => (float[1,3,4,4] y) {
      [norm1] c = BatchNormalization <epsilon = 0.0> (x, s1, b1, m1, v1)
      [norm2] y = BatchNormalization <epsilon = 0.0> (c, s2, b2, m2, v2)
    }"""
    one = {f"{k}1": v for k, v in bn(3).items()}
    two = {f"{k}2": v for k, v in bn(3, seed=5).items()}
    result = folded(parse(text, **one, **two), count=1)
    assert result.node.name == "norm1"


def test_an_identity_in_between_is_passed() -> None:
    text = CONV_BN.replace("(c, s,", "(i, s,").replace("[norm]", "[same] i = Identity (c)\n[norm]")
    result = folded(parse(text, w=numbers(6, 4, 3, 3), **bn(6)))
    assert result.ops == ["Conv", "Identity"]
    assert result.result.verdicts[0].into == ("conv",)


def test_parameters_shared_with_another_batch_normalization_stay_for_it() -> None:
    text = """
    g (float[1,3,4,4] x) => (float[1,3,4,4] y, float[1,3,4,4] z) {
      [conv] c = Conv (x, w)
      [norm1] y = BatchNormalization <epsilon = 0.0> (c, s, b, m, v)
      [norm2] z = BatchNormalization <epsilon = 0.0> (x, s, b, m, v)
    }"""
    p = bn(3)
    result = folded(parse(text, w=numbers(3, 3, 1, 1), **p), count=1)
    for name, array in p.items():
        np.testing.assert_array_equal(result.tensor(name), array)
