"""bnfold as a part of something else: pipes, CI services, progress of a batch."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import onnx
import pytest

import bnfold
from bnfold.cli.terminal.display import PlainLines
from bnfold.progress import Stage
from bnfold.reporting.content import ModelReport, Report
from bnfold.reporting.github import announce
from bnfold.text.escape import escape_commands
from tests.folding.test_options import two
from tests.support import bn, invoke, numbers, parse


@pytest.fixture(autouse=True)
def folder(cwd: Path) -> None:
    onnx.save(two(), "model.onnx")
    bnfold.optimize("model.onnx", "folded.onnx")
    text = "g (float[1,3,90,90] x) => (float[1,30,90,90] y) {"
    text += " c = Conv (x, w) y = BatchNormalization (c, s, b, m, v) }"
    external = parse(text, w=numbers(30, 3, 1, 1), **bn(30))
    onnx.save(external, "external.onnx", save_as_external_data=True, location="external.bin",
              size_threshold=0)  # fmt: skip


def run(*words: str, stdin: bytes = b"", **environment: Any) -> subprocess.CompletedProcess[bytes]:
    """bnfold as a process of its own, with real pipes."""
    command = [sys.executable, "-m", "bnfold", *words]
    return subprocess.run(
        command, input=stdin, capture_output=True, env={**os.environ, **environment}, check=False
    )


# --- standard input and output -------------------------------------------------------------------


def test_a_model_goes_through_a_pipe() -> None:
    done = run("optimize", "-", stdin=Path("model.onnx").read_bytes())
    assert done.returncode == 0
    assert done.stdout == Path("folded.onnx").read_bytes()
    assert b"- \xe2\x86\x92 -" in done.stderr
    assert b"folded and verified" in done.stderr


@pytest.mark.parametrize(
    ("words", "stdin"), [(("-", "-o", "out.onnx"), True), (("model.onnx", "-o", "-"), False)]
)
def test_one_end_may_be_a_file(words: tuple[str, ...], stdin: bool) -> None:
    done = run("optimize", *words, stdin=Path("model.onnx").read_bytes() if stdin else b"")
    written = Path("out.onnx").read_bytes() if stdin else done.stdout
    assert written == Path("folded.onnx").read_bytes()
    assert (b"folded and verified" in done.stdout) == stdin


def test_external_data_comes_into_the_model_on_standard_output() -> None:
    done = run("optimize", "external.onnx", "-o", "-")
    model = onnx.load_from_string(done.stdout)
    assert [node.op_type for node in model.graph.node] == ["Conv"]
    assert not any(tensor.external_data for tensor in model.graph.initializer)
    onnx.checker.check_model(model)


@pytest.mark.parametrize(
    ("words", "stdin", "code", "said"),
    [
        ("optimize -", "external.onnx", 3, "external data, which does not come through a pipe"),
        ("optimize -", None, 3, "standard input is not an ONNX model"),
        ("inspect -", None, 3, "standard input is not an ONNX model"),
        ("optimize - model.onnx --out-dir out", "model.onnx", 2, "one model"),
        ("optimize - --in-place", "model.onnx", 2, "has no place of its own"),
        ("optimize - --external-data w.bin", "model.onnx", 2, "standard output is one file"),
    ],
)
def test_what_pipes_cannot_do_is_said(words: str, stdin: str | None, code: int, said: str) -> None:
    done = run(*words.split(), stdin=Path(stdin).read_bytes() if stdin else b"no model")
    assert (done.returncode, done.stdout) == (code, b"")
    assert said in done.stderr.decode()


def test_inspect_reads_standard_input() -> None:
    done = run("inspect", "-", stdin=Path("model.onnx").read_bytes())
    assert done.returncode == 0
    assert b"2 of 2 BatchNormalizations would be folded" in done.stdout


def test_closed_ends_are_said() -> None:
    for words, closed in (("inspect -", "<&-"), ("optimize model.onnx -o -", ">&-")):
        command = f'"{sys.executable}" -m bnfold {words} {closed}'
        done = subprocess.run(["bash", "-c", command], capture_output=True, check=False)
        assert done.returncode == 2, done.stderr


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
def test_a_full_standard_output_is_said() -> None:
    command = f'"{sys.executable}" -m bnfold optimize model.onnx -o - > /dev/full'
    done = subprocess.run(["bash", "-c", command], capture_output=True, check=False)
    assert done.returncode == 2
    assert b"cannot write to standard output" in done.stderr


def test_nobody_reading_on_stops_no_batch_and_loses_no_report() -> None:
    words = "optimize model.onnx folded.onnx --out-dir out --report out.json"
    command = f'"{sys.executable}" -m bnfold {words} | true; exit ${{PIPESTATUS[0]}}'
    done = subprocess.run(["bash", "-c", command], capture_output=True, check=False)
    assert done.returncode == 141
    assert Path("out/model.onnx").exists()
    assert Path("out/folded.onnx").exists()
    assert Path("out.json").exists()


# --- CI services ---------------------------------------------------------------------------------


def test_github_gets_a_summary_and_annotations() -> None:
    Path("summary.md").write_text("# earlier step\n")
    done = run("check", "model.onnx", GITHUB_ACTIONS="true", GITHUB_STEP_SUMMARY="summary.md")
    assert done.returncode == 1
    first = "::error file=model.onnx,title=bnfold check::norm1: would fold into conv1"
    assert done.stderr.decode().splitlines()[0] == first
    summary = Path("summary.md").read_text()
    assert summary.startswith("# earlier step\n\n## ❌ bnfold check")
    assert "`norm1`" in summary


def test_github_is_told_of_errors_and_of_success() -> None:
    Path("summary.md").touch()
    github: dict[str, Any] = {"GITHUB_ACTIONS": "true", "GITHUB_STEP_SUMMARY": "summary.md"}
    done = run("optimize", "missing.onnx", **github)
    assert b"::error file=missing.onnx,title=bnfold optimize::cannot read" in done.stderr
    assert b"::error" not in run("optimize", "model.onnx", "-o", "out.onnx", **github).stderr
    assert "## ⚠️ bnfold optimize" in Path("summary.md").read_text()
    assert "## ✅ bnfold optimize" in Path("summary.md").read_text()


@pytest.mark.parametrize("words", [("--no-ci",), ()])
def test_elsewhere_or_with_no_ci_nothing_is_announced(words: tuple[str, ...]) -> None:
    github: dict[str, Any] = (
        {"GITHUB_ACTIONS": "true", "GITHUB_STEP_SUMMARY": "summary.md"} if words else {}
    )
    done = run("check", "model.onnx", *words, **github)
    assert done.returncode == 1
    assert b"::" not in done.stderr
    assert not Path("summary.md").exists()


def test_a_missing_summary_file_is_no_verdict_on_the_model() -> None:
    github: dict[str, Any] = {"GITHUB_ACTIONS": "true", "GITHUB_STEP_SUMMARY": "missing/summary.md"}
    assert run("check", "folded.onnx", **github).returncode == 0


def test_names_are_no_commands_in_the_log() -> None:
    model = two()
    model.graph.node[1].name = "::set-output name=a::b##[error]c##vso[task.complete]"
    onnx.save(model, "hostile.onnx")
    forced: dict[str, Any] = {"FORCE_COLOR": "1", "GITHUB_ACTIONS": "true"}
    cases: list[tuple[tuple[str, ...], dict[str, Any]]] = [
        (("inspect",), {}), (("check",), {}), (("optimize",), {}),
        (("inspect",), forced), (("check",), forced), (("optimize",), {"TTY_COMPATIBLE": "1"}),
    ]  # fmt: skip
    for words, environment in cases:
        done = run(*words, "hostile.onnx", "--no-ci", **environment)
        for line in (done.stdout + done.stderr).decode().splitlines():
            assert not re.sub(r"\x1b\[[0-9;]*m", "", line).lstrip().startswith("::")
            assert "##[" not in line
            assert "##vso[" not in line
    missing = run("optimize", "model.onnx", "--only", "x##[error]y")
    assert b"##[" not in missing.stderr


def test_harmless_leaves_everything_else_alone() -> None:
    text = "a::b\n  std::string ## heading\n: x\n"
    assert escape_commands(text) == text
    assert escape_commands("  ::error::x") == "  \\x3a:error::x"


def test_a_summary_stays_below_what_github_takes(tmp_path: Path) -> None:
    names = (ModelReport("m" * 250 + str(n), "failed", 1, "x" * 3000) for n in range(5000))
    summary = tmp_path / "summary.md"
    environment = {"GITHUB_ACTIONS": "true", "GITHUB_STEP_SUMMARY": str(summary)}
    report = Report("check", 1, tuple(names))
    assert len(list(announce(report, environment))) == 10
    assert summary.stat().st_size < 1 << 20


# --- a batch -------------------------------------------------------------------------------------


def test_without_a_terminal_a_batch_gives_plain_lines() -> None:
    done = run("optimize", "model.onnx", "folded.onnx", "--out-dir", "out")
    text = (done.stdout + done.stderr).decode()
    assert "\x1b" not in text
    assert "\r" not in text
    assert "model.onnx → out/model.onnx: 2 of 2" in text


def on_a_terminal(*words: str) -> str:
    """What a command shows on a terminal."""
    import pty

    parent, child = pty.openpty()
    with subprocess.Popen(
        [sys.executable, "-m", "bnfold", *words], stdout=child, stderr=child,
        env={**os.environ, "TERM": "xterm", "NO_COLOR": "1"},
    ) as process:  # fmt: skip
        os.close(child)
        shown = b""
        while True:
            try:
                piece = os.read(parent, 4096)
            except OSError:  # the other end is closed
                break
            if not piece:
                break
            shown += piece
    os.close(parent)
    assert process.returncode == 0
    assert b"\x1b[3" not in shown  # no colours
    return shown.decode()


needs_terminal = pytest.mark.skipif(sys.platform == "win32", reason="needs a pseudo-terminal")


@needs_terminal
@pytest.mark.parametrize(("words", "bar"), [((), True), (("--quiet",), False)])
def test_on_a_terminal_a_batch_has_a_bar(words: tuple[str, ...], bar: bool) -> None:
    shown = on_a_terminal("optimize", "model.onnx", "folded.onnx", "--out-dir", "out", *words)
    assert ("of 2 models" in shown) == bar


@needs_terminal
def test_on_a_terminal_one_model_has_a_line_that_says_what_is_done() -> None:
    shown = on_a_terminal("optimize", "model.onnx")
    assert "starting" in shown  # the line is drawn ten times a second: later stages may be shorter
    assert "0:00:0" in shown
    assert on_a_terminal("optimize", "model.onnx", "-q") == ""


def test_without_a_terminal_long_work_is_told_in_plain_lines(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    clock = iter([0.0, 4.0, 6.0, 7.0, 9.0])
    monkeypatch.setattr("time.monotonic", lambda: next(clock))
    lines = PlainLines()
    for name in ("planning", "running", "running", "comparing"):
        lines(Stage(name))
    assert capsys.readouterr().err == "running … (6 s)\ncomparing … (9 s)\n"


def test_results_do_not_depend_on_the_report() -> None:
    invoke("optimize", "model.onnx", "-o", "plain.onnx")
    invoke("optimize", "model.onnx", "-o", "told.onnx", "--report", "r.html")
    assert Path("plain.onnx").read_bytes() == Path("told.onnx").read_bytes()
