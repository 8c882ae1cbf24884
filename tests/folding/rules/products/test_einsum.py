"""Einsum with a constant: where the map's letter is, and what becomes of a shift.

The proof's law is tried by each fold, as in all tests.
"""

from __future__ import annotations

import numpy as np
import pytest
from onnx import ModelProto, numpy_helper

import bnfold
from bnfold.graph.index import Index
from bnfold.onnx_io.tensor_storage import Storage
from bnfold.proof.kernel.outcome import Outcome
from bnfold.proof.reading.model import Model
from bnfold.steps import from_json
from tests.folding.rules.test_rules import positive, scale_only
from tests.proving import judged
from tests.support import Array, bn, folded, kept, numbers, parse, shift_stays


def up(equation: str, data: str, out: str, /, **tensors: Array) -> ModelProto:
    """Einsum → BatchNormalization over axis 1, by a Transpose where the channels are elsewhere."""
    text = f"""
    g (float[{data}] x) => (float[{out}] y) {{
      [sum] c = Einsum <equation = "{equation}"> (x, w)
      [norm] y = BatchNormalization <epsilon = 0.0> (c, s, b, m, v)
    }}"""
    return parse(text, **tensors)


def down(equation: str, data: str, out: str, rest: str = "", /, **tensors: Array) -> ModelProto:
    """BatchNormalization → Einsum."""
    text = f"""
    g (float[{data}] x) => (float[{out}] y) {{
      [norm] c = BatchNormalization <epsilon = 0.0> (x, s, b, m, v)
      [sum] {"z" if rest else "y"} = Einsum <equation = "{equation}"> (c, w)
      {rest}
    }}"""
    return parse(text, **tensors)


@pytest.mark.parametrize(
    ("equation", "data", "out", "weight"),
    [
        ("nchw,oc->nohw", "2,3,4,5", "2,4,4,5", (4, 3)),
        ("nchw,co->nohw", "2,3,4,5", "2,4,4,5", (3, 4)),
        ("nchw,och->now", "2,3,4,5", "2,4,5", (4, 3, 4)),
        ("nchw,noc->nohw", "2,3,4,5", "2,4,4,5", (2, 4, 3)),
        ("nchw,cq->ncqw", "2,4,3,5", "2,4,6,5", (4, 6)),  # the letter of both
        ("nchw,ow->nohc", "2,3,4,5", "2,4,4,3", (4, 5)),
        ("bi,io", "2,3", "2,4", (3, 4)),  # the result's letters in the order of the alphabet
    ],
)
def test_a_scale_goes_up_into_the_constant(
    equation: str, data: str, out: str, weight: tuple[int, ...]
) -> None:
    model = up(equation, data, out, w=numbers(*weight), **scale_only(4, negative=True))
    assert folded(model).ops == ["Einsum"]


def test_a_scale_goes_up_past_the_einsum_where_only_the_data_has_its_letter() -> None:
    text = """
    g (float[2,3,6,6] x) => (float[2,4,6,5] y) {
      [conv] c = Conv (x, k)
      [sum] d = Einsum <equation = "nchw,wq->nchq"> (c, w)
      [norm] y = BatchNormalization <epsilon = 0.0> (d, s, b, m, v)
    }"""
    model = parse(text, k=numbers(4, 3, 1, 1), w=numbers(6, 5), **scale_only(4, negative=True))
    assert folded(model).ops == ["Conv", "Einsum"]


def test_a_shift_has_no_place_above_and_stays() -> None:
    model = up("nchw,oc->nohw", "2,3,4,5", "2,4,4,5", w=numbers(4, 3), **positive(4))
    assert shift_stays(model).ops == ["Einsum", "Add"]


@pytest.mark.parametrize(
    ("equation", "weight", "out"),
    [("nchw,oc->nohw", (5, 4), "2,5,4,5"), ("nchw,koc->nohw", (2, 5, 4), "2,5,4,5")],
)
def test_the_response_to_a_shift_goes_into_the_add_behind(
    equation: str, weight: tuple[int, ...], out: str
) -> None:
    model = down(
        equation, "2,4,4,5", out, "[bias] y = Add (z, d)",
        w=numbers(*weight), d=numbers(5, 1, 1), **bn(4),
    )  # fmt: skip
    assert folded(model).ops == ["Einsum", "Add"]


def test_a_response_that_is_the_same_for_all_channels() -> None:
    ones = np.ones((1, 5, 4), np.float32)
    model = down(
        "nchw,noc->nohw", "1,4,4,5", "1,5,4,5", "[bias] y = Add (z, d)",
        w=ones, d=numbers(5, 1, 1), **bn(4),
    )  # fmt: skip
    assert folded(model).ops == ["Einsum", "Add"]


@pytest.mark.parametrize(
    ("equation", "weight", "out", "why"),
    [
        ("nchw,ogc->nohg", (5, 2, 4), "2,5,4,2", "shift"),  # varies along o and g
        ("nchw,oc->noh", (5, 4), "2,5,4", "shift"),  # and is added up w times
        ("nchw,ow->noh", (5, 5), "2,5,4", "axis-lost"),  # channels are added up
    ],
)
def test_a_shift_that_no_add_could_hold(
    equation: str, weight: tuple[int, ...], out: str, why: str
) -> None:
    rest = "[bias] y = Add (z, d)"
    model = down(equation, "2,4,4,5", out, rest, w=numbers(*weight), d=numbers(1), **positive(4))
    verdict = next(v for v in bnfold.fold(model).verdicts if v.site == "norm")
    if verdict.folded:  # its scale alone
        assert verdict.into == ("sum", "norm")
        return
    assert verdict.below is not None
    assert verdict.below.reason.code == why


@pytest.mark.parametrize(
    "equation", ["nchw,cc->nchw", "...hw,wq->...hq", "nchw,oc,o->nohw", "nchw->nhwc", "nccw,oc->no"]
)
def test_equations_of_another_kind_are_left_alone(equation: str) -> None:
    model = up(equation, "2,4,4,5", "2,4,4,5", w=numbers(4, 4), **scale_only(4))
    node = model.graph.node[0]
    terms = equation.split("->")[0].count(",") + 1
    del node.input[1:]
    node.input.extend(["w", "w"][: terms - 1])
    assert not bnfold.fold(model).folded


def test_a_size_of_1_that_broadcasts_is_refused() -> None:
    model = up("nchw,cq->ncqw", "2,1,3,5", "2,4,6,5", w=numbers(4, 6), **scale_only(4))
    assert not bnfold.fold(model).folded


def test_a_constant_that_is_no_weight_of_its_own() -> None:
    model = up("nchw,oc->nohw", "2,3,4,5", "2,4,4,5", **scale_only(4))
    value = model.graph.input.add(name="w")
    value.type.CopyFrom(model.graph.input[0].type)
    for _ in range(2):
        value.type.tensor_type.shape.dim.pop()
    assert kept(model, check=False).refusal is not None


# --- the law, where each obligation alone fails ---------------------------------------------------


def changed(model: ModelProto, name: str, change: Array) -> ModelProto:
    other = ModelProto()
    other.CopyFrom(model)
    for tensor in other.graph.initializer:
        if tensor.name == name:
            tensor.CopyFrom(
                numpy_helper.from_array(numpy_helper.to_array(tensor) + change, tensor.name)
            )
    return other


@pytest.mark.parametrize("entry", [(0, 0), (3, 2)])
def test_a_weight_that_is_off_by_a_little_is_invalid(entry: tuple[int, int]) -> None:
    model = up("nchw,oc->nohw", "2,3,4,5", "2,4,4,5", w=numbers(4, 3), **scale_only(4))
    result = bnfold.fold(model)
    change = np.zeros((4, 3), np.float32)
    change[entry] = 2.0**-12
    proof = from_json(result.proof.encode())
    assert judged(model, result.model, proof).valid
    wrong = judged(model, changed(result.model, "w", change), proof)
    assert wrong.certificate.verdict is Outcome.INVALID


def test_another_equation_is_invalid() -> None:
    model = up("nchw,oc->nohw", "2,4,4,5", "2,4,4,5", w=numbers(4, 4), **scale_only(4))
    result = bnfold.fold(model)
    other = ModelProto()
    other.CopyFrom(result.model)
    other.graph.node[0].attribute[0].s = b"nchw,co->nohw"
    assert not judged(model, other, from_json(result.proof.encode())).valid


def test_the_shape_of_an_einsum_is_that_of_its_letters() -> None:
    model = up("nchw,oc->wohn", "2,3,4,5", "5,4,4,2", w=numbers(4, 3), **bn(4))
    model.graph.ClearField("value_info")
    read = Model(model, Storage())
    node = next(iter(Index(model).nodes()))
    assert read.shapes.output(read.index.scopes[0].nodes[0]) == (5, 4, 4, 2)
    assert node.op == "Einsum"


@pytest.mark.parametrize("first", [[0, 1, 2, 4], [1, 0, 2, 1], [1, 2, 4, 8]])
@pytest.mark.parametrize("second", [[0, 1, 2, 4], [1, 2, 4, 8]])
def test_dead_channels_on_both_sides_of_an_einsum(first: list[int], second: list[int]) -> None:
    text = """
    g (float[2,4,3,5] x) => (float[2,4,3,6] y) {
      [one] a = BatchNormalization <epsilon = 0.0> (x, s, b, m, v)
      [sum] c = Einsum <equation = "nchw,wq->nchq"> (a, w)
      [two] y = BatchNormalization <epsilon = 0.0> (c, s2, b2, m2, v2)
    }"""
    zeros, ones = np.zeros(4, np.float32), np.ones(4, np.float32)
    given = {"w": numbers(5, 6), "s": np.array(first, np.float32), "b": zeros, "m": zeros}
    given |= {"v": ones, "s2": np.array(second, np.float32), "b2": zeros, "m2": zeros, "v2": ones}
    assert folded(parse(text, **given), count=1).ops == ["BatchNormalization", "Einsum"]
