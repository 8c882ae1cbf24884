"""What is shown and told: names that do no harm, lines that stay lines, hints that help."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import pytest

import bnfold
from bnfold.cli.main import _interrupted
from bnfold.onnx_io import atomic_output
from bnfold.text.escape import escape_commands
from bnfold.text.formatting import plain
from bnfold.text.json_encoding import dumps
from tests.support import CONV_NORM, bn, invoke, numbers, parse
from tests.test_hardening import until

pytestmark = pytest.mark.usefixtures("cwd")


def save(
    name: str = "model.onnx", text: str = CONV_NORM, conv: str = "conv", norm: str = "norm"
) -> str:
    model = parse(text, w=numbers(3, 3, 1, 1), **bn(3))
    model.graph.node[0].name, model.graph.node[1].name = conv, norm
    onnx.save(model, name)
    return name


# --- names ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["[/x]", "[bold]", "[red]a[/red]", ":smile:", "a[link=x]"])
@pytest.mark.parametrize(
    "command",
    ["optimize model.onnx -v --verify proof", "inspect model.onnx", "check model.onnx",
     "verify model.onnx model.onnx", "freeze model.onnx --verify none",
     "optimize model.onnx other.onnx --out-dir out --verify none"],
)  # fmt: skip
def test_a_name_is_no_markup(command: str, name: str) -> None:
    save(conv=name, norm=f"norm{name}")
    Path("other.onnx").write_text(f"no model {name}")
    done = invoke(*command.split())
    assert done.exit_code in (0, 1, 3), done.output
    if not command.startswith(("verify", "optimize model.onnx other")):
        assert f"norm{name}" in done.output


def test_a_path_is_no_markup() -> None:
    save("[red]x.onnx")
    assert "[red]x.onnx" in invoke("inspect", "[red]x.onnx").output
    assert "[/y].onnx" in invoke("inspect", "[/y].onnx").stderr


def test_names_of_millions_of_letters_are_cut() -> None:
    save(norm="n" * 2_000_000)
    for command in ("inspect", "check", "optimize"):
        assert len(invoke(command, "model.onnx").output) < 20_000
    assert plain("short") == "short"
    assert plain("b" * 5000 + "end").endswith("bend")


@pytest.mark.parametrize("prefix", ["##[", "##vso[", "##teamcity["])
def test_commands_of_ci_services_are_none(prefix: str) -> None:
    save(norm=f"{prefix}setProgress 1]")
    assert prefix not in invoke("inspect", "model.onnx").output
    assert prefix not in escape_commands(f"a {prefix}b]")
    said = dumps({"a": f"{prefix}b]"})
    assert prefix not in said
    assert json.loads(said) == {"a": f"{prefix}b]"}


def test_what_freeze_and_stats_print_as_json_is_of_that_kind() -> None:
    save(norm="##vso[x]é\udcff" if sys.platform == "win32" else "##vso[x]é")
    np.savez("data.npz", x=numbers(8, 3, 4, 4))
    for words in (("freeze", "--verify", "none"), ("stats", "--inputs", "data.npz")):
        done = invoke(words[0], "model.onnx", *words[1:], "--json")
        assert done.exit_code == 0, done.output
        assert done.stdout.isascii()
        assert "##vso[" not in done.stdout
        assert "##vso[x]é" in str(json.loads(done.stdout))


# --- lines ---------------------------------------------------------------------------------------


def test_lines_of_a_batch_are_not_wrapped() -> None:
    deep = Path("/".join(["a-folder-with-a-rather-long-name"] * 7))
    deep.mkdir(parents=True)
    save(str(deep / "one.onnx"))
    save("two.onnx")
    done = invoke("optimize", str(deep / "one.onnx"), "two.onnx", "--verify", "none")
    (line,) = (line for line in done.output.splitlines() if line.startswith(str(deep)))
    assert line.endswith("folded; not verified")


# --- hints ---------------------------------------------------------------------------------------

BRANCHES = """
g (float[1,3,4,4] x) => (float[1,3,4,4] y) {
  a = Conv (x, w)
  b1 = Conv (x, w)
  y = Add (a, b1)
}"""


@pytest.mark.parametrize("command", ["optimize", "inspect"])
def test_nothing_to_fold_names_the_flag_that_would_change_that(command: str) -> None:
    onnx.save(parse(BRANCHES, w=numbers(3, 3, 1, 1)), "model.onnx")
    said = invoke(command, "model.onnx").output
    assert "; 1 more with --merge-branches" in said
    assert "1 sum of branches" in invoke(command, "model.onnx", "--merge-branches").output
    overridable = parse(CONV_NORM, w=numbers(3, 3, 1, 1), **bn(3))
    for tensor in overridable.graph.initializer:
        overridable.graph.input.append(
            onnx.helper.make_tensor_value_info(tensor.name, tensor.data_type, tensor.dims)
        )
    onnx.save(overridable, "model.onnx")
    assert "; 1 more with --freeze-initializers" in invoke(command, "model.onnx").output
    onnx.save(parse(CONV_NORM.replace("Conv (x, w)", "Sigmoid (x)"), **bn(3)), "model.onnx")
    assert "more with" not in invoke(command, "model.onnx").output


def test_inspect_says_how_many_more_a_flag_would_fold() -> None:
    text = """
    g (float[1,3,4,4] x, float[3,3,1,1] given) => (float[1,3,4,4] y) {
      a = Conv (x, w)
      n = BatchNormalization (a, s, b, m, v)
      r = Sigmoid (n)
      c = Conv (r, given)
      y = BatchNormalization (c, s, b, m, v)
    }"""
    onnx.save(parse(text, w=numbers(3, 3, 1, 1), given=numbers(3, 3, 1, 1), **bn(3)), "model.onnx")
    said = invoke("inspect model.onnx").output
    more = "1 of 2 BatchNormalizations would be folded; 1 more with --freeze-initializers"
    assert more in said
    frozen = invoke("inspect model.onnx --freeze-initializers").output
    assert "2 of 2 BatchNormalizations would be folded; nothing was written" in frozen


def test_a_kept_chain_of_one_number_is_told() -> None:
    text = "g (float[2,4] x) => (float[2,4] y) { s = Softmax (x) [scale] y = Mul (s, k) }"
    onnx.save(parse(text, k=np.array(0.125, np.float32)), "model.onnx")
    assert [v.site for v in bnfold.fold(onnx.load("model.onnx")).kept] == ["scale"]
    assert "scale" in invoke("inspect", "model.onnx").output
    invoke("inspect", "model.onnx", "--report", "r.json")
    assert json.loads(Path("r.json").read_text())["models"][0]["sites"][0]["name"] == "scale"


# --- interrupted ---------------------------------------------------------------------------------


def test_what_was_written_before_an_interruption_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(atomic_output, "WRITTEN", [])
    assert _interrupted() == "interrupted; nothing was written"
    atomic_output.WRITTEN.append(Path("a.onnx"))
    assert _interrupted() == "interrupted; a.onnx had been written by then"
    atomic_output.WRITTEN.append(Path("b.onnx"))
    assert _interrupted() == "interrupted; b.onnx and 1 before it had been written by then"


NEVER_ENDS = """
g (float[1,3,4,4] x, float[2] q) => (float[1,3,4,4] y, float[2] r) {
  c = Conv (x, w)
  y = BatchNormalization (c, s, b, m, v)
  r = Loop (trips, yes, q) <body = b (int64 i, bool k, float[2] h) => (bool d, float[2] p) {
    d = Identity (k)
    p = Relu (h)
  }>
}"""


def test_a_batch_that_is_interrupted_says_what_it_has_written() -> None:
    save("a.onnx")
    never_ends = parse(NEVER_ENDS, trips=np.array(1 << 62), yes=np.array(True),
                       w=numbers(3, 3, 1, 1), **bn(3))  # fmt: skip
    onnx.save(never_ends, "b.onnx")
    with subprocess.Popen(
        [sys.executable, "-m", "bnfold", "optimize", "a.onnx", "b.onnx"],
        stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, start_new_session=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL), env={**os.environ},
    ) as running:  # fmt: skip
        until(Path("a.folded.onnx").exists)
        running.send_signal(signal.SIGINT)
        _, said = running.communicate(timeout=60)
    assert running.returncode == 130
    assert b"interrupted; a.folded.onnx had been written by then" in said


# --- warnings ------------------------------------------------------------------------------------


def test_no_warning_comes_from_extreme_numbers() -> None:
    """Python takes every warning for an error here: overflow, 0/0, NaN in what is folded."""
    for name, value in (("w", 1e38), ("s", 3e38), ("v", 1e-45), ("m", np.inf), ("b", np.nan)):
        given = {"w": numbers(3, 3, 1, 1), **bn(3)}
        given[name] = np.full_like(given[name], value)
        onnx.save(parse(CONV_NORM, **given), f"{name}.onnx")
        done = subprocess.run(
            [sys.executable, "-W", "error", "-m", "bnfold", "optimize", f"{name}.onnx", "--verify",
             "proof"], capture_output=True, text=True, check=False,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        assert not done.stderr
