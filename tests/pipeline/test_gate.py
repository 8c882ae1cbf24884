"""`bnfold check`: the gate of a pipeline."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import onnx
import pytest
from click.testing import Result

import bnfold
from bnfold.pipeline.gate import check
from tests.folding.test_options import two
from tests.support import invoke
from tests.tuning.test_data_statistics import spoiled_digits


@pytest.fixture(autouse=True)
def folder(cwd: Path) -> None:
    """A model with something to fold, one without, and one that is none."""
    onnx.save(two(), "left.onnx")
    bnfold.optimize("left.onnx", "done.onnx")
    Path("garbage.onnx").write_text("no model")
    kept = two()
    kept.graph.output.append(onnx.helper.make_tensor_value_info("c", 1, [2, 4, 6, 6]))
    bnfold.optimize(_saved(kept, "before.onnx"), "kept.onnx")


def _saved(model: onnx.ModelProto, name: str) -> str:
    onnx.save(model, name)
    return name


def bnfold_check(*words: str) -> Result:
    return invoke("check", *words)


@pytest.mark.parametrize(
    ("words", "code", "said"),
    [
        (["done.onnx"], 0, "1 model checked, all as they should be"),
        (["left.onnx"], 1, "left.onnx: norm1: would fold into conv1"),
        (["left.onnx", "done.onnx"], 1, "2 models checked, 1 failed"),
        (["garbage.onnx", "left.onnx"], 1, "garbage.onnx: not checked:"),
        (["garbage.onnx", "done.onnx"], 3, "garbage.onnx: not checked:"),
        (["missing.onnx"], 3, "1 could not be checked"),
        (["left.onnx", "--skip", "*"], 0, "all as they should be"),
        (["kept.onnx"], 0, "all as they should be"),
        (["kept.onnx", "--fail-on", "any"], 1, "kept.onnx: norm1: "),
        (["done.onnx", "--fail-on", "any"], 0, "all as they should be"),
        (["done.onnx", "--fail-on", "drifted"], 2, ""),
        (["done.onnx", "--write-baseline"], 2, ""),
        (["left.onnx", "--baseline", "missing.json"], 2, ""),
    ],
)
def test_the_exit_code_and_what_is_said(words: list[str], code: int, said: str) -> None:
    before = {path.name: path.read_bytes() for path in Path.cwd().iterdir()}
    result = bnfold_check(*words)
    assert (result.exit_code, said in result.stdout) == (code, True), result.output
    assert {path.name: path.read_bytes() for path in Path.cwd().iterdir()} == before


def test_what_is_in_the_baseline_is_accepted() -> None:
    words = ("left.onnx", "kept.onnx", "--fail-on", "any", "--baseline", "ok.json")
    written = bnfold_check(*words, "--write-baseline")
    assert written.exit_code == 0
    assert json.loads(Path("ok.json").read_text())["accepted"]["kept.onnx"] == ["norm1"]
    again = bnfold_check(*words)
    assert again.exit_code == 0
    assert "3 sites accepted" in again.output
    onnx.save(onnx.load("done.onnx"), "left.onnx")
    stale = bnfold_check(*words)
    assert stale.exit_code == 0
    assert "norm2 is accepted, and not there any more" in stale.output
    assert bnfold_check("before.onnx", "--baseline", "ok.json").exit_code == 1


@pytest.mark.parametrize("content", ["", "{}", "[]", '{"accepted": [1]}', '{"accepted": {"a": 1}}'])
def test_a_baseline_that_is_none(content: str) -> None:
    Path("bad.json").write_text(content)
    assert bnfold_check("left.onnx", "--baseline", "bad.json").exit_code == 2


def test_statistics_that_do_not_fit_fail_the_gate(tmp_path: Path) -> None:
    model, data = spoiled_digits(tmp_path)
    words = (str(model), "--fail-on", "drifted", "--inputs")
    failed = bnfold_check(*words, str(data.path))
    assert failed.exit_code == 1
    assert "channels have drifted: mean by up to" in failed.output
    with np.load(data.path) as archive:
        np.savez(
            tmp_path / "fits.npz", image=(archive["image"] - np.float32(0.2)) / np.float32(0.3)
        )
    assert bnfold_check(*words, str(tmp_path / "fits.npz")).exit_code == 0


def test_names_cannot_harm_the_terminal() -> None:
    model = two()
    model.graph.node[1].name = "\x1b[2Jnorm\n::error::x"
    onnx.save(model, "evil.onnx")
    text = bnfold_check("evil.onnx").output
    assert "\x1b" not in text
    assert "\n::error" not in text


def test_the_function(tmp_path: Path) -> None:
    (found,) = check(["left.onnx"])
    assert [fault.site for fault in found.faults] == ["norm1", "norm2"]
    with pytest.raises(bnfold.UsageError, match="is not one of 'foldable', 'any', 'drifted'"):
        check(["left.onnx"], fail_on="none")  # type: ignore[arg-type]
