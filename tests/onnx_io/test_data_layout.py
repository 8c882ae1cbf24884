"""External data: what may be read, and where the tensors of an output come to stand."""

from __future__ import annotations

import os
import resource
import subprocess
import sys
import tracemalloc
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import ModelProto, TensorProto
from onnx.external_data_helper import set_external_data

import bnfold
from bnfold.onnx_io import atomic_output, model_file
from tests.onnx_io.test_model_files import entries
from tests.support import Array, bn, invoke, numbers, parse

C = 64  # channels: weights of 16 KiB, which stay on disk

TEXT = f"""
g (float[1,{C},4,4] x) => (float[1,{C},4,4] y) {{
  c = Conv (x, w)
  n = BatchNormalization (c, s, b, m, v)
  r = Relu (n)
  d = Conv (r, u)
  y = Add (d, z)
}}"""


def model() -> ModelProto:
    """A weight that is folded, one that stays, and a constant that is no map."""
    weights = {"w": numbers(C, C, 1, 1), "u": numbers(C, C, 1, 1, seed=1)}
    return parse(TEXT, **weights, **bn(C), z=numbers(1, C, 4, 4, seed=2))


def place(
    proto: ModelProto, folder: Path, where: Callable[[str], tuple[str, int]], name: str = "m.onnx"
) -> Path:
    """Write the model with each tensor at the location and offset that `where` gives its name."""
    folder.mkdir(exist_ok=True)
    proto = onnx.ModelProto.FromString(proto.SerializeToString())
    for tensor in proto.graph.initializer:
        location, offset = where(tensor.name)
        if not location:
            continue
        path = folder / location
        path.parent.mkdir(exist_ok=True)
        data = bytearray(path.read_bytes()) if path.exists() else bytearray()
        data.extend(b"\xee" * (offset - len(data)))  # what stands between tensors is not ours
        data[offset : offset + len(tensor.raw_data)] = tensor.raw_data
        path.write_bytes(data)
        set_external_data(tensor, location, offset, len(tensor.raw_data))
        tensor.ClearField("raw_data")
    (folder / name).write_bytes(proto.SerializeToString())
    return folder / name


ORDER = ["w", "u", "s", "b", "m", "v", "z"]


def in_one_file(name: str) -> tuple[str, int]:
    return "weights.bin", 32768 * ORDER.index(name)


def values(path: Path) -> dict[str, Array]:
    graph = onnx.load(path).graph
    return {tensor.name: onnx.numpy_helper.to_array(tensor) for tensor in graph.initializer}


def places(path: Path) -> dict[str, tuple[str, int]]:
    """Where external tensors are said to be."""
    graph = onnx.load(path, load_external_data=False).graph
    found = {}
    for tensor in graph.initializer:
        if tensor.data_location == TensorProto.EXTERNAL:
            entries = {entry.key: entry.value for entry in tensor.external_data}
            found[tensor.name] = entries["location"], int(entries["offset"])
    return found


@pytest.fixture
def expected() -> dict[str, Array]:
    folded = bnfold.fold(model()).model
    return {t.name: onnx.numpy_helper.to_array(t) for t in folded.graph.initializer}


def assert_values(path: Path, expected: dict[str, Array]) -> None:
    found = values(path)
    assert found.keys() == expected.keys()
    for name, array in expected.items():
        np.testing.assert_array_equal(found[name], array, name)


# --- the layout is kept --------------------------------------------------------------------------


def test_one_file_new_values_at_the_old_offsets(tmp_path: Path, expected: dict[str, Array]) -> None:
    source = place(model(), tmp_path / "in", in_one_file)
    old = (tmp_path / "in" / "weights.bin").read_bytes()
    (tmp_path / "out").mkdir()
    result = bnfold.optimize(source, tmp_path / "out" / "f.onnx")
    assert result.comparison is not None
    assert result.data_files == (tmp_path / "out" / "f.onnx.data",)
    assert entries(tmp_path / "out") == {"f.onnx", "f.onnx.data"}
    assert_values(result.model, expected)
    kept = {"w": ("f.onnx.data", 0), "u": ("f.onnx.data", 32768)}
    assert places(result.model) == kept | {"z": ("f.onnx.data", 32768 * 6)}
    new = (tmp_path / "out" / "f.onnx.data").read_bytes()
    assert new[16384:] == old[16384:]  # also what no tensor refers to
    assert len(new) == len(old)
    assert result.bytes_before == sum(p.stat().st_size for p in (tmp_path / "in").iterdir())
    assert result.bytes_after == sum(p.stat().st_size for p in (tmp_path / "out").iterdir())


def test_a_file_for_each_tensor(tmp_path: Path, expected: dict[str, Array]) -> None:
    source = place(model(), tmp_path / "in", lambda name: (f"{name}.bin", 0))
    result = bnfold.optimize(source, tmp_path / "f.onnx", verify="none")
    assert_values(result.model, expected)
    assert places(result.model) == {n: (f"f.onnx.{n}.bin", 0) for n in ("w", "u", "z")}


def test_shards_in_folders_that_have_files_of_one_name(
    tmp_path: Path, expected: dict[str, Array]
) -> None:
    def where(name: str) -> tuple[str, int]:
        return ("a/data", 0) if name == "w" else ("b/data", 16384 * ORDER.index(name))

    source = place(model(), tmp_path / "in", where)
    result = bnfold.optimize(source, tmp_path / "f.onnx", verify="none")
    assert_values(result.model, expected)
    assert {name for name, _ in places(result.model).values()} == {"f.onnx.data", "f.onnx.1.data"}


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("m.onnx.data", "f.onnx.data"),
        ("m.onnx_data", "f.onnx_data"),
        ("x.bin", "f.onnx.data"),
    ],
)
def test_data_files_are_named_as_the_originals_were(tmp_path: Path, old: str, new: str) -> None:
    source = place(model(), tmp_path / "in", lambda name: (old, 32768 * ORDER.index(name)))
    assert [p.name for p in bnfold.optimize(source, tmp_path / "f.onnx").data_files] == [new]


def test_some_tensors_inside_some_outside_stay_where_they_are(
    tmp_path: Path, expected: dict[str, Array]
) -> None:
    source = place(model(), tmp_path / "in", lambda name: ("d", 0) if name == "u" else ("", 0))
    result = bnfold.optimize(source, tmp_path / "f.onnx")
    assert_values(result.model, expected)
    assert places(result.model) == {"u": ("f.onnx.data", 0)}


def test_what_shares_its_bytes_with_another_comes_at_the_end(tmp_path: Path) -> None:
    """w and u are one range of the file; only w is folded."""
    proto = model()
    proto.graph.initializer[1].raw_data = proto.graph.initializer[0].raw_data

    def where(name: str) -> tuple[str, int]:
        return "weights.bin", 0 if name in "wu" else 512 * 100 + 512 * ORDER.index(name)

    source = place(proto, tmp_path / "in", where)
    before = values(source)
    result = bnfold.optimize(source, tmp_path / "f.onnx")
    size = (tmp_path / "in" / "weights.bin").stat().st_size
    offset = places(result.model)["w"][1]
    assert (places(result.model)["u"][1], offset) == (0, -(-size // 512) * 512)
    np.testing.assert_array_equal(values(result.model)["u"], before["u"])
    expected = bnfold.fold(onnx.load(source)).model.graph.initializer[0]
    np.testing.assert_array_equal(values(result.model)["w"], onnx.numpy_helper.to_array(expected))


@pytest.mark.parametrize("overlap", ["inside", "across", "far behind"])
def test_ranges_that_overlap_in_part(tmp_path: Path, overlap: str) -> None:
    """What other tensors read of w's bytes stays as it was."""
    start = {"inside": 4096, "across": 16000, "far behind": 16128}[overlap]
    where = {"w": 0, "u": 1 << 20, "z": start, "s": 256}
    rest = 1 << 17
    source = place(
        model(), tmp_path / "in", lambda n: ("d", where.get(n, rest + 4096 * ORDER.index(n)))
    )
    before, proto = values(source), onnx.load(source)
    result = bnfold.optimize(source, tmp_path / "f.onnx", verify="none")
    after = values(result.model)
    np.testing.assert_array_equal(after["z"], before["z"])
    np.testing.assert_array_equal(after["u"], before["u"])
    expected = bnfold.fold(proto).model.graph.initializer[0]
    np.testing.assert_array_equal(after["w"], onnx.numpy_helper.to_array(expected))


def test_a_new_large_tensor_stands_where_the_others_are(tmp_path: Path) -> None:
    """Two convolutions share w, and only one has a BatchNormalization: w is copied."""
    text = f"""
    g (float[1,{C},4,4] x) => (float[1,{C},4,4] y, float[1,{C},4,4] d) {{
      c = Conv (x, w)
      d = Conv (x, w)
      n = BatchNormalization (c, s, b, m, v)
      y = Add (n, z)
    }}"""
    proto = parse(text, w=numbers(C, C, 1, 1), **bn(C), z=numbers(1, C, 4, 4))
    source = place(proto, tmp_path / "in", lambda n: ("d", 32768 * "wzsbmv".index(n)))
    result = bnfold.optimize(source, tmp_path / "f.onnx")
    size = (tmp_path / "in" / "d").stat().st_size
    assert result.copied_bytes == C * C * 4
    offsets = {name: offset for name, (_, offset) in places(result.model).items()}
    assert offsets == {"w": 0, "z": 32768, "w_1": 196608}
    assert -(-size // 32768) * 32768 == 196608  # the others stand at multiples of 32768
    inline = bnfold.optimize(place(proto, tmp_path / "in2", lambda n: ("", 0)))
    assert places(inline.model) == {}


def test_a_checksum_goes_where_its_file_has_changed(tmp_path: Path) -> None:
    source = place(
        model(), tmp_path / "in", lambda n: ("a" if n == "u" else "b", 0x8000 * ORDER.index(n))
    )
    proto = onnx.load(source, load_external_data=False)
    for tensor in proto.graph.initializer:
        tensor.external_data.add(key="checksum", value="0" * 40)
        tensor.external_data.add(key="vendor", value="kept")
    source.write_bytes(proto.SerializeToString())
    result = bnfold.optimize(source, tmp_path / "f.onnx", verify="none")
    keys = {
        tensor.name: {entry.key for entry in tensor.external_data}
        for tensor in onnx.load(result.model, load_external_data=False).graph.initializer
    }
    assert keys["u"] == {"location", "offset", "length", "checksum", "vendor"}
    assert keys["w"] == {"location", "offset", "length", "vendor"}


def test_a_model_with_nothing_to_fold_keeps_its_data(tmp_path: Path) -> None:
    text = f"g (float[1,{C},4,4] x) => (float[1,{C},4,4] y) {{ y = Conv (x, w) }}"
    source = place(parse(text, w=numbers(C, C, 1, 1)), tmp_path / "in", lambda n: ("d", 4096))
    result = bnfold.optimize(source, tmp_path / "f.onnx")
    assert result.data_files[0].read_bytes() == (tmp_path / "in" / "d").read_bytes()
    assert_values(result.model, values(source))


# --- another layout ------------------------------------------------------------------------------


LAYOUTS = {
    "all inside": lambda name: ("", 0),
    "one file": in_one_file,
    "many files": lambda name: (f"{name}.bin", 64),
}


@pytest.mark.parametrize("before", LAYOUTS)
def test_everything_into_the_model(tmp_path: Path, before: str, expected: dict[str, Array]) -> None:
    source = place(model(), tmp_path / "in", LAYOUTS[before])
    (tmp_path / "out").mkdir()
    result = bnfold.optimize(source, tmp_path / "out", external_data="inline")
    assert_values(result.model, expected)
    assert entries(tmp_path / "out") == {"m.onnx"}
    assert result.comparison is not None


IN_DATA_BIN = {"w": ("data.bin", 0), "u": ("data.bin", 16384), "z": ("data.bin", 32768)}


@pytest.mark.parametrize("before", LAYOUTS)
def test_everything_into_one_file(tmp_path: Path, before: str, expected: dict[str, Array]) -> None:
    source = place(model(), tmp_path / "in", LAYOUTS[before])
    (tmp_path / "out").mkdir()
    result = bnfold.optimize(source, tmp_path / "out", external_data="data.bin")
    assert_values(result.model, expected)
    assert entries(tmp_path / "out") == {"m.onnx", "data.bin"}
    assert places(result.model) == IN_DATA_BIN
    assert result.comparison is not None


def test_numbers_that_are_no_raw_data_go_into_the_file_as_well(tmp_path: Path) -> None:
    proto = model()
    for tensor in proto.graph.initializer:
        tensor.float_data.extend(np.frombuffer(tensor.raw_data, np.float32).tolist())
        tensor.ClearField("raw_data")
    (tmp_path / "m.onnx").write_bytes(proto.SerializeToString())
    result = bnfold.optimize(tmp_path / "m.onnx", external_data="data.bin")
    assert places(result.model) == IN_DATA_BIN


@pytest.mark.parametrize("name", ["", ".", "..", "../x", "a/b", "/tmp/x", "m.onnx", "folder"])
def test_names_that_are_no_file_beside_the_output(tmp_path: Path, name: str) -> None:
    source = place(model(), tmp_path / "in", in_one_file)
    (tmp_path / "out" / "folder").mkdir(parents=True)
    with pytest.raises(bnfold.UsageError, match="does not name a file"):
        bnfold.optimize(source, tmp_path / "out", external_data=name)
    assert entries(tmp_path / "out") == {"folder"}


def test_the_data_file_of_another_model_is_not_overwritten(tmp_path: Path) -> None:
    source = place(model(), tmp_path / "in", LAYOUTS["all inside"])
    place(model(), tmp_path / "in", lambda n: ("data.bin", 0x8000 * ORDER.index(n)), "other.onnx")
    before = (tmp_path / "in" / "data.bin").read_bytes()
    with pytest.raises(bnfold.UsageError, match="not what an earlier run for this output has left"):
        bnfold.optimize(source, tmp_path / "in" / "f.onnx", external_data="data.bin")
    assert (tmp_path / "in" / "data.bin").read_bytes() == before
    assert entries(tmp_path / "in") == {"m.onnx", "other.onnx", "data.bin"}


def test_more_than_protobuf_can_hold_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = place(model(), tmp_path / "in", in_one_file)
    monkeypatch.setattr("bnfold.onnx_io.model_file._LIMIT", 30_000)
    with pytest.raises(bnfold.UsageError, match="`external_data=NAME`"):
        bnfold.optimize(source, tmp_path / "f.onnx", external_data="inline")
    assert entries(tmp_path) == {"in"}
    bnfold.optimize(source, tmp_path / "f.onnx")


# --- outputs in the way --------------------------------------------------------------------------


def test_an_earlier_outputs_data_is_left_and_named(tmp_path: Path) -> None:
    source = place(model(), tmp_path / "in", in_one_file)
    (tmp_path / "out").mkdir()
    target = tmp_path / "out" / "f.onnx"
    first = bnfold.optimize(source, target)
    second = bnfold.optimize(source, target)
    third = bnfold.optimize(source, target)
    assert [p.name for r in (first, second, third) for p in r.data_files] == [
        "f.onnx.data", "f.onnx.1.data", "f.onnx.data",
    ]  # fmt: skip
    assert [p.name for r in (first, second, third) for p in r.left_behind] == [
        "f.onnx.data", "f.onnx.1.data",
    ]  # fmt: skip
    assert entries(tmp_path / "out") == {"f.onnx", "f.onnx.data", "f.onnx.1.data"}


def test_in_place_the_model_gets_a_new_data_file(
    tmp_path: Path, expected: dict[str, Array]
) -> None:
    source = place(model(), tmp_path / "in", in_one_file)
    old = (tmp_path / "in" / "weights.bin").read_bytes()
    result = bnfold.optimize(source, in_place=True)
    assert_values(source, expected)
    assert result.data_files == (tmp_path / "in" / "m.onnx.data",)
    assert result.left_behind == (tmp_path / "in" / "weights.bin",)
    assert (tmp_path / "in" / "weights.bin").read_bytes() == old


def test_in_place_a_model_does_not_leave_another_with_the_same_data(tmp_path: Path) -> None:
    source = place(model(), tmp_path / "in", in_one_file)
    other = source.with_name("other.onnx")
    other.write_bytes(source.read_bytes())
    before = source.read_bytes()
    with pytest.raises(bnfold.UsageError, match="has the same data file"):
        bnfold.optimize(source, in_place=True)
    assert source.read_bytes() == before


def test_in_place_a_linked_model_does_not_leave_its_data(tmp_path: Path) -> None:
    source = place(model(), tmp_path / "in", in_one_file)
    link = tmp_path / "in" / "link.onnx"
    link.symlink_to("m.onnx")
    with pytest.raises(bnfold.UsageError, match="is a link"):
        bnfold.optimize(link, in_place=True)
    assert bnfold.optimize(source).folded


# --- what may be read ----------------------------------------------------------------------------


def test_data_in_a_folder_below(tmp_path: Path, expected: dict[str, Array]) -> None:
    source = place(model(), tmp_path / "in", lambda n: ("deep/data", 0x8000 * ORDER.index(n)))
    assert_values(bnfold.optimize(source, tmp_path / "f.onnx").model, expected)


def hugging_face(folder: Path, location: str = "m.onnx_data") -> Path:
    """Model and data are links into blobs/, as in the cache of huggingface_hub."""
    blobs, snapshot = folder / "blobs", folder / "snapshots" / "main" / "onnx"
    snapshot.mkdir(parents=True)
    source = place(model(), blobs, lambda n: (location, 0x8000 * ORDER.index(n)))
    for name in (location, "m.onnx"):
        (blobs / name).rename(blobs / f"sha-of-{name}")
        (snapshot / name).symlink_to(f"../../../blobs/sha-of-{name}")
    return snapshot / source.name


def test_the_cache_of_hugging_face(tmp_path: Path, expected: dict[str, Array]) -> None:
    source = hugging_face(tmp_path)
    result = bnfold.optimize(source, tmp_path / "f.onnx")
    assert result.comparison is not None
    assert result.comparison.equal
    assert_values(result.model, expected)
    assert bnfold.inspect(source).verdicts[0].folded


def test_links_of_that_layout_that_lead_elsewhere(tmp_path: Path) -> None:
    source = hugging_face(tmp_path)
    data = source.with_name("m.onnx_data")
    (tmp_path / "secret").write_bytes(data.read_bytes())
    data.unlink()
    data.symlink_to("../../../secret")
    with pytest.raises(bnfold.ModelError, match="external data"):
        bnfold.inspect(source)


def test_a_model_that_is_a_file_may_not_have_linked_data(tmp_path: Path) -> None:
    source = hugging_face(tmp_path)
    data = source.read_bytes()
    source.unlink()
    source.write_bytes(data)
    with pytest.raises(bnfold.ModelError, match="links are not followed"):
        bnfold.inspect(source)


def damage_file(path: Path, fault: str) -> None:
    data = path.read_bytes()
    if fault == "a hard link":
        os.link(path, path.with_name("elsewhere"))
        return
    path.unlink()
    if fault == "a pipe":
        os.mkfifo(path)
    elif fault == "a folder":
        path.mkdir()
    elif fault == "a link":
        (path.parent / "elsewhere").write_bytes(data)
        path.symlink_to("elsewhere")
    elif fault == "a device":
        path.symlink_to("/dev/zero")


@pytest.mark.parametrize("fault", ["a hard link", "a pipe", "a folder", "a link", "a device", ""])
def test_what_is_no_data_file(tmp_path: Path, fault: str) -> None:
    source = place(model(), tmp_path / "in", in_one_file)
    damage_file(tmp_path / "in" / "weights.bin", fault)
    with pytest.raises(bnfold.ModelError):
        bnfold.inspect(source)


def test_a_folder_that_is_a_link(tmp_path: Path) -> None:
    source = place(model(), tmp_path / "in", lambda n: ("deep/data", 0x8000 * ORDER.index(n)))
    (tmp_path / "in" / "deep").rename(tmp_path / "elsewhere")
    (tmp_path / "in" / "deep").symlink_to("../elsewhere")
    with pytest.raises(bnfold.ModelError, match="external data"):
        bnfold.inspect(source)


ENTRIES = {
    "the folder above": {"location": "../x"},
    "the folder above, in between": {"location": "a/../../x"},
    "an absolute path": {"location": "/etc/passwd"},
    "a drive": {"location": "C:\\x"},
    "backslashes upwards": {"location": "..\\x"},
    "no name": {"location": ""},
    "the folder itself": {"location": "."},
    "a zero byte": {"location": "a\0b"},
    "a negative offset": {"offset": "-1"},
    "an offset that is no number": {"offset": "0x10"},
    "an offset in other digits": {"offset": "²"},
    "an offset past the end": {"offset": "1000000"},
    "an offset past all ends": {"offset": "9" * 30},
    "a length past the end": {"length": "1000000"},
    "a negative length": {"length": "-1"},
    "a length that does not fit the dims": {"length": "16380"},
}


@pytest.mark.parametrize("case", ENTRIES)
def test_entries_that_do_not_name_data(case: str, tmp_path: Path) -> None:
    source = place(model(), tmp_path / "in", in_one_file)
    proto = onnx.load(source, load_external_data=False)
    for entry in proto.graph.initializer[0].external_data:
        entry.value = ENTRIES[case].get(entry.key, entry.value)
    source.write_bytes(proto.SerializeToString())
    with pytest.raises(bnfold.ModelError):
        bnfold.optimize(source, tmp_path / "f.onnx")
    assert entries(tmp_path) == {"in"}


def test_entries_may_be_left_out(tmp_path: Path, expected: dict[str, Array]) -> None:
    """Without an offset it is 0; without a length the dims tell it."""
    source = place(model(), tmp_path / "in", lambda n: (f"{n}.bin", 0))
    proto = onnx.load(source, load_external_data=False)
    for tensor in proto.graph.initializer:
        kept = [entry for entry in tensor.external_data if entry.key == "location"]
        location = kept[0].value
        del tensor.external_data[:]
        tensor.external_data.add(key="location", value=location)
        with (tmp_path / "in" / location).open("ab") as file:
            file.write(b"more")
    source.write_bytes(proto.SerializeToString())
    assert_values(bnfold.optimize(source, tmp_path / "f.onnx").model, expected)


def test_a_model_in_memory_needs_the_folder_of_its_data(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, expected: dict[str, Array]
) -> None:
    source = place(model(), tmp_path / "in", in_one_file)
    proto = onnx.load(source, load_external_data=False)
    monkeypatch.chdir(tmp_path / "in")  # where a careless reader would find it
    for call in (bnfold.fold, bnfold.inspect):
        with pytest.raises(bnfold.ModelError, match="base_dir"):
            call(proto)
    with pytest.raises(bnfold.ModelError, match="give the path"):
        bnfold.verify(proto, source)
    assert bnfold.inspect(proto, base_dir=tmp_path / "in").verdicts[0].folded
    folded = bnfold.fold(proto, base_dir=tmp_path / "in").model
    stored = {tensor.name: tensor for tensor in folded.graph.initializer}
    np.testing.assert_array_equal(onnx.numpy_helper.to_array(stored["w"]), expected["w"])
    assert stored["u"].data_location == TensorProto.EXTERNAL


# --- cost ----------------------------------------------------------------------------------------


@pytest.mark.unproven  # which would take memory of its own in this process
def test_memory_does_not_grow_with_the_model(tmp_path: Path) -> None:
    """Forty weights of 4 MB, folded and written with a fraction of that in memory."""
    channels, pairs = 1024, 40
    body = "\n".join(
        f"c{i} = Conv (x{i}, w{i})\n x{i + 1} = BatchNormalization (c{i}, s, b, m, v)"
        for i in range(pairs)
    )
    shape = f"float[1,{channels},1,1]"
    text = f"g ({shape} x0) => ({shape} x{pairs}) {{ {body} }}"
    weights = {f"w{i}": numbers(channels, channels, 1, 1, seed=i) for i in range(pairs)}
    proto = parse(text, **weights, **bn(channels))
    onnx.save(proto, tmp_path / "m.onnx")
    size = (tmp_path / "m.onnx").stat().st_size
    del proto, weights
    tracemalloc.start()
    try:
        bnfold.optimize(tmp_path / "m.onnx", verify="none")
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert size > 160e6
    assert peak < 60e6


@pytest.mark.parametrize("moment", ["data", "model"])
@pytest.mark.parametrize("external", [False, True])
def test_a_disk_that_is_full(tmp_path: Path, moment: str, external: bool) -> None:
    """A limit on the size of files stands in for it: writing fails in the middle."""
    source = place(model(), tmp_path / "in", in_one_file if external else LAYOUTS["all inside"])
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "f.onnx").write_text("older")
    limit = 100_000 if moment == "data" else 500
    code = (
        "import resource, sys, bnfold.cli.main;"
        f"resource.setrlimit(resource.RLIMIT_FSIZE, ({limit}, {limit}));"
        "bnfold.cli.main.main(sys.argv[1:])"
    )
    ended = subprocess.run(
        [sys.executable, "-c", code, "optimize", str(source), "-o", str(tmp_path / "out/f.onnx"),
         "--verify", "none"],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    if moment == "data" and not external:
        assert ended.returncode == 0  # it is small enough
        return
    assert ended.returncode == 2, ended.stderr
    assert "cannot write" in ended.stderr
    assert "File too large" in ended.stderr
    assert entries(tmp_path / "out") == {"f.onnx"}
    assert (tmp_path / "out" / "f.onnx").read_text() == "older"
    assert resource.getrlimit(resource.RLIMIT_FSIZE)[0] != limit


def test_another_file_system(tmp_path: Path, expected: dict[str, Array]) -> None:
    memory = Path("/dev/shm")
    if not memory.is_dir() or memory.stat().st_dev == tmp_path.stat().st_dev:
        pytest.skip("there is no other file system here")
    source = place(model(), tmp_path / "in", in_one_file)
    target = memory / f"bnfold-test-{os.getpid()}.onnx"
    try:
        assert_values(bnfold.optimize(source, target).model, expected)
    finally:
        for path in memory.glob(f"{target.name}*"):
            path.unlink()


# --- kills ---------------------------------------------------------------------------------------


KILLED = """
import os, signal, sys
import bnfold
from bnfold.onnx_io import atomic_output
calls = 0
def counted(function):
    def call(*arguments, **keywords):
        global calls
        calls += 1
        if calls == int(sys.argv[3]):
            os.kill(os.getpid(), signal.SIGKILL)
        return function(*arguments, **keywords)
    return call
os.replace, os.fsync, os.pwrite, os.copy_file_range = map(
    counted, (os.replace, os.fsync, os.pwrite, os.copy_file_range)
)
bnfold.optimize(sys.argv[1], sys.argv[2], verify="none")
"""


def test_a_kill_at_any_moment_leaves_the_old_output_or_the_new_one(
    tmp_path: Path, expected: dict[str, Array]
) -> None:
    source = place(model(), tmp_path / "in", in_one_file)
    old = place(model(), tmp_path / "old", lambda n: ("f.onnx.data", 32768 * ORDER.index(n)))
    before = values(old)
    survived = 0
    for moment in range(1, 100):
        out = tmp_path / f"out{moment}"
        place(model(), out, lambda n: ("f.onnx.data", 32768 * ORDER.index(n)), "f.onnx")
        ended = subprocess.run(
            [sys.executable, "-c", KILLED, str(source), str(out / "f.onnx"), str(moment)],
            check=False,
        )
        after = values(out / "f.onnx")
        if len(after) == len(before):  # the BatchNormalization's parameters are there
            np.testing.assert_array_equal(after["w"], before["w"])
        else:
            survived += 1
            assert_values(out / "f.onnx", expected)
        if ended.returncode == 0:
            break
        bnfold.optimize(source, out / "f.onnx", verify="none")  # what was left is cleared away
        # f.onnx.data is none of ours, f.onnx.1.data is what the killed run had published
        new = {"f.onnx.2.data"} if len(after) != len(before) else set()
        assert entries(out) == {"f.onnx", "f.onnx.data", "f.onnx.1.data"} | new
        assert_values(out / "f.onnx", expected)
    assert moment > 5
    assert survived >= 1


def test_a_run_that_goes_on_keeps_its_folder(tmp_path: Path) -> None:
    from bnfold.onnx_io.atomic_output import Output

    source = place(model(), tmp_path / "in", LAYOUTS["all inside"])
    with Output(tmp_path / "in" / "other.onnx") as running:
        bnfold.optimize(source, verify="none")
        running.write([b"mine"])
        running.publish()
    assert (tmp_path / "in" / "other.onnx").read_bytes() == b"mine"
    assert entries(tmp_path / "in") == {"m.onnx", "m.folded.onnx", "other.onnx"}


def test_a_folder_of_that_name_that_is_not_ours_stays(tmp_path: Path) -> None:
    source = place(model(), tmp_path / "in", LAYOUTS["all inside"])
    foreign = tmp_path / "in" / ".bnfold-notes"
    foreign.mkdir()
    (foreign / "text").write_text("mine")
    bnfold.optimize(source, verify="none")
    assert (foreign / "text").read_text() == "mine"


# --- the library ---------------------------------------------------------------------------------


def test_a_file_folds_as_the_model_in_memory_does(
    tmp_path: Path, expected: dict[str, Array]
) -> None:
    """Weights in a Constant node, in a body and in a function, large enough to stay on disk."""
    text = f"""
    <ir_version: 8, opset_import: ["": 17, "own": 1]>
    g (bool cond, float[1,{C},4,4] x) => (float[1,{C},4,4] y) {{
      k = Constant <value = float[1] {{1}}> ()
      c = Conv (x, k)
      n = BatchNormalization (c, s, b, m, v)
      o = own.F (n)
      y = If (cond) <
        then_branch = t () => (float[1,{C},4,4] p) {{
          e = Conv (o, w)
          p = BatchNormalization (e, s, b, m, v)
        }},
        else_branch = e () => (float[1,{C},4,4] q) {{ q = Relu (o) }}
      >
    }}
    <domain: "own", opset_import: ["": 17]>
    F (x) => (y) {{
      k = Constant <value = float[1] {{1}}> ()
      s = Constant <value = float[1] {{1}}> ()
      t = Constant <value = float[1] {{0}}> ()
      c = Conv (x, k)
      y = BatchNormalization (c, s, t, t, s)
    }}"""
    proto = parse(text, w=numbers(C, C, 3, 3), **bn(C))
    nodes = [*proto.graph.node, *proto.functions[0].node]
    for number, node in enumerate(node for node in nodes if node.op_type == "Constant"):
        array = numbers(C, C, 1, 1, seed=number) if node.output[0] == "k" else np.full(C, 0.5)
        tensor = onnx.numpy_helper.from_array(array.astype(np.float32), "anything")
        node.attribute[0].t.CopyFrom(tensor)
    onnx.save(proto, tmp_path / "m.onnx")
    result = bnfold.optimize(tmp_path / "m.onnx")
    assert len(result.folded) == 3
    folded = bnfold.fold(proto).model
    assert onnx.load(result.model) == folded


def test_what_a_file_holds_is_what_was_planned_on_large_tensors(tmp_path: Path) -> None:
    """A weight that takes two maps, one that varies along its inputs, and a merged sum."""
    text = f"""
    g (float[1,{C},6,6] x) => (float[1,{C},4,4] y) {{
      n = BatchNormalization (x, s, b, m, v)
      c = Conv (n, w)
      y = BatchNormalization (c, s, b, m, v)
    }}"""
    proto = parse(text, w=numbers(C, C, 3, 3), **bn(C))
    onnx.save(proto, tmp_path / "m.onnx")
    result = bnfold.optimize(tmp_path / "m.onnx")
    assert len(result.folded) == 2
    assert onnx.load(result.model) == bnfold.fold(proto).model


def test_the_command_takes_the_option(tmp_path: Path) -> None:

    source = place(model(), tmp_path / "in", in_one_file)
    command = ["optimize", str(source), "-o", str(tmp_path / "f.onnx"), "--external-data", "d.bin"]
    ended = invoke(*command)
    assert ended.exit_code == 0, ended.output
    assert f"{tmp_path / 'f.onnx'} + {tmp_path / 'd.bin'}" in ended.output.replace("\n", "")
    assert model_file.data_names(tmp_path / "f.onnx") == ["d.bin"]
    again = invoke(*command)
    assert again.exit_code == 2
    assert "not what an earlier run for this output has left" in again.output
    kept = invoke(*command[:-2])
    assert "no longer needed" in kept.output


@pytest.mark.parametrize("behind", [False, True])
def test_an_interrupt_at_the_last_rename_leaves_no_half(
    behind: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, expected: dict[str, Array]
) -> None:
    """Before it no data file is left behind; behind it the output is there, and counts."""
    source = place(model(), tmp_path / "in", in_one_file)
    target, replace = tmp_path / "out" / "f.onnx", os.replace
    target.parent.mkdir()
    written: list[Path] = []
    monkeypatch.setattr(atomic_output, "WRITTEN", written)

    def interrupted(old: Path, new: Path) -> None:
        if Path(new).name != "f.onnx":
            replace(old, new)
            return
        if behind:
            replace(old, new)
        raise KeyboardInterrupt

    monkeypatch.setattr(os, "replace", interrupted)
    with pytest.raises(KeyboardInterrupt):
        bnfold.optimize(source, target, verify="none")
    monkeypatch.undo()
    assert written == ([target] if behind else [])
    if behind:
        assert_values(target, expected)
    else:
        assert list(target.parent.iterdir()) == []
