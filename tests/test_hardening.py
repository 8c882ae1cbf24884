"""What reviews and fuzzing have found: each was once a wrong fold, a crash or a wrong verdict."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import helper, numpy_helper

import bnfold
from bnfold.options import RunOptions
from tests.support import Array, bn, folded, invoke, numbers, parse, reason

SITE = """
g (float[1,3,4,4] x) => (float[1,3,4,4] y) {
  [conv] c = Conv (x, w)
  [norm] y = BatchNormalization <epsilon = 0.0> (c, s, b, m, v)
}"""


def site() -> onnx.ModelProto:
    return parse(SITE, w=numbers(3, 3, 1, 1), **bn(3))


# --- names and scopes ---------------------------------------------------------------------------


def test_the_name_of_the_result_may_be_taken_inside_a_body_in_between() -> None:
    text = """
    g (float[1,3,4,4] x, bool cond) => (float[1,3,4,4] y, float[1,3,4,4] q) {
      c = Conv (x, w)
      q = If (cond) <
        then_branch = t () => (float[1,3,4,4] p) { y = Relu (x) p = Neg (y) },
        else_branch = e () => (float[1,3,4,4] r) { r = Relu (x) }
      >
      y = BatchNormalization <epsilon = 0.0> (c, s, b, m, v)
    }"""
    assert reason(parse(text, w=numbers(3, 3, 1, 1), **bn(3))) == "shadowed"


def test_bodies_side_by_side_may_use_the_same_names() -> None:
    branch = "{ a = Conv (x, w) p = BatchNormalization <epsilon = 0.0> (a, s, b, m, v) }"
    text = f"""
    g (float[1,3,4,4] x, bool cond) => (float[1,3,4,4] y) {{
      y = If (cond) <
        then_branch = t () => (float[1,3,4,4] p) {branch},
        else_branch = e () => (float[1,3,4,4] p) {branch}
      >
    }}"""
    folded(parse(text, w=numbers(3, 3, 1, 1), **bn(3)))


def test_computed_weights_of_one_name_in_two_bodies_of_ir_3() -> None:
    branch = (
        "{ W = Transpose <perm = [1,0,2,3]> (w) a = Conv (x, W) "
        "p = BatchNormalization <epsilon = 0.0> (a, s, b, m, v) }"
    )
    text = f"""
    g (float[1,3,4,4] x, bool cond) => (float[1,3,4,4] y) {{
      y = If (cond) <
        then_branch = t () => (float[1,3,4,4] p) {branch},
        else_branch = e () => (float[1,3,4,4] p) {branch}
      >
    }}"""
    model = parse(text, 11, 3, w=numbers(3, 3, 1, 1), **bn(3))
    model.graph.input.extend(
        helper.make_tensor_value_info(t.name, t.data_type, t.dims) for t in model.graph.initializer
    )
    folded(model)


def test_in_a_function_there_are_never_more_nodes_than_before() -> None:
    blocks = "".join(
        f"c{i} = Conv <group = 3> (y{i}, w) y{i + 1} = BatchNormalization (c{i}, k, k, k, k)\n"
        for i in range(3)
    )
    relus = "".join(f"r{i + 1} = Relu (r{i})\n" for i in range(12))  # too long to be inlined
    text = f"""
    <ir_version: 8, opset_import: ["": 17, "l": 1]>
    g (float[1,3,4,4] x) => (float[1,3,4,4] y) {{ k = l.f (x) y = l.f (k) }}
    <domain: "l", opset_import: ["": 17]>
    f (r0) => (y3) {{
      {relus} y0 = Relu (r12)
      k = Constant <value_floats = [1.0, 2.0, 3.0]> ()
      w = Constant <value = float[3,1,1,1] {{1.0, 2.0, 3.0}}> ()
      {blocks}
    }}"""
    result = bnfold.fold(parse(text))
    assert result.after.nodes <= result.before.nodes
    assert [v.refusal.reason.code for v in result.kept if v.refusal] == ["more-nodes"] * 3


def test_what_the_algorithm_of_training_info_reads_stays() -> None:
    model = site()
    model.training_info.add().algorithm.node.append(helper.make_node("Identity", ["s"], ["t"]))
    assert "s" in {t.name for t in bnfold.fold(model).model.graph.initializer}


# --- constants ----------------------------------------------------------------------------------


@pytest.mark.parametrize("opset", [7, 11, 12, 13])
def test_squeeze_with_its_axes_in_an_attribute(opset: int) -> None:
    squeeze = "Squeeze <axes = [2]> (c3)" if opset < 13 else "Squeeze (c3, k)"
    text = f"""
    g (float[3,4] x) => (float[3,3] y) {{
      C = {squeeze}
      c = Gemm (x, w, C)
      y = BatchNormalization <epsilon = 0.0> (c, s, b, m, v)
    }}"""
    model = parse(text, opset, w=numbers(4, 3), c3=numbers(3, 1, 1), k=np.array([2]), **bn(3))
    if opset < 13:
        del model.graph.initializer[2]
    folded(model)


def test_the_old_broadcasting_of_constants_is_not_guessed_at() -> None:
    text = """
    g (float[3,3] x) => (float[3,3] y) {
      W = Mul <broadcast = 1, axis = 0> (w, k)
      c = MatMul (x, W)
      y = BatchNormalization <epsilon = 0.0, is_test = 1> (c, s, b, m, v)
    }"""
    model = parse(text, 6, 4, w=numbers(3, 3), k=numbers(3), **bn(3))
    assert reason(model) == "not-evaluated"


def test_a_tile_to_nothing_does_not_pass_through_something_huge() -> None:
    text = SITE.replace("[conv]", "w = Tile (k, r)\n [conv]")
    model = parse(text, k=numbers(3, 3, 1, 1), r=np.array([8 * 10**9, 1, 1, 0]), **bn(3))
    assert reason(model, check=False) == "too-large"


def test_a_bias_per_row_is_not_written_out_without_limit() -> None:
    text = """
    g (float[1000,4] x) => (float[1000,300] y) {
      [fc] z = Gemm (x, w, c)
      y = BatchNormalization <epsilon = 0.0> (z, s, b, m, v)
    }"""
    model = parse(text, w=numbers(4, 300), c=numbers(1000, 1), **bn(300))
    assert reason(model) == "too-large"


def test_external_data_that_was_not_loaded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    onnx.save(
        site(), tmp_path / "m.onnx", save_as_external_data=True, location="w.bin", size_threshold=0
    )
    monkeypatch.chdir(tmp_path)  # where the data would be found, if one looked for it there
    with pytest.raises(bnfold.ModelError, match="was not loaded"):
        bnfold.fold(onnx.load("m.onnx", load_external_data=False))


@pytest.mark.parametrize(
    ("node", "attribute"),
    [(0, helper.make_attribute("group", "x")), (1, helper.make_attribute("epsilon", "x"))],
)
def test_an_attribute_of_a_wrong_type(node: int, attribute: onnx.AttributeProto) -> None:
    model = site()
    del model.graph.node[node].attribute[:]
    model.graph.node[node].attribute.append(attribute)
    with pytest.raises(bnfold.ModelError, match="wrong type"):
        bnfold.fold(model)


def test_a_tensor_of_an_unknown_type() -> None:
    model = site()
    model.graph.initializer[0].data_type = 65
    assert reason(model, check=False) == "dtype"


def test_damaged_strings_on_the_way_to_a_weight() -> None:
    model = parse(SITE.replace("(x, w)", "(x, W)").replace("[conv]", "W = Reshape (w, k) [conv]"),
                  w=numbers(3, 3), k=np.array([3, 3, 1, 1]), **bn(3))  # fmt: skip
    (tensor,) = (t for t in model.graph.initializer if t.name == "w")
    tensor.CopyFrom(onnx.TensorProto(name="w", data_type=8, dims=[3], string_data=[b"a"]))
    with pytest.raises(bnfold.ModelError):
        bnfold.fold(model)


@pytest.mark.parametrize("dims", [[-1, 3, 1, 1], [1 << 31, 1 << 31, 1, 1]])
def test_a_weight_of_impossible_size(dims: list[int]) -> None:
    model = site()
    model.graph.initializer[0].dims[:] = dims
    with pytest.raises(bnfold.ModelError, match="claims the shape"):
        bnfold.fold(model)


@pytest.mark.parametrize("dims", [[0, 3, 1, 1], [3, 0, 1, 1], [1 << 62, 0, 1, 1]])
def test_a_weight_of_no_elements(dims: list[int]) -> None:
    model = site()
    model.graph.initializer[0].CopyFrom(
        onnx.TensorProto(name="w", data_type=1, dims=dims, raw_data=b"")
    )
    assert reason(model, check=False) == "shape-mismatch"


def test_a_constant_of_a_shape_that_cannot_be() -> None:
    text = """
    g (float[1,4,4,4] x) => (float[1,4,4,4] y) {
      c = InstanceNormalization (x, k, l)
      y = BatchNormalization <epsilon = 0.0> (c, s, b, m, v)
    }"""
    model = parse(text, k=numbers(4), l=numbers(3), **bn(4))
    assert reason(model, check=False) == "shape-mismatch"


def test_a_very_long_way_is_given_up() -> None:
    chain = "".join(f"c{i + 1} = Identity (c{i})\n" for i in range(1500))
    text = SITE.replace("c = Conv", "c0 = Conv").replace("[norm]", f"{chain} [norm]")
    model = parse(text.replace("(c, s", "(c1500, s"), w=numbers(3, 3, 1, 1), **bn(3))
    assert reason(model) == "too-far"


# --- what a file says is not believed -----------------------------------------------------------


def test_the_rank_that_a_body_claims_for_its_inputs_is_not_believed() -> None:
    text = """
    g (float[2,3,3] x, int64 n, bool k) => (float[2,3,3] y) {
      y = Loop (n, k, x) <body = body (int64 i, bool ci, float[P,3] h) => (bool co, float[P,3] o) {
        co = Identity (ci)
        z = MatMul (h, w)
        o = BatchNormalization <epsilon = 0.0> (z, s, b, m, v)
      }>
    }"""
    assert reason(parse(text, w=numbers(3, 3), **bn(3)), check=False) == "unknown-rank"


def test_the_rank_that_a_graph_output_claims_is_not_believed() -> None:
    text = """
    g (float[2,3,4] x) => (float[2,4] a, float[2,3,3] y) {
      a = Relu (x)
      c = MatMul (a, w)
      y = BatchNormalization <epsilon = 0.0> (c, s, b, m, v)
    }"""
    assert reason(parse(text, w=numbers(4, 3), **bn(3)), check=False) == "channel-axis"


@pytest.mark.parametrize(
    "op", ["Mul (u, k)", "Mul (k, u)", "Div (u, k)", "Add (u, k)", "Sub (k, u)"]
)
def test_a_constant_beside_a_value_of_unknown_shape(op: str) -> None:
    text = f"""
    <ir_version: 8, opset_import: ["": 17, "own": 1]>
    g (float[1,3,4,4] x) => (float[1,3,4,4] y) {{
      u = own.Unknown (x)
      c = {op}
      r = Relu (c)
      y = BatchNormalization <epsilon = 0.0> (r, s, b, m, v)
    }}"""
    p = {"s": np.full(3, 2, np.float32), "b": np.zeros(3, np.float32), "m": np.zeros(3, np.float32)}
    model = parse(text, k=numbers(3, 1, 1), **{**bn(3), **p})
    assert reason(model, check=False) == "unknown-rank"


# --- files --------------------------------------------------------------------------------------


def test_the_output_never_overwrites_the_originals_data(tmp_path: Path) -> None:
    onnx.save(
        site(), tmp_path / "m.onnx", save_as_external_data=True, location="w.bin", size_threshold=0
    )
    before = (tmp_path / "w.bin").read_bytes()
    with pytest.raises(bnfold.UsageError, match="belongs to the original"):
        bnfold.optimize(tmp_path / "m.onnx", tmp_path / "w.bin")
    assert (tmp_path / "w.bin").read_bytes() == before


def test_in_place_keeps_the_mode_of_the_file(tmp_path: Path) -> None:
    path = tmp_path / "m.onnx"
    onnx.save(site(), path)
    path.chmod(0o600)
    bnfold.optimize(path, in_place=True, verify="none")
    assert path.stat().st_mode & 0o777 == 0o600


def test_a_folder_that_is_not_there_is_no_file_name(tmp_path: Path) -> None:
    onnx.save(site(), tmp_path / "m.onnx")
    with pytest.raises(bnfold.UsageError, match="no folder"):
        bnfold.optimize(tmp_path / "m.onnx", f"{tmp_path}/new/")


def test_no_empty_data_file_is_written(tmp_path: Path) -> None:
    model = site()
    onnx.save(model, tmp_path / "m.onnx")
    model = onnx.load(tmp_path / "m.onnx")
    for tensor in model.graph.initializer:
        if tensor.name == "s":
            (tmp_path / "s.bin").write_bytes(tensor.raw_data)
            onnx.external_data_helper.set_external_data(tensor, "s.bin", 0, 12)
            tensor.ClearField("raw_data")
    onnx.save(model, tmp_path / "m.onnx")
    bnfold.optimize(tmp_path / "m.onnx")
    assert {path.name for path in tmp_path.iterdir()} == {"m.onnx", "s.bin", "m.folded.onnx"}


# --- the command line ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    "option",
    [
        "--seed=-1", "--timeout=nan", "--timeout=inf", "--timeout=1e12", "--timeout=0",
        "--memory-limit=99999999999999999", "--dim=N=99999999999999999999", "--inputs=x.npy",
        "--inputs=empty.npz",
    ],
)  # fmt: skip
def test_odd_values_are_wrong_usage(
    option: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(signal, "signal", lambda *_: None)
    onnx.save(site(), "m.onnx")
    np.save("x.npy", np.zeros(3))
    Path("empty.npz").write_bytes(b"")
    result = invoke("optimize", "m.onnx", option)
    assert result.exit_code == 2, result.output
    assert not Path("m.folded.onnx").exists()


def test_an_input_that_is_too_large_to_make_up() -> None:
    model = parse(f"g (float[{1 << 62}] x) => (float[{1 << 62}] y) {{ y = Relu (x) }}")
    assert "too large" in bnfold.verify(model, model).not_run


@pytest.mark.parametrize("encoding", ["latin-1", "ascii"])
def test_a_terminal_without_our_letters(encoding: str, tmp_path: Path) -> None:
    onnx.save(site(), tmp_path / "m.onnx")
    done = subprocess.run(
        [sys.executable, "-m", "bnfold", "optimize", "m.onnx"], cwd=tmp_path, capture_output=True,
        env={**os.environ, "PYTHONIOENCODING": encoding}, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("unbuffered", ["", "1"])
@pytest.mark.parametrize("words", [["inspect", "m.onnx"], ["optimize", "m.onnx"]])
def test_a_reader_that_goes_away_is_no_verdict(
    words: list[str], unbuffered: str, tmp_path: Path
) -> None:
    onnx.save(site(), tmp_path / "m.onnx")
    read, write = os.pipe()
    os.close(read)
    done = subprocess.run(
        [sys.executable, "-m", "bnfold", *words], cwd=tmp_path, stdout=write,
        stderr=subprocess.PIPE, check=False, env=os.environ | {"PYTHONUNBUFFERED": unbuffered},
    )  # fmt: skip
    os.close(write)
    assert (done.returncode, done.stderr) == (128 + signal.SIGPIPE, b"")


def until(condition: Callable[[], object], seconds: float = 20) -> None:
    """Wait for something; what does not come is a failure."""
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it never came"
        time.sleep(0.02)


def test_control_c_is_no_verdict(tmp_path: Path) -> None:
    from tests.verification.test_compare import endless

    onnx.save(endless(), tmp_path / "m.onnx")
    with subprocess.Popen(
        [sys.executable, "-m", "bnfold", "verify", "m.onnx", "m.onnx"], cwd=tmp_path,
        stderr=subprocess.DEVNULL, start_new_session=True,
        env={**os.environ, "TMPDIR": str(tmp_path)},
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # ignored by shells' &
    ) as running:  # fmt: skip
        until(lambda: list(tmp_path.glob(".bnfold-*/files/stage.json")))  # the child is at work
        running.send_signal(signal.SIGINT)
        assert running.wait(20) == 128 + signal.SIGINT


def test_remedies_are_cleaned_like_messages(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(signal, "signal", lambda *_: None)
    model = parse("g (float x) => (float y) { y = Relu (x) }")
    model.graph.input[0].type.tensor_type.ClearField("shape")
    model.graph.input[0].name = model.graph.node[0].input[0] = "\x1b[31mEVIL\x07"
    onnx.save(model, tmp_path / "m.onnx")
    path = str(tmp_path / "m.onnx")
    result = invoke("verify", path, path)
    assert "EVIL" in result.output
    assert "\x1b" not in result.output
    assert "\x07" not in result.output


# --- the verdict --------------------------------------------------------------------------------


def scaled(model: onnx.ModelProto, name: str, factor: float, channel: int) -> onnx.ModelProto:
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    (tensor,) = (t for t in copy.graph.initializer if t.name == name)
    values: Array = numpy_helper.to_array(tensor).copy()
    values[channel] *= factor
    tensor.CopyFrom(numpy_helper.from_array(values, name))
    return copy


def test_a_loud_channel_does_not_drown_a_wrong_quiet_one() -> None:
    text = SITE.replace("4,4", "16,16")
    loud = {"s": np.array([1e6, 1, 1], np.float32)}
    model = parse(text, w=numbers(3, 3, 1, 1), **{**bn(3), **loud})
    result = bnfold.fold(model).model
    assert bnfold.verify(model, result).equal
    assert not bnfold.verify(model, scaled(result, "w", 1.05, 1)).equal


def test_whole_numbers_carry_no_rounding(tmp_path: Path) -> None:
    text = SITE.replace("(x, w)", "(f, w)").replace("[conv]", "f = Floor (x) [conv]")
    model = parse(text, w=numbers(3, 3, 1, 1), **bn(3))
    np.savez(tmp_path / "x.npz", x=numbers(1, 3, 4, 4))
    run_options = RunOptions(inputs=str(tmp_path / "x.npz"))
    result = bnfold.fold(model).model
    assert bnfold.verify(model, result, run_options=run_options).equal
    assert not bnfold.verify(model, scaled(result, "w", 1.3, 1), run_options=run_options).equal


def test_where_nothing_was_compared_nothing_is_equal() -> None:
    text = "g (float[4,6] x) => (float[4,6] y) { k = Mul (x, zero) y = %s }"
    both = ("Abs (k)", "Max (k, zero)")  # which the certificate does not know to be equal here
    models = [parse(text % end, zero=np.zeros(1, np.float32)) for end in both]
    with pytest.raises(bnfold.UndecidedError, match="mean nothing"):
        bnfold.verify(*models)


def test_ties_that_fall_another_way_are_a_difference() -> None:
    text = "g (float[4,6] x) => (int64[4,1] y) { k = Mul (x, zero) y = ArgMax <axis = 1> (k) }"
    other = text.replace("<axis = 1>", "<axis = 1, select_last_index = 1>")
    models = [parse(t, zero=np.zeros(1, np.float32)) for t in (text, other)]
    assert not bnfold.verify(*models).equal


def test_an_epsilon_of_0_is_0_in_float64_too() -> None:
    from bnfold.verification.numerics.float64 import BothPrecisions

    p = bn(3) | {"v": np.full(3, 1e-14, np.float32)}
    model = parse(SITE, w=numbers(3, 3, 1, 1), **p)
    feed = {"x": numbers(1, 3, 4, 4)}
    narrow, wide = BothPrecisions(
        lambda: onnx.ModelProto.FromString(model.SerializeToString())
    ).run(feed)["y"]
    np.testing.assert_allclose(narrow, wide, rtol=1e-5, atol=1e3)
    assert np.abs(wide).max() > 1e6
