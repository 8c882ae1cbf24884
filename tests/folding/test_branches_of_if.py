"""A map behind an If goes up into both of its branches, or stays."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx import ModelProto

import bnfold
from bnfold.proof.kernel.outcome import Outcome
from bnfold.steps import from_json
from tests.proving import judged
from tests.support import bn, folded, numbers, parse

CONV = "[one] p = Conv (x, w)"
OTHER = "[two] q = Conv <pads = [1,1,1,1]> (x, k)"


def choice(then: str = CONV, other: str = OTHER, more: str = "", outputs: str = "") -> ModelProto:
    text = f"""
    g (float[2,3,6,6] x, bool c) => (float[2,4,6,6] y{outputs}) {{
      [if] h = If (c) <
        then_branch = t () => (float[2,4,6,6] p) {{ {then} }},
        else_branch = e () => (float[2,4,6,6] q) {{ {other} }}>
      [norm] y = BatchNormalization <epsilon = 0.0> (h, s, b, m, v)
      {more}
    }}"""
    return parse(text, w=numbers(4, 3, 1, 1), k=numbers(4, 3, 3, 3), **bn(4))


def test_both_branches_take_it() -> None:
    result = folded(choice())
    assert result.ops == ["If"]
    assert result.result.folded[0].into == ("one", "two")


def test_an_if_within_an_if() -> None:
    inner = f"""[inner] p = If (c) <
        then_branch = t2 () => (float[2,4,6,6] r) {{ [three] r = Conv (x, w) }},
        else_branch = e2 () => (float[2,4,6,6] u) {{ {OTHER.replace("q", "u")} }}>"""
    assert folded(choice(then=inner)).ops == ["If"]


@pytest.mark.parametrize(
    "then",
    [
        "[one] r = Conv (x, w) [relu] p = Sigmoid (r)",  # lets nothing pass
        "[one] p = Identity (z)",  # of a value around it
    ],
)
def test_a_branch_that_cannot_take_it(then: str) -> None:
    model = choice(then=then)
    if "(z)" in then:
        model.graph.node.insert(
            0, parse("g (float[2,3,6,6] x) => (float[2,4,6,6] z) { z = Conv (x, w) }").graph.node[0]
        )
    (verdict,) = bnfold.fold(model).verdicts
    assert not verdict.folded


def test_another_reader_of_what_the_if_gives() -> None:
    model = choice(more="[other] z = Exp (h)", outputs=", float[2,4,6,6] z")
    assert not bnfold.fold(model).folded


def test_a_value_that_the_branch_reads_itself() -> None:
    then = "[one] r = Conv (x, w) [exp] o = Exp (r) [relu] p = Relu (r)"
    assert not bnfold.fold(choice(then=then)).folded


def test_branches_that_differ_are_not_proven() -> None:
    model = choice()
    result = bnfold.fold(model)
    proof = from_json(result.proof.encode())
    other = ModelProto()
    other.CopyFrom(result.model)
    for tensor, was in zip(other.graph.initializer, model.graph.initializer, strict=False):
        if tensor.name == "w":  # one branch has its old weights
            tensor.CopyFrom(was)
    assert judged(model, other, proof).certificate.verdict is Outcome.INVALID


def test_a_proof_that_leaves_one_branch_out_is_no_proof() -> None:
    model = choice()
    result = bnfold.fold(model)
    proof = from_json(result.proof.encode())
    for left in proof.carried:
        fewer = type(proof)(
            gone=proof.gone, carried=tuple(c for c in proof.carried if c is not left)
        )
        assert judged(model, result.model, fewer).certificate.verdict is not Outcome.VALID


def test_what_a_loop_gives_stays() -> None:
    text = """
    g (float[2,4,6,6] x, int64 n, bool k) => (float[2,4,6,6] y) {
      [loop] h = Loop (n, k, x) <body = b (int64 i, bool d, float[2,4,6,6] f) => (bool d, float[2,4,6,6] r) {
        [one] r = Conv (f, w) }>
      [norm] y = BatchNormalization <epsilon = 0.0> (h, s, b, m, v)
    }"""  # noqa: E501
    model = parse(text, w=numbers(4, 4, 1, 1), **bn(4))
    (verdict,) = bnfold.fold(model).verdicts
    assert not verdict.folded


@pytest.mark.parametrize(
    "rest", ["r = BatchNormalization <epsilon = 0.0> (o, s, b, m, v)", "r = Mul (o, one)"]
)
def test_a_site_in_a_branch_that_has_gone_before(rest: str) -> None:
    then = f"[one] o = Conv (x, w) [inner] {rest.replace('r =', 'p =')}"
    model = choice(then=then)
    if "one)" in rest:
        ones = np.ones(1, np.float32)
        model.graph.initializer.append(onnx.numpy_helper.from_array(ones, "one"))
    assert folded(model).ops == ["If"]


def test_what_stands_behind_an_if_knows_its_shape() -> None:
    model = choice(more="[scale] u = Mul (y, k2) [flat] f = Flatten (u) [gemm] z = Gemm (f, g2)",
                   outputs=", float[2,3] z")  # fmt: skip
    for name, array in (("k2", numbers(4, 1, 1)), ("g2", numbers(144, 3))):
        model.graph.initializer.append(onnx.numpy_helper.from_array(array, name))
    del model.graph.output[0]
    assert folded(model).ops == ["If", "Flatten", "Gemm"]
