"""Statistics of BatchNormalizations in bodies and functions, against numpy."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import ModelProto, numpy_helper

from bnfold.graph.holders import Holders
from bnfold.graph.index import BATCH_NORM, Index
from bnfold.tuning.data_statistics import Dataset, RecalibrateResult, recalibrate, stats
from bnfold.tuning.worker.moment_probes import levels
from tests.support import Array, bn, parse

X = np.random.default_rng(0).normal(1, 2, (24, 3, 4, 4)).astype(np.float32)
HEADER = "g (float[N,3,4,4] x) => (float[N,3,4,4] y)"
FUNCTIONS = '<ir_version: 8, opset_import: ["": 17, "l": 1]>'
LOCAL = """<domain: "l", opset_import: ["": 17]> layer (x) => (y) {
    s = Constant <value_floats = [1.0, 2.0, 3.0]> ()
    m = Constant <value_floats = [0.0, 0.0, 0.0]> ()
    v = Constant <value_floats = [1.0, 1.0, 1.0]> ()
    [norm] y = BatchNormalization (x, s, m, m, v) }"""


def saved(model: ModelProto, tmp_path: Path, batch: int = 6) -> tuple[Path, Dataset]:
    onnx.save(model, tmp_path / "model.onnx")
    np.savez(tmp_path / "data.npz", x=X)
    return tmp_path / "model.onnx", Dataset(tmp_path / "data.npz", batch)


def new_statistics(path: Path, label: str) -> list[Array]:
    """μ and σ² of a node, wherever it stands."""
    index = Index(onnx.load(path))
    (node,) = [n for n in index.nodes() if n.op == BATCH_NORM and n.label == label]
    found = []
    for slot in (3, 4):
        owner = node.scope.owner(node.input(slot))
        assert owner is not None
        tensor = owner.initializers.get(node.input(slot))
        if tensor is None:
            tensor = owner.producers[node.input(slot)].proto.attribute[0].t
        found.append(numpy_helper.to_array(tensor).astype(np.float64))
    return found


def moments(values: Array) -> list[Array]:
    wide = values.astype(np.float64)
    return [wide.mean((0, 2, 3)), wide.var((0, 2, 3))]


def normalised(x: Array, scale: Array | None = None) -> Array:
    mean, variance = (v.reshape(3, 1, 1) for v in moments(x))
    return np.asarray((x - mean) / np.sqrt(variance + 1e-5) * (1 if scale is None else scale))


def again(model: ModelProto, tmp_path: Path) -> RecalibrateResult:
    path, data = saved(model, tmp_path)
    return recalibrate(path, data, tmp_path / "out.onnx")


BRANCH = """ { mean = ReduceMean <keepdims = 0> (x) zero = Constant <value_float = 0.0> ()
  yes = Greater (mean, zero) y = If (yes) <
    then_branch = t () => (float[N,3,4,4] p) { r = Mul (x, two)
      [inner] p = BatchNormalization (r, s, b, m, v) },
    else_branch = e () => (float[N,3,4,4] q) { [other] q = BatchNormalization (x, s, b, m, v) }
  > }"""


def test_the_branch_that_is_taken_is_measured_and_the_other_one_named(tmp_path: Path) -> None:
    model = parse(HEADER + BRANCH, two=np.array(2, "f"), **bn(3))
    path, data = saved(model, tmp_path)
    result = stats(path, data)
    assert [(drift.node, drift.samples) for drift in result.drifts] == [("inner", 24)]
    (left,) = result.left
    assert left.sentence == "other is in a branch that no sample takes"
    done = recalibrate(path, data, tmp_path / "out.onnx")
    for found, wanted in zip(new_statistics(done.model, "inner"), moments(2 * X), strict=True):
        np.testing.assert_allclose(found, wanted, rtol=1e-5)
    for found, wanted in zip(new_statistics(done.model, "other"), (bn(3)["m"], bn(3)["v"]),
                             strict=True):  # fmt: skip
        np.testing.assert_array_equal(found, wanted)
    assert [left.node for left in done.left] == ["other"]


def test_iterations_of_a_loop_are_so_many_rows_of_a_sample(tmp_path: Path) -> None:
    text = (
        HEADER
        + """ { count = Constant <value_int = 3> () on = Constant <value_ints = [1]> ()
      flag = Cast <to = 9> (on) yes = Squeeze (flag)
      y = Loop (count, yes, x) <body = b (int64 i, bool c, float[N,3,4,4] h) =>
        (bool d, float[N,3,4,4] k) { d = Identity (c) k = Mul (h, two)
        [inner] u = BatchNormalization (h, s, b, m, v) }> }"""
    )
    done = again(parse(text, two=np.array(2, "f"), **bn(3)), tmp_path)
    seen = np.concatenate([X, 2 * X, 4 * X])
    for found, wanted in zip(new_statistics(done.model, "inner"), moments(seen), strict=True):
        np.testing.assert_allclose(found, wanted, rtol=1e-5)
    assert done.samples == 24


def test_iterations_count_by_how_much_they_have_read(tmp_path: Path) -> None:
    """The first iteration reads one row of pixels, the second two, and so on."""
    text = (
        HEADER
        + """ { count = Constant <value_int = 4> () on = Constant <value_ints = [1]> ()
      flag = Cast <to = 9> (on) yes = Squeeze (flag)
      y = Loop (count, yes, x) <body = b (int64 i, bool c, float[N,3,4,4] h) =>
        (bool d, float[N,3,4,4] k) { d = Identity (c) k = Identity (h)
        one = Constant <value_ints = [1]> () zero = Constant <value_ints = [0]> ()
        two = Constant <value_ints = [2]> () j = Reshape (i, one) end = Add (j, one)
        part = Slice (h, zero, end, two) [inner] u = BatchNormalization (part, s, b, m, v) }> }"""
    )
    done = again(parse(text, **bn(3)), tmp_path)
    parts = [np.moveaxis(X[:, :, : n + 1], 1, 0).reshape(3, -1) for n in range(4)]
    seen = np.concatenate(parts, axis=1).astype(np.float64)
    for found, wanted in zip(
        new_statistics(done.model, "inner"), (seen.mean(1), seen.var(1)), strict=True
    ):  # fmt: skip
        np.testing.assert_allclose(found, wanted, rtol=1e-5, atol=1e-6)


def test_a_scan_that_stacks_is_measured(tmp_path: Path) -> None:
    text = """g (float[N,3,4,4] x) => (float[5,N,3,4,4] z) {
      y, z = Scan <num_scan_inputs = 1, scan_output_axes = [0], body = b (float[N,3,4,4] h,
        float i) => (float[N,3,4,4] k, float[N,3,4,4] o) { k = Add (h, i)
        [inner] o = BatchNormalization (k, s, b, m, v) }> (x, steps) }"""
    done = again(parse(text, steps=np.arange(5, dtype="f"), **bn(3)), tmp_path)
    seen = np.concatenate([X + total for total in (0, 1, 3, 6, 10)])
    for found, wanted in zip(new_statistics(done.model, "inner"), moments(seen), strict=True):
        np.testing.assert_allclose(found, wanted, rtol=1e-5)


def test_all_calls_of_a_function_count(tmp_path: Path) -> None:
    text = (
        FUNCTIONS + HEADER + " { a = l.layer (x) k = Mul (x, two) c = l.layer (k) y = Add (a, c) }"
    )
    done = again(parse(text + LOCAL, two=np.array(2, "f")), tmp_path)
    seen = np.concatenate([X, 2 * X])
    for found, wanted in zip(new_statistics(done.model, "norm"), moments(seen), strict=True):
        np.testing.assert_allclose(found, wanted, rtol=1e-5)


def test_a_layer_behind_a_call_sees_its_new_statistics(tmp_path: Path) -> None:
    text = (
        FUNCTIONS
        + HEADER
        + """ { a = l.layer (x)
      [last] y = BatchNormalization (a, s, b, m, v) }"""
        + LOCAL
    )
    done = again(parse(text, **bn(3)), tmp_path)
    assert done.layers == 2
    between = normalised(X, np.array([1, 2, 3]).reshape(3, 1, 1))
    for found, wanted in zip(new_statistics(done.model, "last"), moments(between), strict=True):
        np.testing.assert_allclose(found, wanted, rtol=1e-4, atol=1e-5)


def test_a_branch_within_a_function_is_measured(tmp_path: Path) -> None:
    outer = """<domain: "l", opset_import: ["": 17, "l": 1]> net (x) => (y) {
      mean = ReduceMean <keepdims = 0> (x) zero = Constant <value_float = 0.0> ()
      yes = Greater (mean, zero) y = If (yes) <then_branch = t () => (p) { p = l.layer (x) },
      else_branch = e () => (q) { q = Relu (x) }> }"""
    text = FUNCTIONS + HEADER + " { h = Mul (x, two) y = l.net (h) }"
    done = again(parse(text + outer + LOCAL, two=np.array(2, "f")), tmp_path)
    for found, wanted in zip(new_statistics(done.model, "norm"), moments(2 * X), strict=True):
        np.testing.assert_allclose(found, wanted, rtol=1e-5)


IN_A_LOOP = (
    HEADER
    + """ { count = Constant <value_int = 3> () on = Constant <value_ints = [1]> ()
  flag = Cast <to = 9> (on) yes = Squeeze (flag) [outer] n = BatchNormalization (x, s, b, m, v)
  y = Loop (count, yes, n) <body = b (int64 i, bool c, float[N,3,4,4] h) =>
    (bool d, float[N,3,4,4] k) { d = Identity (c) k = If (c) <
      then_branch = t () => (float[N,3,4,4] p) { [inner] p = BatchNormalization (h, s, b, m, v) },
      else_branch = e () => (float[N,3,4,4] r) { r = Relu (h) }> }> }"""
)


def test_a_branch_within_a_loop_is_left_alone_and_said(tmp_path: Path) -> None:
    path, data = saved(parse(IN_A_LOOP, **bn(3)), tmp_path)
    result = stats(path, data)
    assert [drift.node for drift in result.drifts] == ["outer"]
    (left,) = result.left
    assert left.node == "inner"
    assert "where no values are measured" in left.sentence


@pytest.mark.parametrize(("text", "wanted"), [
    (HEADER + BRANCH, {"inner": 0, "other": 0}),
    (IN_A_LOOP, {"outer": 0, "inner": 1}),
    (FUNCTIONS + HEADER + " { a = l.layer (x) k = l.layer (a)"
     " [last] y = BatchNormalization (k, s, b, m, v) }" + LOCAL, {"norm": 1, "last": 2}),
])  # fmt: skip
def test_layers_are_counted_through_bodies_and_calls(text: str, wanted: dict[str, int]) -> None:
    index = Index(parse(text, two=np.array(2, "f"), **bn(3)))
    norms = [node for node in index.nodes() if node.op == BATCH_NORM]
    found = levels(index, norms)
    assert {node.label: level for level, nodes in found.items() for node in nodes} == wanted


def test_who_holds_a_body_is_known() -> None:
    index = Index(parse(IN_A_LOOP, **bn(3)))
    holders = Holders(index)
    found = [holders.of(scope) for scope in index.scopes]
    assert [None if node is None else node.op for node in found] == [None, "Loop", "If", "If"]
    assert [holders.can_be_lifted(scope) for scope in index.scopes] == [True, True, False, False]
