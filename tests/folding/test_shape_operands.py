"""Axes and shapes that exporters compute from constants: shape inference has to see them."""

from __future__ import annotations

import numpy as np
import pytest

from tests.support import Array, bn, folded, nodes, numbers, parse, reason

# a sum over pixels, whose axes are computed, and a product of what it makes
HEAD = """
g (float[N,3,6,6] x) => (float[N,4] y) {
  a = Conv (x, w)
  AXES
  p = ReduceSum <keepdims = 0> (a, axes)
  q = MatMul (p, h)
  [norm] y = BatchNormalization <epsilon = 0.0> (q, s, b, m, v)
}"""
TENSORS = {"w": numbers(4, 3, 3, 3), "h": numbers(4, 4)}


def norms_left(text: str, **more: Array) -> int:
    model = folded(parse(text, 18, 8, **TENSORS, **more, **bn(4))).model
    return len(nodes(model, "BatchNormalization"))


@pytest.mark.parametrize(
    ("axes", "more"),
    [
        ("axes = Reshape (both, row)", {"both": [[-1, -2]], "row": [-1]}),
        ("c = Constant <value_ints = [2,3]> () axes = Identity (c)", {}),
        ("axes = Squeeze (both, first)", {"both": [[2, 3]], "first": [0]}),
        ("u = Unsqueeze (two, first) axes = Concat <axis = 0> (u, three)",
         {"two": 2, "first": [0], "three": [3]}),
        ("t = Transpose (both) axes = Reshape (t, row)", {"both": [[-1], [-2]], "row": [-1]}),
    ],
)  # fmt: skip
def test_a_sum_whose_axes_are_rearranged_constants(axes: str, more: dict[str, object]) -> None:
    given = {name: np.array(value, np.int64) for name, value in more.items()}
    assert norms_left(HEAD.replace("AXES", axes), **given) == 0


def test_axes_that_a_caller_may_replace_say_nothing() -> None:
    text = HEAD.replace("float[N,3,6,6] x", "float[N,3,6,6] x, int64[2] both")
    text = text.replace("AXES", "axes = Identity (both)")
    model = parse(text, 18, 8, **TENSORS, both=np.array([2, 3]), **bn(4))
    assert reason(model) == "unknown-rank"


def test_axes_of_a_body_are_its_own_where_it_defines_them() -> None:
    """The branch has an `axes` of its own, over one axis more than the one around it."""
    text = """
    g (float[N,3,6,6] x, bool yes) => (float[N,3] y) {
      axes = Identity (outer)
      t = If (yes) <
        then_branch = one () => (float[N,3] o) {
          other = Identity (inner)
          r = ReduceSum <keepdims = 0> (x, other)
          q = MatMul (r, h)
          o = BatchNormalization <epsilon = 0.0> (q, s, b, m, v)
        },
        else_branch = two () => (float[N,3] e) {
          r = ReduceSum <keepdims = 0> (x, axes)
          q = MatMul (r, h)
          e = BatchNormalization <epsilon = 0.0> (q, s, b, m, v)
        }>
      y = Identity (t)
    }"""
    given = {"outer": np.array([2, 3]), "inner": np.array([3, 2]), "h": numbers(3, 3)}
    model = folded(parse(text, 18, 8, **given, **bn(3))).model
    assert not nodes(model, "BatchNormalization")
