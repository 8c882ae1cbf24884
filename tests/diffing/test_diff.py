"""`bnfold diff`: what changed, and nothing else."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from click.testing import Result
from onnx import ModelProto, helper, numpy_helper

import bnfold
from bnfold.diffing.model_diff import Change, Difference, diff
from tests.folding.test_options import two
from tests.support import invoke, numbers, parse

pytestmark = pytest.mark.usefixtures("cwd")


def between(one: ModelProto, other: ModelProto, *, external: bool = False) -> Difference:
    onnx.save(one, "one.onnx")
    onnx.save(
        other, "other.onnx", save_as_external_data=external, location="other.bin", size_threshold=0
    )
    return diff("one.onnx", "other.onnx")


def bnfold_diff(*words: str) -> Result:
    return invoke("diff", *words)


def test_a_fold_takes_nodes_and_changes_constants() -> None:
    found = between(two(), bnfold.fold(two()).model)
    nodes = [(c.what, c.name) for c in found.changes if c.kind == "node"]
    assert nodes == [
        ("changed", "conv1"), ("removed", "norm1"), ("changed", "conv2"), ("removed", "norm2"),
        ("removed", "double"),
    ]  # fmt: skip
    conv = found.changes[0]
    assert conv.details[0] == "input 2: none → w_bias"
    assert conv.details[1] == "output 0: c → d"
    tensors = {(c.what, c.name) for c in found.changes if c.kind == "tensor"}
    assert {("changed", "w"), ("removed", "m"), ("added", "w_bias")} <= tensors
    assert found.same_nodes == 1


@pytest.mark.parametrize("external", [False, True])
def test_a_model_is_the_same_as_itself_wherever_its_data_is(external: bool) -> None:
    assert between(two(), two(), external=external).same


def changed(model: ModelProto, change: Callable[[ModelProto], object]) -> ModelProto:
    copy = ModelProto()
    copy.CopyFrom(model)
    change(copy)
    return copy


def set_weight(model: ModelProto) -> None:
    weight = numpy_helper.to_array(model.graph.initializer[0]).copy()
    weight.flat[5] += 2
    model.graph.initializer[0].CopyFrom(numpy_helper.from_array(weight, "w"))


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (set_weight, Change("tensor", "changed", "w")),
        (lambda m: m.graph.node[2].ClearField("doc_string"), None),
        (lambda m: setattr(m.graph.node[2], "doc_string", "x"), Change("node", "changed", "act")),
        (lambda m: m.graph.node[2].metadata_props.add(key="k", value="v"),
         Change("node", "changed", "act")),
        (lambda m: m.graph.initializer[0].metadata_props.add(key="k", value="v"),
         Change("tensor", "changed", "w")),
        (lambda m: m.graph.initializer.append(m.graph.initializer[0]),
         Change("something else", "changed", "")),
        (lambda m: m.graph.node[1].attribute.append(helper.make_attribute("epsilon", 0.0)),
         Change("something else", "changed", "")),
        (lambda m: setattr(m.graph.node[2], "name", "other"), Change("node", "changed", "act")),
        (lambda m: setattr(m, "producer_name", "x"), Change("producer_name", "changed", "")),
        (lambda m: m.metadata_props.add(key="k", value="v"),
         Change("metadata_props", "added", "k")),
        (lambda m: setattr(m.opset_import[0], "version", 16),
         Change("opset_import", "changed", "")),
        (lambda m: m.opset_import.add(domain="d", version=1), Change("opset_import", "added", "d")),
        (lambda m: m.graph.node[0].attribute.append(helper.make_attribute("group", 1)),
         Change("node", "changed", "conv1")),
        (lambda m: m.graph.node[1].attribute[0].CopyFrom(helper.make_attribute("epsilon", 0.5)),
         Change("node", "changed", "norm1")),
        (lambda m: m.graph.input[0].type.tensor_type.shape.dim[0].__setattr__("dim_param", "N"),
         Change("input", "changed", "x")),
        (lambda m: m.graph.output.pop(), Change("output", "removed", "y")),
        (lambda m: m.graph.value_info.add(name="c"), Change("value_info", "added", "c")),
        (lambda m: setattr(m.graph, "doc_string", "x"), Change("doc_string", "changed", "")),
        (lambda m: m.graph.node.insert(0, m.graph.node.pop()), Change("order", "changed", "nodes")),
        (lambda m: m.graph.initializer.insert(0, m.graph.initializer.pop()),
         Change("order", "changed", "tensors")),
        (lambda m: m.graph.node.add(op_type="Relu", input=["y"], output=["z"]),
         Change("node", "added", "Relu→z")),
        (lambda m: m.functions.add(name="f", domain="d"),
         Change("function", "added", "function d::f")),
    ],
)  # fmt: skip
def test_one_change_is_told_and_nothing_else(
    change: Callable[[ModelProto], object], told: Change | None
) -> None:
    found = between(two(), changed(two(), change))
    assert [(c.kind, c.what, c.name) for c in found.changes] == (
        [(told.kind, told.what, told.name)] if told else []
    )


def test_numbers_that_differ_are_counted() -> None:
    (change,) = between(two(), changed(two(), set_weight)).changes
    assert change.details[0].startswith("1 of 12 numbers differ, by up to 2;")


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_tensors_without_finite_numbers_have_differences_too(value: float) -> None:
    text = "g (float[1] x) => (float[1] y) { y = Add (x, w) }"
    models = [parse(text, w=np.array([w], np.float32)) for w in (value, 1)]
    (change,) = between(*models).changes
    assert change.details[0].startswith("1 of 1 numbers differ")
    empty = [parse(text, w=np.zeros((0, n), np.float32)) for n in (1, 2)]
    assert between(*empty).changes[0].details == ("float[0, 1] → float[0, 2]",)


def test_nodes_without_names_are_matched_by_what_they_do() -> None:
    bare = two()
    for node in bare.graph.node:
        node.ClearField("name")
    found = between(bare, bnfold.fold(bare).model)
    removed = [c.name for c in found.changes if (c.kind, c.what) == ("node", "removed")]
    assert removed == ["BatchNormalization→d", "BatchNormalization→f", "Mul→y"]
    assert not [c for c in found.changes if (c.kind, c.what) == ("node", "added")]


IF = """g (bool b, float[1,2,4,4] x) => (float[1,2,4,4] y) {
  [choice] y = If (b) <
    then_branch = t () => (z) { [inner] z = Mul (x, two) },
    else_branch = e () => (w) { w = Identity (x) }>
}"""


def test_bodies_are_compared_with_their_path() -> None:
    one, other = (parse(IF, two=numbers(1) * k) for k in (1, 1))
    other.graph.node[0].attribute[0].g.node[0].op_type = "Add"
    (change,) = between(one, other).changes
    assert (change.scope, change.name) == ("choice.then_branch", "inner")
    assert change.details == ("op_type: 'Mul' → 'Add'",)


def test_large_tensors_in_rare_places_are_compared_by_their_bytes() -> None:
    """They are not in the message, only tokens for them, which may be the same."""
    models = []
    for value in (0.0, 1.0):
        model = parse("g (float[1] x) => (float[1] y) { [a] y = Abs (x) }")
        tensors = [numpy_helper.from_array(np.full(5000, value, np.float32))]
        model.graph.node[0].attribute.append(helper.make_attribute("custom", tensors))
        models.append(model)
    assert not between(*models).same
    assert between(models[0], models[0]).same


def test_what_external_tensors_hold_is_compared_in_rare_places_too(tmp_path: Path) -> None:
    model = parse("g (float[1] x) => (float[1] y) { [a] y = Abs (x) }")
    values = onnx.TensorProto(
        name="v", data_type=1, dims=[2], data_location=onnx.TensorProto.EXTERNAL
    )
    for key, value in (("location", "v.bin"), ("offset", "0"), ("length", "8")):
        values.external_data.add(key=key, value=value)
    indices = numpy_helper.from_array(np.array([0, 1], np.int64), "i")
    model.graph.sparse_initializer.append(helper.make_sparse_tensor(values, indices, [5]))
    folders = [tmp_path / name for name in ("one", "two", "three")]
    for folder, held in zip(folders, ([1, 2], [1, 3], [1, 2]), strict=True):
        folder.mkdir()
        onnx.save(model, folder / "m.onnx")
        (folder / "v.bin").write_bytes(np.array(held, np.float32).tobytes())
    one, two, three = (folder / "m.onnx" for folder in folders)
    assert diff(one, three).same
    assert [c.kind for c in diff(one, two).changes] == ["sparse_initializer"]


def test_functions_are_told_apart_by_their_overloads() -> None:
    one, other = two(), two()
    for model, op in ((one, "Abs"), (other, "Neg")):
        for overload, inner in (("a", "Relu"), ("b", op)):
            function = model.functions.add(name="f", domain="d", overload=overload)
            function.node.add(op_type=inner, name="n", input=["x"], output=["y"])
    (change,) = between(one, other).changes
    assert (change.scope, change.details) == ("function d::f:b", ("op_type: 'Abs' → 'Neg'",))


def with_attribute(tensor: onnx.TensorProto) -> ModelProto:
    model = two()
    model.graph.node[2].attribute.append(helper.make_attribute("t", tensor))
    return model


@pytest.mark.parametrize(
    ("old", "new", "told"),
    [
        (
            np.array([1, 2], np.float32),
            np.array([1, 3], np.float32),
            "1 of 2 numbers differ, by up",
        ),
        (np.array([1 << 60]), np.array([(1 << 60) + 1]), "1 of 1 numbers differ, by up to 1;"),
        (np.array([-(1 << 63)]), np.array([(1 << 63) - 1]), "by up to 1.84e+19;"),
        (np.array(["a", "b"], object), np.array(["a", "c"], object), "1 of 2 values differ"),
        (np.array([1j]), np.array([2j]), "1 of 1 numbers differ, by up to 1"),
    ],
)
def test_tensors_in_attributes_say_how_they_differ(old: Any, new: Any, told: str) -> None:
    models = [with_attribute(numpy_helper.from_array(array)) for array in (old, new)]
    (change,) = between(*models).changes
    assert told in change.details[0]
    assert between(models[0], models[0]).same


def test_large_tensors_are_compared_piece_by_piece(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("bnfold.diffing.tensor_diff._PIECE", 1000)
    text = "g (float[1] x) => (float[5000] y) { y = Add (x, w) }"
    held = np.arange(5000, dtype=np.float32)
    models = [parse(text, w=held), parse(text, w=held + np.float32(2) * (held > 3500))]
    (change,) = between(*models).changes
    assert change.details[0].startswith("1499 of 5000 numbers differ, by up to 2;")


def test_strings_that_are_no_text_and_tensors_without_data() -> None:
    bad = onnx.TensorProto(data_type=onnx.TensorProto.STRING, dims=[1], string_data=[b"\xff"])
    empty = onnx.TensorProto(data_type=1, dims=[3])
    for tensor in (bad, empty):
        assert between(with_attribute(tensor), with_attribute(tensor)).same
    other = onnx.TensorProto(data_type=onnx.TensorProto.STRING, dims=[1], string_data=[b"\xfe"])
    assert not between(with_attribute(bad), with_attribute(other)).same


def test_nodes_of_one_name_are_matched_in_their_order() -> None:
    model = two()
    for node in model.graph.node:
        node.name = "same"
    assert between(model, model).same


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (lambda m: setattr(m.opset_import[0], "version", 16), "17 → 16"),
        (lambda m: m.graph.input[0].type.tensor_type.shape.dim[0].__setattr__("dim_param", "N"),
         "[FLOAT, 2x3x6x6] → [FLOAT, Nx3x6x6]"),
    ],
)  # fmt: skip
def test_what_fields_were_and_are(change: Callable[[ModelProto], object], told: str) -> None:
    (found,) = between(two(), changed(two(), change)).changes
    assert told in found.details[0]


def test_the_command() -> None:
    onnx.save(two(), "model.onnx")
    bnfold.optimize("model.onnx", "folded.onnx")
    done = bnfold_diff("model.onnx", "folded.onnx")
    assert done.exit_code == 0
    assert "- node norm1: BatchNormalization" in done.output
    assert "~ tensor w: 12 of 12 numbers differ" in done.output
    assert "nothing has changed" in bnfold_diff("model.onnx", "model.onnx", "--exit-code").output
    assert bnfold_diff("model.onnx", "folded.onnx", "--exit-code").exit_code == 1
    found = json.loads(bnfold_diff("model.onnx", "folded.onnx", "--json").output)
    assert found["same"] is False
    assert found["changes"][0]["name"] == "conv1"
    assert bnfold_diff("model.onnx", "missing.onnx").exit_code == 3
