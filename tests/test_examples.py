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


def test_quantising_gets_better_by_folding_first_and_correcting_afterwards() -> None:
    """One step per tensor, and then one per channel, in which folding alone helps as well."""
    lines = run(EXAMPLES / "quantize_static.py").splitlines()
    found = re.findall(
        r"off by +([\d.]+)%, +(\d+) nodes, +(\d+) roundings, (\d+) Batch", "\n".join(lines)
    )
    figures = [[float(number) for number in each] for each in found]
    for as_it_is, folded, equalised, corrected in (figures[1:5], figures[5:]):
        assert all(less < more for less, more in zip(folded[1:], as_it_is[1:], strict=True))
        assert (as_it_is[3], folded[3]) == (7, 0)
        assert corrected[0] < equalised[0]
        assert corrected[1:] == equalised[1:] == folded[1:]
    assert figures[6][0] < figures[5][0]


def test_a_fleet_on_dask(tmp_path: Path) -> None:
    pytest.importorskip("distributed")
    (tmp_path / "models").mkdir()
    shutil.copy(ROOT / "sample_models" / "digits_mlp.onnx", tmp_path / "models")
    text = run(EXAMPLES / "fleet_on_dask.py", tmp_path / "models", tmp_path / "out")
    assert "digits_mlp.onnx: 2 folded, 0 kept" in text
    assert (tmp_path / "out" / "digits_mlp.onnx").exists()
