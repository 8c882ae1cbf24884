"""The examples that need no PyTorch do what they say."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
EXAMPLES = ROOT / "examples"


def run(*words: object) -> str:
    command = [sys.executable, *map(str, words)]
    return subprocess.run(command, check=True, text=True, stdout=subprocess.PIPE).stdout


def test_folding_first_makes_quantising_better() -> None:
    lines = run(EXAMPLES / "quantize_static.py").splitlines()
    figures = [
        re.search(r"off by +([\d.]+)%, +(\d+) nodes, +(\d+) roundings, (\d+) Batch", line)
        for line in lines
    ]
    (_, as_it_is, folded) = ([float(n) for n in f.groups()] for f in figures if f is not None)
    assert all(less < more for less, more in zip(folded, as_it_is, strict=True))
    assert (as_it_is[3], folded[3]) == (7, 0)


def test_a_fleet_on_dask(tmp_path: Path) -> None:
    pytest.importorskip("distributed")
    (tmp_path / "models").mkdir()
    shutil.copy(ROOT / "sample_models" / "digits_mlp.onnx", tmp_path / "models")
    text = run(EXAMPLES / "fleet_on_dask.py", tmp_path / "models", tmp_path / "out")
    assert "digits_mlp.onnx: 2 folded, 0 kept" in text
    assert (tmp_path / "out" / "digits_mlp.onnx").exists()
