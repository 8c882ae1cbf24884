"""The folded model with onnxruntime's optimisations on: differences in steps, and who makes them.

Which fused operators saturate depends on the processor, so that here the results are made up.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import ModelProto, helper

import bnfold
from bnfold.onnx_io import model_file
from bnfold.verification.comparison import Comparison, Deployed, OutputDifference, require_equal
from bnfold.verification.worker import optimised_run
from bnfold.verification.worker.optimised_run import Optimised, verdict_in_steps
from tests.support import numbers, parse

STEP = 0.5


def apart(steps: float) -> Optimised:
    """A model whose only output is so many steps away from zeros in one place."""
    found = np.zeros(4, np.float32)
    found[1] = steps * STEP
    away = steps * STEP
    difference = OutputDifference("y", "float32", (4,), away, away, 0.0, 0.0, equal=not steps)
    return Optimised((difference,), ({"y": found},))


def judged(
    folded: float, original: float, step: float | None = STEP, moved: float = 0.0
) -> Deployed:
    ours, theirs = apart(folded), apart(original)
    truth = [{"y": np.zeros(4, np.float32)}]
    return verdict_in_steps(ours, theirs, truth, ours.differences[0], step, moved, "QLinearConv")


def test_a_few_steps_are_roundings_that_fall_differently() -> None:
    found = judged(2, 0)
    assert found.equal
    assert found.note == (
        "output 'y' differs by 2 steps, the optimised original by 0: roundings to integers fall "
        "differently"
    )


def test_many_steps_are_laid_at_the_fused_operators_door() -> None:
    found = judged(183, 0)
    assert not found.equal
    assert found.note == (
        "output 'y' differs by 183 steps, the optimised original by 0: by QLinearConv"
    )
    assert found.max_abs == 183 * STEP


def test_the_optimised_original_that_does_the_same_is_no_reproach() -> None:
    assert judged(183, 182).equal
    assert judged(183, 100).equal
    assert not judged(183, 2).equal


def test_an_output_that_no_integers_are_behind_is_measured_by_what_roundings_make() -> None:
    assert judged(6, 5, None).equal
    assert judged(6, 0, None, moved=4 * STEP).equal
    found = judged(183, 1, None, moved=4 * STEP)
    assert not found.equal
    assert "roundings that are one step off by 2: by QLinearConv" in found.note


def test_roundings_that_move_an_integer_output_by_more_than_a_step() -> None:
    """What is before the last rounding may move by more than one of its steps."""
    assert judged(7, 0, moved=4 * STEP).equal


TEXT = """
g (float[1,4] x) => (float[2,2] y) {
  q = QuantizeLinear (x, s, z)
  d = DequantizeLinear (q, s, z)
  r = Relu (d)
  y = Reshape (r, shape)
}"""


def test_the_step_of_an_output_is_found_behind_what_moves_it(tmp_path: Path) -> None:
    model = parse(TEXT, s=np.array(0.25, np.float32), z=np.array(3, np.uint8),
                  shape=np.array([2, 2]))  # fmt: skip
    onnx.save(model, tmp_path / "m.onnx")
    file = model_file.read(tmp_path / "m.onnx")
    assert optimised_run.step_of(file, "y", [{"y": np.zeros(4, np.float32)}]) == 0.25
    assert optimised_run.step_of(file, "q", [{"q": np.zeros(4, np.uint8)}]) == 1
    onnx.save(parse("g (float[2] x) => (float[2] y) { y = Sigmoid (x) }"), tmp_path / "f.onnx")
    file = model_file.read(tmp_path / "f.onnx")
    assert optimised_run.step_of(file, "y", [{"y": np.zeros(2, np.float32)}]) is None


def of_ops(*ops: str) -> ModelProto:
    nodes = [helper.make_node(op, ["x"], [f"y{i}"]) for i, op in enumerate(ops)]
    return helper.make_model(helper.make_graph(nodes, "g", [], []))


def test_the_operators_that_only_the_folded_model_has_are_named(tmp_path: Path) -> None:
    onnx.save(of_ops("QLinearConv", "Relu"), tmp_path / "a.onnx")
    onnx.save(of_ops("QLinearConv", "QLinearConv", "QLinearConv", "QGemm"), tmp_path / "b.onnx")
    found = optimised_run.fused(tmp_path / "a.onnx", tmp_path / "b.onnx")
    assert found == "QLinearConv (2 of them), QGemm"


def test_a_fold_that_onnxruntime_spoils_is_no_fault_of_ours() -> None:
    equal = apart(0).differences
    comparison = Comparison(equal, (), 1, deployed=judged(183, 0))
    assert not comparison.equal
    with pytest.raises(bnfold.NotEqualError, match=r"183 steps.*computes something else"):
        require_equal(comparison)


def test_a_quantised_model_that_folds_is_equal_as_it_is_deployed() -> None:
    text = """
    g (float[1,3,8,8] x) => (float[1,4,6,6] y) {
      q = QuantizeLinear (x, xs, xz)
      d = DequantizeLinear (q, xs, xz)
      k = DequantizeLinear (w, ws)
      c = Conv (d, k)
      n = BatchNormalization (c, s, b, m, v)
      p = QuantizeLinear (n, ys, yz)
      y = DequantizeLinear (p, ys, yz)
    }"""
    ones = np.ones(4, np.float32)
    model = parse(
        text, w=numbers(4, 3, 3, 3, dtype=np.int8), ws=np.array(0.01, np.float32),
        xs=np.array(0.02, np.float32), xz=np.array(128, np.uint8), ys=np.array(0.03, np.float32),
        yz=np.array(100, np.uint8), s=ones * 2, b=ones, m=ones, v=ones,
    )  # fmt: skip
    found = bnfold.verify(model, bnfold.fold(model).model).deployed
    assert found is not None
    assert found.equal
