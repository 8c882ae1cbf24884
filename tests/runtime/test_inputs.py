"""Inputs in the forms in which people keep them, and how inputs are drawn."""

from __future__ import annotations

import base64
import io
import json
from collections.abc import Callable
from pathlib import Path

import ml_dtypes
import numpy as np
import onnx
import pytest
from onnx import numpy_helper

import bnfold
from bnfold.options import RunOptions
from bnfold.runtime import input_files
from bnfold.runtime.synthetic_inputs import InputSpec, SyntheticInputs, input_specs, synthetic_feeds
from tests.support import Array, invoke, parse

X = InputSpec("x", np.dtype(np.float32), ("N", 2))
N = InputSpec("n", np.dtype(np.int64), (3,))
x = np.arange(4, dtype=np.float32).reshape(2, 2)
n = np.array([3, 1, 2])


def as_npz(folder: Path) -> Path:
    np.savez(folder / "in.npz", x=x, n=n)
    return folder / "in.npz"


def as_npy_files(folder: Path) -> Path:
    np.save(folder / "x.npy", x)
    np.save(folder / "n.npy", n)
    return folder


def as_folder_of_npz(folder: Path) -> Path:
    np.savez(folder / "a.npz", x=x, n=n)
    np.savez(folder / "b.npz", x=x + 1, n=n)
    return folder


def as_test_data(folder: Path) -> Path:
    for number in (0, 1, 10, 2):
        data = folder / f"test_data_set_{number}"
        data.mkdir()
        for place, array in enumerate((x + number, n)):
            proto = numpy_helper.from_array(array, "whatever")
            (data / f"input_{place}.pb").write_bytes(proto.SerializeToString())
    return folder


def as_one_test_data_set(folder: Path) -> Path:
    return as_test_data(folder) / "test_data_set_0"


def encoded(array: Array) -> str:
    file = io.BytesIO()
    np.save(file, array)
    return base64.b64encode(file.getvalue()).decode()


def as_polygraphy_json(folder: Path) -> Path:
    (folder / "in.json").write_text(
        json.dumps([{name: {"array": encoded(a)} for name, a in (("x", x), ("n", n))}])
    )
    return folder / "in.json"


FORMS: dict[Callable[[Path], Path], list[int]] = {
    as_npz: [0], as_npy_files: [0], as_folder_of_npz: [0, 1], as_test_data: [0, 1, 2, 10],
    as_one_test_data_set: [0], as_polygraphy_json: [0],
}  # fmt: skip


@pytest.mark.parametrize("form", FORMS, ids=lambda form: str(form.__name__))
def test_inputs_are_found_by_their_kind(form: Callable[[Path], Path], tmp_path: Path) -> None:
    sets = input_files.read(form(tmp_path), [X, N], ["y"])
    assert len(sets) == len(FORMS[form])
    for found, number in zip(sets, FORMS[form], strict=True):
        np.testing.assert_array_equal(found.feed["x"], x + number)
        np.testing.assert_array_equal(found.feed["n"], n)


@pytest.mark.parametrize(
    ("write", "message"),
    [
        (lambda f: np.savez(f / "in.npz", x=x), "no array for the input 'n'"),
        (lambda f: np.savez(f / "in.npz", x=x.T[:1], n=n[:2]), "has shape 2, the model wants 3"),
        (lambda f: np.savez(f / "in.npz", x=x, n=n + 0.5), "is float64, the model wants int64"),
        (lambda f: np.savez(f / "in.npz", x=np.array([{}], object), n=n), "cannot read"),
        (lambda f: (f / "in.npz").write_bytes(b""), "cannot read"),
        (lambda f: (f / "in.npz").write_bytes(b"PK garbage"), "cannot read"),
        (lambda f: None, "cannot read"),
        (lambda f: (f / "in.npz").mkdir(), "there are no inputs in"),
    ],
)
def test_inputs_that_do_not_fit(
    write: Callable[[Path], object], message: str, tmp_path: Path
) -> None:
    write(tmp_path)
    with pytest.raises(bnfold.UsageError, match=message):
        input_files.read(tmp_path / "in.npz", [X, N], ["y"])


def test_what_is_drawn_is_what_was_asked_for() -> None:
    model = parse("g (float[2,50] x, int64[9] n, uint8[64] p) => (float[2,50] y) { y = Relu (x) }")
    inputs = input_specs(model, {})

    def drawn(**how: object) -> list[dict[str, Array]]:
        return next(synthetic_feeds(model, inputs, {}, SyntheticInputs(**how)))  # type: ignore[arg-type]

    assert len(drawn(runs=5)) == 5
    assert all(np.all(feed["x"] == 1) for feed in drawn(fill="ones"))
    assert all(not np.any(feed["x"]) for feed in drawn(fill="zeros"))
    assert drawn(fill="arange")[0]["x"].reshape(-1).tolist() == list(range(100))
    assert all(feed["x"].min() >= 0 and feed["x"].max() < 1 for feed in drawn(fill="uniform"))
    assert all(feed["x"].min() < 0 for feed in drawn(fill="normal"))
    ranged = drawn(ranges={"": (5.0, 6.0), "n": (7.0, 7.0)})[0]
    assert 5 <= ranged["x"].min() <= ranged["x"].max() <= 6
    assert set(ranged["n"].tolist()) == {7}
    assert set(ranged["p"].tolist()) == {5, 6}
    assert drawn()[0]["x"].min() < 0 <= drawn()[1]["x"].min(), "signed and unsigned in turn"
    with pytest.raises(bnfold.UsageError, match="`val_range`"):
        drawn(ranges={"z": (0.0, 1.0)})


def test_drawn_bfloat16_has_its_range() -> None:
    model = parse("g (bfloat16[50] x) => (bfloat16[50] y) { y = Identity (x) }")
    feed = next(
        synthetic_feeds(
            model, input_specs(model, {}), {}, SyntheticInputs(ranges={"x": (2.0, 3.0)})
        )
    )[0]
    assert feed["x"].dtype == ml_dtypes.bfloat16
    assert feed["x"].astype(np.float32).min() >= 2


def test_all_sets_are_run(tmp_path: Path) -> None:
    model = parse("g (float[N,2] x, int64[3] n) => (float[N,2] y) { y = Relu (x) }")
    run_options = RunOptions(inputs=str(as_test_data(tmp_path)))
    assert bnfold.verify(model, model, run_options=run_options).runs == 4


@pytest.mark.parametrize(
    ("option", "code"),
    [
        ("--check 2 --fill uniform --val-range x:0,255 --val-range 0,1", 0),
        ("--val-range x:1", 2),
        ("--val-range 3,1", 2),
        ("--val-range nan,1", 2),
        ("--val-range z:0,1", 2),
        ("--check 0", 2),
        ("--fill noise", 2),
    ],
)
def test_the_options_of_the_command_line(
    option: str, code: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("signal.signal", lambda *_: None)
    path = tmp_path / "m.onnx"
    onnx.save(parse("g (float[2,3] x) => (float[2,3] y) { y = Relu (x) }"), path)
    result = invoke("verify", "-v", str(path), str(path), *option.split())
    assert result.exit_code == code, result.output
    if not code:
        assert "2 times" in result.output
