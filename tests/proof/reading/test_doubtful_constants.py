"""Constants of which runtimes agree on nothing: neither engine nor kernel gives them a value.

Each case has a sibling that is well known, so that no rule refuses for another reason.
"""

from __future__ import annotations

import numpy as np
import pytest
from onnx import numpy_helper, parser

from bnfold.graph.summed_constants import evaluate
from bnfold.onnx_io.tensor_storage import Storage
from bnfold.proof.reading.model import Model
from tests.support import Array

Rows = list[list[float]]
CASES: dict[str, tuple[str, Rows | None, Rows | None]] = {
    "a sum of which next to nothing is left": (
        "y = ReduceSum <keepdims = 0> (c)", [[1e8, 1, -1e8]], [[1e3, 1, -1e3]],
    ),
    "a mean of which next to nothing is left": (
        "y = ReduceMean <keepdims = 0> (c)", [[1e8, 1, -1e8]], [[1e3, 1, -1e3]],
    ),
    "an addition of several": ("y = Sum (c, c)", None, [[1, 2, 3]]),
    "squares beyond the largest number": ("y = ReduceL2 (c)", [[1e25, 1]], [[1e15, 1]]),
    "squares below the smallest number": ("y = ReduceL2 (c)", [[1e-30, 0]], [[1e-15, 0]]),
    "a square of a length below the smallest number": (
        "y = LpNormalization (c)", [[1e-30, 1e-30]], [[1e-10, 1e-30]],
    ),
    "a sum of squares": ("y = ReduceSumSquare (c)", [[1e25, 1]], [[1e15, 1e-30]]),
    "a spread that the mean hides": (
        "y = LayerNormalization (c, one)", [[16777216, 16777218, 16777216]], [[100, 102, 100]],
    ),
    "a limit that is none": ("y = Clip (c, nan)", [[1, 2]], None),
}  # fmt: skip
TEXT = """<ir_version: 8, opset_import: ["" : 17]>
g () => (float y) <float[1,{n}] c = {{{c}}}, float[{n}] one = {{{ones}}},
float nan = {{0}}> {{ {node} }}"""


def both(text: str, values: Rows) -> tuple[Array | None, Array | None]:
    """What the engine and what the kernel makes of it."""
    (row,) = values
    filled = TEXT.format(
        n=len(row), c=", ".join(map(repr, map(float, row))), ones=", ".join("1" * len(row)),
        node=text,
    )  # fmt: skip
    proto = parser.parse_model(filled)
    for tensor in proto.graph.initializer:
        if tensor.name == "nan":
            tensor.CopyFrom(numpy_helper.from_array(np.array(np.nan, np.float32), "nan"))
    (node,) = proto.graph.node
    stored = {t.name: numpy_helper.to_array(t) for t in proto.graph.initializer}
    model = Model(proto, Storage())
    found = evaluate(node, 17, [stored.get(name) for name in node.input])
    return found, model.value(model.main, "y")


@pytest.mark.parametrize("name", CASES)
def test_what_runtimes_do_not_agree_on_has_no_value(name: str) -> None:
    text, doubtful, well_known = CASES[name]
    if doubtful is not None:
        assert both(text, doubtful) == (None, None)
    if well_known is not None:
        ours, theirs = both(text, well_known)
        assert ours is not None
        assert theirs is not None
        np.testing.assert_array_equal(ours, theirs)


def test_infinities_are_cut_off_at_the_largest_number() -> None:
    """By a Clip without bounds."""
    for text in ("y = Clip (c)", "y = Clip (c, , )"):
        ours, theirs = both(text, [[np.inf, -np.inf, 1]])
        most = np.finfo(np.float32).max
        for found in (ours, theirs):
            assert found is not None
            np.testing.assert_array_equal(found, np.array([[most, -most, 1]], np.float32))


@pytest.mark.parametrize(
    "text",
    [
        "y = ReduceSum (x, both)",
        "y = Squeeze (x, both)",
    ],
)
def test_an_axis_that_is_named_twice_leaves_no_shape(text: str) -> None:
    proto = parser.parse_model(
        '<ir_version: 8, opset_import: ["" : 17]>\n'
        f"g (float[2,1,3] x) => (float y) <int64[2] both = {{1, -2}}> {{ {text} }}"
    )
    model = Model(proto, Storage())
    shape = model.shapes.of(model.main, "y")
    assert shape is None or not any(isinstance(size, int) for size in shape)


@pytest.mark.parametrize(("one", "two"), [("-2147483648", "-1"), ("7", "0")])
def test_a_quotient_that_is_none_has_no_value(one: str, two: str) -> None:
    proto = parser.parse_model(
        '<ir_version: 8, opset_import: ["" : 17]>\n'
        f"g () => (int32 y) <int32[1] a = {{{one}}}, int32[1] b = {{{two}}}> {{ y = Div (a, b) }}"
    )
    model = Model(proto, Storage())
    assert model.value(model.main, "y") is None


def test_a_size_that_32_bits_do_not_hold_is_not_known() -> None:
    text = """<ir_version: 8, opset_import: ["" : 17]>
g (float[N] x, float[65536,65536] big) => (float y) {
  n = Size (big) m = Cast <to = 6> (n) k = Cast <to = 7> (m) y = Reshape (x, k) }"""
    model = Model(parser.parse_model(text), Storage())
    shape = model.shapes.of(model.main, "y")
    assert shape is None or not any(isinstance(size, int) for size in shape)
