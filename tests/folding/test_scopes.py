"""Bodies of If, Loop and Scan, local functions, IR version 3, and whose constant is whose."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx import ModelProto, helper

import bnfold
from bnfold.steps import from_json
from tests.support import assert_same_outputs, bn, folded, numbers, parse, reason

IF_BODY = """
g (bool cond, float[1,2,4,4] x) => (float[1,3,2,2] y) {
  [choice] y = If (cond) <
    then_branch = t () => (float[1,3,2,2] p) {
      [conv1] c = Conv (x, w)
      [norm1] p = BatchNormalization <epsilon = 0.0> (c, s, b, m, v)
    },
    else_branch = e () => (float[1,3,2,2] q) {
      [conv2] c2 = Conv (x, w)
      [norm2] q = BatchNormalization <epsilon = 0.0> (c2, s2, b2, m2, v2)
    }
  >
}"""


def two_branches() -> ModelProto:
    other = {f"{k}2": v for k, v in bn(3, seed=5).items()}
    return parse(IF_BODY, w=numbers(3, 2, 3, 3), **bn(3), **other)


def test_both_branches_fold_and_share_no_weight_afterwards() -> None:
    result = folded(two_branches())
    then_branch, else_branch = (a.g for a in result.model.graph.node[0].attribute)
    assert [v.scope for v in result.result.verdicts] == ["choice.then_branch", "choice.else_branch"]
    weights = {then_branch.node[0].input[1], else_branch.node[0].input[1]}
    assert len(weights) == 2


def test_the_parameters_that_only_a_body_read_are_gone_from_the_outer_graph() -> None:
    result = folded(two_branches())
    assert {t.name for t in result.model.graph.initializer} <= {"w"}


def test_constants_inside_a_body() -> None:
    text = """
    g (bool cond, float[1,2,4,4] x) => (float[1,2,4,4] y) {
      y = If (cond) <
        then_branch = t () => (float[1,2,4,4] p)
          <float[2,2,1,1] w = {1, 2, 3, 4}, float[2] s = {1, 2}, float[2] b = {3, 4},
           float[2] m = {5, 6}, float[2] v = {1, 4}> {
          [conv] c = Conv (x, w)
          [norm] p = BatchNormalization <epsilon = 0.0> (c, s, b, m, v)
        },
        else_branch = e () => (float[1,2,4,4] q) { q = Identity (x) }
      >
    }"""
    body = folded(parse(text)).model.graph.node[0].attribute[0].g
    assert {t.name for t in body.initializer} == {"w", "w_bias"}


LOOP = """
g (int64 trips, bool cond, float[1,2,4,4] x) => (float[1,2,4,4] y) {
  [loop] y = Loop (trips, cond, x) <
    body = b1 (int64 i, bool ci, float[1,2,4,4] h) => (bool co, float[1,2,4,4] p) {
      co = Identity (ci)
      [conv] c = Conv (h, w)
      [norm] p = BatchNormalization <epsilon = 0.0> (c, s, b, m, v)
    }
  >
}"""


def test_the_body_of_a_loop() -> None:
    folded(parse(LOOP, w=numbers(2, 2, 1, 1), **bn(2)))


def test_a_value_that_the_loop_carries_is_no_constant() -> None:
    text = LOOP.replace("Conv (h, w)", "Conv (h, h)")
    assert reason(parse(text, **bn(2))) == "computed-at-run-time"


def test_a_loop_inside_a_branch() -> None:
    inner = LOOP[LOOP.index("[loop]") : LOOP.rindex("}")]
    text = f"""
    g (int64 trips, bool cond, float[1,2,4,4] x) => (float[1,2,4,4] z) {{
      [choice] z = If (cond) <
        then_branch = t () => (float[1,2,4,4] y) {{ {inner} }},
        else_branch = e () => (float[1,2,4,4] q) {{ q = Identity (x) }}
      >
    }}"""
    result = folded(parse(text, w=numbers(2, 2, 1, 1), **bn(2)))
    assert result.result.verdicts[0].scope == "choice.then_branch/loop.body"


def test_the_body_of_a_scan() -> None:
    text = """
    g (float[3,1,2,4,4] x) => (float[3,1,2,4,4] y) {
      y = Scan <num_scan_inputs = 1, body = b1 (float[1,2,4,4] h) => (float[1,2,4,4] p) {
        [conv] c = Conv (h, w)
        [norm] p = BatchNormalization <epsilon = 0.0> (c, s, b, m, v)
      }> (x)
    }"""
    folded(parse(text, w=numbers(2, 2, 1, 1), **bn(2)))


# --- local functions ----------------------------------------------------------------------------

FUNCTION = """
<ir_version: 8, opset_import: ["": 17, "own": 1]>
g (float[1,2,4,4] x) => (float[1,2,4,4] z) {
  y = own.Block ATTRIBUTES (x)
  z = own.Block ATTRIBUTES (y)
}
<domain: "own", opset_import: ["": 17]>
Block PARAMETERS (x) => (y) {
  w = Constant <value = float[2,2,1,1] {1, 2, 3, 4}> ()
  s = Constant <value_floats = [1.0, 2.0]> ()
  b = Constant <value_floats = [3.0, 4.0]> ()
  m = Constant <value_floats = [5.0, 6.0]> ()
  v = Constant <value_floats = [1.0, 4.0]> ()
  r0 = Identity (x)
  LONG
  [conv] c = Conv (r0, w)
  [norm] y = BatchNormalization <EPSILON> (c, s, b, m, v)
}"""


def function(
    parameters: str = "", attributes: str = "", epsilon: str = "epsilon = 0.0", long: str = ""
) -> str:
    return (
        FUNCTION.replace("PARAMETERS", parameters)
        .replace("ATTRIBUTES", attributes)
        .replace("EPSILON", epsilon)
        .replace("LONG", long)
    )


# so long that two calls written out would be more nodes than the function and its calls
LONG = "\n".join(f"r{i + 1} = Relu (r{i})" for i in range(12)).replace("r12 =", "q =")


def test_a_function_with_its_constants_inside_folds_once_for_all_calls() -> None:
    result = folded(parse(function()))
    assert result.result.verdicts[0].scope == "function own::Block"
    (body,) = result.model.functions
    assert [node.op_type for node in body.node] == ["Constant", "Identity", "Constant", "Conv"]


def test_an_attribute_that_comes_from_the_call() -> None:
    text = function("<eps>", "<eps = 1.0>", "epsilon : float = @eps", LONG)
    assert reason(parse(text)) == "attribute-from-call"


def test_a_conv_whose_attribute_comes_from_the_call() -> None:
    text = function("<count>", "<count = 1>", long=LONG).replace(
        "Conv (r0, w)", "Conv <group : int = @count> (r0, w)"
    )
    assert reason(parse(text)) == "attribute-from-call"


ARGUMENTS = """
<ir_version: 8, opset_import: ["": 17, "own": 1]>
g (float[1,2,4,4] x) => (float[1,2,4,4] z) {
  [call1] y = own.Block <eps = 0.0> (x, w1, s, b, m, v)
  [call2] z = own.Block <eps = 0.0> (y, w2, s, b, m, v)
}
<domain: "own", opset_import: ["": 17]>
Block <eps> (x, w, s, b, m, v) => (y) {
  [conv] c = Conv (x, w)
  BETWEEN
  [norm] y = BatchNormalization <epsilon : float = @eps> (c, s, b, m, v)
}"""
WEIGHTS = {"w1": numbers(2, 2, 1, 1), "w2": numbers(2, 2, 1, 1, seed=4)}


def test_two_calls_of_a_function_with_weights_of_their_own_both_fold() -> None:
    model = parse(ARGUMENTS.replace("BETWEEN", ""), **WEIGHTS, **bn(2))
    result = bnfold.fold(model)
    assert [node.op_type for node in result.model.graph.node] == ["Conv", "Conv"]
    assert not result.model.functions
    assert_same_outputs(model, result.model)
    assert bnfold.inspect(model).verdicts == result.verdicts


def test_a_function_that_would_make_the_model_longer_is_not_inlined() -> None:
    text = ARGUMENTS.replace("BETWEEN", "e = Relu (c) f = Exp (e) h = Relu (f) i = Exp (h)")
    model = parse(text, **WEIGHTS, **bn(2))
    model.functions[0].node[-1].attribute[0].CopyFrom(helper.make_attribute("epsilon", 0.0))
    assert reason(model, check=False) == "function-argument"


APART = """
<ir_version: 8, opset_import: ["": 17, "own": 1]>
g (float[1,2,4,4] x) => (float[1,2,4,4] z) {
  [call1] c = own.Convolve (x, w1)
  [call2] d = own.Norm <eps = 0.0> (c, s, b, m, v)
  [relu] e = Relu (d)
  [call3] f = own.Convolve (e, w2)
  [call4] z = own.Norm <eps = 0.0> (f, s, b, m, v)
}
<domain: "own", opset_import: ["": 17]>
Convolve (x, w) => (y) { [conv] y = Conv (x, w) }
<domain: "own", opset_import: ["": 17]>
Norm <eps> (x, s, b, m, v) => (y) {
  [norm] y = BatchNormalization <epsilon : float = @eps> (x, s, b, m, v)
}"""


def test_a_convolution_and_a_batch_normalization_in_functions_of_their_own() -> None:
    model = parse(APART, **WEIGHTS, **bn(2))
    result = bnfold.fold(model)
    assert [node.op_type for node in result.model.graph.node] == ["Conv", "Relu", "Conv"]
    assert_same_outputs(model, result.model)
    assert {tuple(name) for name in from_json(result.proof.encode()).inlined} == {
        ("own", "Convolve"), ("own", "Norm")
    }  # fmt: skip


def test_a_function_that_no_norm_stands_beside_stays() -> None:
    text = (
        APART.replace("[relu] e = Relu (d)", "[far] e = own.Far (d)")
        + """
    <domain: "own", opset_import: ["": 17]>
    Far (x) => (y) { [relu] r = Relu (x) [exp] y = Exp (r) }"""
    )
    model = parse(text.replace("own.Far (d)", "own.Far (g)").replace(
        "[far]", "[between] g = Relu (d) [far]"), **WEIGHTS, **bn(2))  # fmt: skip
    ops = [node.op_type for node in bnfold.fold(model).model.graph.node]
    assert "BatchNormalization" not in ops
    assert "Norm" not in ops


def test_functions_that_call_each_other_in_a_circle_are_not_followed() -> None:
    model = parse(
        ARGUMENTS.replace("BETWEEN", "k = own.Block (c, w, s, b, m, v)"), **WEIGHTS, **bn(2)
    )
    assert not bnfold.inspect(model).verdicts[0].folded


def test_a_function_goes_by_its_own_opset() -> None:
    text = function().replace('opset_import: ["": 17]>\nBlock', 'opset_import: ["": 13]>\nBlock')
    model = parse(text)
    model.functions[0].node[-1].output.extend(["", ""])
    model.functions[0].node[-1].output[1] = "mean"
    assert bnfold.fold(model).verdicts[0].refusal is not None


# --- IR version 3: every initializer is listed among the inputs ---------------------------------


def ir3(text: str, **tensors: np.ndarray) -> ModelProto:
    model = parse(text, 8, 3, **tensors)
    model.graph.input.extend(
        helper.make_tensor_value_info(t.name, t.data_type, t.dims) for t in model.graph.initializer
    )
    return model


def test_ir_3_folds_and_a_new_bias_becomes_an_input_too() -> None:
    text = """
    g (float[1,2,4,4] x) => (float[1,3,2,2] y) {
      [conv] c = Conv (x, w)
      [norm] y = BatchNormalization <epsilon = 0.0> (c, s, b, m, v)
    }"""
    result = folded(ir3(text, w=numbers(3, 2, 3, 3), **bn(3)))
    assert [value.name for value in result.model.graph.input] == ["x", "w", "w_bias"]


def test_ir_3_in_a_body_gets_its_bias_from_the_graph_around_it() -> None:
    text = """
    g (bool cond, float[1,2,4,4] x) => (float[1,3,2,2] y) {
      y = If (cond) <
        then_branch = t () => (float[1,3,2,2] p) {
          [conv] c = Conv (x, w)
          [norm] p = BatchNormalization <epsilon = 0.0> (c, s, b, m, v)
        },
        else_branch = e () => (float[1,3,2,2] q) { q = Conv (x, w) }
      >
    }"""
    model = folded(ir3(text, w=numbers(3, 2, 3, 3), **bn(3))).model
    (conv,) = model.graph.node[0].attribute[0].g.node
    assert set(conv.input[1:]) < {value.name for value in model.graph.input}


# --- broken graphs ------------------------------------------------------------------------------


@pytest.mark.parametrize("fault", ["unknown", "twice", "initializer twice", "made initializer"])
def test_a_graph_that_contradicts_itself_is_an_invalid_model(fault: str) -> None:
    model = parse(
        "g (float[2] x) => (float[2] y) { y = Add (x, k) }", k=np.zeros(2, dtype=np.float32)
    )
    if fault == "unknown":
        model.graph.node[0].input[1] = "nowhere"
    elif fault == "twice":
        model.graph.node.append(helper.make_node("Relu", ["x"], ["y"]))
    elif fault == "initializer twice":
        model.graph.initializer.append(model.graph.initializer[0])
    else:
        model.graph.node.append(helper.make_node("Relu", ["x"], ["k"]))
    with pytest.raises(bnfold.ModelError, match="not valid ONNX"):
        bnfold.fold(model)
    with pytest.raises(onnx.checker.ValidationError):
        onnx.checker.check_model(model)
