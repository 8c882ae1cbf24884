"""What folding forgets, as numbers and as files."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import onnx
import pytest

import bnfold
from bnfold import TensorMoments, UsageError
from bnfold.tuning.tensor_moments import files
from tests.support import bn, invoke, parse

SAMPLES = Path("sample_models")


def tensors(text: str, tmp_path: Path, **more: np.ndarray) -> dict[str, TensorMoments]:
    path = tmp_path / "model.onnx"
    onnx.save(parse(f"g (float[N,2,4,4] x) => (float y) {{ {text} }}", **more), path)
    return {tensor.name: tensor for tensor in bnfold.moments(path)}


ONE = {
    "s": np.array([2, -3], "f"), "b": np.array([1, 0], "f"), "m": np.array([5, 7], "f"),
    "v": np.array([4, 9], "f"),
}  # fmt: skip
W = np.eye(2, dtype="f").reshape(2, 2, 1, 1)


def test_the_value_of_a_folded_layer_has_mean_beta_and_deviation_gamma(tmp_path: Path) -> None:
    found = tensors(
        "c = Conv (x, w) [norm] n = BatchNormalization <epsilon = 0.0> (c, s, b, m, v)"
        " y = Relu (n)", tmp_path, w=W, **ONE,
    )  # fmt: skip
    made = found["n"]
    assert (made.batch_norm, made.axis, made.assumes) == ("norm", 1, ())
    assert (made.mean.tolist(), made.deviation.tolist()) == ([1, 0], [2, 3])
    assert (made.low.tolist(), made.high.tolist()) == ([-11, -18], [13, 18])
    behind = found["y"]
    assert (behind.batch_norm, behind.assumes) == ("", ("normal",))
    assert (behind.low.tolist(), behind.high.tolist()) == ([0, 0], [13, 18])
    np.testing.assert_allclose(behind.mean[1], 3 / np.sqrt(2 * np.pi), rtol=1e-3)


def test_what_a_folded_layer_read_has_its_statistics(tmp_path: Path) -> None:
    found = tensors(
        "r = Relu (x) n = BatchNormalization <epsilon = 0.0> (r, s, b, m, v) y = Conv (n, w)",
        tmp_path, w=W, **ONE,
    )  # fmt: skip
    assert "r" not in found  # the tensor now has the name of the layer, and the Relu's value
    assert (found["n"].mean.tolist(), found["n"].deviation.tolist()) == ([5, 7], [2, 3])


def test_a_tensor_that_carries_a_scale_has_moments_of_its_own(tmp_path: Path) -> None:
    """Of 2·Relu(a) − 9 the Conv behind it takes the shift, and the one before it the scale."""
    found = tensors(
        "c = Conv (x, w) a = BatchNormalization <epsilon = 0.0> (c, s, b, m, v) r = Relu (a)"
        " n = BatchNormalization <epsilon = 0.0> (r, t, z, m, v) y = Conv (n, w)",
        tmp_path, w=W, t=np.array([4, 6], "f"), z=np.array([1, 5], "f"), **ONE,
    )  # fmt: skip
    held = found["n"]
    np.testing.assert_allclose(held.low / held.high, [0, 0], atol=1e-12)  # a Relu's value
    np.testing.assert_allclose(held.deviation / held.mean, [2 / 5, 3 / 7])  # σ/μ, scaled or not


def test_a_layer_that_makes_an_output_or_what_a_body_reads_is_told(tmp_path: Path) -> None:
    head = "c = Conv (x, w) [norm] n = BatchNormalization (c, s, b, m, v)"
    body = (
        " zero = Constant <value_float = 0.0> () all = ReduceMean <keepdims = 0> (x)"
        " yes = Greater (all, zero) y = If (yes) <then_branch = t () => (float p) { p = Neg (n) },"
        " else_branch = e () => (float q) { q = Abs (n) }>"
    )
    for text in (f"{head} y = Identity (n)", head + body):
        found = tensors(text, tmp_path, w=W, **ONE)
        assert "norm" in {t.batch_norm for t in found.values()}
    path = tmp_path / "out.onnx"
    onnx.save(parse(f"g (float[N,2,4,4] x) => (float n) {{ {head} }}", w=W, **ONE), path)
    (tensor,) = bnfold.moments(path)
    assert (tensor.name, tensor.batch_norm) == ("n", "norm")


def test_of_averages_no_deviation_is_told(tmp_path: Path) -> None:
    """How much of it is left depends on how alike neighbours are; the ends stay what they are."""
    found = tensors(
        "c = Conv (x, w) n = BatchNormalization (c, s, b, m, v) r = Relu (n)"
        " g = GlobalAveragePool (r) y = Conv (g, w)", tmp_path, w=W, **ONE,
    )  # fmt: skip
    assert np.all(np.isnan(found["g"].deviation))
    assert np.array_equal(found["g"].high, found["r"].high)
    assert np.all(np.isnan(found["y"].high))
    path = tmp_path / "m.overrides.json"
    files.save(tuple(found.values()), path, "")
    assert set(json.loads(path.read_text())) == {"n", "r", "g"}


def test_what_a_layer_has_seen_of_guesses_is_what_counts(tmp_path: Path) -> None:
    found = tensors(
        "c = Conv (x, w) n = BatchNormalization (c, s, b, m, v) r = Relu (n)"
        " g = GlobalAveragePool (r) d = Conv (g, w) k = Relu (d)"
        " o = BatchNormalization (k, s, b, m, v) y = Relu (o)", tmp_path, w=W, **ONE,
    )  # fmt: skip
    seen = found.get("k") or found["o"]
    np.testing.assert_allclose(seen.high - seen.low, 12 * seen.deviation, rtol=1e-6)


def test_dead_channels_are_constants(tmp_path: Path) -> None:
    more = {**ONE, "s": np.array([0, 1], "f")}
    found = tensors("c = Conv (x, w) y = BatchNormalization (c, s, b, m, v)", tmp_path, w=W, **more)
    assert (found["y"].mean[0], found["y"].deviation[0]) == (1, 0)


def test_files_of_moments_can_be_read_again(tmp_path: Path) -> None:
    path, model = tmp_path / "m.json", SAMPLES / "digits_depthwise.onnx"
    out = tmp_path / "out.onnx"
    result = invoke("optimize", model, "-o", out, "--moments", path, "--verify", "proof")
    assert result.exit_code == 0, result.output
    found = files.read(path)
    wanted = bnfold.moments(model)
    assert [t.name for t in found] == [t.name for t in wanted]
    for one, other in zip(found, wanted, strict=True):
        assert np.array_equal(one.mean, other.mean, equal_nan=True)
        assert np.array_equal(one.high, other.high, equal_nan=True)
        assert (one.batch_norm, one.assumes) == (other.batch_norm, other.assumes)
    graph = onnx.load(out).graph
    assert {t.name for t in found} <= {n for node in graph.node for n in node.output}
    stored = json.loads(path.read_text())
    assert (stored["moments"], stored["model"], stored["deviations"]) == (1, "out.onnx", 6)


def test_a_quantiser_takes_the_ranges(tmp_path: Path) -> None:
    path = tmp_path / "m.overrides.json"
    model = SAMPLES / "digits_mlp.onnx"
    assert invoke("inspect", model, "--moments", path).exit_code == 0
    found = json.loads(path.read_text())
    by_name = {t.name: t for t in bnfold.moments(model)}
    assert set(found) == set(by_name)
    for name, (entry,) in found.items():
        assert entry == {
            "rmin": float(by_name[name].low.min()), "rmax": float(by_name[name].high.max()),
        }  # fmt: skip


def test_a_table_has_a_line_for_each_channel(tmp_path: Path) -> None:
    path = tmp_path / "m.csv"
    model = SAMPLES / "digits_mlp.onnx"
    result = invoke("freeze", model, "-o", tmp_path / "f.onnx", "--moments", path)
    assert result.exit_code == 0
    head, *rows = path.read_text().splitlines()
    assert head == "tensor,scope,batch_norm,channel,mean,deviation,low,high,assumes"
    frozen = {n for node in onnx.load(tmp_path / "f.onnx").graph.node for n in node.output}
    assert {row.split(",")[0] for row in rows} <= frozen
    assert sum(row.startswith("/2/BatchNormalization_output_0,") for row in rows) == 64


def test_layers_that_stay_are_told_as_well(tmp_path: Path) -> None:
    found = tensors("y = BatchNormalization (x, s, b, m, v)", tmp_path, **bn(2))
    assert [t.batch_norm for t in found.values()] == ["y"]


@pytest.mark.parametrize("name", ["m.txt", "missing/m.json", "model.onnx"])
def test_names_that_are_no_moments_are_refused_before_anything_is_done(
    name: str, tmp_path: Path
) -> None:
    out = tmp_path / "out.onnx"
    result = invoke(
        "optimize", SAMPLES / "digits_mlp.onnx", "-o", out, "--moments", tmp_path / name
    )  # fmt: skip
    assert result.exit_code == 2
    assert not out.exists()


def test_another_file_is_not_overwritten(tmp_path: Path) -> None:
    other = tmp_path / "package.json"
    other.write_text('{"name": "mine"}')
    result = invoke("inspect", SAMPLES / "digits_mlp.onnx", "--moments", other)
    assert result.exit_code == 2
    assert other.read_text() == '{"name": "mine"}'


@pytest.mark.parametrize("text", ["", "{}", '{"moments": 2, "tensors": []}', '{"moments": 1}',
    '{"moments": 1, "tensors": [{"name": "a"}]}', "[1]"])  # fmt: skip
def test_what_is_no_file_of_moments_is_not_read(text: str, tmp_path: Path) -> None:
    path = tmp_path / "m.json"
    path.write_text(text)
    with pytest.raises(UsageError):
        files.read(path)


def test_the_remedy_names_the_flag(tmp_path: Path) -> None:
    path = tmp_path / "m.json"
    path.write_text("{}")
    result = invoke("recover", SAMPLES / "digits_mlp.onnx", "--moments", path)
    assert result.exit_code == 2
    assert "bnfold optimize MODEL --moments out.json writes one" in result.output
