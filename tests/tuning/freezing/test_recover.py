"""BatchNormalizations put back: the same function, with the statistics of a file of moments."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import ModelProto, numpy_helper

import bnfold
from bnfold import Consistency, Outcome, RecoverResult, UsageError
from bnfold.tuning.freezing.recovery import identity, with_statistics
from tests.support import Array, bn, invoke, numbers, parse

SAMPLES = Path("sample_models")
TRAINED = ["digits_depthwise", "digits_resnet", "digits_mlp", "digits_autoencoder"]


def layers(path: Path) -> list[onnx.NodeProto]:
    graph = onnx.load(path).graph
    return [node for node in graph.node if node.op_type == "BatchNormalization"]


def stored(path: Path, node: onnx.NodeProto) -> list[Array]:
    tensors = {t.name: numpy_helper.to_array(t) for t in onnx.load(path).graph.initializer}
    return [np.asarray(tensors[name], np.float64) for name in node.input[1:]]


@pytest.mark.parametrize("form", ["folded", "frozen"])
@pytest.mark.parametrize("name", TRAINED)
def test_a_trained_model_gets_its_layers_back(name: str, form: str, tmp_path: Path) -> None:
    source = SAMPLES / f"{name}.onnx"
    made, moments, back = (tmp_path / n for n in ("made.onnx", "m.json", "back.onnx"))
    if form == "folded":
        bnfold.optimize(source, made, verify="proof", moments_file=moments)
    else:
        bnfold.freeze(source, made, verify="proof", moments_file=moments)
    assert not layers(made)
    result = bnfold.recover(made, back, moments_file=moments)
    assert result.comparison is not None
    assert result.comparison.certificate is not None
    assert result.comparison.certificate.verdict is Outcome.VALID
    assert len(layers(back)) == len(layers(source)) == len(result.recovered)
    assert all(one.known for one in result.recovered)
    assert sum(one.guessed for one in result.recovered) <= 2
    told = bnfold.consistency(back).layers
    assert all(layer.verdict is not Consistency.CONTRADICTS for layer in told)
    assert sum(layer.verdict is Consistency.CONSISTENT for layer in told) >= len(told) - 1


def test_folding_what_was_recovered_gives_the_folded_model_bit_for_bit(tmp_path: Path) -> None:
    folded, moments, back, again = (tmp_path / n for n in ("f.onnx", "m.json", "b.onnx", "a.onnx"))
    source = SAMPLES / "digits_depthwise.onnx"
    bnfold.optimize(source, folded, verify="none", moments_file=moments)
    bnfold.recover(folded, back, moments_file=moments, verify="none")
    bnfold.optimize(back, again, verify="none")
    one, other = (onnx.load(path).graph for path in (folded, again))
    for graph in (one, other):
        graph.initializer.sort(key=lambda t: t.name)
    assert [t.SerializeToString() for t in one.initializer] == [
        t.SerializeToString() for t in other.initializer
    ]
    assert [n.output for n in one.node] == [n.output for n in other.node]


def recovered(model: ModelProto, tmp_path: Path) -> tuple[RecoverResult, Path]:
    source, back = tmp_path / "source.onnx", tmp_path / "back.onnx"
    onnx.save(model, source)
    return bnfold.recover(source, back), back


EACH = np.array([2, -3], "f").reshape(2, 1, 1)
BEHIND = np.array([1, 0.5], "f").reshape(2, 1, 1)


def test_mul_and_add_become_one_layer(tmp_path: Path) -> None:
    text = "g (float[N,2,4,4] x) => (float y) { m = Mul (x, s) y = Add (m, t) }"
    result, back = recovered(parse(text, s=EACH, t=BEHIND), tmp_path)
    (node,) = layers(back)
    gamma, beta, mean, variance = stored(back, node)
    assert (gamma.tolist(), beta.tolist()) == ([2, -3], [1, 0.5])
    assert (mean.tolist(), variance.tolist()) == ([0, 0], [1, 1])
    assert node.attribute[0].f == 0
    assert result.recovered == (bnfold.Recovered("y", "y", known=False),)
    assert len(onnx.load(back).graph.node) == 1
    assert len(onnx.load(back).graph.initializer) == 4  # s and t are gone


@pytest.mark.parametrize(("text", "more"), [
    ("m = Mul (x, s) a = Add (m, t) y = Add (a, m)", {}),  # another reader in between
    ("y = Mul (x, s)", {}),
    ("m = Mul (x, s) y = Add (m, x)", {}),
    ("m = Mul (x, w) y = Add (m, t)", {"w": np.arange(4, dtype="f")}),  # along pixels
    ("m = Mul (x, e) y = Add (m, e)", {"e": np.array(2, "f")}),  # no channels
    ("m = Div (x, s) y = Add (m, t)", {}),  # 1/s is rounded
    ("m = Mul (s, x) y = Add (m, t)", {}),  # what the kernel does not know as a frozen layer
    ("m = Mul (x, s) y = Sub (m, t)", {}),
])  # fmt: skip
def test_what_is_no_layer_stays(text: str, more: dict[str, Array], tmp_path: Path) -> None:
    model = parse(
        f"g (float[N,2,4,4] x) => (float y) {{ {text} }}", s=EACH, t=BEHIND, **more,
    )  # fmt: skip
    result, back = recovered(model, tmp_path)
    assert result.recovered == ()
    assert back.read_bytes() == (tmp_path / "source.onnx").read_bytes()


def test_a_constant_that_others_read_stays(tmp_path: Path) -> None:
    model = parse(
        "g (float[N,2,4,4] x) => (float y) { m = Mul (x, s) a = Add (m, t) y = Div (a, s) }",
        s=EACH, t=BEHIND,
    )  # fmt: skip
    _, back = recovered(model, tmp_path)
    assert len(layers(back)) == 1
    assert "s" in {t.name for t in onnx.load(back).graph.initializer}


def test_old_versions_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "old.onnx"
    for opset, ir_version in ((8, 8), (17, 3)):
        model = parse("g (float[N,2] x) => (float y) { y = Relu (x) }", opset, ir_version)
        onnx.save(model, path)
        with pytest.raises(UsageError, match="IR version 4 and opset 9"):
            bnfold.recover(path, tmp_path / "out.onnx")


def test_a_layer_behind_which_nothing_is_known_is_not_put_back(tmp_path: Path) -> None:
    """Moments of a tensor that the model does not have, or has with other channels."""
    source, folded, moments = (tmp_path / n for n in ("a.onnx", "f.onnx", "m.json"))
    model = parse(
        "g (float[N,2,4,4] x) => (float y) { c = Conv (x, w) n = BatchNormalization (c, s, b, m, v)"
        " y = Relu (n) }", w=numbers(2, 2, 1, 1), **bn(2),
    )  # fmt: skip
    onnx.save(model, source)
    bnfold.optimize(source, folded, moments_file=moments, verify="none")
    known = json.loads(moments.read_text())
    for change in ({"name": "z"}, {"batch_norm": ""}, {"axis": 2}):
        entries = [entry | change for entry in known["tensors"]]
        moments.write_text(json.dumps(known | {"tensors": entries}))
        assert bnfold.recover(folded, tmp_path / "b.onnx", moments_file=moments).recovered == ()


def test_the_command_says_where_statistics_come_from(tmp_path: Path) -> None:
    frozen, back = tmp_path / "f.onnx", tmp_path / "back.onnx"
    invoke("freeze", SAMPLES / "digits_mlp.onnx", "-o", frozen, "--verify", "none")
    result = invoke("recover", frozen, "-o", back)
    assert result.exit_code == 0
    assert "2 BatchNormalizations put back and verified" in result.output
    assert result.output.count("unknown: μ is 0 and σ² is 1") == 2
    result = invoke("recover", frozen, "-o", back, "--verify", "none", "--json")
    assert [one["known"] for one in json.loads(result.output)["recovered"]] == [False, False]
    result = invoke("recover", SAMPLES / "digits_mlp.onnx", "-o", back)
    assert "there is nothing to put back" in result.output


def frozen_and_back(tmp_path: Path, **parameters: Array) -> tuple[RecoverResult, list[Array]]:
    count = len(parameters["m"])
    source, frozen, moments, back = (tmp_path / n for n in ("a.onnx", "f.onnx", "m.json", "b.onnx"))
    text = "{ n = BatchNormalization (x, s, b, m, v) y = Relu (n) }"
    head = f"g (float[N,{count}] x) => (float y) "
    onnx.save(parse(head + text, **{k: v.astype("f") for k, v in parameters.items()}), source)
    bnfold.freeze(source, frozen, moments_file=moments, verify="none")
    result = bnfold.recover(frozen, back, moments_file=moments)
    (node,) = layers(back)
    return result, stored(back, node)


def test_deviations_of_all_sizes_come_back(tmp_path: Path) -> None:
    """Columns of a table, as they are."""
    variance = np.array([1.1e10, 0.87, 0.22, 418, 1e-4])
    result, (_, _, mean, found) = frozen_and_back(
        tmp_path, s=np.ones(5), b=np.zeros(5), m=np.array([5e4, 1, -2, 30, 0.01]), v=variance
    )
    np.testing.assert_allclose(found, variance, rtol=0.02, atol=2e-5)
    assert result.recovered[0].known
    assert np.count_nonzero(mean) >= 4


def test_a_dead_channel_costs_no_other_its_statistics(tmp_path: Path) -> None:
    result, (gamma, beta, mean, variance) = frozen_and_back(
        tmp_path, s=np.array([1, 1, 0, 1]), b=np.array([0, 1, 2, 3]), m=np.array([1, 5, 3, 4]),
        v=np.full(4, 4),
    )  # fmt: skip
    (one,) = result.recovered
    assert one.known
    assert one.guessed >= 1
    assert (gamma[2], beta[2]) == (0, 2)
    np.testing.assert_allclose(np.delete(variance, 2), 4, rtol=0.02)
    np.testing.assert_allclose(np.delete(mean, 2), [1, 5, 4], atol=0.26)


@pytest.mark.parametrize("scale", [1e-3, 1.0, 1e3, 1e6])
def test_an_identity_is_exact(scale: float) -> None:
    rng = np.random.default_rng(0)
    deviation = scale * np.array([0, 1e-4, *rng.uniform(0.01, 1, 200)])
    p = identity(rng.normal(size=202), deviation)
    assert np.all(p.gamma / np.sqrt(p.variance + p.epsilon) == 1)
    assert np.all(p.variance >= 0)
    for values in (p.gamma, p.beta, p.mean, p.variance, np.array(p.epsilon)):
        assert np.all(values.astype(np.float32) == values)
    large = deviation > max(0.01 * scale, np.sqrt(p.epsilon))
    np.testing.assert_allclose(p.gamma[large], deviation[large], rtol=2**-11)


def test_statistics_are_found_with_which_the_map_comes_out_exactly() -> None:
    rng = np.random.default_rng(1)
    s, t, mean = (rng.normal(size=2000).astype(np.float32).astype(float) for _ in range(3))
    deviation = rng.uniform(0.1, 3, 2000)
    p, guessed = with_statistics(s, t, mean, deviation)
    ratio = p.gamma / np.sqrt(p.variance + p.epsilon)
    assert np.all(ratio.astype(np.float32) == s)
    assert np.all((p.beta - ratio * p.mean).astype(np.float32) == t)
    kept = p.mean != 0
    assert np.count_nonzero(~kept) == guessed < 20
    assert np.all(np.abs(p.mean - mean)[kept] <= 0.13 * deviation[kept] + 1e-6)
    close = np.abs(np.sqrt(p.variance + p.epsilon) / deviation - 1) < 0.01
    assert np.count_nonzero(~close) <= guessed
