"""DeformConv, and onnxruntime's own FusedConv and FusedGemm: what differs from the plain ones."""

from __future__ import annotations

import numpy as np
import pytest
from onnx import ModelProto, helper, numpy_helper

import bnfold
from bnfold.proof.kernel.outcome import Outcome
from bnfold.steps import from_json
from tests.folding.rules.test_rules import positive, scale_only
from tests.proving import judged
from tests.support import Array, bn, kept, numbers, parse

DEFORM = """
g (float[1,4,6,6] x, float[1,18,4,4] offset, float[1,9,4,4] mask) => (float[1,3,4,4] y) {{
  {body}
}}"""


def deform(body: str, **tensors: Array) -> ModelProto:
    return parse(DEFORM.format(body=body), 19, 9, **tensors)


def same_up_to_rounding(model: ModelProto) -> None:
    result = bnfold.fold(model)
    assert "BatchNormalization" not in [n.op_type for n in result.model.graph.node]
    assert bnfold.verify(model, result.model).equal


@pytest.mark.parametrize("slots", ["x, w, offset", "x, w, offset, d", "x, w, offset, d, mask"])
def test_a_deform_conv_takes_what_stands_behind_it(slots: str) -> None:
    model = deform(
        f"""[deform] c = DeformConv ({slots})
        [norm] y = BatchNormalization <epsilon = 0.0> (c, s, b, m, v)""",
        w=numbers(3, 4, 3, 3), d=numbers(3), **bn(3),
    )  # fmt: skip
    same_up_to_rounding(model)


BEFORE = """
[norm] c = BatchNormalization <epsilon = 0.0> (x, s, b, m, v)
[deform] y = DeformConv (c, w, offset)"""


def test_a_scale_before_a_deform_conv_goes_into_it() -> None:
    same_up_to_rounding(
        deform(BEFORE, w=numbers(3, 4, 3, 3), **scale_only(4, negative=True))
    )  # fmt: skip


def test_a_shift_before_it_stays_as_it_reads_zeros_beyond_the_border() -> None:
    model = deform(BEFORE, w=numbers(3, 4, 3, 3), **positive(4))
    result = bnfold.fold(model)
    assert [node.op_type for node in result.model.graph.node] == ["Add", "DeformConv"]


def test_where_a_deform_conv_reads_is_no_data_of_it() -> None:
    model = deform(
        """[norm] c = BatchNormalization <epsilon = 0.0> (offset, s, b, m, v)
        [deform] y = DeformConv (x, w, c)""",
        w=numbers(3, 4, 3, 3), **bn(18),
    )  # fmt: skip
    assert kept(model).below.reason.code == "run-time-weight"  # type: ignore[union-attr]


# --- fused ----------------------------------------------------------------------------------------


def fused(model: ModelProto, name: str, **attributes: object) -> ModelProto:
    """The node of that name as onnxruntime's own, with what is fused into it."""
    (node,) = (n for n in model.graph.node if n.name == name)
    node.op_type, node.domain = f"Fused{node.op_type}", "com.microsoft"
    node.attribute.extend(helper.make_attribute(k, v) for k, v in attributes.items())
    model.opset_import.append(helper.make_opsetid("com.microsoft", 1))
    return model


CONV_NORM = """
g (float[1,4,6,6] x) => (float[1,3,4,4] y) {
  [lin] c = Conv (x, w, d)
  [norm] y = BatchNormalization <epsilon = 0.0> (c, s, b, m, v)
}"""
NORM_CONV = """
g (float[1,4,6,6] x) => (float[1,3,4,4] y) {
  [norm] c = BatchNormalization <epsilon = 0.0> (x, s, b, m, v)
  [lin] y = Conv (c, w, d)
}"""
GEMM_NORM = """
g (float[2,4] x) => (float[2,3] y) {
  [lin] c = Gemm <transB = 1> (x, w, d)
  [norm] y = BatchNormalization <epsilon = 0.0> (c, s, b, m, v)
}"""
CONV = {"w": numbers(3, 4, 3, 3), "d": numbers(3)}
GEMM = {"w": numbers(3, 4), "d": numbers(3)}


def ops(model: ModelProto) -> list[str]:
    result = bnfold.fold(model)
    if result.folded:
        assert bnfold.verify(model, result.model).equal
    return [node.op_type for node in result.model.graph.node]


@pytest.mark.parametrize("activation", ["Relu", "LeakyRelu"])
@pytest.mark.parametrize(("text", "weights"), [(CONV_NORM, CONV), (GEMM_NORM, GEMM)])
def test_only_a_positive_scale_passes_the_activation(
    text: str, weights: dict[str, Array], activation: str
) -> None:
    more = {"activation": activation}
    if activation == "LeakyRelu":
        name = "activation_alpha" if text is GEMM_NORM else "activation_params"
        more[name] = 0.5 if text is GEMM_NORM else [0.5]  # type: ignore[assignment]
    assert len(ops(fused(parse(text, **weights, **scale_only(3)), "lin", **more))) == 1
    assert ops(fused(parse(text, **weights, **positive(3)), "lin", **more))[1:] == ["Add"]
    negative = scale_only(3, negative=True)
    assert ops(fused(parse(text, **weights, **negative), "lin", **more))[1:] == [
        "BatchNormalization"
    ]


@pytest.mark.parametrize("activation", ["Tanh", "Sigmoid"])
def test_no_map_passes_another_activation(activation: str) -> None:
    model = fused(parse(CONV_NORM, **CONV, **scale_only(3)), "lin", activation=activation)
    assert kept(model, check=False).refusal.reason.code == "not-transparent"  # type: ignore[union-attr]


@pytest.mark.parametrize("activation", ["Relu", "Tanh"])
def test_what_stands_before_a_fused_conv_needs_not_pass_its_activation(activation: str) -> None:
    model = fused(parse(NORM_CONV, **CONV, **bn(4)), "lin", activation=activation)
    assert ops(model) == ["FusedConv"]


def test_a_fused_conv_that_adds_a_value_takes_nothing_from_behind() -> None:
    text = CONV_NORM.replace("float[1,4,6,6] x)", "float[1,4,6,6] x, float[1,3,4,4] z)")
    model = fused(parse(text, **CONV, **bn(3)), "lin")
    model.graph.node[0].input.append("z")
    assert kept(model, check=False).refusal.reason.code == "not-transparent"  # type: ignore[union-attr]


def test_the_proof_knows_what_an_activation_lets_pass() -> None:
    model = fused(parse(CONV_NORM, **CONV, **bn(3)), "lin")
    result = bnfold.fold(model)
    proof = from_json(result.proof.encode())
    assert judged(model, result.model, proof).valid
    for one in (model, result.model):
        one.graph.node[0].attribute.append(helper.make_attribute("activation", "Relu"))
    assert judged(model, result.model, proof).certificate.verdict is Outcome.INVALID
    for one in (model, result.model):
        one.graph.node[0].attribute[0].s = b"Tanh"
    assert judged(model, result.model, proof).certificate.verdict is Outcome.UNDECIDED


def test_a_fused_gemm_gets_a_c_but_keeps_its_operator() -> None:
    weights = {"w": numbers(3, 4)}
    model = fused(parse(GEMM_NORM.replace(", d)", ")"), **weights, **bn(3)), "lin")
    result = bnfold.fold(model)
    (node,) = result.model.graph.node
    assert (node.op_type, node.domain, len(node.input)) == ("FusedGemm", "com.microsoft", 3)
    beta = fused(parse(GEMM_NORM, **GEMM, **bn(3)), "lin", beta=0.0)
    assert np.all([v.site == "norm" for v in bnfold.fold(beta).verdicts])


def test_an_operator_of_that_name_that_the_model_defines_is_another() -> None:
    model = fused(parse(CONV_NORM, **CONV, **bn(3)), "lin")
    result = bnfold.fold(model)
    for one in (model, result.model):
        inner = helper.make_node("Conv", ["x", "w", "d"], ["c"])
        minus = helper.make_node("Abs", ["c"], ["y"])
        one.functions.append(
            helper.make_function(
                "com.microsoft", "FusedConv", ["x", "w", "d"], ["y"], [inner, minus],
                [helper.make_opsetid("", 17)],
            )
        )  # fmt: skip
    found = judged(model, result.model, from_json(result.proof.encode()))
    assert found.certificate.verdict is Outcome.INVALID


def test_the_step_of_its_offsets_is_no_tolerance_for_its_bias() -> None:
    """A bias of 32-bit integers may be half a step off; a DeformConv has offsets in that slot."""
    text = """
    g (float[1,4,6,6] x) => (float[1,3,4,4] y) {
      offset = DequantizeLinear (q, step)
      [deform] c = DeformConv (x, w, offset, d)
      [norm] y = BatchNormalization <epsilon = 0.0> (c, s, b, m, v)
    }"""
    zeros, step = np.zeros((1, 18, 4, 4), np.int32), np.array(50, np.float32)
    up_to_scale = bn(3) | {"s": np.array([2, 3, 4], np.float32), "v": np.ones(3, np.float32)}
    model = parse(text, 19, 9, w=numbers(3, 4, 3, 3), d=numbers(3), q=zeros, step=step,
                  **up_to_scale)  # fmt: skip
    result = bnfold.fold(model)
    proof = from_json(result.proof.encode())
    assert judged(model, result.model, proof).valid
    for tensor in result.model.graph.initializer:
        if tensor.name == result.model.graph.node[-1].input[3]:
            array = numpy_helper.to_array(tensor) + np.float32(20)
            tensor.CopyFrom(numpy_helper.from_array(array, tensor.name))
    assert judged(model, result.model, proof).certificate.verdict is Outcome.INVALID
