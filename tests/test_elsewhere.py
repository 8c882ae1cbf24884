"""As on Windows, as far as that can be simulated here: nothing that POSIX alone has is there.

`elsewhere/sitecustomize.py` hides it from every Python that these tests start, children included,
and makes files that are open or mapped refuse to be replaced or deleted.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import pytest

from bnfold import system
from tests.support import bn, numbers, parse

HERE = Path(__file__).parent

TEXT = """
g (float[1,3,4,4] x) => (float[1,3,4,4] y) {
  [conv] c = Conv (x, w)
  [norm] y = BatchNormalization (c, s, b, m, v)
}"""

pytestmark = pytest.mark.skipif(not Path("/proc/self").exists(), reason="looks into /proc")


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A model, the same with external data, and one that is wrong."""
    monkeypatch.chdir(tmp_path)
    model = parse(TEXT, w=numbers(3, 3, 1, 1), **bn(3))
    onnx.save(model, "model.onnx")
    onnx.save(model, "external.onnx", save_as_external_data=True, location="w.bin",
              size_threshold=0)  # fmt: skip
    np.savez("data.npz", x=numbers(8, 3, 4, 4))


def elsewhere(*words: str, code: str = "") -> subprocess.CompletedProcess[str]:
    """A command, or a program, on a system without POSIX and with a cp1252 console."""
    command = ["-c", code] if code else ["-m", "bnfold", *words]
    environment = {
        **os.environ, "PYTHONPATH": f"{HERE / 'elsewhere'}{os.pathsep}{HERE.parent}",
        "PYTHONIOENCODING": "cp1252", "PYTHONWARNDEFAULTENCODING": "1",
        "BNFOLD_TEST_LOG": str(Path("refused.txt").resolve()), "SYSTEMROOT": "C:\\Windows",
    }  # fmt: skip
    done = subprocess.run(
        [sys.executable, *command], env=environment, capture_output=True, encoding="cp1252",
        check=False,
    )  # fmt: skip
    assert "Traceback" not in done.stderr
    ours = [line for line in done.stderr.splitlines() if "EncodingWarning" in line]
    assert not [line for line in ours if f"{os.sep}bnfold{os.sep}" in line], ours
    assert not Path("refused.txt").exists(), Path("refused.txt").read_text()
    return done


def test_the_simulation_hides_what_it_says() -> None:
    code = """
import os, signal
assert not hasattr(signal, "SIGKILL") and not hasattr(os, "fork") and not hasattr(os, "O_NOFOLLOW")
try:
    import fcntl
except ImportError:
    print("hidden")
file = open("model.onnx", "rb")
try:
    os.replace("data.npz", "model.onnx")
except PermissionError:
    print("refused")
os.remove(os.environ["BNFOLD_TEST_LOG"])
"""
    assert elsewhere(code=code).stdout == "hidden\nrefused\n"


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ("optimize model.onnx", "1 of 1 BatchNormalization folded and verified"),
        ("optimize model.onnx --in-place", "folded and verified"),
        ("optimize external.onnx -o out.onnx", "folded and verified"),
        ("optimize external.onnx --in-place", "folded and verified"),
        ("optimize external.onnx -o out.onnx --external-data all.bin", "folded and verified"),
        ("optimize model.onnx -o out.onnx --report r.html --report r.json", "folded and verified"),
        ("verify model.onnx model.onnx --certificate c.json", "equal"),
        ("inspect model.onnx", "1 of 1 BatchNormalization would be folded"),
        ("diff model.onnx external.onnx", ""),
        ("freeze model.onnx --learnable", "1 of 1 BatchNormalization frozen and verified"),
        ("stats model.onnx --inputs data.npz", "drifted, on 8 samples"),
        ("recalibrate model.onnx --inputs data.npz -o out.onnx", "1 BatchNormalization in 1 layer"),
        ("--help", "Commands:"),
        ("freeze --help", "gamma'x + beta'"),
    ],
)
def test_a_command(words: str, said: str) -> None:
    done = elsewhere(*words.split())
    assert done.returncode == 0, done.stderr
    assert said in done.stdout
    assert not list(Path().glob(".bnfold-*"))


def test_the_gate() -> None:
    done = elsewhere("check", "model.onnx", "--baseline", "b.json", "--write-baseline")
    assert done.returncode == 0, done.stderr
    assert elsewhere("check", "model.onnx", "--baseline", "b.json").returncode == 0
    assert elsewhere("check", "model.onnx").returncode == 1
    assert json.loads(Path("b.json").read_text())["accepted"]


def test_a_batch_in_processes() -> None:
    Path("in").mkdir()
    for name in ("a", "b", "c"):
        onnx.save(parse(TEXT, w=numbers(3, 3, 1, 1), **bn(3)), f"in/{name}.onnx")
    done = elsewhere("optimize", "in", "--out-dir", "out", "--jobs", "2")
    assert done.returncode == 0, done.stderr
    assert "3 models: 3 folded" in done.stdout
    assert {path.name for path in Path("out").iterdir()} == {"a.onnx", "b.onnx", "c.onnx"}


def test_what_is_left_behind_is_swept() -> None:
    left = Path(".bnfold-left")
    (left / "files").mkdir(parents=True)
    (left / "lock").touch()
    assert elsewhere("optimize", "model.onnx").returncode == 0
    assert not left.exists()


def test_a_timeout_ends_the_child() -> None:
    from tests.verification.test_compare import endless

    onnx.save(endless(), "endless.onnx")
    done = elsewhere("verify", "endless.onnx", "endless.onnx", "--timeout", "3")
    assert done.returncode == 5
    assert "had not finished" in done.stderr


def test_limits_that_the_system_does_not_have_are_said() -> None:
    done = elsewhere("optimize", "model.onnx", "--memory-limit", "100")
    assert done.returncode == 0, done.stderr
    assert "--memory-limit" in done.stderr
    assert "memory cannot be limited on this system, and is not" in done.stderr


def test_an_unequal_model_is_found() -> None:
    onnx.save(parse(TEXT, w=numbers(3, 3, 1, 1, seed=7), **bn(3)), "wrong.onnx")
    done = elsewhere("verify", "model.onnx", "wrong.onnx", "--counterexample", "ce")
    assert done.returncode == 1, done.stderr
    assert Path("ce/test_data_set_0/input_0.pb").exists()


# --- single things -------------------------------------------------------------------------------


def test_a_console_without_greek_letters_gets_them_spelled_out() -> None:
    system.spell_out_on()
    said = "γ′ = γ/√(σ²+ε) → … ✓ ☃".encode("ascii", "bnfold.spelled")
    assert said == b"gamma' = gamma/sqrt(sigma^2+epsilon) -> ... ok \\u2603"


def test_the_childs_environment_has_what_windows_needs() -> None:
    given = {"SYSTEMROOT": "C:\\Windows", "PATH": "p", "SECRET": "s"}
    kept = system.child_environment(Path("folder"), given)
    assert kept == {
        "SYSTEMROOT": "C:\\Windows", "PATH": "p", "TMPDIR": "folder", "TEMP": "folder",
        "TMP": "folder",
    }  # fmt: skip


@pytest.mark.parametrize("location", ["C:\\w.bin", "C:w.bin", "\\\\server\\w.bin", "..\\w.bin"])
def test_drives_and_backslashes_lead_nowhere(location: str) -> None:
    import bnfold

    model = onnx.load("external.onnx", load_external_data=False)
    for tensor in model.graph.initializer:
        for entry in tensor.external_data:
            if entry.key == "location":
                entry.value = location
    onnx.save(model, "bad.onnx")
    with pytest.raises(bnfold.ModelError, match="outside of the model's folder"):
        bnfold.inspect("bad.onnx")
