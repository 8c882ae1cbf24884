"""Two files that compute different things, in ways that no node shows by itself."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import ModelProto, numpy_helper

import bnfold
from tests.support import parse

ONE = np.array([1, 2, 3], np.float32)


def both(one: ModelProto, other: ModelProto, folder: Path, *, foreign: bool) -> str:
    """What is said of two models by their files alone."""
    for name, model in (("a.onnx", one), ("b.onnx", other)):
        onnx.save(model, folder / name)
    try:
        found = bnfold.verify(folder / "a.onnx", folder / "b.onnx", level="proof", foreign=foreign)
    except bnfold.UndecidedError:
        return "not decided"
    return "equal" if found.equal else "not equal"


def softmax(opset: int) -> ModelProto:
    return parse("g (float[2,3,4] x) => (float[2,3,4] y) { y = Softmax (x) }", opset)


def default(value: float) -> ModelProto:
    model = parse("g (float[3] x, float[3] b) => (float[3] y) { y = Add (x, b) }", 13)
    model.graph.initializer.append(numpy_helper.from_array(ONE * np.float32(value), "b"))
    return model


def swapped(first: str, second: str) -> ModelProto:
    text = f"g (float[3] x) => (float[3] {first}, float[3] {second}) {{ y = Neg (x) z = Abs (x) }}"
    return parse(text, 13)


def hiding(name: str) -> ModelProto:
    return parse(
        f"""g (float[3] x, bool c) => (float[3] y) {{
          m = Abs (x)
          y = If (c) <
            then_branch = one () => (float[3] t) {{
              {name} = Neg (x) q = Relu (m) t = Add (q, {name})
            }},
            else_branch = two () => (float[3] e) {{ e = Abs (x) }}
          >
        }}""",
        13,
    )


PAIRS = {
    "another opset": (softmax(12), softmax(13)),
    "another default of an input": (default(1), default(2)),
    "outputs in another order": (swapped("y", "z"), swapped("z", "y")),
    "a name that hides another one": (hiding("n"), hiding("m")),
}


@pytest.mark.parametrize("foreign", [False, True])
@pytest.mark.parametrize("pair", PAIRS)
def test_a_difference_that_no_node_shows_is_found(pair: str, foreign: bool, tmp_path: Path) -> None:
    one, other = PAIRS[pair]
    assert both(one, other, tmp_path, foreign=foreign) != "equal"


@pytest.mark.parametrize("pair", PAIRS)
def test_the_same_model_is_equal(pair: str, tmp_path: Path) -> None:
    one, _ = PAIRS[pair]
    assert both(one, one, tmp_path, foreign=True) == "equal"


def test_constants_are_told_apart_by_where_they_are_read(tmp_path: Path) -> None:
    text = "g (float[2,3] x) => (float[2,3] y) {{ y = LayerNormalization (x, {}, b) }}"
    g, b = ONE, ONE[::-1].copy()
    right, wrong = (parse(text.format(name), 17, g=g, b=b) for name in ("g", "b"))
    assert both(right, wrong, tmp_path, foreign=False) != "equal"


def test_weights_that_underflow_has_changed_are_no_rounding(tmp_path: Path) -> None:
    """1e-42 · 1e-3 is nothing in float32, and 1e33 times nothing is not 1e-12."""
    text = """g (float[1,2] x) => (float[1,2] y) {
      a = MatMul (x, w)
      y = Mul (a, s)
    }"""
    w, s = np.full((2, 2), 1e-42, np.float32), np.full(2, 1e-4, np.float32)
    original = parse(text, 13, w=w, s=s)
    assert bnfold.inspect(original).verdicts[0].refusal is not None
    lost = parse("g (float[1,2] x) => (float[1,2] y) { y = MatMul (x, w) }", 13, w=0 * w)
    assert both(original, lost, tmp_path, foreign=False) != "equal"
