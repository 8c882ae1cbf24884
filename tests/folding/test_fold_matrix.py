"""Gemm→BatchNormalization and MatMul→BatchNormalization."""

from __future__ import annotations

import numpy as np
import pytest
from onnx import helper

from tests.support import Array, affine, bn, folded, numbers, parse, reason


def gemm(c: Array | None, **attributes: float) -> tuple[str, dict[str, Array]]:
    """A Gemm of [5, 4] by [4, 6] with these attributes, and its constants."""
    a = "4,5" if attributes.get("transA") else "5,4"
    b = (6, 4) if attributes.get("transB") else (4, 6)
    options = ", ".join(f"{name} = {value}" for name, value in attributes.items())
    operands = "x, w" if c is None else "x, w, c"
    text = f"""
    g (float[{a}] x) => (float[5,6] y) {{
      [fc] z = Gemm {f"<{options}>" if options else ""} ({operands})
      [norm] y = BatchNormalization <epsilon = 0.0> (z, s, b, m, v)
    }}"""
    return text, {"w": numbers(*b), **({} if c is None else {"c": c})}


@pytest.mark.parametrize("trans_a", [0, 1])
@pytest.mark.parametrize("trans_b", [0, 1])
@pytest.mark.parametrize(("alpha", "beta"), [(1.0, 1.0), (0.5, 4.0), (-2.0, -0.25), (0.0, 1.0)])
def test_gemm_with_every_attribute(trans_a: int, trans_b: int, alpha: float, beta: float) -> None:
    text, constants = gemm(
        numbers(6, seed=7), transA=trans_a, transB=trans_b, alpha=alpha, beta=beta
    )
    p = bn(6)
    result = folded(parse(text, **constants, **p))
    scale, shift = affine(p)
    across = scale[:, None] if trans_b else scale
    np.testing.assert_array_equal(result.tensor("w"), constants["w"] * across)
    np.testing.assert_array_equal(result.tensor("c"), scale * constants["c"] + shift / beta)


@pytest.mark.parametrize("shape", [(), (1,), (6,), (1, 6), (1, 1), (5, 1), (5, 6)])
def test_gemm_with_c_of_every_broadcast_shape(shape: tuple[int, ...]) -> None:
    text, constants = gemm(numbers(*shape, seed=7), beta=2.0)
    folded(parse(text, **constants, **bn(6)))


@pytest.mark.parametrize("beta", [{}, {"beta": 0.0}, {"beta": 3.0}])
def test_gemm_without_c_gets_one_that_counts_whatever_beta_was(beta: dict[str, float]) -> None:
    text, constants = gemm(None, **beta)
    result = folded(parse(text, **constants, **bn(6)))
    assert list(result.node.input) == ["x", "w", "w_bias"]
    assert not result.node.attribute


def test_gemm_with_a_c_that_beta_0_switches_off_drops_it() -> None:
    text, constants = gemm(numbers(6, seed=7), beta=0.0)
    p = bn(6)
    result = folded(parse(text, **constants, **p))
    np.testing.assert_array_equal(result.tensor("w_bias"), affine(p)[1])
    assert "c" not in {t.name for t in result.model.graph.initializer}


def test_gemm_with_a_c_that_beta_0_switches_off_drops_it_even_where_the_shift_is_0() -> None:
    text, constants = gemm(numbers(6, seed=7), beta=0.0)
    p = bn(6) | {"b": np.zeros(6, np.float32), "m": np.zeros(6, np.float32)}
    folded(parse(text, **constants, **p))


def test_gemm_below_opset_7_gets_its_broadcast_attribute() -> None:
    text = """
    g (float[5,4] x) => (float[5,6] y) {
      [fc] z = Gemm <broadcast = 1> (x, w, c)
      [norm] y = BatchNormalization <epsilon = 0.0, is_test = 1> (z, s, b, m, v)
    }"""
    model = parse(text, 6, w=numbers(4, 6), c=numbers(1), **bn(6))
    # no runtime here executes a BatchNormalization of opset 6
    result = folded(model, execute=False)
    assert {a.name: helper.get_attribute_value(a) for a in result.node.attribute} == {
        "broadcast": 1
    }


MATMUL = """
g (float[N,4] x) => (float[N,6] y) {
  [fc] z = MatMul (x, w)
  [norm] y = BatchNormalization <epsilon = 0.0> (z, s, b, m, v)
}"""


def test_matmul_of_rank_2_becomes_a_gemm_of_the_same_name() -> None:
    w, p = numbers(4, 6), bn(6)
    result = folded(parse(MATMUL, w=w, **p))
    scale, shift = affine(p)
    assert (result.node.name, result.node.op_type) == ("fc", "Gemm")
    assert list(result.node.input) == ["x", "w", "w_bias"]
    np.testing.assert_array_equal(result.tensor("w"), w * scale)
    np.testing.assert_array_equal(result.tensor("w_bias"), shift)


def test_matmul_stays_a_matmul_where_the_shift_is_0() -> None:
    p = bn(6) | {"b": np.zeros(6, np.float32), "m": np.zeros(6, np.float32)}
    assert folded(parse(MATMUL, w=numbers(4, 6), **p)).node.op_type == "MatMul"


@pytest.mark.parametrize("opset", [7, 9, 11, 13, 21])
def test_matmul_at_every_opset(opset: int) -> None:
    folded(parse(MATMUL, opset, w=numbers(4, 6), **bn(6)))


def test_matmul_of_rank_3_has_its_rows_on_axis_1_even_if_the_sizes_agree() -> None:
    text = MATMUL.replace("float[N,4]", "float[N,6,4]").replace("float[N,6]", "float[N,6,6]")
    assert reason(parse(text, w=numbers(4, 6), **bn(6))) == "channel-axis"


def test_matmul_of_unknown_rank_is_not_guessed_at() -> None:
    text = """
    <ir_version: 8, opset_import: ["": 17, "own": 1]>
    g (float[N,4] x) => (float[N,6] y) {
      u = own.Unknown (x)
      [fc] z = MatMul (u, w)
      [norm] y = BatchNormalization <epsilon = 0.0> (z, s, b, m, v)
    }"""
    model = parse(text, w=numbers(4, 6), **bn(6))
    # what a file says of its intermediate values may be stale and is not believed
    model.graph.value_info.append(helper.make_tensor_value_info("u", 1, ("N", 4)))
    assert reason(model, check=False) == "unknown-rank"


def test_matmul_inside_a_body_finds_the_rank_there() -> None:
    text = """
    g (bool cond, float[5,4] x) => (float[5,6] y) {
      y = If (cond) <
        then_branch = t () => (float[5,6] p) {
          [fc] z = MatMul (x, w)
          [norm] p = BatchNormalization <epsilon = 0.0> (z, s, b, m, v)
        },
        else_branch = e () => (float[5,6] q) { q = MatMul (x, w) }
      >
    }"""
    result = folded(parse(text, w=numbers(4, 6), **bn(6)))
    then_branch = result.model.graph.node[0].attribute[0].g
    assert [node.op_type for node in then_branch.node] == ["Gemm"]
    np.testing.assert_array_equal(result.tensor("w"), numbers(4, 6))
