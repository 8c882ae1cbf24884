"""The certificate of folds that do more than rescale constants."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import ModelProto, numpy_helper

import bnfold
from bnfold.proof.kernel.outcome import Outcome
from tests.proof.test_certificate import (
    SAMPLES,
    attribute,
    bias,
    judged,
    norm,
    put,
    real,
    replace,
    swap,
    ulps,
    values_of,
    weight,
)  # fmt: skip
from tests.support import Array, parse

QUANTISED = """g (float[1,3,8,8] x) => (float[1,4,8,8] y) {
  w = DequantizeLinear (q, k) bias = DequantizeLinear (qb, kb)
  c = Conv (x, w, bias)
  y = BatchNormalization (c, s, b, m, v)
}"""


def quantised() -> ModelProto:
    return parse(
        QUANTISED, q=np.arange(-4, 8, dtype=np.int8).reshape(4, 3, 1, 1),
        k=np.array(0.1, np.float32), qb=np.array([100, -2000, 30000, 7], np.int32),
        kb=np.array(1e-4, np.float32), **norm(4),
    )  # fmt: skip


def test_quantised_weights_are_certified(tmp_path: Path) -> None:
    model = quantised()
    result = bnfold.fold(model)
    assert result.folded
    static = judged(model, result.model, tmp_path)
    assert static.certificate.verdict is static.frame.verdict is Outcome.VALID, static
    comparison = bnfold.verify(model, result.model)
    assert comparison.equal
    assert [fold.valid for fold in comparison.folds] == [True]


@pytest.mark.parametrize(
    ("name", "change"),
    [
        ("q", put((1, 0, 0, 0), lambda q: q + 1)),
        ("k", put(2, ulps(4))),
        ("k", put(1, lambda k: -k)),
        ("qb", put(0, lambda q: q + 2)),
        ("qb", put(3, lambda q: -q)),
    ],
)
def test_a_spoiled_quantised_weight_is_found(
    name: str, change: Callable[[Array], None], tmp_path: Path
) -> None:
    model = quantised()
    wrong = bnfold.fold(model).model
    tensor = tensor_like(wrong, name)
    array = numpy_helper.to_array(tensor).copy()
    change(array)
    tensor.CopyFrom(numpy_helper.from_array(array, tensor.name))
    static = judged(model, wrong, tmp_path)
    assert static.certificate.verdict is Outcome.INVALID, static


def tensor_like(model: ModelProto, name: str) -> onnx.TensorProto:
    """What holds a constant after the fold: of the same name, or of one that begins with it."""
    (found,) = (t for t in model.graph.initializer if t.name.split("_")[0] == name)
    return found


RAISED = """g (float[1,3,8,8] x) => (float[1,5,8,8] y) {
  c = Conv (x, w)
  r = Relu (c)
  n = BatchNormalization (r, s, b, m, v)
  y = Conv <pads = [1,1,1,1]> (n, w2)
}"""


def raised() -> tuple[ModelProto, ModelProto]:
    model = parse(RAISED, w=real(4, 3, 1, 1), w2=real(5, 4, 3, 3, seed=1), **norm(4))
    folded = bnfold.fold(model, options=bnfold.Options(allow_max=True)).model
    assert [node.op_type for node in folded.graph.node] == ["Conv", "Max", "Conv"]
    return model, folded


def test_a_relu_that_became_a_max_is_certified(tmp_path: Path) -> None:
    model, folded = raised()
    static = judged(model, folded, tmp_path)
    assert static.certificate.verdict is static.frame.verdict is Outcome.VALID, static
    comparison = bnfold.verify(model, folded)
    assert comparison.equal
    assert not comparison.folds_not_run
    assert len(comparison.folds) == 1


@pytest.mark.parametrize("change", [ulps(4), lambda v: -v, lambda v: 0 * v])
def test_a_max_with_another_constant_is_found(
    change: Callable[[Array], Array], tmp_path: Path
) -> None:
    model, folded = raised()
    name = folded.graph.node[1].input[1]
    values = values_of(folded, name).copy()
    put((2, 0, 0) if values.ndim == 3 else (0, 2, 0, 0), change)(values)
    replace(folded, name, values)
    static = judged(model, folded, tmp_path)
    assert static.certificate.verdict is Outcome.INVALID, static
    assert static.certificate.findings[0].node == "Max→n"


MERGE = bnfold.Options(merge_branches=True)
SUM = """g (float[1,4,6,6] x) => (float[1,4,6,6] y) {
  [three] a = Conv <pads = [1,1,1,1]> (x, w3, i) an = BatchNormalization (a, s, b, m, v)
  [one] c = Conv <group = 2> (x, w1) cn = BatchNormalization (c, s1, b1, m1, v1)
  [skip] xn = BatchNormalization (x, s2, b2, m2, v2)
  d = Add (an, cn) e = Sub (d, xn)
  y = BatchNormalization (e, s3, b3, m3, v3)
}"""


def summed() -> tuple[ModelProto, ModelProto]:
    norms = {k: v for n in ("", "1", "2", "3") for k, v in norm(4, n).items()}
    model = parse(SUM, w3=real(4, 4, 3, 3), i=real(4, seed=5), w1=real(4, 2, 1, 1, seed=1), **norms)
    merged = bnfold.fold(model, options=MERGE).model
    assert [node.op_type for node in merged.graph.node] == ["Conv"]
    return model, merged


def test_merged_branches_are_certified_and_run(tmp_path: Path) -> None:
    model, merged = summed()
    static = judged(model, merged, tmp_path)
    assert static.certificate.verdict is static.frame.verdict is Outcome.VALID, static
    assert static.certificate.k <= 1
    comparison = bnfold.verify(model, merged)
    assert comparison.equal
    assert [fold.node for fold in comparison.folds] == ["three"]


def test_the_trained_repvgg_is_certified_when_merged(tmp_path: Path) -> None:
    model = onnx.load(SAMPLES / "digits_repvgg.onnx")
    static = judged(model, bnfold.fold(model, options=MERGE).model, tmp_path)
    assert static.certificate.verdict is static.frame.verdict is Outcome.VALID, static


@pytest.mark.parametrize(
    "change",
    [
        weight(put((0, 0, 0, 0), ulps(2))),
        weight(put((2, 2, 1, 1), lambda v: v + 1)),  # the branch that is x itself
        weight(put((3, 1, 1, 1), lambda v: -v)),
        bias(put(2, ulps(2))),
        bias(swap),
        attribute("pads", [0, 0, 2, 2]),
        attribute("dilations", [2, 2]),
    ],
)
def test_a_spoiled_merge_is_not_certified(
    change: Callable[[ModelProto, str, str], None], tmp_path: Path
) -> None:
    model, merged = summed()
    change(merged, merged.graph.node[0].input[1], merged.graph.node[0].input[2])
    static = judged(model, merged, tmp_path)
    assert static.certificate.verdict is not Outcome.VALID, static


def test_a_padding_value_that_was_moved_is_certified(tmp_path: Path) -> None:
    text = """g (float[1,3,8,8] x) => (float[1,4,10,10] y) {
      c = Conv (x, w)
      d = Pad (c, pads, value)
      y = BatchNormalization (d, s, b, m, v)
    }"""
    same = {
        key: np.full(4, value, np.float32) for key, value in zip("sbmv", (3, 2, 1, 5), strict=True)
    }
    pads = np.array([0, 0, 1, 1, 0, 0, 1, 1])
    model = parse(text, w=real(4, 3, 1, 1), pads=pads, value=np.array(0.7, np.float32), **same)
    folded = bnfold.fold(model).model
    assert [node.op_type for node in folded.graph.node] == ["Conv", "Pad"]
    static = judged(model, folded, tmp_path)
    assert static.certificate.verdict is static.frame.verdict is Outcome.VALID, static
    name = folded.graph.node[1].input[2]
    replace(folded, name, values_of(folded, name) * np.float32(1.001))
    assert judged(model, folded, tmp_path).certificate.verdict is not Outcome.VALID


def test_the_value_of_an_old_pad_may_not_change_by_itself(tmp_path: Path) -> None:
    text = """g (float[1,3,8,8] x) => (float[1,4,10,10] y) {
      d = Pad <mode = "constant", pads = [0,0,1,1,0,0,1,1], value = 0.5> (x)
      c = Conv (d, w)
      y = BatchNormalization (c, s, b, m, v)
    }"""
    model = parse(text, 9, 8, w=real(4, 3, 1, 1), **norm(4))
    folded = bnfold.fold(model).model
    assert judged(model, folded, tmp_path).certificate.verdict is Outcome.VALID
    (value,) = (a for a in folded.graph.node[0].attribute if a.name == "value")
    value.f = 0.25
    assert judged(model, folded, tmp_path).certificate.verdict is not Outcome.VALID


def test_a_max_may_not_make_its_result_larger(tmp_path: Path) -> None:
    text = RAISED.replace("[1,3,8,8]", "[1,3,1,8]").replace("[1,5,8,8]", "[1,5,1,8]")
    model = parse(text, w=real(4, 3, 1, 1), w2=real(5, 4, 3, 3, seed=1), **norm(4))
    folded = bnfold.fold(model, options=bnfold.Options(allow_max=True)).model
    assert judged(model, folded, tmp_path).certificate.verdict is Outcome.VALID
    (tensor,) = (t for t in folded.graph.initializer if t.name == folded.graph.node[1].input[1])
    wide = np.broadcast_to(numpy_helper.to_array(tensor).reshape(4, 1, 1), (4, 6, 1)).copy()
    tensor.CopyFrom(numpy_helper.from_array(wide, tensor.name))
    assert judged(model, folded, tmp_path).certificate.verdict is not Outcome.VALID


def test_a_bias_may_not_be_made_of_wider_steps(tmp_path: Path) -> None:
    model = quantised()
    wrong = bnfold.fold(model).model
    for name, factor in (("qb", 0.01), ("kb", 100)):
        tensor = tensor_like(wrong, name)
        values = numpy_helper.to_array(tensor)
        changed = np.rint(values * factor).astype(values.dtype) if name == "qb" else values * factor
        tensor.CopyFrom(numpy_helper.from_array(changed.astype(values.dtype), tensor.name))
    assert judged(model, wrong, tmp_path).certificate.verdict is Outcome.INVALID
