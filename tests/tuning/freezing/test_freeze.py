"""Frozen BatchNormalization, learnable γ′ and β′, and learned values put back."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from click.testing import CliRunner
from onnx import ModelProto, helper, numpy_helper

import bnfold
from bnfold import Reason
from bnfold.cli.main import main
from bnfold.runtime.sessions import SessionFactory, run
from bnfold.tuning.freezing.frozen_models import LEARNABLE, assign, freeze
from tests.proof.test_certificate import norm, real
from tests.support import Array, parse

NET = """g (float[N,3,6,6] x) => (float[N,4,6,6] y) {
  [conv] c = Conv (x, w)
  [norm] d = BatchNormalization <epsilon = 0.001> (c, s, b, m, v)
  [act] y = Sigmoid (d)
}"""


def net(text: str = NET, opset: int = 17, ir_version: int = 8, /, **given: Array) -> ModelProto:
    return parse(text, opset, ir_version, **({"w": real(4, 3, 1, 1), **norm(4)} | given))


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    onnx.save(net(), tmp_path / "net.onnx")
    return tmp_path / "net.onnx"


def constant(model: ModelProto, name: str) -> Array:
    (tensor,) = (t for t in model.graph.initializer if t.name == name)
    return numpy_helper.to_array(tensor)


def test_the_affine_form_is_written_out(saved: Path) -> None:
    result = freeze(saved)
    model = onnx.load(result.model)
    onnx.checker.check_model(model, full_check=True)
    assert result.model == saved.with_suffix(".frozen.onnx")
    assert [(n.op_type, n.name) for n in model.graph.node] == [
        ("Conv", "conv"), ("Mul", "norm.scale"), ("Add", "norm"), ("Sigmoid", "act"),
    ]  # fmt: skip
    s, b, m, v = (norm(4)[key].astype(np.float64) for key in "sbmv")
    gamma = s / np.sqrt(v + np.float32(0.001))
    for name, exact in (("gamma_prime", gamma), ("beta_prime", b - gamma * m)):
        stored = constant(model, f"norm.{name}")
        assert stored.shape == (4, 1, 1)
        np.testing.assert_array_equal(stored.reshape(-1), exact.astype(np.float32))
    assert {t.name for t in model.graph.initializer} == {
        "w", "norm.gamma_prime", "norm.beta_prime",
    }  # fmt: skip


@pytest.mark.parametrize("form", ["mul-add", "batchnorm"])
def test_the_result_is_verified_on_every_level(saved: Path, form: bnfold.FrozenForm) -> None:
    comparison = freeze(saved, form=form, verify="full").comparison
    assert comparison is not None
    assert comparison.equal
    for check in (comparison.frame, comparison.certificate):
        assert check is not None
        assert check.verdict.value == "valid"
    assert [fold.valid for fold in comparison.folds] == [True]


def test_as_a_batch_norm_it_has_no_statistics(saved: Path) -> None:
    model = onnx.load(freeze(saved, form="batchnorm").model)
    (node,) = (n for n in model.graph.node if n.op_type == "BatchNormalization")
    assert node.name == "norm"
    assert helper.get_node_attr_value(node, "epsilon") == 0
    assert list(constant(model, "norm.mean")) == [0] * 4
    assert list(constant(model, "norm.variance")) == [1] * 4


@pytest.mark.parametrize("form", ["mul-add", "batchnorm"])
def test_a_frozen_model_folds_as_the_original_does(
    saved: Path, form: bnfold.FrozenForm, tmp_path: Path
) -> None:
    frozen = freeze(saved, form=form).model
    folded = [
        onnx.load(bnfold.optimize(path, tmp_path / f"{number}.onnx").model)
        for number, path in enumerate((saved, frozen))
    ]
    assert [n.op_type for n in folded[0].graph.node] == [n.op_type for n in folded[1].graph.node]
    feed = {"x": real(2, 3, 6, 6, seed=4)}
    one, other = (run(SessionFactory().open(m.SerializeToString()), feed)["y"] for m in folded)
    np.testing.assert_allclose(one, other, rtol=1e-5)


def test_everything_else_stays_byte_for_byte(tmp_path: Path) -> None:
    model = net()
    model.doc_string = "mine"
    model.metadata_props.add(key="author", value="me")
    model.graph.node[1].doc_string = "the norm"
    onnx.save(model, tmp_path / "net.onnx")
    frozen = onnx.load(freeze(tmp_path / "net.onnx").model)
    assert (frozen.doc_string, frozen.metadata_props[0].value) == ("mine", "me")
    assert frozen.graph.node[2].doc_string == "the norm"
    assert frozen.graph.initializer[0].SerializeToString() == (
        model.graph.initializer[0].SerializeToString()
    )


@pytest.mark.parametrize(
    ("shape", "expected"), [("2,4", (4,)), ("2,4,5", (4, 1)), ("2,4,3,3,3", (4, 1, 1, 1))]
)
def test_parameters_have_the_rank_of_what_they_scale(
    shape: str, expected: tuple[int, ...], tmp_path: Path
) -> None:
    text = (
        f"g (float[{shape}] x) => (float[{shape}] y) {{ y = BatchNormalization (x, s, b, m, v) }}"
    )
    onnx.save(parse(text, **norm(4)), tmp_path / "net.onnx")
    result = freeze(tmp_path / "net.onnx")
    assert result.frozen[0].gamma_prime == "y.gamma_prime"  # of the output: it has no name
    assert constant(onnx.load(result.model), "y.gamma_prime").shape == expected


def test_float16_data_with_float32_statistics(tmp_path: Path) -> None:
    text = NET.replace("float[", "float16[")
    onnx.save(net(text, w=real(4, 3, 1, 1, dtype=np.float16)), tmp_path / "net.onnx")
    assert constant(onnx.load(freeze(tmp_path / "net.onnx").model), "norm.beta_prime").dtype == (
        np.float16
    )


def test_shared_parameters_are_left_to_others(tmp_path: Path) -> None:
    text = NET.replace("(float[N,4,6,6] y)", "(float[N,4,6,6] y, float[4] z)").replace(
        "[act]", "z = Identity (s) [act]"
    )
    onnx.save(net(text), tmp_path / "net.onnx")
    model = onnx.load(freeze(tmp_path / "net.onnx").model)
    np.testing.assert_array_equal(constant(model, "s"), norm(4)["s"])


@pytest.mark.parametrize(("ir_version", "opset"), [(3, 8), (8, 17)])
def test_the_body_of_an_if_is_frozen(ir_version: int, opset: int, tmp_path: Path) -> None:
    text = """g (float[2,4,3,3] x, bool cond) => (float[2,4,3,3] y) {
      y = If (cond) <
        then_branch = t () => (float[2,4,3,3] p) { p = BatchNormalization (x, s, b, m, v) },
        else_branch = e () => (float[2,4,3,3] p) { p = Sigmoid (x) }
      > }"""
    model = parse(text, opset, ir_version, **norm(4))
    if ir_version < 4:
        model.graph.input.extend(
            helper.make_tensor_value_info(t.name, t.data_type, t.dims)
            for t in model.graph.initializer
        )
    onnx.save(model, tmp_path / "net.onnx")
    result = freeze(tmp_path / "net.onnx", verify="none")
    frozen = onnx.load(result.model)
    onnx.checker.check_model(frozen, full_check=True)
    feed = {"x": real(2, 4, 3, 3, seed=2), "cond": np.array(True)}
    one, other = (
        run(SessionFactory().open(m.SerializeToString()), feed)["y"] for m in (model, frozen)
    )
    np.testing.assert_allclose(one, other, rtol=1e-4, atol=1e-5)


# --- what stays ---------------------------------------------------------------------------------


def kept(path: Path, **how: Any) -> Reason:
    result = freeze(path, **how)
    (verdict,) = result.verdicts
    assert verdict.refusal is not None
    assert result.frozen == ()
    assert onnx.load(result.model) == onnx.load(path)
    return verdict.refusal.reason


def test_unknown_ranks_are_refused(tmp_path: Path) -> None:
    text = "g (float x) => (float y) { a = own.Thing (x) y = BatchNormalization (a, s, b, m, v) }"
    head = '<ir_version: 8, opset_import: ["": 17, "own": 1]> '
    onnx.save(parse(head + text, **norm(4)), tmp_path / "net.onnx")
    assert kept(tmp_path / "net.onnx") is Reason.UNKNOWN_RANK


def test_old_opsets_freeze_as_a_batch_norm_only(tmp_path: Path) -> None:
    text = NET.replace("<epsilon", "<is_test = 1, epsilon")
    onnx.save(net(text, 6), tmp_path / "net.onnx")
    assert kept(tmp_path / "net.onnx") is Reason.OLD_BROADCASTING
    assert freeze(tmp_path / "net.onnx", form="batchnorm", verify="proof").frozen


def test_a_scale_that_overflows_its_type_is_refused(tmp_path: Path) -> None:
    text = NET.replace("float[", "float16[")
    given = {n: a.astype(np.float16) for n, a in norm(4).items()}
    given |= {"s": np.full(4, 6e4, np.float16), "v": np.full(4, 1e-3, np.float16)}
    onnx.save(net(text, w=real(4, 3, 1, 1, dtype=np.float16), **given), tmp_path / "net.onnx")
    assert kept(tmp_path / "net.onnx", verify="none") is Reason.OVERFLOW


TRAINING = """g (float[N,3,6,6] x) => (float[N,4,6,6] y) {
  c = Conv (x, w)
  [norm] y, mean_out, var_out = BatchNormalization <training_mode = 1> (c, s, b, m, v)
}"""


def test_training_mode_is_refused_with_its_remedy(tmp_path: Path) -> None:
    onnx.save(net(TRAINING), tmp_path / "net.onnx")
    assert kept(tmp_path / "net.onnx") is Reason.TRAINING_MODE


def test_training_mode_with_real_statistics_may_be_taken_for_inference(tmp_path: Path) -> None:
    onnx.save(net(TRAINING), tmp_path / "net.onnx")
    result = freeze(tmp_path / "net.onnx", assume_inference=True)
    assert result.comparison is not None
    assert result.comparison.equal
    inference = net(
        TRAINING.replace("y, mean_out, var_out", "y").replace("<training_mode = 1>", "")
    )
    feed = {"x": real(2, 3, 6, 6, seed=4)}
    one = run(SessionFactory().open(inference.SerializeToString()), feed)["y"]
    other = run(SessionFactory().open(str(result.model)), feed)["y"]
    np.testing.assert_allclose(one, other, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(("opset", "attribute"), [(9, ""), (6, "<is_test = 0>")])
def test_older_ways_to_say_training(opset: int, attribute: str, tmp_path: Path) -> None:
    text = TRAINING.replace("<training_mode = 1>", attribute)
    outputs = "y, o1, o2, o3, o4" if opset == 9 else "y"
    onnx.save(net(text.replace("y, mean_out, var_out", outputs), opset), tmp_path / "net.onnx")
    how: dict[str, Any] = {"form": "batchnorm", "verify": "none"}
    assert kept(tmp_path / "net.onnx", **how) in (Reason.TRAINING_OUTPUTS, Reason.IS_TEST_ZERO)
    result = freeze(tmp_path / "net.onnx", assume_inference=True, **how)
    assert len(result.frozen) == 1
    (node,) = (n for n in onnx.load(result.model).graph.node if n.name == "norm")
    assert list(node.output) == ["y"]


def test_the_exporters_dummies_are_no_statistics(tmp_path: Path) -> None:
    dummies = {"m": np.zeros(4, np.float32), "v": np.ones(4, np.float32)}
    onnx.save(net(TRAINING, **dummies), tmp_path / "net.onnx")
    result = freeze(tmp_path / "net.onnx", assume_inference=True)
    (verdict,) = result.verdicts
    assert verdict.refusal is not None
    assert verdict.refusal.reason is Reason.DUMMY_STATISTICS
    assert "mean 0 and variance 1 in all 4 channels" in verdict.refusal.sentence


def test_batch_statistics_that_are_read_keep_it_in_training_mode(tmp_path: Path) -> None:
    text = TRAINING.replace("(float[N,4,6,6] y)", "(float[N,4,6,6] y, float[4] mean_out)")
    onnx.save(net(text), tmp_path / "net.onnx")
    result = freeze(tmp_path / "net.onnx", assume_inference=True)
    assert result.verdicts[0].refusal is not None
    assert result.verdicts[0].refusal.reason is Reason.TRAINING_OUTPUTS


# --- learnable parameters -------------------------------------------------------------------------


@pytest.fixture
def learnable(saved: Path) -> Path:
    return freeze(saved, learnable=True).model


def test_learnable_parameters_are_inputs_with_defaults(learnable: Path) -> None:
    model = onnx.load(learnable)
    names = ["norm.gamma_prime", "norm.beta_prime"]
    assert [value.name for value in model.graph.input] == ["x", *names]
    assert json.loads(model.metadata_props[0].value) == names
    assert model.metadata_props[0].key == LEARNABLE
    listed = json.loads(learnable.with_suffix(".learnable.json").read_text())
    assert listed["model"] == learnable.name
    assert listed["parameters"][0] == {
        "batchnorm": "norm", "name": "norm.gamma_prime", "role": "gamma_prime",
        "shape": [4, 1, 1], "dtype": "float32",
    }  # fmt: skip
    session = SessionFactory().open(str(learnable))
    feed = {"x": real(2, 3, 6, 6, seed=4)}
    fed = run(session, feed | {"norm.gamma_prime": np.zeros((4, 1, 1), np.float32)})["y"]
    assert np.ptp(fed[:, 0]) == 0  # all that is left is β′
    assert np.ptp(run(session, feed)["y"][:, 0]) > 0


def test_what_callers_may_replace_is_not_folded(learnable: Path, tmp_path: Path) -> None:
    assert not bnfold.optimize(learnable, tmp_path / "out.onnx").folded


def test_ir_3_has_no_inputs_with_defaults(tmp_path: Path) -> None:
    model = net(NET, 8, 3)
    model.graph.input.extend(
        helper.make_tensor_value_info(t.name, t.data_type, t.dims) for t in model.graph.initializer
    )
    onnx.save(model, tmp_path / "net.onnx")
    with pytest.raises(bnfold.UsageError, match="IR version 3"):
        freeze(tmp_path / "net.onnx", learnable=True)


def learned(**more: Array) -> dict[str, Array]:
    names = ("norm.gamma_prime", "norm.beta_prime")
    return {name: real(4, 1, 1, seed=8) for name in names} | more


def test_learned_values_are_put_back_and_fold(learnable: Path, tmp_path: Path) -> None:
    np.savez(tmp_path / "params.npz", **learned())  # type: ignore[arg-type]
    result = assign(learnable, tmp_path / "params.npz", tmp_path / "tuned.onnx")
    model = onnx.load(result.model)
    assert [value.name for value in model.graph.input] == ["x"]
    assert not model.metadata_props
    np.testing.assert_array_equal(constant(model, "norm.beta_prime"), real(4, 1, 1, seed=8))
    assert result.moved["norm.beta_prime"] > 0
    folded = bnfold.optimize(tmp_path / "tuned.onnx", tmp_path / "folded.onnx")
    assert folded.after.nodes == 2


def test_learned_values_go_into_external_data(saved: Path, tmp_path: Path) -> None:
    model = onnx.load(saved)
    onnx.save(model, tmp_path / "big.onnx", save_as_external_data=True, size_threshold=0)
    frozen = freeze(tmp_path / "big.onnx", tmp_path / "frozen.onnx", learnable=True).model
    np.savez(tmp_path / "params.npz", **learned())  # type: ignore[arg-type]
    tuned = onnx.load(assign(frozen, tmp_path / "params.npz", tmp_path / "tuned.onnx").model)
    np.testing.assert_array_equal(constant(tuned, "norm.beta_prime"), real(4, 1, 1, seed=8))


@pytest.mark.parametrize(
    ("params", "message"),
    [
        (learned(extra=np.zeros(1)), "has extra, which is no learnable parameter"),
        ({"norm.gamma_prime": real(4, 1, 1)}, r"has no array for norm\.beta_prime"),
        (learned() | {"norm.beta_prime": real(4)}, r"has shape \[4\], the model wants \[4, 1, 1\]"),
        (learned() | {"norm.beta_prime": np.ones((4, 1, 1), int)}, "is int64, the model wants"),
        (learned() | {"norm.beta_prime": np.full((4, 1, 1), np.nan)}, "has NaN or infinity"),
        (learned() | {"norm.beta_prime": np.full((4, 1, 1), 1e300)}, "has NaN or infinity"),
    ],
)
def test_values_that_do_not_fit(
    params: dict[str, Array], message: str, learnable: Path, tmp_path: Path
) -> None:
    np.savez(tmp_path / "params.npz", **params)  # type: ignore[arg-type]
    with pytest.raises(bnfold.UsageError, match=message):
        assign(learnable, tmp_path / "params.npz", tmp_path / "tuned.onnx")
    assert not (tmp_path / "tuned.onnx").exists()


@pytest.mark.parametrize("content", [b"", b"PK\x03\x04 damaged", b"\x93NUMPY"])
def test_parameters_that_cannot_be_read(content: bytes, learnable: Path, tmp_path: Path) -> None:
    (tmp_path / "params.npz").write_bytes(content)
    with pytest.raises(bnfold.UsageError):
        assign(learnable, tmp_path / "params.npz", tmp_path / "tuned.onnx")


def test_a_model_without_learnable_parameters(saved: Path, tmp_path: Path) -> None:
    np.savez(tmp_path / "params.npz", **learned())  # type: ignore[arg-type]
    with pytest.raises(bnfold.UsageError, match="lists no learnable parameters"):
        assign(saved, tmp_path / "params.npz", tmp_path / "tuned.onnx")


def test_the_commands(saved: Path, tmp_path: Path) -> None:
    runner = CliRunner()
    done = runner.invoke(main, ["freeze", str(saved), "--learnable"])
    assert done.exit_code == 0, done.output
    assert "1 of 1 BatchNormalization frozen and verified" in done.output
    np.savez(tmp_path / "params.npz", **learned())  # type: ignore[arg-type]
    frozen = str(saved.with_suffix(".frozen.onnx"))
    words = ["assign", frozen, str(tmp_path / "params.npz"), "-o", str(tmp_path / "t.onnx")]
    done = runner.invoke(main, words)
    assert done.exit_code == 0, done.output
    assert "2 parameters written" in done.output
    told = json.loads(runner.invoke(main, ["freeze", str(saved), "--json"]).output)
    assert told["frozen"][0]["gamma_prime"] == "norm.gamma_prime"


def test_what_was_learnable_before_stays_on_the_list(tmp_path: Path) -> None:
    text = """g (float[N,3,6,6] x) => (float[N,4,6,6] y) {
      c = Conv (x, w) [first] d = BatchNormalization (c, s, b, m, v)
      [second] y, mean_out, var_out = BatchNormalization <training_mode = 1> (d, s2, b2, m2, v2)
    }"""
    onnx.save(net(text, **norm(4, "2")), tmp_path / "net.onnx")
    once = freeze(tmp_path / "net.onnx", tmp_path / "once.onnx", learnable=True).model
    twice = freeze(once, tmp_path / "twice.onnx", learnable=True, assume_inference=True).model
    onnx.checker.check_model(twice)
    names = [f"{n}.{role}_prime" for n in ("first", "second") for role in ("gamma", "beta")]
    assert json.loads(onnx.load(twice).metadata_props[0].value) == names
    listed = json.loads((tmp_path / "twice.learnable.json").read_text())["parameters"]
    assert [(e["batchnorm"], e["name"]) for e in listed] == [(n.split(".")[0], n) for n in names]
    np.savez(tmp_path / "p.npz", **{n: real(4, 1, 1) for n in names})  # type: ignore[arg-type]
    tuned = onnx.load(assign(twice, tmp_path / "p.npz", tmp_path / "tuned.onnx").model)
    assert [value.name for value in tuned.graph.input] == ["x"]


def test_parameters_are_not_overwritten(learnable: Path, tmp_path: Path) -> None:
    np.savez(tmp_path / "params.npz", **learned())  # type: ignore[arg-type]
    before = (tmp_path / "params.npz").read_bytes()
    with pytest.raises(bnfold.UsageError, match="itself"):
        assign(learnable, tmp_path / "params.npz", tmp_path / "params.npz")
    assert (tmp_path / "params.npz").read_bytes() == before


def test_a_folder_where_the_list_would_be(saved: Path) -> None:
    saved.with_suffix(".frozen.learnable.json").mkdir()
    with pytest.raises(bnfold.UsageError, match="is a folder"):
        freeze(saved, learnable=True)
    assert not saved.with_suffix(".frozen.onnx").exists()
