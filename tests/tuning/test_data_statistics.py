"""Data run through models: `stats`, `recalibrate`, and all that data can be."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import ModelProto, numpy_helper
from PIL import Image

import bnfold
from bnfold.runtime.synthetic_inputs import InputSpec, input_specs
from bnfold.tuning.data_statistics import Dataset, recalibrate, stats
from bnfold.tuning.drift import Fit
from bnfold.tuning.worker.dataset import DatasetReader, Pictures
from tests.proof.test_certificate import norm, real
from tests.support import Array, bn, invoke, numbers, parse

SAMPLES = Path(__file__).parents[2] / "sample_models"
NET = """g (float[BATCH,3,6,6] x) => (float[BATCH,5] y) {
  [conv] c = Conv (x, w) [one] d = BatchNormalization (c, s, b, m, v)
  r = Relu (d)
  [side] sc = Conv (r, w1) [two] e = BatchNormalization (sc, s2, b2, m2, v2)
  [direct] dc = Conv (x, w1b) [three] f = BatchNormalization (dc, s3, b3, m3, v3)
  a = Add (e, f) p = GlobalAveragePool (a) y = Flatten (p)
}"""


def net(batch: str = "N", /, **given: Array) -> ModelProto:
    norms = {k: v for n, c in (("", 4), ("2", 5), ("3", 5)) for k, v in norm(c, n).items()}
    weights = {
        "w": real(4, 3, 1, 1), "w1": real(5, 4, 1, 1, seed=1), "w1b": real(5, 3, 1, 1, seed=2),
    }  # fmt: skip
    return parse(NET.replace("BATCH", batch), **(weights | norms | given))


def saved(tmp_path: Path, model: ModelProto | None = None) -> Path:
    onnx.save(model or net(), tmp_path / "net.onnx")
    return tmp_path / "net.onnx"


def data(tmp_path: Path, samples: int = 50, **arrays: Array) -> Dataset:
    x = np.random.default_rng(0).normal(1, 2, (samples, 3, 6, 6)).astype(np.float32)
    np.savez(tmp_path / "data.npz", **({"x": x} | arrays))  # type: ignore[arg-type]
    return Dataset(tmp_path / "data.npz", batch=7)


def constant(path: Path, name: str) -> Array:
    (tensor,) = (t for t in onnx.load(path).graph.initializer if t.name == name)
    return numpy_helper.to_array(tensor).astype(np.float64)


def in_one_batch(x: Array) -> dict[str, Array]:
    """Mean and variance of every layer with all data as one batch in training mode."""
    found = {}

    def conv(values: Array, w: Array) -> Array:
        result: Array = np.einsum("nihw,oi->nohw", values, w[:, :, 0, 0].astype(np.float64))
        return result

    def normalised(values: Array, name: str) -> Array:
        mean, variance = values.mean((0, 2, 3)), values.var((0, 2, 3))
        found[f"m{name}"], found[f"v{name}"] = mean, variance
        p = norm(len(mean), name)
        # what is written is float32, and the layers behind see that
        mean, variance = (v.astype(np.float32).astype(np.float64) for v in (mean, variance))
        scale = p[f"s{name}"] / np.sqrt(variance + 1e-5)
        shaped = (1, -1, 1, 1)
        scaled = (values - mean.reshape(shaped)) * scale.reshape(shaped)
        result: Array = scaled + p[f"b{name}"].reshape(shaped)
        return result

    wide = x.astype(np.float64)
    r = np.maximum(normalised(conv(wide, real(4, 3, 1, 1)), ""), 0)
    normalised(conv(r, real(5, 4, 1, 1, seed=1)), "2")
    normalised(conv(wide, real(5, 3, 1, 1, seed=2)), "3")
    return found


# --- recalibrate ---------------------------------------------------------------------------------


@pytest.mark.parametrize("batch", ["N", "8", "1"])
def test_statistics_are_those_of_one_pass_in_a_single_batch(batch: str, tmp_path: Path) -> None:
    source = saved(tmp_path, net(batch))
    own = data(tmp_path)
    result = recalibrate(source, own, tmp_path / "out.onnx")
    assert (result.norms, result.layers, result.samples) == (3, 2, 50)
    with np.load(own.path) as archive:
        expected = in_one_batch(archive["x"])
    for name, values in expected.items():
        np.testing.assert_allclose(constant(result.model, name), values, rtol=3e-6, atol=1e-6)


def test_only_means_and_variances_change(tmp_path: Path) -> None:
    source = saved(tmp_path)
    recalibrate(source, data(tmp_path), tmp_path / "out.onnx")
    before, after = onnx.load(source), onnx.load(tmp_path / "out.onnx")
    for model in (before, after):
        for tensor in model.graph.initializer:
            if tensor.name[0] in "mv":
                tensor.ClearField("raw_data")
                tensor.ClearField("float_data")
    assert before == after


def test_statistics_in_a_data_file_are_replaced_there(tmp_path: Path) -> None:
    onnx.save(net(), tmp_path / "net.onnx", save_as_external_data=True, size_threshold=0)
    own = data(tmp_path)
    result = recalibrate(tmp_path / "net.onnx", own, tmp_path / "out.onnx")
    np.testing.assert_allclose(
        constant(result.model, "m2"), in_one_batch(np.load(own.path)["x"])["m2"], rtol=3e-6,
        atol=1e-6,
    )  # fmt: skip


def test_momentum_blends_with_what_is_stored(tmp_path: Path) -> None:
    source, own = saved(tmp_path), data(tmp_path)
    whole = constant(recalibrate(source, own, tmp_path / "a.onnx").model, "m")
    part = constant(recalibrate(source, own, tmp_path / "b.onnx", momentum=0.75).model, "m")
    np.testing.assert_allclose(part, 0.75 * norm(4)["m"] + 0.25 * whole, rtol=1e-5)


def test_with_a_prior_what_is_stored_counts_like_that_many_samples(tmp_path: Path) -> None:
    source, own = saved(tmp_path), data(tmp_path)
    whole = recalibrate(source, own, tmp_path / "a.onnx")
    part = recalibrate(source, own, tmp_path / "b.onnx", prior=3.0 * whole.samples)
    for name in ("m", "v"):
        wanted = 0.75 * norm(4)[name] + 0.25 * constant(whole.model, name)
        np.testing.assert_allclose(constant(part.model, name), wanted, rtol=1e-5)


def test_statistics_that_two_nodes_share_are_parted(tmp_path: Path) -> None:
    model = net()
    for node in model.graph.node:
        if node.name == "three":
            node.input[3:] = ["m2", "v2"]
    result = recalibrate(saved(tmp_path, model), data(tmp_path), tmp_path / "out.onnx")
    nodes = {n.name: n for n in onnx.load(result.model).graph.node}
    assert nodes["two"].input[3] != nodes["three"].input[3]
    assert not stats(result.model, data(tmp_path)).drifted


def test_training_mode_without_statistics_gets_some(tmp_path: Path) -> None:
    dummies = {"m": np.zeros(4, np.float32), "v": np.ones(4, np.float32)}
    model = net(**dummies)
    (node,) = (n for n in model.graph.node if n.name == "one")
    node.attribute.append(onnx.helper.make_attribute("training_mode", 1))
    node.output.extend(["mean_out", "var_out"])
    source, own = saved(tmp_path, model), data(tmp_path)
    plain = recalibrate(source, own, tmp_path / "a.onnx")
    assert (plain.norms, plain.left[0].node) == (2, "one")
    result = recalibrate(source, own, tmp_path / "b.onnx", assume_inference=True)
    assert (result.norms, result.left) == (3, ())
    np.testing.assert_allclose(
        constant(result.model, "m"), in_one_batch(np.load(own.path)["x"])["m"], rtol=3e-6, atol=1e-6
    )


def test_one_sample_is_no_population(tmp_path: Path) -> None:
    with pytest.raises(bnfold.UsageError, match="one sample has no spread"):
        recalibrate(saved(tmp_path), data(tmp_path, samples=1), tmp_path / "out.onnx")
    assert not (tmp_path / "out.onnx").exists()
    assert {d.fit for d in stats(saved(tmp_path), data(tmp_path, samples=1)).drifts} == {
        Fit.TOO_LITTLE
    }


def spoiled_digits(tmp_path: Path, **more: Any) -> tuple[Path, Dataset]:
    """The trained classifier, and dim images of little contrast."""
    with np.load(SAMPLES / "digits_test.npz") as archive:
        x = archive["image"].astype(np.float32) / 16 * np.float32(0.3) + np.float32(0.2)
        np.savez(tmp_path / "dim.npz", image=x, y=archive["label"])
    return SAMPLES / "digits_mlp.onnx", Dataset(tmp_path / "dim.npz", **more)


def test_the_accuracy_on_what_was_held_out_comes_back(tmp_path: Path) -> None:
    model, own = spoiled_digits(tmp_path)
    assert stats(model, own).drifted
    result = recalibrate(model, own, tmp_path / "out.onnx", holdout=0.5, require_improvement=True)
    assert (result.samples, result.before is not None) == (225, True)
    assert result.before is not None
    assert result.after is not None
    assert result.before < 0.8
    assert result.after > 0.95
    assert not stats(result.model, own).drifted
    assert bnfold.optimize(result.model, tmp_path / "folded.onnx").folded


def test_what_does_not_get_better_is_not_written(tmp_path: Path) -> None:
    model, own = spoiled_digits(tmp_path)
    better = recalibrate(model, own, tmp_path / "better.onnx").model
    with pytest.raises(bnfold.NotBetterError, match="the accuracy was"):
        recalibrate(better, own, tmp_path / "again.onnx", holdout=0.5, require_improvement=True)
    assert not (tmp_path / "again.onnx").exists()


@pytest.mark.parametrize(
    ("how", "message"),
    [
        ({"momentum": 1.0}, "momentum and holdout are shares"),
        ({"prior": -1.0}, "`prior` is a number of samples"),
        ({"prior": "some"}, "`prior` is a number of samples"),
        ({"prior": "auto", "momentum": 0.5}, "decides what `momentum` would"),
        ({"prior": 8.0, "momentum": 0.5}, "give one of them"),
        ({"holdout": -0.1}, "momentum and holdout are shares"),
        ({"require_improvement": True}, "needs `holdout`"),
        ({"holdout": 0.5}, "needs labels"),
        ({"holdout": 0.001}, "leaves no sample aside"),
    ],
)
def test_what_cannot_be_asked(how: dict[str, Any], message: str, tmp_path: Path) -> None:
    own = data(tmp_path)
    if how.get("holdout") == 0.001:
        own = data(tmp_path, y=np.zeros(50, np.int64))
    with pytest.raises(bnfold.UsageError, match=message):
        recalibrate(saved(tmp_path), own, tmp_path / "out.onnx", **how)
    assert not (tmp_path / "out.onnx").exists()


# --- stats ---------------------------------------------------------------------------------------


def test_the_worst_comes_first(tmp_path: Path) -> None:
    source, own = saved(tmp_path), data(tmp_path, samples=400)
    fitting = recalibrate(source, own, tmp_path / "fits.onnx").model
    assert [d.fit for d in stats(fitting, own).drifts] == [Fit.FITS] * 3
    model = onnx.load(fitting)
    for tensor in model.graph.initializer:
        if tensor.name == "m3":
            values = numpy_helper.to_array(tensor) + np.float32(9)
            tensor.CopyFrom(numpy_helper.from_array(values, "m3"))
    onnx.save(model, tmp_path / "spoiled.onnx")
    result = stats(tmp_path / "spoiled.onnx", own)
    assert [(d.node, d.fit) for d in result.drifted] == [("three", Fit.DRIFTED)]
    assert result.drifts[0].node == "three"
    assert result.drifts[0].samples == 400


def test_several_rows_of_a_value_may_belong_to_one_sample(tmp_path: Path) -> None:
    text = """g (float[N,6,4] x) => (float[R,4] y) {
      a = Reshape (x, shape) [bn] y = BatchNormalization (a, s, b, m, v) }"""
    model = parse(text, shape=np.array([-1, 4]), **norm(4))
    x = np.random.default_rng(0).normal(size=(20, 6, 4)).astype(np.float32)
    np.savez(tmp_path / "data.npz", x=x)
    result = recalibrate(
        saved(tmp_path, model), Dataset(tmp_path / "data.npz", 8), tmp_path / "o.onnx"
    )
    flat = x.astype(np.float64).reshape(-1, 4)
    np.testing.assert_allclose(constant(result.model, "m"), flat.mean(0), rtol=1e-5, atol=1e-7)
    np.testing.assert_allclose(constant(result.model, "v"), flat.var(0), rtol=1e-5)
    assert stats(result.model, Dataset(tmp_path / "data.npz", 8)).drifts[0].samples == 20


def test_memory_does_not_grow_with_the_data(tmp_path: Path) -> None:
    """200 MB of data within the address space that half of it would fill."""
    source = saved(tmp_path)
    rng = np.random.default_rng(0)
    block = rng.normal(size=(1000, 3, 6, 6)).astype(np.float32)
    np.savez(tmp_path / "big.npz", x=np.tile(block, (460, 1, 1, 1)))
    own = Dataset(tmp_path / "big.npz", batch=2000, memory_limit=1_300_000_000)
    assert stats(source, own).drifts[0].samples == 460_000
    with pytest.raises(bnfold.WorkerError, match="memory limit"):
        stats(source, Dataset(tmp_path / "big.npz", batch=460_000, memory_limit=1_300_000_000))


# --- what data can be ----------------------------------------------------------------------------

X = InputSpec("x", np.dtype(np.float32), ("N", 3, 4, 5))
x = real(9, 3, 4, 5)


def as_npz(folder: Path) -> Path:
    np.savez(folder / "in.npz", x=x, y=np.arange(9))
    return folder / "in.npz"


def as_compressed_npz_of_another_name(folder: Path) -> Path:
    np.savez_compressed(folder / "in.npz", images=x)
    return folder / "in.npz"


def as_fortran_order(folder: Path) -> Path:
    np.savez(folder / "in.npz", x=np.asfortranarray(x))
    return folder / "in.npz"


def as_folder_of_npz(folder: Path) -> Path:
    for number, part in enumerate((x[:2], x[2:7], x[7:])):
        np.savez(folder / f"{number}.npz", x=part)
    return folder


def as_npy_samples(folder: Path) -> Path:
    for number, sample in enumerate(x):
        np.save(folder / f"{number}.npy", sample)
    return folder


def as_npy_batch(folder: Path) -> Path:
    np.save(folder / "all.npy", x)
    return folder / "all.npy"


def as_test_data(folder: Path) -> Path:
    for number, part in enumerate((x[:4], x[4:])):
        inner = folder / f"test_data_set_{number}"
        inner.mkdir()
        (inner / "input_0.pb").write_bytes(numpy_helper.from_array(part).SerializeToString())
    return folder


FORMS = (
    as_npz, as_compressed_npz_of_another_name, as_fortran_order, as_folder_of_npz, as_npy_samples,
    as_npy_batch, as_test_data,
)  # fmt: skip


@pytest.mark.parametrize("size", [1, 4, 9, 100])
@pytest.mark.parametrize("form", FORMS, ids=lambda form: str(form.__name__))
def test_data_is_found_by_its_kind_and_cut_into_batches(
    form: Any, size: int, tmp_path: Path
) -> None:
    batches = list(DatasetReader(form(tmp_path), (X,)).batches(size))
    assert [batch.rows for batch in batches] == [min(size, 9 - k) for k in range(0, 9, size)]
    np.testing.assert_array_equal(np.concatenate([b.feed["x"] for b in batches]), x)


def test_the_last_batch_of_a_fixed_size_is_filled_up(tmp_path: Path) -> None:
    fixed = InputSpec("x", np.dtype(np.float32), (4, 3, 4, 5))
    batches = list(DatasetReader(as_npz(tmp_path), (fixed,)).batches(4))
    assert [(len(b.feed["x"]), b.rows) for b in batches] == [(4, 4), (4, 4), (4, 1)]


@pytest.mark.parametrize(("layout", "shape"), [("NCHW", (3, 8, 6)), ("NHWC", (8, 6, 3))])
def test_images_are_scaled_and_resized(layout: str, shape: tuple[int, ...], tmp_path: Path) -> None:
    for number, colour in enumerate(((255, 0, 51), (0, 255, 0))):
        Image.new("RGB", (20 + number, 30), colour).save(tmp_path / f"{number}.png")
    spec = InputSpec("x", np.dtype(np.float32), ("N", *shape))
    pictures = Pictures((0.5, 0.5, 0.5), (0.5, 0.25, 1.0), layout)
    (batch,) = DatasetReader(tmp_path, (spec,), pictures).batches(8)
    images = batch.feed["x"] if layout == "NCHW" else np.moveaxis(batch.feed["x"], 3, 1)
    assert images.shape == (2, 3, 8, 6)
    np.testing.assert_allclose(images[0, :, 0, 0], [1, -2, -0.3], rtol=1e-6)


def test_grey_images_of_integers(tmp_path: Path) -> None:
    Image.new("RGB", (5, 4), (7, 7, 7)).save(tmp_path / "a.png")
    spec = InputSpec("x", np.dtype(np.uint8), ("N", 1, 4, 5))
    (batch,) = DatasetReader(tmp_path, (spec,)).batches(1)
    assert np.all(batch.feed["x"] == 7)


@pytest.mark.parametrize(
    ("write", "message"),
    [
        (lambda f: None, "there is no"),
        (lambda f: (f / "in.npz").write_bytes(b""), "cannot read the data"),
        (lambda f: (f / "in.npz").write_bytes(b"PK\x03\x04 damaged"), "cannot read the data"),
        (lambda f: (f / "in.npz").mkdir(), "there are no samples"),
        (lambda f: np.savez(f / "in.npz", x=x[:0]), "there are no samples"),
        (lambda f: np.savez(f / "in.npz", a=x, b=x), "no array for the input 'x'"),
        (lambda f: np.savez(f / "in.npz", x=x[:, :2]), "has shape .*, the model wants N,3,4,5"),
        (lambda f: np.savez(f / "in.npz", x=x[0]), "has shape 3,4,5, the model wants N,3,4,5"),
        (lambda f: np.savez(f / "in.npz", x=x.astype(complex)), "is complex128, the model wants"),
        (lambda f: np.savez(f / "in.npz", x=np.full_like(x, np.nan)), "NaN or infinity"),
        (lambda f: np.savez(f / "in.npz", x=x, y=np.arange(3)), "different numbers of samples"),
        (lambda f: np.savez(f / "in.npz", x=np.array([{}], object)), "Python objects"),
    ],
)
def test_data_that_cannot_be_used(write: Any, message: str, tmp_path: Path) -> None:
    write(tmp_path)
    with pytest.raises(bnfold.UsageError, match=message):
        list(DatasetReader(tmp_path / "in.npz", (X,)).batches(4))


def test_a_file_of_an_unknown_kind(tmp_path: Path) -> None:
    (tmp_path / "in.csv").write_text("1,2")
    with pytest.raises(bnfold.UsageError, match="of no kind that can be read"):
        list(DatasetReader(tmp_path / "in.csv", (X,)).batches(4))


def test_an_image_that_is_none(tmp_path: Path) -> None:
    (tmp_path / "in.png").write_text("no image")
    with pytest.raises(bnfold.UsageError, match="is no image that can be read"):
        list(DatasetReader(tmp_path / "in.png", (X,)).batches(4))


def test_one_array_is_not_enough_for_two_inputs(tmp_path: Path) -> None:
    text = "g (float[N,2] a, float[N,2] b) => (float[N,2] y) { y = Add (a, b) }"
    np.save(tmp_path / "a.npy", np.ones((3, 2), np.float32))
    inputs = tuple(input_specs(parse(text), {}))
    with pytest.raises(bnfold.UsageError, match="is one array, and the model has the inputs a, b"):
        list(DatasetReader(tmp_path / "a.npy", inputs).batches(4))


# --- the commands --------------------------------------------------------------------------------


def test_stats_from_the_command_line(tmp_path: Path) -> None:
    model, own = spoiled_digits(tmp_path)
    words = ("stats", model, "--inputs", own.path)
    text = invoke(*words, "--plot", tmp_path / "out.svg")
    assert text.exit_code == 0, text.output
    assert "BatchNormalizations drifted, on 450 samples" in text.output
    told = json.loads(invoke(*words, "--json").output)
    assert told["batchnorms"][0]["fit"] == "drifted"
    assert len(told["batchnorms"][0]["shift"]) == told["batchnorms"][0]["channels"]
    picture = (tmp_path / "out.svg").read_text()
    assert picture.startswith("<svg")
    assert told["batchnorms"][0]["node"] in picture
    assert invoke(*words, "--plot", tmp_path / "out.png").exit_code == 0
    with Image.open(tmp_path / "out.png") as image:
        assert image.width > 1000
    wrong = invoke(*words, "--plot", tmp_path / "out.pdf")
    assert wrong.exit_code == 2
    assert "neither .svg nor .png" in wrong.stderr


def test_names_cannot_harm_a_picture(tmp_path: Path) -> None:
    model = net()
    for node in model.graph.node:
        node.name = f"<script>&\"'\x1b{node.name}"
    words = ("stats", saved(tmp_path, model), "--inputs", data(tmp_path).path)
    assert invoke(*words, "--plot", tmp_path / "out.svg").exit_code == 0
    picture = (tmp_path / "out.svg").read_text()
    assert "<script>" not in picture
    assert "\x1b" not in picture
    assert "&lt;script&gt;&amp;" in picture


def test_recalibrate_from_the_command_line(tmp_path: Path) -> None:
    model, own = spoiled_digits(tmp_path)
    words = ("recalibrate", model, "--inputs", own.path, "--holdout", "0.5", "-o")
    done = invoke(*words, tmp_path / "out.onnx", "--require-improvement")
    assert done.exit_code == 0, done.output
    assert "held out: accuracy" in done.output
    again = invoke(
        "recalibrate", tmp_path / "out.onnx", "--inputs", own.path, "--holdout", "0.5",
        "--require-improvement", "-o", tmp_path / "again.onnx",
    )  # fmt: skip
    assert again.exit_code == 1
    assert "the accuracy was" in again.stderr


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("--mean", "a,b"), "does not read as numbers"),
        (("--resize", "224"), "does not read as HEIGHTxWIDTH"),
        (("--batch", "0"), "x>=1"),
        (("--providers", "Nope"), "this onnxruntime has no 'Nope'"),
    ],
)
def test_options_that_do_not_read(words: tuple[str, ...], message: str, tmp_path: Path) -> None:
    done = invoke("stats", saved(tmp_path), "--inputs", data(tmp_path).path, *words)
    assert done.exit_code == 2
    assert message in done.stderr


def test_a_model_without_a_batch_norm(tmp_path: Path) -> None:
    text = "g (float[N,3,6,6] x) => (float[N,3,6,6] y) { y = Relu (x) }"
    done = invoke("stats", saved(tmp_path, parse(text)), "--inputs", data(tmp_path).path)
    assert done.exit_code == 2
    assert "the model has no BatchNormalization" in done.stderr


def test_a_sample_that_is_not_finite_is_named_by_its_number_in_the_file(tmp_path: Path) -> None:
    text = "g (float[N,3] x) => (float[N,3] y) { y = BatchNormalization (x, s, b, m, v) }"
    bad = numbers(70, 3)
    bad[65] = np.nan
    np.savez(tmp_path / "bad.npz", x=bad)
    model = saved(tmp_path, parse(text, **bn(3)))
    done = invoke("stats", model, "--inputs", tmp_path / "bad.npz")
    assert done.exit_code == 2
    assert "NaN or infinity in sample 65, counted from 0" in done.stderr


def test_progress_is_told(tmp_path: Path) -> None:
    seen: list[bnfold.Stage] = []
    own = data(tmp_path, samples=3000)
    recalibrate(
        saved(tmp_path), Dataset(own.path, batch=1), tmp_path / "out.onnx",
        progress=seen.append,
    )  # fmt: skip
    assert "estimating" in {stage.name.split()[0] for stage in seen}
    assert all(stage.done <= stage.total for stage in seen)
    assert max(stage.total for stage in seen) == 6000


def test_data_is_not_overwritten(tmp_path: Path) -> None:
    source, own = saved(tmp_path), data(tmp_path)
    before = Path(own.path).read_bytes()
    for where in (own, Dataset(tmp_path)):
        with pytest.raises(bnfold.UsageError, match="is the data itself"):
            recalibrate(source, where, tmp_path / "data.npz")
    assert Path(own.path).read_bytes() == before


def test_a_picture_that_cannot_be_drawn_is_said_before_anything_is_run(tmp_path: Path) -> None:
    for plot in ("out.pdf", "nowhere/out.svg"):
        words = (
            "stats",
            tmp_path / "missing.onnx",
            "--inputs",
            "missing",
            "--plot",
            tmp_path / plot,
        )
        done = invoke(*words)
        assert done.exit_code == 2
        assert "neither .svg nor .png" in done.stderr or "there is no folder" in done.stderr
