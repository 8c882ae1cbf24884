"""Reading and writing files, and optimising them."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import ModelProto

import bnfold
from bnfold.folding.apply import Applied
from bnfold.onnx_io import protos
from bnfold.steps import Proof
from tests.support import bn, numbers, parse

TEXT = """
g (float[N,3,4,4] x) => (float[N,3,4,4] y) {
  [conv] c = Conv (x, w)
  [norm] y = BatchNormalization <epsilon = 0.0> (c, s, b, m, v)
}"""


@pytest.fixture
def model() -> ModelProto:
    return parse(TEXT, w=numbers(3, 3, 1, 1), **bn(3))


@pytest.fixture
def path(tmp_path: Path, model: ModelProto) -> Path:
    onnx.save(model, tmp_path / "model.onnx")
    return tmp_path / "model.onnx"


@pytest.fixture
def external(tmp_path: Path, model: ModelProto) -> Path:
    (tmp_path / "ext").mkdir()
    target = tmp_path / "ext" / "model.onnx"
    onnx.save(
        model, target, save_as_external_data=True, location="weights.bin", size_threshold=0
    )  # fmt: skip
    return target


def entries(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()}


def test_the_output_stands_beside_the_input_by_default(path: Path) -> None:
    before = path.read_bytes()
    result = bnfold.optimize(path)
    assert result.model == path.with_name("model.folded.onnx")
    assert path.read_bytes() == before
    assert entries(path.parent) == {"model.onnx", "model.folded.onnx"}
    assert [v.into for v in result.verdicts] == [("conv",)]
    assert (result.before.batch_norms, result.after.batch_norms) == (1, 0)
    assert result.bytes_after == result.model.stat().st_size
    assert result.comparison is not None
    assert result.comparison.equal


def test_the_file_holds_what_fold_returns(path: Path, model: ModelProto) -> None:
    written = onnx.load(bnfold.optimize(path, verify="none").model)
    assert written == bnfold.fold(model).model


def test_an_output_in_a_folder_that_exists_keeps_its_name(path: Path, tmp_path: Path) -> None:
    (tmp_path / "deploy").mkdir()
    result = bnfold.optimize(path, tmp_path / "deploy", verify="none")
    assert result.model == tmp_path / "deploy" / "model.onnx"


def test_in_place_replaces_the_input(path: Path) -> None:
    result = bnfold.optimize(path, in_place=True, verify="none")
    assert result.model == path
    assert len(onnx.load(path).graph.node) == 1


def test_in_place_through_a_link_replaces_what_it_points_to(path: Path) -> None:
    link = path.with_name("link.onnx")
    link.symlink_to(path.name)
    bnfold.optimize(link, in_place=True, verify="none")
    assert link.is_symlink()
    assert len(onnx.load(path).graph.node) == 1


@pytest.mark.parametrize("kind", ["same", "symlink", "hard link"])
def test_the_input_is_never_overwritten_unasked(path: Path, kind: str) -> None:
    before = path.read_bytes()
    output = path if kind == "same" else path.with_name("other.onnx")
    if kind == "symlink":
        output.symlink_to(path)
    elif kind == "hard link":
        os.link(path, output)
    with pytest.raises(bnfold.UsageError, match="is the input itself"):
        bnfold.optimize(path, output)
    assert path.read_bytes() == before


def test_an_older_output_is_replaced(path: Path) -> None:
    path.with_name("model.folded.onnx").write_text("older")
    bnfold.optimize(path, verify="none")
    onnx.checker.check_model(path.with_name("model.folded.onnx"))


def test_where_nothing_folds_the_output_is_a_copy(tmp_path: Path) -> None:
    model = parse("g (float[2] x) => (float[2] y) { y = Relu (x) }")
    # bytes that no serialiser writes: the fields in another order
    graph, rest = ModelProto(graph=model.graph), ModelProto()
    rest.CopyFrom(model)
    rest.ClearField("graph")
    data = graph.SerializeToString() + rest.SerializeToString()
    (tmp_path / "model.onnx").write_bytes(data)
    result = bnfold.optimize(tmp_path / "model.onnx")
    assert result.model.read_bytes() == data
    assert result.comparison is None


def test_unknown_fields_survive(path: Path) -> None:
    unknown = bytes([0xFA, 0x3F, 3]) + b"new"  # field 1023, length 3
    path.write_bytes(path.read_bytes() + unknown)
    assert unknown in bnfold.optimize(path, verify="none").model.read_bytes()


# --- what is not written ------------------------------------------------------------------------


def test_nothing_is_written_where_the_models_differ(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def spoiled(index: object, plan: object) -> Applied:
        index.model.graph.node[0].output[0] = "y"  # type: ignore[attr-defined]
        del index.model.graph.node[1]  # type: ignore[attr-defined]
        return Applied(0, Proof())

    monkeypatch.setattr("bnfold.folding.in_place.apply", spoiled)
    with pytest.raises(bnfold.NotEqualError) as caught:
        bnfold.optimize(path)
    assert not caught.value.comparison.equal
    assert entries(path.parent) == {"model.onnx"}


def test_nothing_is_left_where_writing_fails(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    path.with_name("model.folded.onnx").write_text("older")
    monkeypatch.setattr("bnfold.onnx_io.atomic_output._sync", full)
    with pytest.raises(bnfold.UsageError, match="No space left"):
        bnfold.optimize(path)
    assert entries(path.parent) == {"model.onnx", "model.folded.onnx"}
    assert path.with_name("model.folded.onnx").read_text() == "older"


def test_a_folder_that_does_not_exist(path: Path) -> None:
    with pytest.raises(bnfold.UsageError, match="cannot write into"):
        bnfold.optimize(path, path.parent / "nowhere" / "out.onnx")


def test_in_place_and_an_output_exclude_each_other(path: Path) -> None:
    with pytest.raises(bnfold.UsageError):
        bnfold.optimize(path, path.with_name("out.onnx"), in_place=True)


def test_an_unknown_way_to_verify(path: Path) -> None:
    with pytest.raises(bnfold.UsageError):
        bnfold.optimize(path, verify="perhaps")  # type: ignore[arg-type]


# --- what cannot be read ------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "holds no bytes"),
        (b"version https://git-lfs.github.com/spec/v1\n", "a pointer of Git LFS .*git lfs pull"),
        (b"\x20\x00\x00\x00ORTM" + bytes(60), "a model in ORT format"),
        (b"<!doctype html><html>", "a web page"),
        (b"PK\x03\x04" + bytes(60), "a zip archive"),
        (b"\x0f\x0f\x0f garbage", "cannot be parsed"),
        (bytes([8, 8]), "holds no graph"),
        (ModelProto(graph=onnx.GraphProto(name="g")).SerializeToString(), "no operator set"),
    ],
)
def test_what_is_no_model(tmp_path: Path, data: bytes, message: str) -> None:
    (tmp_path / "model.onnx").write_bytes(data)
    with pytest.raises(bnfold.ModelError, match=message):
        bnfold.inspect(tmp_path / "model.onnx")


def test_a_truncated_model(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-40])
    with pytest.raises(bnfold.ModelError):
        bnfold.optimize(path)


def test_what_is_no_file(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    for path in (tmp_path, tmp_path / "missing.onnx", tmp_path / "pipe"):
        with pytest.raises(bnfold.ModelError):
            bnfold.optimize(path)


# --- external data ------------------------------------------------------------------------------


def test_external_data_goes_to_one_file_beside_the_output(external: Path, tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    before = {path.name: path.read_bytes() for path in external.parent.iterdir()}
    result = bnfold.optimize(external, tmp_path / "out" / "small.onnx")
    assert result.comparison is not None
    assert entries(tmp_path / "out") == {"small.onnx", "small.onnx.data"}
    assert {path.name: path.read_bytes() for path in external.parent.iterdir()} == before
    reread = onnx.load(result.model)
    np.testing.assert_array_equal(
        onnx.numpy_helper.to_array(reread.graph.initializer[0]).shape, (3, 3, 1, 1)
    )
    stored = onnx.load(result.model, load_external_data=False).graph.initializer
    assert {t.name: t.data_location for t in stored} == {
        "w": onnx.TensorProto.EXTERNAL,
        "w_bias": onnx.TensorProto.DEFAULT,
    }
    assert result.bytes_after == sum(p.stat().st_size for p in (tmp_path / "out").iterdir())


def test_external_data_is_found_from_any_current_folder(
    external: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "weights.bin").write_bytes(b"decoy")
    monkeypatch.chdir(tmp_path)
    result = bnfold.optimize("ext/model.onnx", "folded.onnx")
    assert result.comparison is not None
    assert result.comparison.equal


def test_the_originals_data_file_is_not_overwritten(external: Path) -> None:
    (external.parent / "weights.bin").rename(external.parent / "model.folded.onnx.data")
    model = onnx.load(external, load_external_data=False)
    for tensor in model.graph.initializer:
        tensor.external_data[0].value = "model.folded.onnx.data"
    onnx.save(model, external)
    before = (external.parent / "model.folded.onnx.data").read_bytes()
    bnfold.optimize(external)
    assert entries(external.parent) == {
        "model.onnx", "model.folded.onnx.data", "model.folded.onnx", "model.folded.onnx.1.data",
    }  # fmt: skip
    assert (external.parent / "model.folded.onnx.data").read_bytes() == before


@pytest.mark.parametrize("fault", ["missing", "truncated", "outside", "absolute", "link"])
def test_external_data_that_is_not_there_or_not_ours(external: Path, fault: str) -> None:
    data = external.parent / "weights.bin"
    model = onnx.load(external, load_external_data=False)
    location = {"outside": "../secret.bin", "absolute": str(data)}.get(fault, data.name)
    for tensor in model.graph.initializer:
        tensor.external_data[0].value = location
    external.write_bytes(model.SerializeToString())
    (external.parent.parent / "secret.bin").write_bytes(data.read_bytes())
    if fault == "missing":
        data.unlink()
    elif fault == "truncated":
        data.write_bytes(data.read_bytes()[:20])
    elif fault == "link":
        data.unlink()
        data.symlink_to("../secret.bin")
    with pytest.raises(bnfold.ModelError, match="external data"):
        bnfold.optimize(external)


def test_tensors_are_found_everywhere() -> None:
    text = """
    <ir_version: 8, opset_import: ["": 17, "own": 1]>
    g (bool cond, float[1] x) => (float[1] y) <float[1] a = {1}> {
      b = Constant <value = float[1] {2}> ()
      y = If (cond) <
        then_branch = t () => (float[1] p) <float[1] c = {3}> { p = Add (x, c) },
        else_branch = e () => (float[1] q) { d = Constant <value = float[1] {4}> () q = own.F (d) }
      >
    }
    <domain: "own", opset_import: ["": 17]>
    F (x) => (y) { e = Constant <value = float[1] {5}> () y = Add (x, e) }"""
    values = [onnx.numpy_helper.to_array(t)[0] for t in protos.tensors(parse(text))]
    assert sorted(values) == [1, 2, 3, 4, 5]


# --- onnx-graphsurgeon --------------------------------------------------------------------------


def test_a_graphsurgeon_graph_is_folded_and_returned_as_one(model: ModelProto) -> None:
    import onnx_graphsurgeon as gs

    graph = gs.import_onnx(model)
    result = bnfold.fold(graph)
    assert isinstance(result.model, gs.Graph)
    assert [node.op for node in result.model.nodes] == ["Conv"]
    assert [node.op for node in graph.nodes] == ["Conv", "BatchNormalization"]
    assert result.folded[0].into == ("conv",)


def test_anything_else_is_refused() -> None:
    with pytest.raises(TypeError, match="ModelProto"):
        bnfold.fold("model.onnx")
