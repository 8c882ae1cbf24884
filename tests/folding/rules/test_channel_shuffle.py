"""Maps that pass a channel shuffle: Reshape → Transpose → Reshape."""

from __future__ import annotations

import numpy as np
import pytest
from onnx import ModelProto

import bnfold
from bnfold.proof.kernel.outcome import Outcome
from bnfold.steps import from_json
from tests.proving import judged
from tests.support import bn, folded, numbers, parse

SHUFFLE = """
  [cut] p = Reshape (c, cut)
  [turn] q = Transpose <perm = {perm}> (p)
  [join] d = Reshape (q, join)"""


def ints(*values: int) -> np.ndarray:
    return np.array(values, np.int64)


def up(
    perm: str = "[0,2,1,3,4]", batch: str = "2", more: str = "", **shapes: np.ndarray
) -> ModelProto:
    text = f"""
    g (float[{batch},3,4,5] x) => (float[{batch},6,4,5] y) {{
      [conv] c = Conv (x, w) {SHUFFLE.format(perm=perm)}
      [norm] y = BatchNormalization <epsilon = 0.0> (d, s, b, m, v)
    }}"""
    given = {"cut": ints(0, 2, 3, 4, 5), "join": ints(0, 6, 4, 5)} | shapes
    return parse(text, w=numbers(6, 3, 1, 1), **bn(6), **given)


def down(perm: str = "[0,2,1,3,4]", batch: str = "2") -> ModelProto:
    text = f"""
    g (float[{batch},6,4,5] x) => (float[{batch},3,4,5] y) {{
      [norm] c = BatchNormalization <epsilon = 0.0> (x, s, b, m, v)
      {SHUFFLE.format(perm=perm)} [conv] y = Conv (d, w)
    }}"""
    given = {"cut": ints(0, 2, 3, 4, 5), "join": ints(0, 6, 4, 5)}
    return parse(text, w=numbers(3, 6, 1, 1), **bn(6), **given)


@pytest.mark.parametrize("batch", ["2", "N"])
def test_up(batch: str) -> None:
    assert folded(up(batch=batch)).ops == ["Conv", "Reshape", "Transpose", "Reshape"]


@pytest.mark.parametrize("batch", ["2", "N"])
def test_down(batch: str) -> None:
    assert folded(down(batch=batch)).ops == ["Reshape", "Transpose", "Reshape", "Conv"]


def test_two_shuffles_behind_each_other() -> None:
    again = SHUFFLE.format(perm="[0,2,1,3,4]").replace("cut]", "cut2]")
    again = again.replace(", cut)", ", cut2)")
    for old, new in (
        ("(c,", "(d,"), ("d =", "e ="), ("p =", "r ="), ("(p)", "(r)"), ("q =", "t ="),
        ("(q", "(t"), ("turn]", "turn2]"), ("join]", "join2]"),
    ):  # fmt: skip
        again = again.replace(old, new)
    text = f"""
    g (float[2,3,4,5] x) => (float[2,6,4,5] y) {{
      [conv] c = Conv (x, w) {SHUFFLE.format(perm="[0,2,1,3,4]")} {again}
      [norm] y = BatchNormalization <epsilon = 0.0> (e, s, b, m, v)
    }}"""
    shapes = {"cut": ints(0, 2, 3, 4, 5), "join": ints(0, 6, 4, 5), "cut2": ints(0, 3, 2, 4, 5)}
    assert (
        "BatchNormalization"
        not in folded(parse(text, w=numbers(6, 3, 1, 1), **bn(6), **shapes)).ops
    )


@pytest.mark.parametrize(
    "perm",
    [
        "[0,3,1,2,4]",  # pixels between the two parts of the channels
        "[1,0,2,3,4]",  # the batch
    ],
)
def test_channels_that_are_mixed_with_other_axes(perm: str) -> None:
    assert not bnfold.fold(up(perm)).folded


def test_an_intermediate_value_that_others_read() -> None:
    model = up()
    model.graph.output.add(name="q").type.CopyFrom(model.graph.output[0].type)
    del model.graph.output[1].type.tensor_type.shape.dim[:]
    for size in (2, 3, 2, 4, 5):
        model.graph.output[1].type.tensor_type.shape.dim.add().dim_value = size
    assert not bnfold.fold(model).folded


def test_something_else_in_between() -> None:
    model = up()
    model.graph.node[2].output[0] = "t"
    floor = parse("g (float[1] t) => (float[1] q) { [floor] q = Floor (t) }").graph.node[0]
    model.graph.node.insert(3, floor)
    assert not bnfold.fold(model).folded


def test_groups_of_one_channel_are_no_shuffle() -> None:
    model = up(cut=ints(0, 6, 1, 4, 5))
    assert folded(model).ops == ["Conv", "Reshape", "Transpose", "Reshape"]


def test_the_proof_follows_the_order_of_the_channels() -> None:
    model = up()
    result = bnfold.fold(model)
    proof = from_json(result.proof.encode())
    assert judged(model, result.model, proof).valid
    for one in (model, result.model):
        del one.graph.node[2].attribute[0].ints[:]
        one.graph.node[2].attribute[0].ints.extend([0, 1, 2, 3, 4])
    assert judged(model, result.model, proof).certificate.verdict is Outcome.INVALID


def test_a_shuffle_that_has_changed_is_invalid() -> None:
    model = up()
    result = bnfold.fold(model)
    other = ModelProto()
    other.CopyFrom(result.model)
    other.graph.node[2].attribute[0].ints[:] = [0, 1, 2, 3, 4]
    assert not judged(model, other, from_json(result.proof.encode())).valid
