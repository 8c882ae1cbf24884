"""Pairs of models that compute different functions and were once called equal.

Each was found by somebody who set out to deceive the checker. None may be called equal again.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import ModelProto, numpy_helper

import bnfold
from bnfold.proof.kernel.outcome import Outcome
from tests.proof.test_certificate import judged, norm, real
from tests.support import Array, parse

W = real(3, 3, 1, 1)
SQUARE = real(4, 4, seed=3)
IMAGE = "g (float[1,3,4,4] x) => (float[1,3,4,4] y)"
TWICE = "g (float[1,3,4,4] x) => (float[1,3,4,4] y, float[1,3,4,4] q)"
TABLE = "g (float[2,4] x) => (float[2,4] y)"


NEAREST = (
    'Resize <mode = "nearest", nearest_mode = "floor", '
    'coordinate_transformation_mode = "asymmetric">'
)
CROP = (
    'Resize <mode = "linear", coordinate_transformation_mode = "tf_crop_and_resize", '
    "extrapolation_value = 5.0>"
)


def channels(*values: float) -> Array:
    return np.array(values, np.float32).reshape(-1, 1, 1)


def vector(*values: float) -> Array:
    return np.array(values, np.float32)


PAIRS: dict[str, tuple[str, dict[str, Any], str, dict[str, Any]]] = {
    "a scale before a LayerNormalization": (
        f"{TABLE} {{ m = Mul (x, s) y = LayerNormalization (m, k, b) }}",
        {"s": vector(1, 2, 3, 4), "k": vector(1, 1, 1, 1), "b": vector(0, 0, 0, 0)},
        f"{TABLE} {{ y = LayerNormalization (x, k, b) }}",
        {"k": vector(1, 1, 1, 1), "b": vector(0, 0, 0, 0)},
    ),
    "a scale before an InstanceNormalization": (
        f"{IMAGE} {{ m = Mul (x, s) y = InstanceNormalization (m, k, b) }}",
        {"s": channels(1, -1, 0.001), "k": vector(1, 1, 1), "b": vector(0, 0, 0)},
        f"{IMAGE} {{ y = InstanceNormalization (x, k, b) }}",
        {"k": vector(1, 1, 1), "b": vector(0, 0, 0)},
    ),
    "a scale through a Cast to integers": (
        f"{IMAGE} {{ m = Mul (x, s) i = Cast <to = 7> (m) f = Cast <to = 1> (i) y = Mul (f, t) }}",
        {"s": np.array(2, np.float32), "t": np.array(3, np.float32)},
        f"{IMAGE} {{ i = Cast <to = 7> (x) f = Cast <to = 1> (i) y = Mul (f, t) }}",
        {"t": np.array(6, np.float32)},
    ),
    "a Pad that moves channels": (
        f"{IMAGE} {{ m = Mul (x, s) p = Pad (m, pads, z) y = Mul (p, t) }}",
        {
            "s": channels(2, 3, 5), "t": channels(1, 7, 2), "z": np.array(0, np.float32),
            "pads": np.array([0, 1, 0, 0, 0, -1, 0, 0]),
        },
        f"{IMAGE} {{ p = Pad (x, pads, z) y = Mul (p, t) }}",
        {
            "t": channels(2, 21, 10), "z": np.array(0, np.float32),
            "pads": np.array([0, 1, 0, 0, 0, -1, 0, 0]),
        },
    ),
    "a MatMul that became a transposed Gemm": (
        "g (float[4,4] x) => (float[4,4] y) { y = MatMul (x, w) }", {"w": SQUARE},
        "g (float[4,4] x) => (float[4,4] y) { y = Gemm <transA = 1> (x, w) }", {"w": SQUARE},
    ),
    "a division before a dead channel": (
        "g (float[1,2,4,4] x) => (float[1,2,4,4] y) {"
        " m = Mul (x, two) d = Div (m, c) y = Mul (d, s) }",
        {"two": np.array(2, np.float32), "c": np.abs(real(1, 2, 4, 1)) + 1, "s": channels(0, 1)},
        "g (float[1,2,4,4] x) => (float[1,2,4,4] y) { y = Div (x, c) }",
        {"c": np.abs(real(1, 2, 4, 1)) + 1},
    ),
    "a shift through a Dropout that drops": (
        f"{IMAGE} {{ r = Add (x, t) d = Dropout <seed = 1> (r, ratio, training) y = Sub (d, t) }}",
        {"t": channels(10, 20, 30), "ratio": np.array(0.5, np.float32), "training": np.array(True)},
        f"{IMAGE} {{ y = Dropout <seed = 1> (x, ratio, training) }}",
        {"ratio": np.array(0.5, np.float32), "training": np.array(True)},
    ),
    "a bias with rows of its own": (
        "g (float[N,4] x) => (float[N,4] y) { m = MatMul (x, w) y = Add (m, c) }",
        {"w": SQUARE, "c": vector(1, 2, 3, 4)},
        "g (float[N,4] x) => (float[N,4] y) { y = Gemm (x, w, c) }",
        {"w": SQUARE, "c": np.stack([vector(1, 2, 3, 4)] * 2)},
    ),
    "a shift that hides behind the terms of another reader": (
        TWICE + """ {
          o = Conv (x, w, k) m = Mul (o, s)
          y = Identity (m) p = Add (m, huge) q = Sub (p, huge) }""",
        {
            "w": W, "k": vector(1, 2, 3), "s": np.array(2, np.float32),
            "huge": np.array(1e20, np.float32),
        },
        TWICE + """ {
          m = Conv (x, w, k) y = Identity (m) p = Add (m, huge) q = Sub (p, huge) }""",
        {"w": 2 * W, "k": vector(1000, 4, 6), "huge": np.array(1e20, np.float32)},
    ),
    "a default that is called as nothing is": (
        """g (float[1,3,4,4] x, float[1] bias) => (float[1,3,4,4] y) {
          o = Conv (x, w) m = Mul (o, s) y = Add (m, bias) }""",
        {"w": W, "s": channels(2, 2, 4), "bias": vector(5)},
        """g (float[1,3,4,4] x, float[1] bias) => (float[1,3,4,4] y) {
          m = Conv (x, w) y = Add (m, bias) }""",
        {"w": W * channels(2, 2, 4)[..., None], "bias": vector(7)},
    ),
    "indices that are computed": (
        "g (float[1,3] x, int64[2] i) => (float[1,2] y) {"
        " m = Mul (x, s) t = Gather <axis = 1> (m, i) y = Mul (t, k) }",
        {"s": vector(1, 2, 4), "k": vector(3)},
        "g (float[1,3] x, int64[2] i) => (float[1,2] y) {"
        " t = Gather <axis = 1> (x, i) y = Mul (t, k) }",
        {"k": vector(12)},
    ),
    "many indices": (
        "g (float[1,3] x) => (float[1,1026] y) {"
        " m = Mul (x, s) t = Gather <axis = 1> (m, i) y = Mul (t, k) }",
        {"s": vector(1, 2, 4), "k": vector(3), "i": np.array([0, 1, 2] * 342)},
        "g (float[1,3] x) => (float[1,1026] y) { t = Gather <axis = 1> (x, i) y = Mul (t, k) }",
        {"k": vector(12), "i": np.array([0, 1, 2] * 342)},
    ),
    "fewer outputs of a Split": (
        "g (float[1,4] x) => (float[1,N] y) { a, b = Split <axis = 1> (x) y = Relu (a) }", {},
        "g (float[1,4] x) => (float[1,N] y) { a = Split <axis = 1> (x) y = Relu (a) }", {},
    ),
    "a mask that nobody makes any more": (
        f"{IMAGE} {{ d, mask = Dropout (x) f = Cast <to = 1> (mask) y = Mul (d, f) }}", {},
        f"{IMAGE} {{ f = Cast <to = 1> (x) y = Mul (x, f) }}", {},
    ),
    "a Pad of a constant by a computed value": (
        'g (float x) => (float[4] y) { v = Mul (x, s) p = Pad <mode = "edge"> (k, pads, v)'
        " y = Mul (p, t) }",
        {
            "s": np.array(2, np.float32), "t": np.array(3, np.float32), "k": vector(1, 2),
            "pads": np.array([1, 1]),
        },
        'g (float x) => (float[4] y) { p = Pad <mode = "edge"> (k, pads, x) y = Mul (p, t) }',
        {"t": np.array(6, np.float32), "k": vector(1, 2), "pads": np.array([1, 1])},
    ),
    "a Resize that moves channels and keeps their number": (
        f"{IMAGE.replace('1,3,4,4] y', '1,3,8,8] y')} {{ m = Mul (x, s) r = {NEAREST} (m, , sc)"
        " y = Mul (r, t) }",
        {"s": channels(2, 3, 5), "t": channels(1, 7, 2), "sc": vector(1, 1.2, 2, 2)},
        f"{IMAGE.replace('1,3,4,4] y', '1,3,8,8] y')} {{ r = {NEAREST} (x, , sc)"
        " y = Mul (r, t) }",
        {"t": channels(2, 21, 10), "sc": vector(1, 1.2, 2, 2)},
    ),
    "a Resize that puts a value of its own around": (
        f"{IMAGE.replace('1,3,4,4] y', '1,3,6,6] y')} {{ m = Mul (x, s)"
        f" r = {CROP} (m, roi, , sizes) y = Mul (r, t) }}",
        {
            "s": np.array(2, np.float32), "t": np.array(3, np.float32),
            "roi": vector(0, 0, 0, 0, 1, 1, 2, 2), "sizes": np.array([1, 3, 6, 6]),
        },
        f"{IMAGE.replace('1,3,4,4] y', '1,3,6,6] y')} {{ r = {CROP} (x, roi, , sizes)"
        " y = Mul (r, t) }",
        {
            "t": np.array(6, np.float32), "roi": vector(0, 0, 0, 0, 1, 1, 2, 2),
            "sizes": np.array([1, 3, 6, 6]),
        },
    ),
    "integers that float64 cannot tell apart": (
        "g (int64[1] x) => (int64[1] y) { y = Add (x, c) }", {"c": np.array([2**53 + 1])},
        "g (int64[1] x) => (int64[1] y) { y = Add (x, c) }", {"c": np.array([2**53])},
    ),
    "windows of padding alone": (
        "g (float[1,1,1] x) => (float[1,1,1] y) { m = Mul (x, s)"
        " r = MaxPool <kernel_shape = [2], dilations = [2], pads = [1,1]> (m) y = Mul (r, t) }",
        {"s": np.array(0.5, np.float32), "t": np.array(1, np.float32)},
        "g (float[1,1,1] x) => (float[1,1,1] y) {"
        " r = MaxPool <kernel_shape = [2], dilations = [2], pads = [1,1]> (x) y = Mul (r, t) }",
        {"t": np.array(0.5, np.float32)},
    ),
    "a division by another zero": (
        "g (float[1,2] x) => (float[1,2] y) { y = Div (x, c) }", {"c": vector(0, 1)},
        "g (float[1,2] x) => (float[1,2] y) { y = Div (x, c) }", {"c": vector(-0.0, 1)},
    ),
    "a computed bias that became a constant": (
        "g (float[1,1,3,3] x, float[1] k) => (float[1,1,3,3] y) {"
        " b = Identity (k) y = Conv (x, w, b) }",
        {"w": np.full((1, 1, 1, 1), 2, np.float32)},
        "g (float[1,1,3,3] x, float[1] k) => (float[1,1,3,3] y) {"
        " b = Constant <value = float[1] {9}> () y = Conv (x, w, b) }",
        {"w": np.full((1, 1, 1, 1), 2, np.float32)},
    ),
    "a shape that callers may replace": (
        "g (float[12] x, int64[2] shape) => (float[a,b] y) {"
        " r = Reshape (x, shape) y = Mul (r, c) }",
        {"shape": np.array([3, 4]), "c": vector(2)},
        "g (float[12] x, int64[2] shape) => (float[a,b] y) {"
        " r = Reshape (x, shape) y = Mul (r, c) }",
        {"shape": np.array([3, 4]), "c": np.full((3, 1), 2, np.float32)},
    ),
    "the largest number there is": (
        "g (float[2] x) => (float[2] y) { y = Add (x, c) }", {"c": vector(1, 2)},
        "g (float[2] x) => (float[2] y) { y = Add (x, c) }",
        {"c": vector(1, float(np.finfo(np.float32).max))},
    ),
    "the largest weight of 16 bits": (
        "g (float16[2,2] x) => (float16[2,2] y) { o = MatMul (x, w) y = Mul (o, s) }",
        {"w": np.array([[1, 2], [3, 4]], np.float16), "s": np.array(2, np.float16)},
        "g (float16[2,2] x) => (float16[2,2] y) { y = MatMul (x, w) }",
        {"w": np.array([[2, 4], [65504, 8]], np.float16)},
    ),
    "scales beyond what float64 can hold": (
        "g (double[2] x) => (double[2] y) { i = Identity (x) m = Mul (i, s) y = Mul (m, t) }",
        {"s": np.array(1e200), "t": np.array(1e200)},
        "g (double[2] x) => (double[2] y) { y = Identity (x) }", {},
    ),
    "scales below what float64 can hold": (
        "g (double[2] x) => (double[2] y) {"
        " m = Mul (x, s) n = Mul (m, s) o = Mul (n, t) y = Mul (o, t) }",
        {"s": np.array(1e-200), "t": np.array(1e200)},
        "g (double[2] x) => (double[2] y) { y = Mul (x, s) }", {"s": np.array(0.0)},
    ),
    "a step that is not one of a bias": (
        "g (float[1,1,1,1] x) => (float[1,1,1,1] y) {"
        " d = DequantizeLinear (q, k) i = Cast <to = 6> (d) b = Cast <to = 1> (i)"
        " o = Conv (x, w, b) y = Mul (o, s) }",
        {
            "q": np.array([0], np.int32), "k": np.array(1e6, np.float32),
            "w": np.ones((1, 1, 1, 1), np.float32), "s": np.array(2, np.float32),
        },
        "g (float[1,1,1,1] x) => (float[1,1,1,1] y) {"
        " d = DequantizeLinear (q, k) i = Cast <to = 3> (d) b = Cast <to = 1> (i)"
        " y = Conv (x, w, b) }",
        {
            "q": np.array([1], np.int32), "k": np.array(2e6, np.float32),
            "w": np.full((1, 1, 1, 1), 2, np.float32),
        },
    ),
    "a step where no shift was folded": (
        "g (float[1,1,1,1] x) => (float[1,1,1,1] y) {"
        " b = DequantizeLinear (q, k) o = Conv (x, w, b) y = Mul (o, s) }",
        {
            "q": np.array([5], np.int32), "k": np.array(1000, np.float32),
            "w": np.ones((1, 1, 1, 1), np.float32), "s": np.array(0.95, np.float32),
        },
        "g (float[1,1,1,1] x) => (float[1,1,1,1] y) {"
        " b = DequantizeLinear (q, k) y = Conv (x, w, b) }",
        {
            "q": np.array([5], np.int32), "k": np.array(900, np.float32),
            "w": np.full((1, 1, 1, 1), 0.95, np.float32),
        },
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", PAIRS)
def test_different_functions_are_not_called_equal(name: str, tmp_path: Path) -> None:
    one, first, other, second = PAIRS[name]
    static = judged(parse(one, **first), parse(other, **second), tmp_path)
    verdicts = {static.certificate.verdict, static.frame.verdict}
    assert verdicts != {Outcome.VALID}, static


def with_branch_output(values: Array, folded: bool, bias: Array) -> ModelProto:
    """An If whose first branch gives a constant that has the name of a bias outside."""
    head = "m = Conv (x, w, c)" if folded else "o = Conv (x, w, c) m = Mul (o, s)"
    text = f"""g (float[1,3,4,4] x, bool yes, float[3] z) => (float[1,3,4,4] m, float[3] y) {{
      {head}
      y = If (yes) <
        then_branch = one () => (float[3] c) {{ d = Identity (z) }},
        else_branch = two () => (float[3] e) {{ e = Neg (z) }}
      > }}"""
    given = {"w": W * channels(2, 2, 4)[..., None] if folded else W, "c": bias}
    model = parse(text, **given, **({} if folded else {"s": channels(2, 2, 4)}))
    (branch,) = (a.g for n in model.graph.node for a in n.attribute if a.name == "then_branch")
    branch.initializer.append(numpy_helper.from_array(values, "c"))
    return model


def test_a_constant_of_a_branch_is_not_one_outside(tmp_path: Path) -> None:
    before = with_branch_output(vector(2, 4, 12), False, vector(1, 2, 3))
    same = with_branch_output(vector(2, 4, 12), True, vector(2, 4, 12))
    wrong = with_branch_output(vector(9, 9, 9), True, vector(2, 4, 12))
    assert judged(before, same, tmp_path).certificate.verdict is Outcome.VALID
    assert judged(before, wrong, tmp_path).certificate.verdict is not Outcome.VALID


def test_branches_that_give_constants_do_not_stand_in_the_way(tmp_path: Path) -> None:
    text = """g (float[1,3,4,4] x, bool yes) => (float[1,3,4,4] m, float[2] y) {
      o = Conv (x, w) m = BatchNormalization (o, s, b, m0, v)
      y = If (yes) <
        then_branch = one () => (float[2] c) { c = Constant <value = float[2] {1, 2}> () },
        else_branch = two () => (float[2] d) { d = Constant <value = float[2] {3, 4}> () }
      > }"""
    given = norm(3)
    model = parse(text, w=W, m0=given.pop("m"), **given)
    onnx.save(model, tmp_path / "model.onnx")
    result = bnfold.optimize(tmp_path / "model.onnx", tmp_path / "out.onnx", verify="proof")
    assert result.folded


def test_a_sparse_constant_is_not_a_dense_one(tmp_path: Path) -> None:
    text = """g (float[1,1,3,3] x, float[1,1,3,3] v) => (float[1,1,3,3] y, float[1,1,3,3] z) {
      ALL z = Add (v, c) }"""
    two, five = (np.full((1, 1, 1, 1), value, np.float32) for value in (2, 5))
    before = parse(text.replace("ALL", "m = Conv (x, w) y = Mul (m, s)"), w=two, s=five)
    after = parse(text.replace("ALL", "y = Conv (x, c)"))
    values = onnx.helper.make_tensor("", onnx.TensorProto.FLOAT, [1], [3.0])
    places = onnx.helper.make_tensor("", onnx.TensorProto.INT64, [1], [0])
    sparse = onnx.helper.make_sparse_tensor(values, places, [1, 1, 1, 1])
    dense = numpy_helper.from_array(np.full((1, 1, 1, 1), 10, np.float32))
    for model, given in ((before, {"sparse_value": sparse}), (after, {"value": dense})):
        model.graph.node.insert(0, onnx.helper.make_node("Constant", [], ["c"], **given))
        for node in model.graph.node:
            node.ClearField("domain")
    static = judged(before, after, tmp_path)
    assert {static.certificate.verdict, static.frame.verdict} != {Outcome.VALID}


def test_windows_of_padding_alone_average_to_nothing(tmp_path: Path) -> None:
    pool = "AveragePool <kernel_shape = [2], dilations = [2], pads = [1,1]>"
    head = "g (float[1,1,1] x) => (float[1,1,1] y) {"
    before = parse(
        f"{head} m = Add (x, s) r = {pool} (m) y = Add (r, t) }}", 19, 9,
        s=np.array(2, np.float32), t=np.array(1, np.float32),
    )  # fmt: skip
    after = parse(f"{head} r = {pool} (x) y = Add (r, t) }}", 19, 9, t=np.array(3, np.float32))
    static = judged(before, after, tmp_path)
    assert {static.certificate.verdict, static.frame.verdict} != {Outcome.VALID}


def test_broadcasting_along_an_axis_of_its_own(tmp_path: Path) -> None:
    """Below opset 7 `axis` says where c lies in x, which no runtime at hand still does."""
    head = "g (float[1,2,3,3] x, float[2,3] c) => (float[1,2,3,1] y) {"
    multiply = "Mul <broadcast = 1, axis = 1>"
    before = parse(
        f"""{head} d = BatchNormalization <is_test = 1, epsilon = 0.0> (c, k, z, z, o)
          m = {multiply} (x, d) y = MatMul (m, w) }}""", 6, 7,
        k=vector(1, 2, 3), z=vector(0, 0, 0), o=vector(1, 1, 1), w=np.ones((3, 1), np.float32),
    )  # fmt: skip
    after = parse(
        f"{head} m = {multiply} (x, c) y = MatMul (m, w) }}", 6, 7,
        w=np.array([[1], [2], [3]], np.float32),
    )  # fmt: skip
    static = judged(before, after, tmp_path)
    assert {static.certificate.verdict, static.frame.verdict} != {Outcome.VALID}


def test_a_constant_of_a_body_that_has_the_name_of_a_value_outside(tmp_path: Path) -> None:
    def model(inner: str, value: int, **given: Array) -> ModelProto:
        text = f"""g (float[1,1,3,3] x, bool yes)
          => (float[1,1,3,3] y, float[1,1,1,1] z, float[1,1,3,3] r) {{
          m = Relu (x) r = Neg (m)
          y, z = If (yes) <
            then_branch = one () => (float[1,1,3,3] ty, float[1,1,1,1] m) {{
              m = Constant <value = float[1,1,1,1] {{{value}}}> () {inner} }},
            else_branch = two () => (float[1,1,3,3] ey, float[1,1,1,1] ez) {{
              ey = Abs (x) ez = Identity (d) }}
          > }}"""
        return parse(text, **given, d=np.ones((1, 1, 1, 1), np.float32))

    two, five = (np.full((1, 1, 1, 1), value, np.float32) for value in (2, 5))
    before = model("tm = Conv (x, w) ty = Mul (tm, s)", 7, w=two, s=five)
    after = model("ty = Conv (x, m)", 10)
    static = judged(before, after, tmp_path)
    assert {static.certificate.verdict, static.frame.verdict} != {Outcome.VALID}
