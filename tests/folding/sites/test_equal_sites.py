"""The same map made several times of one value, or of each part of a Split, folds once for all."""

from __future__ import annotations

import numpy as np
import pytest
from onnx import ModelProto

import bnfold
from tests.support import Array, bn, folded, numbers, parse

TWICE = """
g (float[2,3,6,6] x) => (float[2,4,6,6] y, float[2,4,6,6] z) {
  [conv] c = Conv (x, w)
  [one] d = BatchNormalization <epsilon = 0.0> (c, s, b, m, v)
  [two] e = BatchNormalization <epsilon = 0.0> (c, s2, b2, m2, v2)
  [relu] y = Relu (d)
  [floor] z = Floor (e)
}"""


def twice(text: str = TWICE, seed: int = 0, **more: Array) -> ModelProto:
    return parse(text, w=numbers(4, 3, 1, 1), **bn(4), **bn(4, seed=seed, name="2"), **more)


def test_two_readers_that_make_the_same_map() -> None:
    result = folded(twice())
    assert result.ops == ["Conv", "Relu", "Floor"]
    assert [v.site for v in result.result.folded] == ["one", "two"]


def test_two_readers_of_which_one_makes_another_map() -> None:
    verdicts = bnfold.fold(twice(seed=1)).verdicts
    assert [v.refusal.reason.code for v in verdicts if v.refusal] == ["another-reader"] * 2


def test_a_third_reader_that_makes_no_map() -> None:
    text = TWICE.replace("[floor] z = Floor (e)", "[floor] f = Floor (e) [third] z = Add (f, c)")
    assert not bnfold.fold(twice(text)).folded


def test_a_chain_of_which_one_is_the_beginning_of_another() -> None:
    text = TWICE.replace("[two]", "[more] f = Mul (d, k) [two]").replace("Relu (d)", "Relu (f)")
    result = folded(twice(text, k=numbers(4, 1, 1)), count=2)
    assert result.ops == ["Conv", "Mul", "Relu", "Floor"]


def test_a_reader_in_the_same_node_twice() -> None:
    text = """
    g (float[2,3,6,6] x) => (float[2,4,6,6] y) {
      [conv] c = Conv (x, w)
      [one] d = BatchNormalization <epsilon = 0.0> (c, s, b, m, v)
      [two] e = BatchNormalization <epsilon = 0.0> (c, s2, b2, m2, v2)
      [mul] y = Mul (d, e)
    }"""
    assert folded(twice(text)).ops == ["Conv", "Mul"]


def test_outputs_of_the_graph_keep_their_names() -> None:
    text = TWICE.replace("[relu] y = Relu (d)\n", "").replace("[one] d =", "[one] y =")
    assert not bnfold.fold(twice(text)).folded


SPLIT = """
g (float[4,3,6,6] x) => (float[4,4,6,6] y) {
  [conv] c = Conv (x, w)
  [split] p, q = Split <axis = 0> (c)
  [one] d = BatchNormalization <epsilon = 0.0> (p, s, b, m, v)
  [two] e = BatchNormalization <epsilon = 0.0> (q, s2, b2, m2, v2)
  [join] y = Concat <axis = 0> (d, e)
}"""


def test_ghost_batch_normalization_over_parts_of_a_batch() -> None:
    text = SPLIT.replace("Split <axis = 0> (c)", "Split <axis = 0> (c, n)")
    result = folded(twice(text, n=np.array([2, 2], np.int64)))
    assert result.ops == ["Conv", "Split", "Concat"]


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("[two] e = BatchNormalization <epsilon = 0.0>", "[two] e = BatchNormalization"),
        ("[two] e =", "[other] r = Relu (q) [two] e ="),
    ],
)  # fmt: skip
def test_parts_that_are_not_all_made_the_same(old: str, new: str) -> None:
    text = SPLIT.replace(old, new)
    model = twice(text)
    model.opset_import[0].version = 11
    assert not bnfold.fold(model).folded


def test_parts_of_the_channels_themselves_take_their_own_pieces() -> None:
    text = """
    g (float[2,3,6,6] x) => (float[2,4,6,6] y, float[2,4,6,6] z) {
      [conv] c = Conv (x, w)
      [split] p, q = Split <axis = 1> (c)
      [one] y = BatchNormalization <epsilon = 0.0> (p, s, b, m, v)
      [two] z = BatchNormalization <epsilon = 0.0> (q, s2, b2, m2, v2)
    }"""
    model = parse(text, 11, w=numbers(8, 3, 1, 1), **bn(4), **bn(4, name="2"))
    assert folded(model).ops == ["Conv", "Split"]
