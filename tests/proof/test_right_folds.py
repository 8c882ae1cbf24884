"""Right folds that the kernel once refused; random graphs found them."""

from __future__ import annotations

import numpy as np
import pytest

import bnfold
from bnfold.onnx_io.tensor_storage import Storage
from bnfold.proof.reading.model import Model
from bnfold.steps import IDENTITY, NodeMap, Ref, along, inverse, scale, then
from tests.support import Array, bn, free, numbers, parse


def floats(*values: float) -> Array:
    return np.array(values, np.float32)


SAME = {"us": floats(1, 1, 1), "ub": floats(1, 1, 1), "um": floats(0, 0, 0), "uv": floats(1, 1, 1)}


def test_an_add_takes_a_map_that_is_the_same_in_all_channels_and_one_along_the_batch() -> None:
    text = """
    g (float[2,3,4,4] x) => (float[2,3,4,4] y) {
      u = BatchNormalization <epsilon = 0.0> (x, us, ub, um, uv)
      d = Sub (k, u)
      c = Conv (x, w)
      n = BatchNormalization (c, s, b, m, v)
      t = Sum (n, d)
      y = Add (t, batch)
    }"""
    model = parse(
        text, w=numbers(3, 3, 1, 1), k=numbers(1, 3, 1, 1), batch=numbers(2, 1, 1, 1), **SAME,
        **bn(3),
    )  # fmt: skip
    assert bnfold.fold(model).after.nodes == 3


def test_channels_that_move_take_a_map_that_is_the_same_in_all_of_them() -> None:
    """12 channels behind a SpaceToDepth, 3 before it."""
    text = """
    g (float[1,4,4,4] x) => (float[1,12,2,2] y) {
      c = Conv (x, w)
      d = SpaceToDepth <blocksize = 2> (c)
      y = Mul (d, k)
    }"""
    same = np.full((12, 1, 1), 1.5, np.float32)
    assert bnfold.fold(parse(text, w=numbers(3, 4, 1, 1), k=same)).after.nodes == 2


def test_a_sum_of_branches_reads_a_channel_that_is_dead_in_both_models() -> None:
    text = """
    g (float[1,4,6,6] x) => (float[1,4,6,6] y) {
      a = Conv (x, w1)
      b1 = Conv (x, w2)
      j = Add (a, b1)
      n = BatchNormalization (j, s, b, m, v)
      c = Conv (n, w3)
      d = Conv (n, w4)
      e = Add (c, d)
      y = Add (e, n)
    }"""
    dead = bn(4) | {"s": floats(1, 0, 2, -1)}
    weights = {f"w{k}": numbers(4, 4, 1, 1, seed=k) for k in (1, 2, 3, 4)}
    result = bnfold.fold(
        parse(text, **weights, **dead), options=bnfold.Options(merge_branches=True)
    )
    assert result.after.batch_norms == 0


def test_what_underflow_takes_of_a_merged_weight_may_be_hidden_by_the_bias() -> None:
    text = """
    g (float16[1,2,4,4] x) => (float16[1,2,4,4] y) {
      c = Conv (x, w, b)
      d = Mul (c, third)
      e = Conv (x, zeros)
      y = Add (d, e)
    }"""
    least, none = np.full((2, 2, 1, 1), 6e-8, np.float16), np.zeros((2, 2, 1, 1), np.float16)
    third = np.array(0.3, np.float16)
    for bias, branches in ((1000, 1), (0, 2)):
        model = parse(text, w=least, b=np.full(2, bias, np.float16), third=third, zeros=none)
        result = bnfold.fold(model, options=bnfold.Options(merge_branches=True))
        assert [n.op_type for n in result.model.graph.node].count("Conv") == branches


@pytest.mark.parametrize("axis", [0, 1, -1])
def test_the_body_of_a_scan_knows_the_shape_of_its_slices(axis: int) -> None:
    text = """
    g (float[SHAPE] xs) => (float ys) {
      ys = Scan <num_scan_inputs = 1, scan_input_axes = [AXIS], body = each (float x) => (float y) {
        [conv] c = Conv (x, w)
        y = Mul (c, k)
      }> (xs)
    }"""
    shape = [1, 3, 4, 4]
    shape.insert(axis if axis >= 0 else 4, 5)
    text = text.replace("SHAPE", ",".join(map(str, shape))).replace("AXIS", str(axis))
    result = bnfold.fold(free(parse(text, w=numbers(2, 3, 1, 1), k=numbers(2, 1, 1))))
    assert [v.into for v in result.folded] == [("conv",)]


def test_a_constant_that_is_an_output_needs_no_value_where_nothing_has_touched_it() -> None:
    text = """
    g (float[1,3,4,4] x) => (float[1,2,4,4] y, int64[2] n) {
      c = Conv (x, w)
      y = BatchNormalization (c, s, b, m, v)
      n = Neg (k)
    }"""
    model = parse(text, w=numbers(2, 3, 1, 1), k=np.array([1, 2]), **bn(2))
    assert bnfold.fold(model).folded


def test_a_scale_and_its_inverse_are_nothing_also_with_another_scale_between_them() -> None:
    a, b = (scale(NodeMap(Ref(0, place))) for place in (1, 2))
    assert then(then(a, b), inverse(a)) == b
    assert then(then(inverse(a), b), a) == b
    assert then(then(a, inverse(b)), then(inverse(a), b)) == IDENTITY
    assert then(then(along(a, 1), b), inverse(along(a, 3))) == b


def test_a_scale_and_its_inverse_are_something_with_a_shift_between_them() -> None:
    a, b = scale(NodeMap(Ref(0, 1))), NodeMap(Ref(0, 2))
    assert then(then(a, b), inverse(a)) != b


UNKNOWN = '<ir_version: 8, opset_import: ["": 17, "own": 1]>'


def test_ranks_that_hold_behind_a_value_of_which_nothing_is_known() -> None:
    text = """
    g (float[1,2,3,4] x) => (float[1,3] y) {
      a = own.Unknown (x)
      [shift] r = Add (k, a)
      [flat] f = Flatten (r)
      [gemm] i = Gemm (f, u)
      [scale] y = Mul (i, c)
    }"""
    model = parse(UNKNOWN + text, k=numbers(2, 1, 1), u=numbers(24, 3), c=numbers(1, 3))
    assert [n.op_type for n in bnfold.fold(model).model.graph.node][-1] == "Gemm"


def test_a_reshape_of_an_unknown_value_to_what_is_asked_for() -> None:
    """−1 and 0 are sizes that are not known; all else is what it says."""
    text = """
    g (float[1,2,3,4] x) => (float[1,12,3] y) {
      a = own.Unknown (x) [re] y = Reshape (a, target) }"""
    for zeros, wanted in ((0, (2, 12, None)), (1, (2, 12, 0))):
        model = parse(UNKNOWN + text, target=np.array([2, 12, 0], np.int64))
        model.graph.node[1].attribute.add(name="allowzero", type=2, i=zeros)
        read = Model(model, Storage())
        shape = read.shapes.output(read.index.scopes[0].nodes[1])
        assert shape is not None
        assert tuple(d if isinstance(d, int) else None for d in shape) == wanted


def test_a_dead_channel_passes_a_mul_that_is_to_stay() -> None:
    text = """
    g (float[2,3,4,4] x) => (float[2,4,4,4] y) {
      [conv] c = Conv (x, w)
      [scale] d = Mul (c, k)
      [norm] y = BatchNormalization <epsilon = 0.0> (d, s, b, m, v)
    }"""
    dead = bn(4) | {"s": np.array([1, 0, 2, -1], np.float32)}
    model = parse(text, w=numbers(4, 3, 1, 1), k=numbers(4, 1, 1), **dead)
    result = bnfold.fold(model, options=bnfold.Options(only_batch_norm=True))
    assert [n.op_type for n in result.model.graph.node] == ["Conv", "Mul"]


def test_a_batch_normalization_says_how_many_channels_there_are() -> None:
    text = """
    g (float[2,4,D,5] x) => (float[2,3,4,5] y) {
      t = Transpose <perm = [0,2,1,3]> (x)
      n = BatchNormalization <epsilon = 0.0> (t, s, b, m, v)
      a = Sub (n, k)
      [conv] y = Conv (a, w)
    }"""
    model = parse(text, k=numbers(6, 1, 1), w=numbers(3, 6, 1, 1), **bn(6))
    ops = [n.op_type for n in bnfold.fold(model).model.graph.node]
    assert ops == ["Transpose", "Sub", "Conv"]


@pytest.mark.parametrize("op", ["Div", "Mul"])
@pytest.mark.parametrize("dtype", ["float", "double"])
def test_a_shift_that_cancels_but_for_a_rounding_goes_on_being_none(op: str, dtype: str) -> None:
    """β = γ·μ, rounded to float64: what is left of the shift stays nothing when it is scaled."""
    text = f"""
    g ({dtype}[1,4,4,4] x) => ({dtype}[1,4,4,4] y) {{
      a = Conv (x, w, c)
      b = Conv (x, w)
      t = Add (a, b)
      n = BatchNormalization <epsilon = 0.0> (t, s, o, m, v)
      y = {op} (n, k)
    }}"""
    rng = np.random.default_rng(3)
    kind = np.float64 if dtype == "double" else np.float32
    gamma, mean = numbers(4, dtype=kind) / 7, numbers(4, seed=1, dtype=kind) / 3
    model = parse(
        text, w=rng.standard_normal((4, 4, 1, 1)).astype(kind), c=numbers(4, dtype=kind),
        s=gamma, o=gamma * mean, m=mean, v=np.ones(4, kind), k=np.array(1.5293486845, kind),
    )  # fmt: skip
    assert bnfold.fold(model).after.nodes == 3
