"""With `rest`, a BatchNormalization that nothing takes becomes Mul and Add, or a convolution."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import ModelProto, numpy_helper

import bnfold
from bnfold import Options
from bnfold.proof.kernel.outcome import Outcome
from bnfold.steps import from_json
from tests.folding.rules.test_rules import positive, scale_only
from tests.proving import judged
from tests.support import Array, bn, invoke, numbers, parse

AFFINE, CONV = Options(rest="affine"), Options(rest="conv")


def alone(shape: str = "2,4,5,5", /, **parameters: Array) -> ModelProto:
    """Between two outputs of its kind, so that neither side can take it."""
    text = f"""
    g (float[{shape}] x) => (float[{shape}] y) {{
      [sigmoid] c = Sigmoid (x)
      [norm] n = BatchNormalization <epsilon = 0.0> (c, s, b, m, v)
      [exp] y = Exp (n)
    }}"""
    return parse(text, **(parameters or bn(4)))


def ops(model: ModelProto, options: Options) -> list[str]:
    result = bnfold.fold(model, options=options)
    assert bnfold.verify(model, result.model).equal
    return [node.op_type for node in result.model.graph.node]


def test_as_it_is_by_default() -> None:
    assert ops(alone(), Options()) == ["Sigmoid", "BatchNormalization", "Exp"]


def test_mul_and_add() -> None:
    assert ops(alone(), AFFINE) == ["Sigmoid", "Mul", "Add", "Exp"]


def test_one_that_only_shifts_is_an_add_without_being_asked(tmp_path: Path) -> None:
    ones = positive(4) | {"s": np.ones(4, np.float32), "v": np.ones(4, np.float32)}
    model = alone(**ones)
    assert ops(model, Options()) == ["Sigmoid", "Add", "Exp"]
    onnx.save(model, tmp_path / "m.onnx")
    done = invoke("optimize", str(tmp_path / "m.onnx"), "-v", "-o", str(tmp_path / "o.onnx"))
    assert "only a shift is left of it: an Add" in done.stdout
    assert "written out" not in done.stdout


def test_one_of_them_where_the_other_would_change_nothing() -> None:
    assert ops(alone(**scale_only(4)), AFFINE) == ["Sigmoid", "Mul", "Exp"]
    ones = positive(4) | {"s": np.ones(4, np.float32), "v": np.ones(4, np.float32)}
    assert ops(alone(**ones), AFFINE) == ["Sigmoid", "Add", "Exp"]


@pytest.mark.parametrize("shape", ["2,4,5", "N,4,5,5", "2,4,5,5,2"])
def test_a_depthwise_convolution(shape: str) -> None:
    model = alone(shape)
    result = bnfold.fold(model, options=CONV)
    node = result.model.graph.node[1]
    assert (node.op_type, node.name, node.output[0]) == ("Conv", "norm", "n")
    assert result.after.nodes == result.before.nodes
    assert result.folded[0].written_out
    if shape != "2,4,5,5,2":
        assert bnfold.verify(model, result.model).equal


@pytest.mark.parametrize("shape", ["2,4", "2,4,5,5,2,2"])
def test_a_rank_that_no_convolution_reads(shape: str) -> None:
    model = alone(shape)
    assert "BatchNormalization" in [
        node.op_type for node in bnfold.fold(model, options=CONV).model.graph.node
    ]


def test_training_mode_is_left_alone() -> None:
    model = alone()
    model.graph.node[1].attribute.add(name="training_mode", type=2, i=1)
    model.graph.node[1].output.extend(["mean_now", "var_now"])
    assert not bnfold.fold(model, options=AFFINE).folded


def test_what_is_skipped_stays() -> None:
    options = Options(rest="conv", skip=("norm",))
    assert not bnfold.fold(alone(), options=options).folded


def test_what_folds_folds_first() -> None:
    text = """
    g (float[2,3,6,6] x) => (float[2,4,6,6] y) {
      [conv] c = Conv (x, w)
      [norm] y = BatchNormalization <epsilon = 0.0> (c, s, b, m, v)
    }"""
    assert ops(parse(text, w=numbers(4, 3, 1, 1), **bn(4)), CONV) == ["Conv"]


def test_a_form_that_there_is_not() -> None:
    with pytest.raises(bnfold.UsageError, match="rest"):
        Options(rest="relu")  # type: ignore[arg-type]


# --- the law, where each obligation alone fails ---------------------------------------------------


def changed(model: ModelProto, slot: int) -> ModelProto:
    other = ModelProto()
    other.CopyFrom(model)
    for tensor in other.graph.initializer:
        if tensor.name == other.graph.node[1].input[slot]:
            array = numpy_helper.to_array(tensor).copy()
            array.reshape(-1)[2] *= np.float32(1 + 2**-10)
            tensor.CopyFrom(numpy_helper.from_array(array, tensor.name))
    return other


@pytest.mark.parametrize(
    ("options", "slot"), [(AFFINE, 1), (CONV, 1), (CONV, 2)]
)  # fmt: skip
def test_a_constant_that_is_off_is_invalid(options: Options, slot: int) -> None:
    model = alone()
    result = bnfold.fold(model, options=options)
    found = judged(model, changed(result.model, slot), from_json(result.proof.encode()))
    assert found.certificate.verdict is Outcome.INVALID


@pytest.mark.parametrize(("name", "value"), [("group", 1), ("strides", [2, 2]), ("pads", [1] * 4)])
def test_a_convolution_of_another_kind_is_invalid(name: str, value: object) -> None:
    from onnx import helper

    model = alone()
    result = bnfold.fold(model, options=CONV)
    node = result.model.graph.node[1]
    if name == "group":
        del node.attribute[:]
    node.attribute.append(helper.make_attribute(name, value))
    found = judged(model, result.model, from_json(result.proof.encode()))
    assert found.certificate.verdict is not Outcome.VALID


def test_a_mul_for_one_that_shifts_is_invalid() -> None:
    model, other = alone(**scale_only(4)), alone(**positive(4))
    result = bnfold.fold(model, options=AFFINE)
    found = judged(other, result.model, from_json(result.proof.encode()))
    assert found.certificate.verdict is Outcome.INVALID


def test_the_terminal_says_what_was_written_out_and_not_folded(tmp_path: Path) -> None:
    onnx.save(alone(), tmp_path / "m.onnx")
    done = invoke("optimize", str(tmp_path / "m.onnx"), "-v", "--rest", "conv", "-o",
                  str(tmp_path / "o.onnx"))  # fmt: skip
    assert "0 of 1 BatchNormalization folded, 1 written out and verified: equal" in done.stdout
    assert "written out, as asked for: no gain on a CPU" in done.stdout
    assert "no BatchNormalization" not in done.stdout
