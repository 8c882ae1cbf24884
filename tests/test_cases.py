"""Small models on which bnfold once fell short: refused, folded wrongly, called equal, hostile."""

from __future__ import annotations

import re
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.support import invoke

CASES = Path(__file__).parents[2] / "shared" / "cases"

pytestmark = pytest.mark.skipif(not CASES.is_dir(), reason="the cases are not here")

REFUSED = sorted(path.stem for path in CASES.glob("refused/*.onnx"))


def optimize(path: Path, folder: Path, *words: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-W", "error", "-m", "bnfold", "optimize", str(path), "-o"]
    return subprocess.run(
        [*command, str(folder / "out.onnx"), *words], capture_output=True, text=True, check=False
    )


@pytest.mark.parametrize("name", REFUSED)
def test_a_right_fold_that_was_refused_is_proven(name: str, tmp_path: Path) -> None:
    words = ["--merge-branches"] if name == "incomplete_100997" else []
    done = optimize(CASES / "refused" / f"{name}.onnx", tmp_path, "-v", *words)
    assert done.returncode == 0, done.stderr
    if name != "fp16_subnormal":  # of which more than half of some weights would be lost
        assert re.search(r"^frame +valid", done.stdout, re.M)
        assert re.search(r"^proof +valid", done.stdout, re.M)


@pytest.mark.parametrize("path", sorted(CASES.glob("wrong_folds/*.onnx")), ids=lambda p: p.stem)
def test_a_model_that_was_folded_wrongly_is_folded_rightly_or_kept(
    path: Path, tmp_path: Path
) -> None:
    done = optimize(path, tmp_path)
    assert done.returncode == 0, done.stderr
    if "BatchNormalizations folded" in done.stdout:
        assert "verified: equal" in done.stdout


@pytest.mark.parametrize(
    "path", sorted(CASES.glob("wrongly_valid/*_A.onnx")), ids=lambda path: path.stem[:-2]
)
def test_two_models_that_differ_are_not_called_equal(path: Path) -> None:
    other = path.with_name(path.name.replace("_A.", "_B."))
    words = ["--foreign"] if path.name.startswith("foreign") else []
    done = subprocess.run(
        [sys.executable, "-m", "bnfold", "verify", str(path), str(other), "--level", "proof",
         *words],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode in (1, 4), done.stdout


OTHERS = sorted(path for kind in ("deployed", "missed", "wrongly_valid")
                for path in CASES.glob(f"{kind}/*.onnx"))  # fmt: skip


@pytest.mark.parametrize("path", OTHERS, ids=lambda path: f"{path.parent.name}/{path.stem}")
def test_no_case_crashes_bnfold(path: Path, cwd: Path) -> None:
    done = invoke("optimize", path, "-o", cwd / "out.onnx", "--verify", "proof")
    assert done.exit_code in (0, 1, 3, 4), done.stderr


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
