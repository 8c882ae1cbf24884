"""Names that were changed work for one version, and say so."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import onnx
import pytest

import bnfold
from tests.support import bn, invoke, numbers, parse

OLD: Any = "certificate"
TEXT = """g (float[1,3,4,4] x) => (float[1,3,4,4] y) {
  c = Conv (x, w) y = BatchNormalization (c, s, b, m, v)
}"""


@pytest.fixture(autouse=True)
def model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    onnx.save(parse(TEXT, w=numbers(3, 3, 1, 1), **bn(3)), "model.onnx")


def test_the_level_certificate_is_now_called_proof() -> None:
    result = invoke("optimize", "model.onnx", "--verify", "certificate")
    assert result.exit_code == 0
    assert "note: certificate is now called proof" in result.output
    assert "proven; not run" in result.output


def test_so_it_is_in_the_library() -> None:
    with pytest.warns(DeprecationWarning, match="now called 'proof'"):
        comparison = bnfold.optimize("model.onnx", verify=OLD).comparison
    assert comparison is not None
    assert comparison.runs == 0
    with pytest.warns(DeprecationWarning, match="now called 'proof'"):
        assert bnfold.verify("model.onnx", "model.folded.onnx", level=OLD).equal
