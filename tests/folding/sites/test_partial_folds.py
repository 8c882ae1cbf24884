"""Folds of which something stays: the shift as an Add, or one BatchNormalization of several.

Before a padded convolution, or a Relu, a shift cannot go down, and what a model reads it cannot go
up; the scale can: s·x + t = s·(x + t/s).
"""

from __future__ import annotations

import numpy as np
import pytest
from onnx import ModelProto

import bnfold
from tests.support import Array, bn, folded, kept, numbers, parse, shift_stays

PADDED = """
g (float[2,4,6,6] x) => (float[2,3,6,6] y) {{
  {body}
  [conv] y = Conv <pads = [1,1,1,1]> (n, w)
}}"""


POSITIVE = bn(4) | {"s": np.array([2, 4, 8, 1], np.float32)}
POSITIVE |= {"v": np.ones(4, np.float32)}  # so that t/s is exact


def padded(body: str, **tensors: Array) -> ModelProto:
    given = {"w": numbers(3, 4, 3, 3), "mean": numbers(4, 1, 1, seed=3)}
    return parse(PADDED.format(body=body), **given | POSITIVE | tensors)


def why_not_down(model: ModelProto) -> str:
    refusal = kept(model).below
    assert refusal is not None
    return refusal.reason.code


NORM = "[norm] n = BatchNormalization <epsilon = 0.0> (x, s, b, m, v)"


def powers(*exponents: int) -> Array:
    return np.array([2.0**k for k in exponents], np.float32).reshape(-1, 1, 1)


def test_input_normalisation_before_a_padded_convolution_becomes_one_sub() -> None:
    body = "[sub] c = Sub (x, mean) [div] n = Div (c, d)"
    result = folded(padded(body, d=powers(1, 2, -1, 3)))
    assert result.ops == ["Sub", "Conv"]
    np.testing.assert_array_equal(result.tensor("mean"), numbers(4, 1, 1, seed=3))


def test_scaling_centring_and_scaling_again_become_one_sub() -> None:
    body = "[a] c = Div (x, e) [b] f = Sub (c, mean) [c] n = Div (f, d)"
    result = folded(padded(body, d=powers(1, 2, -1, 3), e=np.array(4, np.float32)))
    assert result.ops == ["Sub", "Conv"]
    np.testing.assert_array_equal(result.tensor("mean"), 4 * numbers(4, 1, 1, seed=3))


def test_a_batch_normalization_before_a_padded_convolution_becomes_an_add() -> None:
    assert shift_stays(padded(NORM)).ops == ["Add", "Conv"]


def test_a_mul_and_an_add_before_a_relu_and_a_padded_convolution() -> None:
    body = "[scale] c = Mul (x, k) [shift] e = Add (c, mean) [relu] n = Relu (e)"
    assert folded(padded(body, k=powers(1, 0, -1, 2))).ops == ["Add", "Relu", "Conv"]
    negative = powers(1, 0, -1, 2) * np.array([1, -1, 1, 1], np.float32).reshape(4, 1, 1)
    assert why_not_down(padded(body, k=negative)) == "negative-scale"


def test_a_scale_of_0_has_no_place_behind_its_shift() -> None:
    model = padded(NORM, s=np.array([1, 0, 2, 4], np.float32))
    assert why_not_down(model) == "zero-padding"


def test_a_scale_that_another_reader_cannot_take_stays() -> None:
    body = f"{NORM} [other] z = Sigmoid (n)"
    model = padded(body)
    model.graph.output.add(name="z").type.CopyFrom(model.graph.input[0].type)
    assert why_not_down(model) == "not-transparent"


def test_one_add_stays_what_it_is() -> None:
    model = padded("[shift] n = Add (x, mean)")
    assert not bnfold.fold(model).verdicts


def test_an_add_that_would_make_the_value_larger_is_none() -> None:
    """With one channel where the map has four, which a BatchNormalization refuses at run time."""
    model = padded(NORM)
    model.graph.input[0].type.tensor_type.shape.dim[1].dim_param = "C"
    assert not bnfold.fold(model).folded


def test_a_scalar_that_holds_the_shift_needs_a_known_rank() -> None:
    text = """
    g (float[2,4,6,6] x, float[A,B,C,D] z) => (float[2,4,6,6] y) {
      [unknown] u = own.Unknown (z)
      [norm] c = BatchNormalization <epsilon = 0.0> (u, s, b, m, v)
      [shift] d = Add (c, k)
      [relu] e = Relu (d) [conv] y = Conv <pads = [1,1,1,1]> (e, w)
    }"""
    header = '<ir_version: 8, opset_import: ["": 17, "own": 1]>'
    given = {"w": numbers(3, 4, 3, 3), "k": np.array(2, np.float32)} | POSITIVE
    result = bnfold.fold(parse(header + text, **given))
    ops = [node.op_type for node in result.model.graph.node]
    assert ops == ["Unknown", "BatchNormalization", "Relu", "Conv"], "which takes the scalar"


def test_a_scale_goes_up_past_a_relu_and_the_shift_stays() -> None:
    text = """
    g (float[2,3,6,6] x) => (float[2,4,6,6] y) {
      [conv] c = Conv (x, w) [relu] r = Relu (c)
      [norm] y = BatchNormalization <epsilon = 0.0> (r, s, b, m, v)
    }"""
    model = parse(text, w=numbers(4, 3, 1, 1), **POSITIVE)
    assert shift_stays(model).ops == ["Conv", "Relu", "Add"]


def test_a_lone_add_or_sub_goes_into_the_convolution_behind_it() -> None:
    text = """
    g (float[2,4,6,6] x) => (float[2,3,4,4] y) {{
      [shift] n = {op} (x, mean) [conv] y = Conv (n, w) }}"""
    for op in ("Add", "Sub"):
        model = parse(text.format(op=op), mean=numbers(4, 1, 1), w=numbers(3, 4, 3, 3))
        assert folded(model).ops == ["Conv"]


@pytest.mark.parametrize(("rank", "ops"), [(2, ["MatMul", "Add"]), (3, ["MatMul", "Add"])])
def test_a_shift_before_a_product_goes_into_the_add_behind_it(rank: int, ops: list[str]) -> None:
    sizes = ",".join("25"[: rank - 1])
    text = f"""
    g (float[{sizes},4] x) => (float[{sizes},3] y) {{
      [shift] n = Add (x, beta) [product] p = MatMul (n, w) [bias] y = Add (p, c) }}"""
    model = parse(text, beta=numbers(4), w=numbers(4, 3), c=numbers(3))
    assert folded(model).ops == ops


def test_a_shift_before_a_product_alone_makes_no_gemm_of_it() -> None:
    text = """
    g (float[2,4] x) => (float[2,3] y) { [shift] n = Add (x, beta) [product] y = MatMul (n, w) }"""
    assert not bnfold.fold(parse(text, beta=numbers(4), w=numbers(4, 3))).verdicts


def test_two_batch_normalizations_of_which_none_can_move_are_one() -> None:
    text = """
    g (float[2,4,6,6] x) => (float[2,4,6,6] y) {
      [one] n = BatchNormalization <epsilon = 0.0> (x, s, b, m, v)
      [two] y = BatchNormalization <epsilon = 0.0> (n, s2, b2, m2, v2)
    }"""
    result = folded(parse(text, **bn(4), **bn(4, seed=5, name="2")), count=1)
    assert result.ops == ["BatchNormalization"]
    assert result.node.name == "one"


def test_a_shift_before_a_scale_that_a_product_has_taken() -> None:
    """What the product makes of it is what it makes of the scaled one."""
    text = """
    g (float[2,4,5] x) => (float[2,5,3] y) {
      [norm] n = BatchNormalization <epsilon = 0.0> (x, s, b, m, v)
      [between] t = MaxPool <kernel_shape = [1]> (n)
      [turn] r = Transpose <perm = [0,2,1]> (t)
      [scale] q = Mul (r, k)
      [product] p = MatMul (q, w)
      [bias] y = Add (p, c)
    }"""
    model = parse(
        text,
        k=np.array([1, -2, 4, -1], np.float32),
        w=numbers(4, 3),
        c=numbers(3, seed=1),
        **POSITIVE,
    )
    assert folded(model, execute=False).ops == ["MaxPool", "Transpose", "MatMul", "Add"]
