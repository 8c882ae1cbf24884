"""What will hurt in int8 is said beforehand, and what will not is not."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest

import bnfold
from tests.support import Array, invoke, numbers, parse

C = 8
EVEN = np.sign(numbers(C, 3, 1, 1)) + numbers(C, 3, 1, 1) / 8
PLAIN = {
    "s": np.ones(C, "f"), "b": np.zeros(C, "f"), "m": np.zeros(C, "f"), "v": np.ones(C, "f"),
}  # fmt: skip
TEXT = (
    "g (float[1,3,4,4] x) => (float y) { c = Conv (x, w) [bn] n = BatchNormalization"
    " <epsilon = 0.0> (c, s, b, m, v) r = Relu (n) y = Conv (r, u, d) }"
)  # fmt: skip


def found(tmp_path: Path, **changed: Array) -> list[tuple[str, str]]:
    path = tmp_path / "m.onnx"
    values = {"w": EVEN, "u": np.ones((C, C, 1, 1)), "d": np.ones(C)} | PLAIN | changed
    onnx.save(parse(TEXT, **{k: v.astype("f") for k, v in values.items()}), path)
    return [(one.kind, one.node) for one in bnfold.hazards(path)]


def test_even_layers_are_no_hazard(tmp_path: Path) -> None:
    assert found(tmp_path) == []


def test_a_fold_that_makes_channels_uneven_is_told(tmp_path: Path) -> None:
    """γ/σ of one channel is 100 times that of the others, which only shows when it is folded."""
    variance = np.ones(C)
    variance[3] = 1e-4
    assert found(tmp_path, v=variance) == [("uneven-weights", "Conv→n")]
    assert found(tmp_path, v=np.full(C, 1e-4)) == []


def test_a_channel_that_reaches_far_is_named(tmp_path: Path) -> None:
    beta = np.zeros(C)
    beta[5] = 1000
    path = tmp_path / "m.onnx"
    assert ("uneven-activations", "r") in found(tmp_path, b=beta)
    far = [one for one in bnfold.hazards(path) if one.kind == "uneven-activations"]
    assert all("channel 5 of it may reach" in one.sentence for one in far)


@pytest.mark.parametrize(("small", "told"), [(1e-9, True), (1e-5, False)])
def test_a_bias_that_32_bits_do_not_hold_is_told(small: float, told: bool, tmp_path: Path) -> None:
    """Its step is s_x·s_w = 6/255 · small/127; at 10⁻⁹ a bias of 1 takes 5.4·10¹² of them."""
    weights = np.ones((C, C, 1, 1))
    weights[2] = small
    hazards = found(tmp_path, u=weights)
    assert (("bias-overflow", "Conv→y") in hazards) == told


def test_inspect_tells_it(tmp_path: Path) -> None:
    variance = np.ones(C)
    variance[3] = 1e-4
    found(tmp_path, v=variance)
    result = invoke("inspect", tmp_path / "m.onnx", "--quantization")
    said = " ".join(result.output.split())
    assert "uneven-weights: the largest range of a channel is " in said
    assert "bnfold equalize" in said
    result = invoke("inspect", "sample_models/digits_mlp.onnx", "--quantization")
    assert "nothing that will hurt was found" in result.output
