"""Small models on which bnfold once fell short: hostile ones, and right folds that were refused."""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path

import pytest

CASES = Path(__file__).parents[2] / "shared" / "cases"

pytestmark = pytest.mark.skipif(not CASES.is_dir(), reason="the cases are not here")

FOLDED = ("fresh", "u_conv_flat_init", "v35_tied", "opset9_empty_outputs", "incomplete_205")


def optimize(path: Path, folder: Path, *words: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-W", "error", "-m", "bnfold", "optimize", str(path), "-o"]
    return subprocess.run(
        [*command, str(folder / "out.onnx"), *words], capture_output=True, text=True, check=False
    )


@pytest.mark.parametrize("name", FOLDED)
def test_a_right_fold_that_was_refused(name: str, tmp_path: Path) -> None:
    done = optimize(CASES / "refused" / f"{name}.onnx", tmp_path, "-v")
    assert done.returncode == 0, done.stderr
    assert "frame         valid" in done.stdout
    assert "certificate   valid" in done.stdout


MODELS = sorted(CASES.glob("*/*.onnx"))


@pytest.mark.parametrize("path", MODELS, ids=lambda path: f"{path.parent.name}/{path.stem}")
def test_no_case_crashes_bnfold(path: Path, tmp_path: Path) -> None:
    done = optimize(path, tmp_path, "--verify", "certificate")
    assert done.returncode in (0, 1, 3, 4), done.stderr
    assert "Traceback" not in done.stderr


LIMITED = """
import resource, sys
size = 1_200_000_000
resource.setrlimit(resource.RLIMIT_DATA, (size, size))
from bnfold.cli.main import main
sys.argv[:] = ["bnfold", "optimize", *sys.argv[1:]]
main()
"""


@pytest.mark.parametrize(
    "path", sorted(CASES.glob("hostile/*.onnx")), ids=lambda path: path.stem
)  # fmt: skip
def test_a_hostile_model_takes_seconds_and_no_gigabytes(path: Path, tmp_path: Path) -> None:
    start = time.monotonic()
    done = subprocess.run(
        [sys.executable, "-c", LIMITED, str(path), "-o", str(tmp_path / "out.onnx")],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode in (0, 3), done.stderr
    assert time.monotonic() - start < 30
