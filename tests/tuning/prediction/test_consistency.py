"""Whether stored statistics fit each other, without any data."""

from __future__ import annotations

import importlib.util
import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import pytest
from onnx import ModelProto, numpy_helper

import bnfold
from bnfold import Consistency
from bnfold.tuning.prediction.consistency import consistency
from bnfold.tuning.prediction.verdicts import LayerConsistency
from tests.support import Array, bn, invoke, parse

C = 8
SAMPLES = Path("sample_models")


def parameters(name: str, mean: Array, variance: Array, seed: int) -> dict[str, Array]:
    rng = np.random.default_rng(seed)
    values = {
        "s": rng.uniform(0.5, 1.5, len(mean)), "b": rng.normal(size=len(mean)), "m": mean,
        "v": variance,
    }  # fmt: skip
    return {f"{k}{name}": np.asarray(v, np.float32) for k, v in values.items()}


def chain(between: str, truth: Callable[[Array], Array], /, shift: float = 0.0) -> ModelProto:
    """BatchNormalization → `between` (from `one` to `f`) → Conv 1 × 1 → BatchNormalization.

    The second one has stored what 200,000 normal values make, in its first channel `shift` σ off.
    """
    first = parameters("1", np.full(C, 0.1), np.ones(C), 1)
    rng = np.random.default_rng(0)
    w = rng.normal(size=(C, C, 1, 1)).astype(np.float32)
    z = first["b1"] + first["s1"] * rng.normal(size=(200_000, C))
    seen = truth(z) @ w[:, :, 0, 0].T
    variance = seen.var(axis=0)
    mean = seen.mean(axis=0)
    mean[0] += shift * np.sqrt(variance[0])
    return parse(
        f"g (float[1,{C},4,4] x) => (float y) {{ [first] one = BatchNormalization (x, s1, b1, m1,"
        f" v1) {between} c = Conv (f, w) [second] y = BatchNormalization (c, s2, b2, m2, v2) }}",
        w=w, three=np.array(3, "f"), zero=np.array(0, "f"), six=np.array(6, "f"),
        **first, **parameters("2", mean, variance, 2),
    )  # fmt: skip


def layers(model: ModelProto, tmp_path: Path) -> dict[str, LayerConsistency]:
    path = tmp_path / "model.onnx"
    onnx.save(model, path)
    return {layer.node: layer for layer in consistency(path).layers}


BETWEEN: dict[str, tuple[str, Callable[[Array], Array]]] = {
    "nothing": ("f = Identity (one)", lambda z: z),
    "Relu": ("f = Relu (one)", lambda z: np.maximum(z, 0)),
    "LeakyRelu": ("f = LeakyRelu <alpha = 0.2> (one)", lambda z: np.where(z > 0, z, 0.2 * z)),
    "Clip": ("f = Clip (one, zero, six)", lambda z: np.clip(z, 0, 6)),
    "HardSwish": ("f = HardSwish (one)", lambda z: z * np.clip(z / 6 + 0.5, 0, 1)),
    "hard-swish in parts": (
        "a = Add (one, three) k = Clip (a, zero, six) m = Mul (one, k) f = Div (m, six)",
        lambda z: z * np.clip(z + 3, 0, 6) / 6,
    ),
    "SiLU in parts": (
        "a = Sigmoid (one) f = Mul (one, a)", lambda z: z / (1 + np.exp(-z)),
    ),
    "Tanh": ("f = Tanh (one)", np.tanh),
    "a residual of its own": ("a = Relu (one) f = Sub (one, a)", lambda z: np.minimum(z, 0)),
}  # fmt: skip


@pytest.mark.parametrize("name", BETWEEN)
def test_what_normal_values_make_is_predicted(name: str, tmp_path: Path) -> None:
    between, truth = BETWEEN[name]
    found = layers(chain(between, truth), tmp_path)["second"]
    assert found.verdict is Consistency.CONSISTENT
    assert found.worst_shift < 0.02  # what 200,000 samples tell
    np.testing.assert_allclose(found.ratio, 1, atol=0.05)  # channels are independent here


@pytest.mark.parametrize(("between", "verdict"), [
    ("nothing", Consistency.CONTRADICTS), ("Relu", Consistency.CONSISTENT),
])  # fmt: skip
def test_one_channel_that_is_off_tells_only_behind_linear_operators(
    between: str, verdict: Consistency, tmp_path: Path
) -> None:
    found = layers(chain(*BETWEEN[between], shift=3.0), tmp_path)["second"]
    assert found.verdict is verdict
    assert abs(found.worst_shift - 3) < 0.1
    assert np.argmax(np.abs(found.shift)) == 0


def test_zeros_of_the_padding_are_counted(tmp_path: Path) -> None:
    """Of 4 × 4 windows of 3 × 3, each tap sees the padding in a share of its own."""
    beta = np.ones(1, np.float32)
    w = np.ones((1, 1, 3, 3), np.float32)
    inside = np.array([3, 4, 3]) / 4
    mean = np.array([np.outer(inside, inside).sum()], np.float32)
    model = parse(
        "g (float[1,1,4,4] x) => (float y) { one = BatchNormalization (x, s, b, m, v)"
        " c = Conv <pads = [1,1,1,1]> (one, w)"
        " [second] y = BatchNormalization (c, s2, b2, m2, v2) }",
        w=w, s=np.zeros(1, "f"), b=beta, m=beta, v=beta, s2=beta, b2=beta, m2=mean, v2=beta,
    )  # fmt: skip
    found = layers(model, tmp_path)["second"]
    assert found.assumes == ("stationary",)
    assert found.worst_shift < 1e-6


def test_channels_of_another_rank_are_other_channels(tmp_path: Path) -> None:
    """[4, 4] is added to the pixels of [1, 4, 4, 4], and not to its channels."""
    model = parse(
        "g (float[1,4,4,4] x, float[4,4] z) => (float y) { a = BatchNormalization (x, s, b, m, v)"
        " [flat] c = BatchNormalization (z, s, b, m, v) [sum] h = Add (a, c)"
        " [last] y = BatchNormalization (h, s, b, m, v) }",
        **bn(4),
    )
    assert layers(model, tmp_path)["last"].sentence == "sum broadcasts channels"


ONES = np.ones((4, 4, 3, 3), np.float32)


@pytest.mark.parametrize(("text", "more", "sentence"), [
    ("[n] h = Conv (a, w, c)", {"w": ONES, "c": np.ones(3, "f")}, "n reads other channels"),
    ("[n] h = Conv <group = 0> (a, w)", {"w": ONES}, "n reads other channels"),
    ("[n] h = Conv <pads = [1]> (a, w)", {"w": ONES}, "n does not fit what it reads"),
    ("[n] h = Conv <strides = [0,1]> (a, w)", {"w": ONES}, "n does not fit what it reads"),
    ("[n] h = Div (c, a)", {"c": np.ones(1, "f")}, "n divides by what may be 0"),
    ("[n] h = Div (a, a)", {}, "n divides by what may be 0"),
    ("[n] h = Add (a, c)", {"c": np.ones((1, 1, 1, 1, 1), "f")},
     "n has a constant for more than channels"),
    ("[n] h = Reshape (a, flat)", {"flat": np.array([1, -1])},
     "n makes channels of pixels, which may differ"),
    ("[n] h = Add (a, c)", {"c": np.ones(4, "f")}, "n has a constant for more than channels"),
    ("[n] k = Cast <to = 7> (a) h = Cast <to = 1> (k)", {}, "n makes other numbers of them"),
    ("[n] h = Concat <axis = -1> (a, a)", {}, "n joins no channels"),
    ("[n] h = AveragePool <kernel_shape = [3,3], pads = [1,1,1,1], count_include_pad = 1> (a)", {},
     "n averages zeros of its padding"),
    ("[n] h = AveragePool <kernel_shape = [3,3], auto_pad = \"SAME_UPPER\", count_include_pad = 1>"
     " (a)", {}, "n averages zeros of its padding"),
    ("[n] h = Flatten <axis = 2> (a)", {}, "what it reads has other channels"),
    ("k = Conv (a, i) [n] h = Mul (a, k)", {"i": np.ones((4, 4, 1, 1), "f")},
     "n multiplies what may depend on each other"),
    ('u = Resize <mode = "linear"> (a, , two) [n] h = Relu (u)',
     {"two": np.array([1, 1, 2, 2], "f")}, "the variance that n reads is not known"),
    ("k = Mul (a, i) h = Exp (k)", {"i": np.full(1, 3e38, "f")},
     "what is predicted is not finite"),
])  # fmt: skip
def test_what_is_no_map_of_channels_is_not_followed(
    text: str, more: dict[str, Array], sentence: str, tmp_path: Path
) -> None:
    model = parse(
        f"g (float[1,4,4,4] x) => (float y) {{ a = BatchNormalization (x, s, b, m, v) {text}"
        " [last] y = BatchNormalization (h, s, b, m, v) }",
        **bn(4), **more,
    )  # fmt: skip
    assert layers(model, tmp_path)["last"].sentence.startswith(sentence)


@pytest.mark.parametrize(("shape", "known"), [((4,), True), ((1, 4), True), ((4, 1), False)])
def test_the_bias_of_a_gemm_is_one_for_each_channel(
    shape: tuple[int, ...], known: bool, tmp_path: Path
) -> None:
    model = parse(
        "g (float[4,4] x) => (float y) { a = BatchNormalization (x, s, b, m, v)"
        " h = Gemm (a, w, c) [last] y = BatchNormalization (h, s, b, m, v) }",
        **bn(4), w=np.ones((4, 4), "f"), c=np.ones(shape, "f"),
    )  # fmt: skip
    assert np.isfinite(layers(model, tmp_path)["last"].worst_shift) == known


def test_an_operator_without_a_rule_is_named(tmp_path: Path) -> None:
    model = chain("[pool] f = MaxPool <kernel_shape = [1,1]> (one)", lambda z: z)
    found = layers(model, tmp_path)
    assert (found["first"].verdict, found["second"].verdict) == (Consistency.UNKNOWN,) * 2
    assert found["first"].sentence == "nothing is known of the model's inputs"
    assert found["second"].sentence == "pool stands in between"
    assert np.isnan(found["second"].worst_shift)


def _store(model: ModelProto, **values: npt.ArrayLike) -> ModelProto:
    for tensor in model.graph.initializer:
        if tensor.name in values:
            new = np.asarray(values[tensor.name], np.float32)
            tensor.CopyFrom(numpy_helper.from_array(new, tensor.name))
    return model


def test_statistics_that_cannot_be_need_no_prediction(tmp_path: Path) -> None:
    nan = np.full(C, np.nan)
    for values, sentence in (
        ({"m1": np.zeros(C), "v1": np.ones(C)}, "μ is 0 and σ² is 1 in every channel: never"),
        ({"m1": np.ones(C), "v1": np.zeros(C)}, "σ² is 0 in every channel"),
        ({"m1": nan}, "its statistics are not finite"),
        ({"m1": np.ones(C), "v1": [-1.0, *[1.0] * (C - 1)]}, "σ² is negative in 1 of 8 channels"),
    ):
        found = layers(_store(chain(*BETWEEN["Relu"]), **values), tmp_path)["first"]
        assert found.verdict is Consistency.CONTRADICTS
        assert found.sentence.startswith(sentence)


def test_two_layers_with_the_same_statistics_contradict_each_other(tmp_path: Path) -> None:
    model = chain(*BETWEEN["Relu"])
    stored = {t.name: numpy_helper.to_array(t) for t in model.graph.initializer}
    _store(model, m1=stored["m2"], v1=stored["v2"])
    found = layers(model, tmp_path)
    assert found["first"].sentence == "μ and σ² are those of second"
    assert found["second"].sentence == "μ and σ² are those of first"


@pytest.mark.parametrize("reads", [
    "a = BatchNormalization (x, s, b1, m2, v2)"
    " i = Identity (x) b = BatchNormalization (i, s, b2, m1, v1)",
    "a = BatchNormalization (x, s, b1, m2, v2) n = Neg (z)"
    " k = If (flag) <then_branch = t () => (float u) { u = BatchNormalization (n, s, b2, m1, v1) },"
    " else_branch = e () => (float w) { w = Identity (x) }> b = Relu (k)",
    "c = Conv (z, w) d = Conv (z, w) a = BatchNormalization (c, s, b1, m1, v1)"
    " b = BatchNormalization (d, s, b2, m2, v2)",
])  # fmt: skip
def test_what_reads_the_same_value_may_have_the_same_statistics(reads: str, tmp_path: Path) -> None:
    own = {f"{k}{n}": v for n in (1, 2) for k, v in bn(C).items() if k in "mv"}
    model = parse(
        f"g (float[1,{C},4,4] x, bool flag) => (float y) {{ z = BatchNormalization (x, s, b1, m, v)"
        f" {reads} y = Add (a, b) }}",
        **own, s=np.ones(C, "f"), b1=np.ones(C, "f"), b2=np.full(C, 2, "f"),
        m=np.full(C, 3, "f"), v=np.full(C, 2, "f"), w=np.ones((C, C, 1, 1), "f"),
    )  # fmt: skip
    assert not any("are those of" in found.sentence for found in layers(model, tmp_path).values())


def test_a_variance_of_another_order_of_magnitude_contradicts(tmp_path: Path) -> None:
    for times in (1 / 100, 1 / 32, 32, 100):
        model = chain(*BETWEEN["nothing"])
        stored = {t.name: numpy_helper.to_array(t) for t in model.graph.initializer}["v2"]
        found = layers(_store(model, v2=stored * times), tmp_path)["second"]
        sentence = {1 / 100: "100 times less", 100: "100 times more"}.get(times, "")
        assert sentence in found.sentence
        assert (found.verdict is Consistency.CONTRADICTS) == bool(sentence)


def test_channels_that_are_hardly_alive_are_measured_by_what_is_predicted(tmp_path: Path) -> None:
    """Of data that ends at 3 deviations a Relu far below lets nothing pass: 0, without spread."""
    model = chain(*BETWEEN["Relu"])
    _store(model, b1=np.full(C, -2.0), s1=np.ones(C), m2=np.zeros(C), v2=np.full(C, 1e-12))
    assert layers(model, tmp_path)["second"].verdict is not Consistency.CONTRADICTS


def test_the_form_that_freezing_writes_has_no_statistics(tmp_path: Path) -> None:
    frozen = tmp_path / "f.onnx"
    bnfold.freeze(SAMPLES / "digits_mlp.onnx", frozen, form="batchnorm", verify="none")
    assert not any("never updated" in x.sentence for x in consistency(frozen).layers)


@pytest.mark.parametrize("epsilon", [-1.0, float("nan")])
def test_an_epsilon_that_cannot_be_contradicts(epsilon: float, tmp_path: Path) -> None:
    model = chain(*BETWEEN["Relu"])
    model.graph.node[-1].attribute.append(onnx.helper.make_attribute("epsilon", epsilon))
    found = layers(model, tmp_path)["second"]
    assert (found.verdict, found.sentence) == (Consistency.CONTRADICTS, f"ε is {epsilon:g}")


def test_copies_of_one_layer_have_its_statistics(tmp_path: Path) -> None:
    """Two towers with copied parameters, of inputs of which nothing is known."""
    one = {f"{k}{n}": v for n in (1, 2) for k, v in bn(C).items()}
    model = parse(
        f"g (float[1,{C},4,4] x, float[1,{C},4,4] z) => (float y) {{"
        " a = BatchNormalization (x, s1, b1, m1, v1) c = BatchNormalization (z, s2, b2, m2, v2)"
        " y = Add (a, c) }", **one,
    )  # fmt: skip
    assert {x.verdict for x in layers(model, tmp_path).values()} == {Consistency.UNKNOWN}


def test_tensors_that_are_shared_are_no_contradiction(tmp_path: Path) -> None:
    one = bn(C)
    model = parse(
        f"g (float[1,{C},4,4] x) => (float y) {{ a = BatchNormalization (x, s, b, m, v)"
        " h = MaxPool <kernel_shape = [2,2]> (a) y = BatchNormalization (h, s, b, m, v) }",
        **one,
    )
    verdicts = {layer.verdict for layer in layers(model, tmp_path).values()}
    assert verdicts == {Consistency.UNKNOWN}


def test_what_is_odd_is_noted(tmp_path: Path) -> None:
    model = _store(
        chain(*BETWEEN["Relu"]), s1=[0, 0, *[1.0] * (C - 2)], b1=[1, 1, -4, *[1.0] * (C - 3)],
        m1=np.ones(C), v1=[1e-6, *[1.0] * (C - 1)],
    )  # fmt: skip
    assert layers(model, tmp_path)["first"].notes == (
        "γ is 0 in 2 of 8 channels",
        "σ² is below ε in 1 of 8 channels",
        "the Relu behind it is 0 in 1 of 8 channels",
    )


def test_more_channels_than_can_be_tabulated_are_left_alone(tmp_path: Path) -> None:
    wide = 1 << 17
    model = parse(
        f"g (float[1,{wide},1,1] x) => (float y) {{ a = BatchNormalization (x, s, b, m, v)"
        " [relu] h = Relu (a) [b] y = BatchNormalization (h, s, b, m, v) }",
        s=np.ones(wide, "f"), b=np.ones(wide, "f"), m=np.ones(wide, "f"), v=np.ones(wide, "f"),
    )  # fmt: skip
    assert layers(model, tmp_path)["b"].sentence == "relu reads 131,072 channels"


def test_training_mode_is_looked_at_where_it_is_taken_for_inference() -> None:
    path = SAMPLES / "training_mode.onnx"
    (layer,) = consistency(path).layers
    assert layer.sentence == "it takes the statistics of each batch"
    (layer,) = consistency(path, assume_inference=True).layers
    assert layer.sentence == "nothing is known of the model's inputs"


def test_a_layer_in_a_body_is_looked_at(tmp_path: Path) -> None:
    model = parse(
        f"g (bool b, float[1,{C},4,4] x) => (float y) {{ y = If (b) <then_branch = t () =>"
        " (float u) { [inner] u = BatchNormalization (x, s, b1, m, v) },"
        " else_branch = e () => (float w) { w = Identity (x) }> }",
        s=np.ones(C, "f"), b1=np.zeros(C, "f"), m=np.zeros(C, "f"), v=np.ones(C, "f"),
    )  # fmt: skip
    (found,) = layers(model, tmp_path).values()
    assert found.verdict is Consistency.CONTRADICTS
    assert found.notes == ("γ is 1 and β is 0 throughout: never trained",)


@pytest.mark.parametrize("path", sorted(SAMPLES.glob("*.onnx")), ids=lambda path: path.stem)
def test_the_sample_models_do_not_contradict_themselves(path: Path) -> None:
    """They were trained, each on data of its own."""
    assert not bnfold.consistency(path).contradicting


# --- from the command line -----------------------------------------------------------------------


def test_the_command_needs_nothing_but_the_model() -> None:
    result = invoke("stats", "sample_models/digits_depthwise.onnx", "--json")
    assert result.exit_code == 0
    first, *others = json.loads(result.output)["batchnorms"]
    assert first["verdict"] == "cannot tell"
    assert first["shift"] == [None] * first["channels"]
    assert {layer["verdict"] for layer in others} == {"consistent"}
    assert others[0]["assumes"] == ["normal", "stationary"]


def test_a_fault_is_told_and_no_failure(tmp_path: Path) -> None:
    model = _store(chain(*BETWEEN["Relu"]), m1=np.zeros(C), v1=np.ones(C))
    onnx.save(model, tmp_path / "model.onnx")
    result = invoke("stats", tmp_path / "model.onnx")
    assert result.exit_code == 0
    assert "never updated" in result.output
    assert "1 of 2 BatchNormalizations contradicted by what stands before" in result.output


def test_the_gate_fails_on_statistics_where_it_is_told_to(tmp_path: Path) -> None:
    model = _store(chain(*BETWEEN["Relu"]), m1=np.zeros(C), v1=np.ones(C))
    onnx.save(model, tmp_path / "model.onnx")
    (found,) = bnfold.check([tmp_path / "model.onnx"], fail_on="statistics")
    assert [(fault.site, fault.sentence[:6]) for fault in found.faults] == [("first", "μ is 0")]
    sound = SAMPLES / "digits_depthwise.onnx"
    assert invoke("check", tmp_path / "model.onnx", "--fail-on", "statistics").exit_code == 1
    assert invoke("check", sound, "--fail-on", "statistics").exit_code == 0


def test_a_picture_has_a_row_for_each_layer(tmp_path: Path) -> None:
    picture = tmp_path / "a.svg"
    result = invoke("stats", SAMPLES / "digits_mlp.onnx", "--plot", picture)
    assert result.exit_code == 0
    text = picture.read_text()
    assert "Do the stored statistics fit each other?" in text
    assert all(layer.node in text for layer in consistency(SAMPLES / "digits_mlp.onnx").layers)


@pytest.mark.parametrize("fault", ["default", "of another layer", "zeros"])
def test_faults_put_into_a_trained_model_are_found_where_they_are(
    fault: str, tmp_path: Path
) -> None:
    """Gross ones, one layer at a time, in every layer that has a prediction."""
    path = SAMPLES / "digits_depthwise.onnx"
    sound = [x.node for x in consistency(path).layers if x.verdict is Consistency.CONSISTENT]
    original = onnx.load(path)
    stored = {t.name: numpy_helper.to_array(t) for t in original.graph.initializer}
    norms = [n for n in original.graph.node if n.op_type == "BatchNormalization"]
    for node in (n for n in norms if n.name in sound):
        mean, variance = (stored[name] for name in node.input[3:5])
        other = next((n for n in norms if n is not node and stored[n.input[3]].size == mean.size),
                     None)  # fmt: skip
        if fault == "of another layer" and other is None:
            continue
        wrong = {
            "default": (np.zeros_like(mean), np.ones_like(variance)),
            "zeros": (mean, np.zeros_like(variance)),
            "of another layer": tuple(stored[n] for n in (other or node).input[3:5]),
        }[fault]
        model = ModelProto()
        model.CopyFrom(original)
        spoiled = layers(_store(model, **dict(zip(node.input[3:5], wrong, strict=True))), tmp_path)
        assert spoiled[node.name].verdict is Consistency.CONTRADICTS


def test_the_margin_of_inspect_and_of_its_report_tells_it_as_well(tmp_path: Path) -> None:
    model = chain(*BETWEEN["nothing"], shift=3.0)
    path, page, report = (tmp_path / name for name in ("m.onnx", "r.html", "r.json"))
    onnx.save(model, path)
    result = invoke("inspect", path, "--report", page, "--report", report)
    told = "stored statistics: 1 contradicts, 1 cannot tell (second): bnfold stats says why"
    assert told in " ".join(result.output.split())
    assert told in page.read_text()
    assert "predicted less stored mean" in page.read_text()
    (first, second) = json.loads(report.read_text())["models"][0]["statistics"]
    assert (first["verdict"], first["shift"]) == ("cannot tell", None)
    assert (second["verdict"], second["assumes"]) == ("contradicts", [])
    assert abs(second["shift"]["low"] + 3) < 0.1  # what is predicted lies below what is stored
    assert second["ratio"]["low"] > 0.9
    assert bnfold.optimize(path, tmp_path / "o.onnx", verify="none").statistics == ()
    detailed = bnfold.optimize(path, tmp_path / "o2.onnx", verify="none", details=True)
    assert [layer.verdict.value for layer in detailed.statistics] == ["cannot tell", "contradicts"]


def test_the_table_of_faults_counts_what_is_found() -> None:
    spec = importlib.util.spec_from_file_location("fault_table", Path("docs/fault_table.py"))
    assert spec is not None
    assert spec.loader is not None
    table = importlib.util.module_from_spec(spec)
    sys.modules["fault_table"] = table  # where dataclasses look
    spec.loader.exec_module(table)
    tally: dict[str, Any] = {}
    table.in_one_layer(table.loaded(SAMPLES / "digits_depthwise.onnx"), tally)
    count = len(consistency(SAMPLES / "digits_depthwise.onnx").layers)
    for fault in ("never updated: μ = 0, σ² = 1", "zeros: μ = 0, σ² = 0"):
        found = tally[fault]
        assert (found.tried, found.found, found.right) == (count,) * 3
    assert (tally["ε = 0.001"].tried, tally["ε = 0.001"].found) == (count, 0)
