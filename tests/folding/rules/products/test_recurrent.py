"""A BatchNormalization before an LSTM, GRU or RNN goes into its input weights."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx import ModelProto, numpy_helper

import bnfold
from bnfold.onnx_io.tensor_storage import Storage
from bnfold.proof.kernel.outcome import Outcome
from bnfold.steps import from_json
from tests.proving import judged
from tests.support import Array, bn, initializer, numbers, parse, reason

HIDDEN, CHANNELS = 5, 6
GATES = {"GRU": 3, "LSTM": 4, "RNN": 1}


def before_recurrent(
    op: str, direction: str = "forward", *, bias: bool = True, perm: str = "2,0,1", more: str = ""
) -> ModelProto:
    """[batch, channels, steps], normalised and turned to [steps, batch, channels]."""
    directions = 2 if direction == "bidirectional" else 1
    rows = GATES[op] * HIDDEN
    given: dict[str, Array] = {
        "w": numbers(directions, rows, CHANNELS), "r": numbers(directions, rows, HIDDEN, seed=1),
    }  # fmt: skip
    if bias:
        given["b0"] = numbers(directions, 2 * rows, seed=2)
    text = f"""g (float[2,{CHANNELS},7] x) => (float y, float last) {{
      a = Relu (x)
      [norm] n = BatchNormalization (a, s, b, m, v)
      t = Transpose <perm = [{perm}]> (n)
      [rnn] y, last = {op} <hidden_size = {HIDDEN}, direction = "{direction}"{more}>
        (t, w, r{", b0" if bias else ""})
    }}"""
    return parse(text, **given, **bn(CHANNELS))


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("direction", ["forward", "reverse", "bidirectional"])
@pytest.mark.parametrize("op", GATES)
def test_input_weights_take_the_map_in_every_gate_and_direction(
    op: str, direction: str, bias: bool
) -> None:
    model = before_recurrent(op, direction, bias=bias)
    result = bnfold.fold(model)
    assert [verdict.into for verdict in result.folded] == [("rnn",)]
    assert [n.op_type for n in result.model.graph.node] == ["Relu", "Transpose", op]
    assert bnfold.verify(model, result.model, level="run").equal


def test_a_gru_that_resets_after_the_product_has_two_biases() -> None:
    model = before_recurrent("GRU", more=", linear_before_reset = 1")
    result = bnfold.fold(model)
    assert len(result.folded) == 1
    assert bnfold.verify(model, result.model, level="run").equal
    half = GATES["GRU"] * HIDDEN
    before, after = (initializer(m, "b0") for m in (model, result.model))
    np.testing.assert_array_equal(before[:, half:], after[:, half:])


def test_a_map_along_the_steps_does_not_go_in() -> None:
    text = f"""g (float[7,{CHANNELS},3] x) => (float y) {{
      a = Relu (x)
      [norm] n = BatchNormalization (a, s, b, m, v)
      t = Transpose <perm = [1,0,2]> (n)
      y = RNN <hidden_size = {HIDDEN}> (t, w, r)
    }}"""
    model = parse(text, w=numbers(1, HIDDEN, 3), r=numbers(1, HIDDEN, HIDDEN), **bn(CHANNELS))
    (kept,) = bnfold.fold(model).kept
    assert kept.below is not None
    assert kept.below.reason.code == "channel-axis"


def test_weights_that_callers_give_do_not_take_it() -> None:
    model = before_recurrent("LSTM")
    shape = onnx.helper.make_tensor_value_info("w", onnx.TensorProto.FLOAT, [1, 20, CHANNELS])
    model.graph.input.append(shape)
    (kept,) = bnfold.fold(model).kept
    assert kept.below is not None
    assert kept.below.reason.code == "overridable-input"
    assert len(bnfold.fold(model, options=bnfold.Options(freeze_initializers=True)).folded) == 1


def test_a_state_that_is_normalised_does_not_take_it() -> None:
    text = f"""g (float[7,2,{CHANNELS}] x, float[1,2,{HIDDEN}] h) => (float y) {{
      a = Relu (h)
      n = Mul (a, k)
      y = RNN <hidden_size = {HIDDEN}> (x, w, r, , , n)
    }}"""
    given = {"w": numbers(1, HIDDEN, CHANNELS), "r": numbers(1, HIDDEN, HIDDEN)}
    assert reason(parse(text, k=-numbers(HIDDEN), **given), check=False) == "negative-scale"


@pytest.mark.parametrize("name", ["w", "b0", "recurrent"])
def test_a_spoiled_constant_is_found(name: str) -> None:
    model = before_recurrent("LSTM")
    result = bnfold.fold(model)
    tensor = "b0" if name == "recurrent" else name
    values = initializer(result.model, tensor).copy()
    place = -1 if name == "recurrent" else 0
    values.reshape(-1)[place] += 2e-6 * max(1.0, abs(values.reshape(-1)[place]))
    for stored in result.model.graph.initializer:
        if stored.name == tensor:
            stored.CopyFrom(numpy_helper.from_array(values, tensor))
    found = judged(model, result.model, from_json(result.proof.encode()), Storage())
    assert found.certificate.verdict is Outcome.INVALID


@pytest.mark.parametrize("shape", [(20, CHANNELS), (1, 20, CHANNELS, 1)])
def test_weights_of_another_rank_do_not_take_it(shape: tuple[int, ...]) -> None:
    model = before_recurrent("LSTM")
    for stored in model.graph.initializer:
        if stored.name == "w":
            stored.CopyFrom(numpy_helper.from_array(numbers(*shape), "w"))
    (kept,) = bnfold.fold(model).kept
    assert kept.below is not None
    assert kept.below.reason.code == "shape-mismatch"


def test_a_bias_of_another_shape_does_not_take_it() -> None:
    model = before_recurrent("LSTM")
    for stored in model.graph.initializer:
        if stored.name == "b0":
            stored.CopyFrom(numpy_helper.from_array(numbers(1, 20), "b0"))
    (kept,) = bnfold.fold(model).kept
    assert kept.below is not None
    assert kept.below.reason.code == "shape-mismatch"


def test_quantised_weights_do_not_take_it() -> None:
    model = before_recurrent("LSTM")
    integers = np.arange(-60, 60, dtype=np.int8).reshape(1, 20, CHANNELS)
    for stored in model.graph.initializer:
        if stored.name == "w":
            stored.CopyFrom(numpy_helper.from_array(integers, "q"))
    scale = numpy_helper.from_array(np.array(0.1, np.float32), "k")
    model.graph.initializer.append(scale)
    model.graph.node.insert(0, onnx.helper.make_node("DequantizeLinear", ["q", "k"], ["w"]))
    assert not bnfold.fold(model).folded


def test_what_has_an_unknown_shape_does_not_go_in() -> None:
    text = f"""g (float x) => (float y) {{
      a = Relu (x)
      n = Mul (a, k)
      y = RNN <hidden_size = {HIDDEN}> (n, w, r)
    }}"""
    given = {"w": numbers(1, HIDDEN, CHANNELS), "r": numbers(1, HIDDEN, HIDDEN)}
    (kept,) = bnfold.fold(parse(text, k=np.array(-2, np.float32), **given)).kept
    assert kept.below is not None
    assert kept.below.reason.code == "unknown-rank"


def test_a_quantised_bias_does_not_take_it() -> None:
    model = before_recurrent("RNN")
    integers = np.arange(2 * HIDDEN, dtype=np.int32).reshape(1, 2 * HIDDEN)
    for stored in model.graph.initializer:
        if stored.name == "b0":
            stored.CopyFrom(numpy_helper.from_array(integers, "q"))
    model.graph.initializer.append(numpy_helper.from_array(np.array(0.1, np.float32), "k"))
    model.graph.node.insert(0, onnx.helper.make_node("DequantizeLinear", ["q", "k"], ["b0"]))
    (node,) = (n for n in bnfold.fold(model).model.graph.node if n.name == "norm")
    assert node.op_type == "Add", "the shift stays"
