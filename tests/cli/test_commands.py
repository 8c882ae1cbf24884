"""The commands as a user types them: what they print, and how they exit."""

from __future__ import annotations

import hashlib
import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

import bnfold
from bnfold.cli.main import main
from bnfold.folding.apply import Applied
from bnfold.steps import Proof
from bnfold.text.formatting import plain
from bnfold.verification import waiting
from bnfold.verification.waiting import early_worker
from tests.support import bn, invoke, numbers, parse
from tests.verification.test_compare import endless

TEXT = """
g (float[N,3,4,4] x) => (float[N,3,4,4] y) {
  [conv] c = Conv (x, w)
  [norm] y = BatchNormalization <epsilon = 0.0> (c, s, b, m, v)
}"""


@pytest.fixture(autouse=True)
def folder(cwd: Path) -> Path:
    """A current folder with a model for each situation."""
    constants = {"w": numbers(3, 3, 1, 1), **bn(3)}
    onnx.save(parse(TEXT, **constants), "model.onnx")
    onnx.save(parse(TEXT.replace("N,", "N,"), 17, 8, **constants), "same.onnx")
    spoiled = dict(constants, w=constants["w"] * 2)
    onnx.save(parse(TEXT, **spoiled), "other.onnx")
    off = constants["w"].copy()
    off[1, 2] *= 1.01
    onnx.save(parse(TEXT, **dict(constants, w=off)), "off.onnx")
    double = {name: array.astype(np.float64) for name, array in constants.items()}
    onnx.save(parse(TEXT.replace("float[", "double["), **double), "double.onnx")
    activation = "g (double[1,3,4,4] x) => (double[1,3,4,4] y) {{ c = Conv (x, w) {} }}"
    for name, end in (("plain", "y = Abs (c)"), ("rewritten", "n = Neg (c) y = Max (c, n)")):
        onnx.save(parse(activation.format(end), w=double["w"]), f"{name}.onnx")
    crashing = parse(TEXT, 9, **constants)
    crashing.graph.node[1].output.extend(["", "", "", ""])
    onnx.save(crashing, "crash.onnx")
    kept = parse(
        TEXT.replace("(x, w)", "(x, w)").replace("=> (", "=> (float[N,3,4,4] c, "), **constants
    )
    onnx.save(kept, "kept.onnx")
    Path("empty").mkdir()
    onnx.save(endless(), "endless.onnx")
    onnx.save(bnfold.fold(endless()).model, "endless2.onnx")
    Path("garbage.onnx").write_bytes(b"not a model at all")
    return cwd


def entries() -> set[str]:
    return {path.name for path in Path.cwd().iterdir()}


@pytest.mark.parametrize(
    ("line", "code"),
    [
        ("optimize model.onnx", 0),
        ("optimize kept.onnx", 0),
        ("optimize model.onnx -o out.onnx --dim N=2 --seed 3", 0),
        ("optimize model.onnx --in-place", 0),
        ("optimize double.onnx --verify none", 0),
        ("optimize double.onnx", 0),
        ("verify double.onnx double.onnx", 0),
        ("verify model.onnx same.onnx", 0),
        ("verify model.onnx same.onnx --level frame", 0),
        ("verify model.onnx same.onnx --level proof", 0),
        ("verify model.onnx same.onnx --foreign --json", 0),
        ("verify model.onnx off.onnx --level proof", 1),
        ("verify model.onnx same.onnx --input-shape x:2,3,4,4", 0),
        ("inspect model.onnx", 0),
        ("inspect kept.onnx", 0),
        ("verify model.onnx other.onnx", 1),
        ("optimize", 2),
        ("optimize model.onnx --no-such-option", 2),
        ("optimize model.onnx -o model.onnx", 2),
        ("optimize model.onnx -o nowhere/out.onnx", 2),
        ("optimize model.onnx --dim depth=3", 2),
        ("optimize model.onnx --dim N", 2),
        ("optimize model.onnx --dim N=0", 2),
        ("optimize model.onnx --input-shape x", 2),
        ("optimize model.onnx --input-shape x:a,b", 2),
        ("optimize model.onnx --inputs missing.npz", 2),
        ("verify model.onnx", 2),
        ("no-such-command", 2),
        ("optimize missing.onnx", 3),
        ("optimize garbage.onnx", 3),
        ("optimize empty", 2),
        ("inspect missing.onnx", 3),
        ("verify model.onnx missing.onnx", 3),
        ("verify garbage.onnx model.onnx", 3),
        ("verify plain.onnx rewritten.onnx", 4),
        ("optimize crash.onnx", 0),
        ("verify endless.onnx endless2.onnx --timeout 2", 5),
        ("optimize model.onnx --memory-limit 64", 5),
    ],
)
def test_exit_codes(line: str, code: int) -> None:
    before = entries()
    result = invoke(line)
    assert result.exit_code == code, result.output
    assert "Traceback" not in result.output
    written = entries() - before
    if code or "optimize" not in line or "--in-place" in line:
        assert not written, "a command that fails writes nothing"
    else:
        assert len(written) == 1
    if code > 1:
        (sentence,) = re.findall("^error: .*", result.stderr, re.I | re.M)
        assert len(sentence) > 20


def test_what_was_found_is_written_as_json() -> None:
    assert invoke("optimize model.onnx -o out.onnx").exit_code == 0
    shown = invoke("verify model.onnx out.onnx --json --certificate found.json")
    assert shown.exit_code == 0
    found = json.loads(Path("found.json").read_text())
    assert json.loads(shown.output).items() <= found.items()
    assert found["equal"]
    assert found["certificate"]["verdict"] == found["frame"]["verdict"] == "valid"
    assert found["folded"] == {
        "file": "out.onnx", "sha256": hashlib.sha256(Path("out.onnx").read_bytes()).hexdigest(),
    }  # fmt: skip
    assert invoke("verify model.onnx out.onnx --certificate no/where.json").exit_code == 2


def test_the_frame_alone_says_nothing_of_wrong_weights_and_calls_no_model_equal() -> None:
    assert invoke("optimize model.onnx -o out.onnx").exit_code == 0
    model = onnx.load("out.onnx")
    for weight in model.graph.initializer:
        weight.CopyFrom(numpy_helper.from_array(3 * numpy_helper.to_array(weight), weight.name))
    onnx.save(model, "spoiled.onnx")
    for name in ("out.onnx", "spoiled.onnx"):
        result = invoke(f"verify model.onnx {name} --level frame")
        assert result.exit_code == 0
        assert "whether the folds are right was not checked" in result.output
        found = json.loads(invoke(f"verify model.onnx {name} --level frame --json").output)
        assert not found["equal"]
        assert found["frame"]["verdict"] == "valid"
        assert found["certificate"] is None
    assert invoke("verify model.onnx spoiled.onnx --level proof").exit_code == 1
    assert invoke("verify model.onnx spoiled.onnx --level frame --foreign").exit_code == 2


def test_files_that_were_swapped_are_asked_about() -> None:
    assert invoke("optimize model.onnx -o out.onnx").exit_code == 0
    result = invoke("verify out.onnx model.onnx")
    assert result.exit_code == 2
    assert "swap the two files" in result.output


def test_a_proof_that_is_written_has_been_checked() -> None:
    result = invoke("optimize model.onnx -o out.onnx --verify none --proof proof.json")
    assert result.exit_code == 2
    assert "use --verify proof" in result.output
    assert not Path("proof.json").exists()


def test_a_file_of_another_tool_is_not_held_to_the_frame() -> None:
    assert invoke("optimize model.onnx -o out.onnx").exit_code == 0
    model = onnx.load("out.onnx")
    model.producer_name = "another"
    onnx.save(model, "out.onnx")
    result = invoke("verify model.onnx out.onnx")
    assert result.exit_code == 1
    assert "the producer_name of the model has changed" in result.output
    result = invoke("verify model.onnx out.onnx --foreign")
    assert result.exit_code == 0
    assert "the producer_name of the model has changed" in result.output


def test_an_error_is_a_sentence_and_what_to_do() -> None:
    lines = invoke("optimize garbage.onnx").stderr.splitlines()
    assert lines[0].startswith("error: garbage.onnx is not an ONNX model")
    assert lines[1].startswith("       export the model again")
    assert len(lines) == 2


def test_debug_shows_where_an_error_comes_from() -> None:
    for line in ("optimize garbage.onnx --debug", "--debug optimize garbage.onnx"):
        result = invoke(line)
        assert isinstance(result.exception, bnfold.ModelError)


def test_a_fault_of_bnfold_is_no_verdict(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: object) -> None:
        raise RuntimeError("oops")

    monkeypatch.setattr("bnfold.api.models.plan", broken)
    result = invoke("inspect model.onnx")
    assert result.exit_code == 70
    assert "bnfold itself failed: RuntimeError: oops" in result.stderr


def test_the_report_of_optimize() -> None:
    text = invoke("optimize model.onnx").output
    assert "model.onnx → model.folded.onnx" in text
    assert re.search(r"nodes +2 +1\n", text.replace(" \n", "\n"))
    assert re.search(r"BatchNormalizations +1 +0", text)
    assert re.search(r"file size +\d+ B +\d+ B", text)
    assert text.splitlines()[1] == (
        "1 of 1 BatchNormalization folded and verified: equal up to rounding"
    )
    for figure in ("folded into", "certificate", "run in onnxruntime", "u·A(x)"):
        assert figure not in text, "figures come with -v"


def test_the_report_of_optimize_in_full() -> None:
    text = invoke("optimize model.onnx -v").output
    assert re.search(r"norm +folded into conv", text)
    assert "run in onnxruntime once on x float32[1, 3, 4, 4]" in text
    assert re.search(r"y +\S+ +\S+ +\S+ +equal", text)
    assert "u·A(x), whatever x is" in text


def test_quiet_shows_errors_only() -> None:
    for line in ("optimize model.onnx -q", "inspect model.onnx -q", "diff model.onnx same.onnx -q"):
        done = invoke(line)
        assert (done.exit_code, done.output) == (0, "")
    assert "is not an ONNX model" in invoke("optimize garbage.onnx -q").stderr


def test_help_lists_options_in_groups() -> None:
    text = invoke("optimize --help").output
    groups = re.findall(r"^([A-Z][a-z ]+):$", text, re.M)
    assert groups == [
        "What to fold", "Output", "Verification", "Inputs and limits", "Reports", "General",
    ]  # fmt: skip
    for name, command in main.commands.items():
        for option in command.params:
            assert (
                option.param_type_name != "option"
                or option.name == "help"
                or hasattr(option, "section")
            ), f"{name} {option.name}"


def test_the_report_of_a_kept_one() -> None:
    for line in ("optimize kept.onnx", "inspect kept.onnx"):
        text = invoke(line).output
        assert "kept (graph-output): the output c of conv is an output of the graph" in text
        assert "drop that output at export" in text
    assert (
        "nothing to fold: kept.folded.onnx is a copy of the original"
        in invoke("optimize kept.onnx").output
    )


def test_the_report_of_inspect() -> None:
    text = invoke("inspect model.onnx").output
    assert "model.onnx: 2 nodes, 1 BatchNormalization\n" in text
    assert "1 of 1 BatchNormalization would be folded; nothing was written" in text
    assert not Path("model.folded.onnx").exists()


def test_the_report_of_verify() -> None:
    text = invoke("verify model.onnx other.onnx").output
    assert re.search(r"y( +\S+){5} +not equal", text)
    assert re.search(r"y\[.*\], run 3: \S+ became \S+, without rounding it is", text)


def test_a_result_that_is_not_equal_is_shown_and_not_written(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def spoiled(index: object, plan: object) -> Applied:
        del index.model.graph.initializer[:]  # type: ignore[attr-defined]
        index.model.CopyFrom(onnx.load("other.onnx"))  # type: ignore[attr-defined]
        return Applied(0, Proof())

    monkeypatch.setattr("bnfold.folding.in_place.apply", spoiled)
    result = invoke("optimize model.onnx")
    assert result.exit_code == 1
    assert "not equal" in result.stdout
    assert "the folded model is not equal to the original: " in result.stderr
    assert not Path("model.folded.onnx").exists()


def test_names_cannot_harm_the_terminal() -> None:
    model = onnx.load("model.onnx")
    model.graph.node[0].name = "\x1b]0;owned\x07[red]conv[/red]\n::error::x"
    model.graph.node[1].name = "\x1b[2Jnorm"
    onnx.save(model, "evil.onnx")
    text = invoke("inspect evil.onnx").output
    assert "\x1b" not in text
    assert "\x07" not in text
    assert "\\x1b]0;owned\\x07[red]conv[/red]\\n::error::x" in text
    model.graph.node[0].input[0] = "\x1b[2Jnowhere"
    onnx.save(model, "evil.onnx")
    assert "\x1b" not in invoke("inspect evil.onnx").output


def test_plain_leaves_letters_of_every_script() -> None:
    assert plain("größe/卷积_1") == "größe/卷积_1"
    assert plain("a\u202eb\u0000") == "a\\u202eb\\x00"


# --- as a process -------------------------------------------------------------------------------


def process(*arguments: str, timeout: float = 60) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "bnfold", *arguments],
        capture_output=True, text=True, timeout=timeout, check=False,
    )  # fmt: skip


def test_python_m_bnfold() -> None:
    done = process("optimize", "model.onnx")
    assert (done.returncode, done.stderr) == (0, "")
    assert "folded and verified" in done.stdout
    assert process("--version").stdout == f"bnfold {bnfold.__version__}\n"


def test_the_console_script() -> None:
    script = Path(sys.executable).with_name("bnfold")
    done = subprocess.run([script, "--version"], capture_output=True, text=True, check=False)
    assert done.stdout == f"bnfold {bnfold.__version__}\n"


def test_the_worker_starts_before_anything_heavy_is_imported() -> None:
    """Two processes import side by side then, which a small model waits for most."""
    code = (
        "import sys\n"
        "from bnfold.cli.main import main\n"
        "from bnfold.runtime import process\n"
        "start = process.Worker.__init__\n"
        "def watched(*arguments):\n"
        "    print(*{'numpy', 'onnx', 'rich'} & sys.modules.keys(), 'then the worker')\n"
        "    start(*arguments)\n"
        "process.Worker.__init__ = watched\n"
        "main(['optimize', 'model.onnx', '-q'])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (0, "then the worker\n"), done.stderr


def test_a_worker_that_nobody_asks_for_ends() -> None:
    with early_worker("run"):
        (worker,) = waiting._early.values()
    assert worker._process.returncode is not None
    assert not worker.folder.exists()


def test_help_imports_nothing_heavy() -> None:
    """--help has to come in under 0.3 s: numpy, onnx, rich and onnxruntime cost more than that."""
    code = (
        "import sys\n"
        "from bnfold.cli.main import main\n"
        "try: main(['optimize', '--help'])\n"
        "except SystemExit: pass\n"
        "heavy = {'numpy', 'onnx', 'onnxruntime', 'rich', 'google', 'onnx_graphsurgeon'}\n"
        "sys.exit(', '.join(sorted(heavy & sys.modules.keys())) or 0)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "Examples:" in done.stdout


def test_a_terminated_run_leaves_nothing_behind() -> None:
    text = TEXT.replace("] y)", "] z, float[2] q)").replace("y = Batch", "z = Batch").replace(
        "}", "q = Loop (trips, yes, two) <body = b (int64 i, bool k, float[2] h) => "
        "(bool d, float[2] p) { d = Identity (k) p = Relu (h) }> }",
    )  # fmt: skip
    model = parse(
        text, w=numbers(3, 3, 1, 1), trips=np.array(1 << 62), yes=np.array(True),
        two=np.ones(2, np.float32), **bn(3),
    )  # fmt: skip
    onnx.save(model, "long.onnx")
    with subprocess.Popen([sys.executable, "-m", "bnfold", "optimize", "long.onnx"]) as running:
        for _ in range(100):
            time.sleep(0.1)
            if any(name.startswith(".bnfold-") for name in entries()):
                break
        time.sleep(1)
        running.send_signal(signal.SIGTERM)
        running.wait(20)
    assert running.returncode == 128 + signal.SIGTERM
    assert not [name for name in entries() if "bnfold-" in name or "folded" in name]


@pytest.mark.parametrize("command", [(), ("optimize",), ("inspect",), ("verify",)])
def test_every_help_ends_in_what_one_can_paste(command: tuple[str, ...]) -> None:
    text = invoke(" ".join([*command, "--help"])).output
    lines = re.findall(r"^ +bnfold (.*)$", text, re.M)
    assert lines
    for line in lines:
        if "--proof" in line and line.startswith("verify"):
            invoke("optimize model.onnx -o same.onnx --proof model.proof.json")
        names = {"slim.onnx": "same.onnx", "model.folded.onnx": "same.onnx"}
        for example, ours in names.items():
            line = line.replace(example, ours)
        line = line.replace("image:1,3,224,224", "x:1,3,4,4").replace("batch=1", "N=1")
        Path("deploy").mkdir(exist_ok=True)
        assert invoke(line).exit_code == 0, line


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("optimise model.onnx", "Did you mean 'optimize'?"),
        ("verify --lvel full a b", "'--level'"),
        ("optimize model.onnx --skip nrm", "did you mean norm?"),
    ],
)
def test_what_was_meant_is_suggested(line: str, said: str) -> None:
    done = invoke(line)
    assert done.exit_code == 2
    assert said in done.stderr


@pytest.mark.parametrize(
    ("words", "found"), [("bnfold op", "optimize"), ("bnfold verify --lev", "--level")]
)
def test_the_shell_completes(words: str, found: str) -> None:
    done = subprocess.run(
        [sys.executable, "-c", "from bnfold.cli.main import main; main(prog_name='bnfold')"],
        env={**os.environ, "_BNFOLD_COMPLETE": "bash_complete", "COMP_WORDS": words,
             "COMP_CWORD": str(len(words.split()) - 1)},
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert f"plain,{found}" in done.stdout
