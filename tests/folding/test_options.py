"""Which sites are folded: `skip`, `only` and `only_batch_norm`."""

from __future__ import annotations

import re
from pathlib import Path

import onnx
import pytest
from onnx import ModelProto

import bnfold
from bnfold import Options, Reason, UsageError
from tests.support import bn, invoke, numbers, parse

TWO = """g (float[2,3,6,6] x) => (float[2,4,6,6] y) {
  [conv1] c = Conv (x, w) [norm1] d = BatchNormalization <epsilon = 0.0> (c, s, b, m, v)
  [act] r = Relu (d)
  [conv2] e = Conv (r, w2) [norm2] f = BatchNormalization <epsilon = 0.0> (e, s2, b2, m2, v2)
  [double] y = Mul (f, two)
}"""


def two() -> ModelProto:
    given = {"w": numbers(4, 3, 1, 1), "w2": numbers(4, 4, 1, 1), "two": numbers(4, 1, 1)}
    return parse(TWO, **given, **bn(4), **bn(4, seed=3, name="2"))


@pytest.mark.parametrize(
    ("options", "stay", "count"),
    [
        (Options(), ["conv1", "act", "conv2"], 2),
        (Options(skip=("norm1",)), ["conv1", "norm1", "act", "conv2"], 1),
        (Options(skip=("norm*",)), ["conv1", "norm1", "act", "conv2", "norm2", "double"], 0),
        (Options(only=("norm1",)), ["conv1", "act", "conv2", "norm2", "double"], 1),
        (Options(only=("norm?", "double")), ["conv1", "act", "conv2"], 2),
        (
            Options(only=("norm*",), skip=("norm2",)),
            ["conv1", "act", "conv2", "norm2", "double"],
            1,
        ),
        (Options(only_batch_norm=True), ["conv1", "act", "conv2", "double"], 2),
        (Options(skip=("double",)), ["conv1", "act", "conv2", "double"], 2),
    ],
)
def test_what_was_chosen_is_folded(options: Options, stay: list[str], count: int) -> None:
    result = bnfold.fold(two(), options=options)
    assert [node.name for node in result.model.graph.node] == stay
    assert sum(v.folded and v.op == "BatchNormalization" for v in result.verdicts) == count
    for verdict in result.verdicts:
        if verdict.refusal is not None and options.excludes(verdict.site):
            assert verdict.refusal.reason is Reason.LEFT_OUT
    if result.folded:
        assert bnfold.verify(two(), result.model).equal


def test_nothing_is_folded_into_what_is_skipped() -> None:
    model = two()
    result = bnfold.fold(model, options=Options(skip=("conv2",)))
    tensors = {t.name: t for t in result.model.graph.initializer}
    assert tensors["w2"] == next(t for t in model.graph.initializer if t.name == "w2")
    (verdict,) = (v for v in result.verdicts if v.site == "norm2")
    assert verdict.refusal is not None
    assert verdict.refusal.reason is Reason.LEFT_OUT
    assert verdict.refusal.node == "conv2"


def test_branches_of_which_one_is_skipped_do_not_merge() -> None:
    text = """g (float[1,3,6,6] x) => (float[1,3,6,6] y) {
      [one] a = Conv (x, w) [three] b = Conv <pads = [1,1,1,1]> (x, k) [join] y = Add (a, b) }"""
    model = parse(text, w=numbers(3, 3, 1, 1), k=numbers(3, 3, 3, 3))
    for skip, nodes in (((), 1), (("one",), 3), (("three",), 3), (("join",), 3)):
        options = Options(merge_branches=True, skip=skip)
        assert len(bnfold.fold(model, options=options).model.graph.node) == nodes


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (Options(skip=("nrom1",)), r"no node 'nrom1' \(did you mean norm1"),
        (Options(only=("conv1",)), "no BatchNormalization, Mul, Add, Sub or Div 'conv1'"),
        (Options(only=("zzz*",)), r"'zzz\*' \(see bnfold inspect"),
    ],
)
def test_a_name_that_nothing_has(options: Options, message: str) -> None:
    for function in (bnfold.fold, bnfold.inspect):
        with pytest.raises(UsageError, match=message):
            function(two(), options=options)


def test_the_options_of_the_commands(tmp_path: Path) -> None:
    onnx.save(two(), tmp_path / "m.onnx")
    words = ["inspect", str(tmp_path / "m.onnx"), "--skip", "norm1", "--only-batchnorm"]
    text = invoke(*words).output
    assert re.search(r"norm1 +kept \(left-out\): norm1 is excluded from folding", text)
    words = [
        "optimize",
        str(tmp_path / "m.onnx"),
        "--only",
        "norm2",
        "-o",
        str(tmp_path / "o.onnx"),
    ]
    assert invoke(*words).exit_code == 0
    names = [node.name for node in onnx.load(tmp_path / "o.onnx").graph.node]
    assert names == ["conv1", "norm1", "act", "conv2", "double"]
