"""--merge-branches: convolutions behind each other, and pools, become one where that is exact.

Numbers are exact (see support), so results must agree bit for bit.
"""

from __future__ import annotations

import itertools

import numpy as np
import onnx
import pytest
from onnx import ModelProto, numpy_helper

import bnfold
from bnfold.proof.kernel.outcome import Outcome
from bnfold.steps import from_json
from tests.folding.branches.test_merge import MERGE, graph
from tests.proving import judged
from tests.support import bn, folded, numbers


def one_convolution(model: ModelProto, rest: tuple[str, ...] = ()) -> onnx.NodeProto:
    """The model becomes one Conv, with the same bits."""
    result = folded(model, options=MERGE)
    assert result.ops == ["Conv", *rest]
    return result.model.graph.node[0]


def stays(model: ModelProto, options: bnfold.Options = MERGE) -> None:
    result = bnfold.fold(model, options=options)
    assert [n.op_type for n in result.model.graph.node] == [n.op_type for n in model.graph.node]


@pytest.mark.parametrize(
    ("first", "second"),
    [
        ("", ""),
        ("pads = [1,1,1,1]", ""),
        ("strides = [2,2]", ""),
        ("strides = [2,1], pads = [1,0,1,0]", "strides = [1,2]"),
        ("dilations = [2,1]", "dilations = [1,2]"),
    ],
)
def test_two_kernels_without_padding_between_them(first: str, second: str) -> None:
    body = f"""
    [one] z = Conv <{first or "group = 1"}> (x, w, a)
    [two] y = Conv <{second or "group = 1"}> (z, k, b)"""
    given = {"w": numbers(8, 2, 2, 2), "k": numbers(3, 8, 2, 1)}
    given |= {"a": numbers(8), "b": numbers(3, seed=2)}
    one_convolution(graph(body, "2,2,9,9", **given))


def test_bottleneck_of_an_expanded_block_and_its_skip() -> None:
    """SESR: K×K to many channels, 1×1 back, plus x itself."""
    body = """
    [wide] z = Conv <pads = [1,1,1,1]> (x, w)
    [back] r = Conv (z, k)
    [join] y = Add (r, x)"""
    node = one_convolution(graph(body, w=numbers(32, 4, 3, 3), k=numbers(4, 32, 1, 1)))
    assert node.name == "wide"


def test_a_pointwise_one_without_a_bias_before_a_padded_one() -> None:
    """ECBSR: what it makes of the zeros around x is the zeros that the other one reads."""
    body = """
    [point] z = Conv (x, w)
    [wide] y = Conv <pads = [1,1,1,1]> (z, k, b)"""
    given = {"w": numbers(8, 4, 1, 1), "k": numbers(4, 8, 3, 3), "b": numbers(4)}
    one_convolution(graph(body, **given))


@pytest.mark.parametrize(
    ("first", "bias"),
    [
        ("Conv (x, w, a)", True),  # whose bias the border does not see
        ("Conv <pads = [1,1,1,1], kernel_shape = [3,3]> (x, v)", False),
        ("Conv <strides = [2,2]> (x, w)", False),
    ],
)
def test_what_a_padded_one_would_read_beyond_the_border(first: str, bias: bool) -> None:
    body = f"[one] z = {first} [wide] y = Conv <pads = [1,1,1,1]> (z, k)"
    given = {"k": numbers(4, 8, 3, 3)}
    given["v" if "v)" in first else "w"] = numbers(8, 4, *((3, 3) if "v)" in first else (1, 1)))
    if bias:
        given["a"] = numbers(8)
    stays(graph(body, **given))


def test_a_batch_normalization_between_them() -> None:
    body = """
    [one] z = Conv (x, w)
    [norm] n = BatchNormalization (z, s, b, m, v)
    [two] y = Conv (n, k)"""
    given = {"w": numbers(16, 4, 2, 2), "k": numbers(3, 16, 1, 1)} | bn(16)
    one_convolution(graph(body, **given))


def test_projection_and_expansion_stay_two() -> None:
    """MobileNet's narrow middle: one convolution would multiply more."""
    body = "[narrow] z = Conv (x, w) [wide] y = Conv (z, k)"
    stays(graph(body, "2,16,6,6", w=numbers(4, 16, 1, 1), k=numbers(16, 4, 1, 1)))


def test_depthwise_and_pointwise_stay_two() -> None:
    body = "[depth] z = Conv <group = 8> (x, w) [point] y = Conv (z, k)"
    stays(graph(body, "2,8,6,6", w=numbers(8, 1, 3, 3), k=numbers(8, 8, 1, 1)))


@pytest.mark.parametrize(("one", "two"), list(itertools.product([1, 2, 4], [1, 2, 4])))
def test_groups(one: int, two: int) -> None:
    body = f"""
    [a] z = Conv <group = {one}> (x, w, a) [b] y = Conv <group = {two}> (z, k)
    """
    given = {"w": numbers(32, 4 // one, 1, 1), "a": numbers(32), "k": numbers(4, 32 // two, 2, 2)}
    one_convolution(graph(body, **given))


def test_the_value_between_is_read_elsewhere() -> None:
    body = "[one] z = Conv (x, w) [two] r = Conv (z, k) [exp] f = Exp (z) [join] y = Mul (r, f)"
    stays(graph(body, w=numbers(8, 4, 1, 1), k=numbers(8, 8, 1, 1)))


def test_something_else_between_them() -> None:
    body = "[one] z = Conv (x, w) [relu] r = Relu (z) [two] y = Conv (r, k)"
    stays(graph(body, w=numbers(8, 4, 1, 1), k=numbers(3, 8, 1, 1)))


def test_without_the_option_they_stay() -> None:
    body = "[one] z = Conv (x, w) [two] y = Conv (z, k)"
    stays(graph(body, w=numbers(8, 4, 1, 1), k=numbers(3, 8, 1, 1)), bnfold.Options())


def test_three_in_a_row() -> None:
    body = "[one] z = Conv (x, w) [two] u = Conv (z, k) [three] y = Conv (u, l)"
    given = {"w": numbers(16, 2, 2, 1), "k": numbers(16, 16, 1, 1), "l": numbers(2, 16, 1, 2)}
    one_convolution(graph(body, "2,2,6,6", **given))


# --- diverse branches -----------------------------------------------------------------------------


def test_a_diverse_branch_block() -> None:
    """DBB: K×K, 1×1, 1×1 → K×K and 1×1 → AveragePool, each normalised, of one value."""
    body = """
    [dense] p = Conv <pads = [1,1,1,1]> (x, w)
    [point] q = Conv (x, u)
    [first] c = Conv (x, v)
    [second] r = Conv <pads = [1,1,1,1]> (c, k)
    [third] d = Conv (x, l)
    [pool] t = AveragePool <kernel_shape = [2,2], pads = [1,1,0,0], count_include_pad = 1> (d)
    [join] y = Sum (p, q, r, t)"""
    given = {
        "w": numbers(4, 4, 3, 3), "u": numbers(4, 4, 1, 1), "v": numbers(4, 4, 1, 1),
        "k": numbers(4, 4, 3, 3, seed=3), "l": numbers(4, 4, 1, 1, seed=4),
    }  # fmt: skip
    one_convolution(graph(body, **given))


POOL = "[point] d = Conv (x, l{bias}) [pool] t = AveragePool <{pool}> (d)"


@pytest.mark.parametrize(
    ("pool", "bias", "merges"),
    [
        ("kernel_shape = [2,2]", True, True),
        ("kernel_shape = [2,2], pads = [1,1,0,0], count_include_pad = 1", False, True),
        ("kernel_shape = [2,2], pads = [1,1,0,0], count_include_pad = 1", True, False),
        ("kernel_shape = [2,2], pads = [1,1,0,0]", False, False),  # fewer at the border
        ("kernel_shape = [2,2], ceil_mode = 1", False, False),
        ('kernel_shape = [2,2], auto_pad = "SAME_UPPER"', False, False),
    ],
)
def test_pools_of_a_convolution(pool: str, bias: bool, merges: bool) -> None:
    pads = "pads = [1,1,0,0]," if "pads" in pool or "auto_pad" in pool else ""
    body = (
        POOL.format(pool=pool, bias=", a" if bias else "")
        + f"""
    [dense] p = Conv <{pads} kernel_shape = [2,2]> (x, w)
    [join] y = Add (p, t)"""
    )
    given = {"w": numbers(4, 4, 2, 2), "l": numbers(4, 4, 1, 1)}
    if bias:
        given["a"] = numbers(4)
    model = graph(body, **given)
    if merges:
        one_convolution(model)
    else:
        stays(model)


# --- the law, where each obligation alone fails ---------------------------------------------------

SEQUENCE = "[one] z = Conv (x, w, a) [two] y = Conv (z, k, b)"


def sequence() -> ModelProto:
    given = {"w": numbers(8, 4, 2, 2), "k": numbers(3, 8, 1, 1), "a": numbers(8), "b": numbers(3)}
    return graph(SEQUENCE, **given)


@pytest.mark.parametrize(("slot", "place"), [(1, 0), (1, 17), (2, 1)])
def test_a_number_that_is_off_by_a_little_is_invalid(slot: int, place: int) -> None:
    model = sequence()
    result = bnfold.fold(model, options=MERGE)
    proof = from_json(result.proof.encode())
    assert judged(model, result.model, proof).valid
    name = result.model.graph.node[0].input[slot]
    for tensor in result.model.graph.initializer:
        if tensor.name == name:
            array = numpy_helper.to_array(tensor).copy()
            array.reshape(-1)[place] += np.float32(2.0**-8)
            tensor.CopyFrom(numpy_helper.from_array(array, name))
    assert judged(model, result.model, proof).certificate.verdict is Outcome.INVALID


@pytest.mark.parametrize(
    ("attribute", "value"), [("strides", [2, 2]), ("pads", [1, 0, 0, 0]), ("dilations", [2, 2])]
)
def test_another_geometry_is_no_merge(attribute: str, value: list[int]) -> None:
    model = sequence()
    result = bnfold.fold(model, options=MERGE)
    node = result.model.graph.node[0]
    kept = [a for a in node.attribute if a.name != attribute]
    del node.attribute[:]
    node.attribute.extend([*kept, onnx.helper.make_attribute(attribute, value)])
    found = judged(model, result.model, from_json(result.proof.encode()))
    assert found.certificate.verdict is not Outcome.VALID


def test_a_padded_one_behind_a_bias_is_never_proven() -> None:
    """The fold of the unpadded model, with the padding put into both files."""
    body = "[one] z = Conv (x, w, a) [two] y = Conv (z, k)"
    model = graph(body, w=numbers(8, 4, 1, 1), k=numbers(3, 8, 2, 2), a=numbers(8))
    result = bnfold.fold(model, options=MERGE)
    for one in (model, result.model):
        node = one.graph.node[-1]
        rest = [a for a in node.attribute if a.name != "pads"]
        del node.attribute[:]
        node.attribute.extend([*rest, onnx.helper.make_attribute("pads", [1, 1, 1, 1])])
        del one.graph.output[0].type.tensor_type.shape.dim[:]
    found = judged(model, result.model, from_json(result.proof.encode()))
    assert found.certificate.verdict is not Outcome.VALID
