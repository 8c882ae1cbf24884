"""`bnfold bench`: what is measured, and what is said of it."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import onnx
import pytest
from click.testing import Result

import bnfold
from bnfold import UsageError
from bnfold.benchmark.ratios import BenchMode, ExecutedGraph, interval, measured
from bnfold.cli.render.bench import conclusion, seconds
from tests.folding.test_options import two
from tests.support import bn, invoke, numbers, parse


@pytest.fixture(autouse=True)
def folder(cwd: Path) -> None:
    """A model of which onnxruntime itself leaves the second BatchNormalization, and its fold."""
    text = "g (float[N,8] x) => (float[N,8] y) {"
    text += " a = Gemm (x, w, c) y = BatchNormalization (a, s, b, m, v) }"
    onnx.save(parse(text, w=numbers(8, 8), c=numbers(8), **bn(8)), "model.onnx")
    bnfold.optimize("model.onnx", "folded.onnx")
    onnx.save(two(), "other.onnx")
    onnx.save(parse(text.replace("x", "z"), w=numbers(8, 8), c=numbers(8), **bn(8)), "named.onnx")


def bench(*words: str) -> Result:
    return invoke("bench", *words)


def test_the_figures_of_both_models() -> None:
    done = bench("model.onnx", "folded.onnx", "--runs", "2", "--repeat", "1", "--json")
    assert done.exit_code == 0
    found = json.loads(done.output)
    assert found["sizes"] == [Path(n).stat().st_size for n in ("model.onnx", "folded.onnx")]
    assert (found["nodes"], found["batch_norms"]) == ([2, 1], [1, 0])
    assert found["inputs"] == ["x float32[1, 8]"]
    off, on = found["modes"]
    assert (off["optimised"], on["optimised"]) == (False, True)
    for mode in (off, on):
        assert mode["original"] == {"nodes": 2, "batch_norms": 1}
        assert mode["folded"] == {"nodes": 1, "batch_norms": 0}
        for figure in ("load", "latency", "peak"):
            median, first, third = mode[figure]["original"]
            assert 0 < first <= median <= third
        assert mode["load"]["low"] is None  # one pair tells nothing


def test_the_table_says_what_a_model_gets() -> None:
    text = bench("model.onnx", "folded.onnx", "--runs", "3", "--repeat", "6").output
    assert "BatchNormalizations run" in text
    assert "onnxruntime runs 1 node fewer, and leaves 1 BatchNormalization of the original" in text
    assert "[" in text  # intervals


@pytest.mark.parametrize("mode", ["off", "on"])
def test_one_mode_alone(mode: str) -> None:
    done = bench(
        "model.onnx", "folded.onnx", "--runs", "1", "--repeat", "1", "--optimisations", mode
    )
    assert f"optimisations {mode}" in done.output
    assert done.output.count("nodes run") == 1


@pytest.mark.parametrize(
    ("words", "code", "said"),
    [
        (("model.onnx", "other.onnx"), 2, "they cannot be run side by side: the second refuses"),
        (("model.onnx", "named.onnx"), 2, "they cannot be run side by side: the inputs differ"),
        (("model.onnx", "missing.onnx"), 3, "cannot read missing.onnx"),
        (("model.onnx", "folded.onnx", "--providers", "X"), 2, "this onnxruntime has no 'X'"),
        (("model.onnx", "folded.onnx", "--dim", "Q=2"), 2, "has no open dimension 'Q'"),
    ],
)
def test_what_cannot_be_measured(words: tuple[str, ...], code: int, said: str) -> None:
    done = bench(*words, "--runs", "1", "--repeat", "1")
    assert done.exit_code == code
    assert said in done.stderr


def test_at_least_one_run() -> None:
    with pytest.raises(UsageError):
        bnfold.bench("model.onnx", "folded.onnx", runs=0)


def test_what_a_dimension_is_set_to_is_run() -> None:
    found = bnfold.bench(
        "model.onnx", "folded.onnx", runs=1, repeat=1, threads=1, modes=(True,),
        run_options=bnfold.RunOptions(dims={"N": 5}),
    )  # fmt: skip
    assert found.inputs == ("x float32[5, 8]",)


# --- intervals -----------------------------------------------------------------------------------


def test_an_interval_needs_six_values() -> None:
    assert interval([1, 2, 3, 4, 5]) == (None, None)
    assert interval([6, 1, 3, 2, 5, 4]) == (1, 6)  # 1 − 2/2⁶ = 0.969
    assert interval(range(1, 9)) == (1, 8)  # 1 − 2·(1 + 8)/2⁸ = 0.93 would be too little
    assert interval(range(1, 10)) == (2, 8)  # 1 − 2·(1 + 9)/2⁹ = 0.961


@pytest.mark.parametrize("count", [6, 20, 120])
def test_intervals_hold_the_median_as_often_as_they_say(count: int) -> None:
    """For a distribution far from normal; 2000 draws give the share to about ± 0.01."""
    rng = np.random.default_rng(0)
    drawn = (interval(np.exp(rng.normal(size=count) * 3).tolist()) for _ in range(2000))
    held = [low <= 1 <= high for low, high in drawn if low is not None and high is not None]
    assert len(held) == 2000
    assert np.mean(held) >= 0.94


def test_a_ratio_is_that_of_pairs() -> None:
    drifting = [1.0, 2.0, 4.0, 8.0, 16.0, 32.0]  # a machine that gets slower
    found = measured(drifting, [value / 2 for value in drifting])
    assert (found.ratio, found.low, found.high) == (0.5, 0.5, 0.5)
    assert found.differs


def test_nothing_is_called_a_gain_that_may_be_none() -> None:
    same = measured([1.0] * 6, [0.9, 1.1] * 3)
    less = measured([1.0] * 6, [0.5] * 6)
    mode = BenchMode(True, same, less, less, same, ExecutedGraph(5, 0), ExecutedGraph(5, 0))
    said = list(conclusion(mode, gone=0))
    assert said[0] == "with optimisations on, onnxruntime runs the same 5 nodes of either"
    assert list(conclusion(mode, gone=2)) == [
        "with optimisations on, onnxruntime runs the same 5 nodes of either: it folds as well",
        "  load: no difference that these runs can show",
        "  memory after load: less by 50%",
        "  peak memory: less by 50%",
        "  latency: no difference that these runs can show",
    ]


def test_seconds_in_words() -> None:
    assert [seconds(value) for value in (1.5, 0.0123, 4.2e-6)] == ["1.5 s", "12.3 ms", "4.2 µs"]
