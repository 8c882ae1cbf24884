"""Maps that no node makes, put between layers: what the kernel believes of them, and what not."""

from __future__ import annotations

import numpy as np
import pytest
from onnx import ModelProto, numpy_helper

from bnfold.proof.kernel.outcome import Outcome
from bnfold.steps import Carried, Factors, Inverse, Proof, Ref, from_json, to_json
from tests.proving import judged
from tests.support import Array, numbers, parse

C = 4
S = np.array([0.5, 2.0, 1.0, 8.0])
FIRST, SECOND = numbers(C, 3, 1, 1), numbers(2, C, 1, 1)
TEXT = "g (float[1,3,4,4] x) => (float y) { c = Conv (x, a, d) r = Relu (c) y = Conv (r, b) }"


def model(a: Array, d: Array, b: Array) -> ModelProto:
    return parse(TEXT, a=a.astype("f"), d=d.astype("f"), b=b.astype("f"))


ORIGINAL = model(FIRST, numbers(C), SECOND)


def scaled(s: Array, undone: Array | None = None) -> ModelProto:
    back = s if undone is None else undone
    return model(
        FIRST / s.reshape(C, 1, 1, 1), numbers(C) / s, SECOND * back.reshape(1, C, 1, 1)
    )  # fmt: skip


def proof(s: Array, *, relu: bool = True) -> Proof:
    """c and r are s·(what they are now)."""
    factors = Factors(tuple(s.tolist()), 1)
    values = [Carried(Ref(0, 0), factors), Carried(Ref(0, 2))]
    return Proof(carried=tuple(values if relu else values[1:]))


def test_a_scale_that_is_undone_behind_is_the_same_model() -> None:
    judgement = judged(ORIGINAL, scaled(S), from_json(to_json(proof(S))))
    assert judgement.valid
    assert judgement.certificate.k == 1


@pytest.mark.parametrize(("folded", "said"), [
    (scaled(S, np.array([0.5, 2.0, 1.0, 4.0])), S),  # one channel is not undone
    (scaled(S, np.ones(C)), S),
    (scaled(S), np.array([0.5, 2.0, 1.0, 4.0])),  # the proof says another factor
    (scaled(np.array([0.5, 2.0, -1.0, 8.0])), np.array([0.5, 2.0, -1.0, 8.0])),  # through a Relu
    (scaled(S * (1 + 2.0**-20)), S),  # a little more than it says
    (scaled(S), S[:3]),  # of fewer channels
])  # fmt: skip
def test_a_scale_that_is_not_undone_is_not_valid(folded: ModelProto, said: Array) -> None:
    assert not judged(ORIGINAL, folded, proof(said)).valid


@pytest.mark.parametrize("value", [0.0, np.inf, np.nan])
def test_factors_that_cannot_be_undone_are_none(value: float) -> None:
    said = S.copy()
    said[1] = value
    judgement = judged(ORIGINAL, ORIGINAL, proof(said))
    assert not judgement.valid


def test_factors_along_an_axis_that_is_not_there_are_none() -> None:
    for axis in (-1, 7):
        said = Proof(carried=(Carried(Ref(0, 0), Factors(tuple(S.tolist()), axis)),))
        assert not judged(ORIGINAL, scaled(S), said).valid


def test_factors_and_their_inverse_are_nothing() -> None:
    factors = Factors(tuple(S.tolist()), 1)
    said = Proof(carried=(Carried(Ref(0, 0), factors, factors),))
    assert judged(ORIGINAL, ORIGINAL, said).valid
    said = Proof(carried=(Carried(Ref(0, 0), Inverse(factors)), Carried(Ref(0, 2))))
    assert judged(ORIGINAL, scaled(1 / S), said).valid


def test_a_weight_that_overflows_is_no_scale() -> None:
    huge = np.array([2.0**-130, 1, 1, 1])
    with np.errstate(over="ignore"):
        judgement = judged(ORIGINAL, scaled(huge), proof(huge))
    assert judgement.certificate.verdict is not Outcome.VALID


def test_what_is_scaled_and_rounded_wrongly_is_named() -> None:
    folded = scaled(S)
    weight = numpy_helper.to_array(folded.graph.initializer[0]).copy()
    weight[2, 1] *= 1 + 1e-5
    folded.graph.initializer[0].CopyFrom(numpy_helper.from_array(weight, "a"))
    judgement = judged(ORIGINAL, folded, proof(S))
    assert judgement.certificate.verdict is Outcome.INVALID
    assert "a[2, 1, 0, 0]" in judgement.certificate.findings[0].sentence
