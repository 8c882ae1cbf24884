"""The walk over protobuf's wire format: what it takes out and puts back, and what it refuses."""

from __future__ import annotations

import time
from pathlib import Path

import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import ModelProto, TensorProto, helper

import bnfold
from bnfold.onnx_io import data_files, model_file, protos, wire_format
from bnfold.onnx_io.atomic_output import Output
from bnfold.onnx_io.tensor_storage import INLINE
from tests.support import numbers, parse

SAMPLES = sorted((Path(__file__).parents[2] / "sample_models").glob("*.onnx"))
CORPUS = Path(__file__).parents[3] / "shared" / "corpus"

DELIMITED, GROUP, GROUP_END = 2, 3, 4


def field(number: int, data: bytes) -> bytes:
    return varint(number << 3 | DELIMITED) + varint(len(data)) + data


def varint(number: int) -> bytes:
    data = b""
    while number > 127:
        data += bytes([number & 127 | 128])
        number >>= 7
    return data + bytes([number])


def initializer(raw: bytes, name: str = "w") -> bytes:
    """A TensorProto of float numbers, serialised."""
    tensor = TensorProto(name=name, data_type=1, dims=[len(raw) // 4], raw_data=raw)
    return tensor.SerializeToString()


def written(path: Path) -> bytes:
    """The file after it was read and written again, unedited."""
    file = model_file.read(path)
    target = path.with_name("again.onnx")
    model_file.save(file.model, file.storage, target)
    return target.read_bytes()


def halves(data: bytes) -> list[bytes]:
    """What the walk takes out of a model, large or not."""
    found = []

    def take(start: int, end: int) -> bytes:
        found.append(data[start:end])
        return b""

    wire_format.replaced(data, lambda start, end: True, take)
    return found


LARGE = numbers(3000).tobytes()


# --- unedited ------------------------------------------------------------------------------------


@pytest.mark.parametrize("path", SAMPLES, ids=lambda path: path.stem)
def test_a_canonical_file_comes_out_byte_for_byte(path: Path, tmp_path: Path) -> None:
    canonical = tmp_path / "model.onnx"
    canonical.write_bytes(onnx.load(path).SerializeToString())
    assert written(canonical) == canonical.read_bytes()


@pytest.mark.skipif(not CORPUS.exists(), reason="the corpus is not there")
def test_every_file_of_the_corpus_comes_out_as_it_parses(tmp_path: Path) -> None:
    paths = sorted(CORPUS.rglob("*.onnx"))
    assert paths
    for path in paths:
        copy = tmp_path / "model.onnx"
        copy.write_bytes(path.read_bytes())
        model = ModelProto.FromString(path.read_bytes())
        if not model_file.locations(model):  # whose data would have to come along
            assert written(copy) == model.SerializeToString(), path


def test_tensors_are_taken_out_wherever_they_are() -> None:
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
    model = parse(text)
    sparse = model.graph.sparse_initializer.add()
    sparse.values.CopyFrom(floats("s", 6))
    sparse.indices.CopyFrom(floats("i", 7))
    attributes = model.functions[0].node[0].attribute
    attributes.append(helper.make_attribute("more", [floats("m", 8), floats("n", 9)]))
    training = model.training_info.add()
    training.initialization.initializer.append(floats("t", 10))
    training.algorithm.initializer.append(floats("u", 11))
    for tensor in protos.tensors(model):
        values = onnx.numpy_helper.to_array(tensor)
        tensor.CopyFrom(onnx.numpy_helper.from_array(values, tensor.name))
    found = [np.frombuffer(raw, np.float32)[0] for raw in halves(model.SerializeToString())]
    assert sorted(found) == list(range(1, 12))


def floats(name: str, value: float) -> TensorProto:
    return onnx.numpy_helper.from_array(np.full(1, value, np.float32), name)


def test_the_large_ones_stay_on_disk(tmp_path: Path) -> None:
    path = tmp_path / "m.onnx"
    graph = field(5, initializer(LARGE)) + field(5, initializer(LARGE[:INLINE], "small"))
    path.write_bytes(field(7, graph) + field(8, b"\x10\x11"))
    file = model_file.read(path)
    large, small = file.model.graph.initializer
    assert len(large.raw_data) == 24
    assert small.raw_data == LARGE[:INLINE]
    np.testing.assert_array_equal(file.storage.array(large).tobytes(), LARGE)
    assert file.loaded().graph.initializer[0].raw_data == LARGE
    path.write_bytes(path.read_bytes() + b"\0")
    with pytest.raises(bnfold.ModelError, match="changed"):
        file.storage.array(large)


# --- unusual, but legal --------------------------------------------------------------------------


UNUSUAL = {
    "fields in another order": field(8, b"\x10\x11") + field(7, field(5, initializer(LARGE))),
    "a graph in two pieces": b"".join(field(7, field(5, initializer(LARGE, name))) for name in "ab")
    + field(8, b"\x10\x11"),
    "a tensor's data given twice": field(7, field(5, initializer(LARGE) + field(9, LARGE[::-1])))
    + field(8, b"\x10\x11"),
    "an unknown field in a tensor": field(7, field(5, initializer(LARGE) + field(99, b"new")))
    + field(8, b"\x10\x11"),
    "unknown fields of every kind": field(7, field(5, initializer(LARGE)))
    + field(8, b"\x10\x11")
    + varint(999 << 3)
    + varint(1 << 60)
    + varint(998 << 3 | 1)
    + bytes(8)
    + varint(997 << 3 | 5)
    + bytes(4),
    "a group, as nobody writes them any more": field(7, field(5, initializer(LARGE)))
    + field(8, b"\x10\x11")
    + varint(999 << 3 | GROUP)
    + field(1, b"inside")
    + varint(2 << 3)
    + varint(7)
    + varint(999 << 3 | GROUP_END),
    "a length with more bytes than it needs": field(8, b"\x10\x11")
    + varint(7 << 3 | DELIMITED)
    + bytes([len(field(5, initializer(LARGE))) & 127 | 128])
    + bytes([len(field(5, initializer(LARGE))) >> 7 & 127 | 128, 0x80, 0x00])
    + field(5, initializer(LARGE)),
}


@pytest.mark.parametrize("case", UNUSUAL)
def test_what_parses_comes_out_as_it_parses(case: str, tmp_path: Path) -> None:
    data = UNUSUAL[case]
    path = tmp_path / "m.onnx"
    path.write_bytes(data)
    assert ModelProto.FromString(written(path)) == ModelProto.FromString(data)
    if "unknown" in case or "group" in case:
        again = ModelProto.FromString(data).SerializeToString()
        assert written(path) == again


# --- hostile -------------------------------------------------------------------------------------


def nested(depth: int, size: int = 20_000) -> bytes:
    """If in If in If: graph → node → attribute → graph."""
    data = bytes(size)
    for _ in range(depth // 3):
        data = field(1, field(5, field(6, data)))
    return field(7, data)


HOSTILE = {
    "a length that points outside": field(7, field(5, initializer(LARGE)))[:-100],
    "a length of 2⁶³": varint(7 << 3 | DELIMITED) + varint(1 << 63) + bytes(10_000),
    "a length of 4 GB": field(7, varint(5 << 3 | DELIMITED) + varint(1 << 32) + bytes(10_000)),
    "a number without an end": field(7, bytes([255] * 20_000)),
    "a key without a field": field(7, bytes(9_000) + varint(5 << 3 | DELIMITED)),
    "an unknown wire type": field(7, varint(5 << 3 | 7) + bytes(10_000)),
    "a group without an end": varint(999 << 3 | GROUP) + bytes(100),
    "groups in groups": varint(999 << 3 | GROUP) * 10_000,
    "graphs in graphs": nested(10_000),
    "a fixed number that is cut off": field(7, field(5, initializer(LARGE)) + varint(3 << 3 | 1)),
}


@pytest.mark.parametrize("case", HOSTILE)
def test_hostile_bytes_are_no_model(case: str, tmp_path: Path) -> None:
    path = tmp_path / "m.onnx"
    path.write_bytes(HOSTILE[case])
    start = time.perf_counter()
    with pytest.raises(bnfold.ModelError):
        bnfold.inspect(path)
    assert time.perf_counter() - start < 1


TENSORS = {
    "negative": ([-1], LARGE),
    "overflowing": ([1 << 40, 1 << 40], LARGE),
    "a product that wraps around": ([1 << 32, 1 << 32], b""),
    "more than there is": ([3001], LARGE),
    "less than there is": ([2999], LARGE),
    "more, and small": ([3], bytes(8)),
}


@pytest.mark.parametrize("case", TENSORS)
def test_dims_that_do_not_fit_the_data(case: str, tmp_path: Path) -> None:
    dims, raw = TENSORS[case]
    model = parse("g (float[1] x) => (float[1] y) { y = Relu (x) }")
    model.graph.initializer.append(TensorProto(name="w", data_type=1, dims=dims, raw_data=raw))
    path = tmp_path / "m.onnx"
    path.write_bytes(model.SerializeToString())
    with pytest.raises(bnfold.ModelError, match="'w'"):
        bnfold.inspect(path)


def test_a_sparse_file_of_a_tebibyte_is_not_allocated(tmp_path: Path) -> None:
    path = tmp_path / "m.onnx"
    with path.open("wb") as file:
        file.write(varint(7 << 3 | DELIMITED) + varint(1 << 39) + varint(5 << 3 | DELIMITED))
        try:
            file.truncate(1 << 39)
        except OSError:
            pytest.skip("no sparse files of that size here")
    with pytest.raises(bnfold.ModelError):
        bnfold.inspect(path)


@st.composite
def damaged(draw: st.DrawFn) -> bytes:
    """A model with a few bytes changed, left out or put in."""
    data = bytearray(UNUSUAL[draw(st.sampled_from(sorted(UNUSUAL)))])
    for _ in range(draw(st.integers(1, 4))):
        at = draw(st.integers(0, min(200, len(data) - 1)))
        change = draw(st.sampled_from(["set", "insert", "delete"]))
        byte = draw(st.integers(0, 255))
        data[at : at + (change != "insert")] = b"" if change == "delete" else bytes([byte])
    return bytes(data)


@given(damaged())
@settings(max_examples=300, deadline=None, derandomize=True)
def test_what_protobuf_refuses_the_walk_refuses_or_leaves_to_it(data: bytes) -> None:
    """And what the walk takes out and puts back is what was there."""

    def walked() -> bytes:
        parts = wire_format.replaced(data, lambda s, e: e - s > INLINE, lambda s, e: data[s:e])
        return b"".join(parts)  # type: ignore[arg-type]

    try:
        parsed = ModelProto.FromString(data)
    except Exception:
        return
    assert ModelProto.FromString(walked()) == parsed


# --- writing -------------------------------------------------------------------------------------


def pieces(*parts: object, target: Path) -> bytes:
    with Output(target) as output:
        output.write(parts)
        output.publish()
    return target.read_bytes()


@pytest.fixture(params=["copied by the system", "copied by hand"])
def system(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    if request.param == "copied by hand":

        def refused(*_: object) -> int:
            raise OSError(18, "Invalid cross-device link")

        monkeypatch.setattr("os.copy_file_range", refused, raising=False)


@pytest.mark.usefixtures("system")
def test_parts_stand_one_behind_the_other(tmp_path: Path) -> None:
    source = tmp_path / "source"
    source.write_bytes(bytes(range(256)) * 20_000)
    file = data_files.model_file(source)
    part = data_files.FileRange(file, 5, 3_000_000)
    data = pieces(b"abc", part, memoryview(b"def"), target=tmp_path / "out")
    assert data == b"abc" + source.read_bytes()[5:3_000_005] + b"def"


@pytest.mark.usefixtures("system")
def test_a_source_that_ends_too_early(tmp_path: Path) -> None:
    source = tmp_path / "source"
    source.write_bytes(b"abc")
    part = data_files.FileRange(data_files.model_file(source), 1, 10)
    with pytest.raises(bnfold.ModelError, match="too early"):
        pieces(part, target=tmp_path / "out")
    assert {path.name for path in tmp_path.iterdir()} == {"source"}
