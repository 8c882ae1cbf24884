"""Planning and checking are linear in the number of nodes, counted in calls and not in seconds."""

from __future__ import annotations

import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from onnx import ModelProto

import bnfold
from bnfold.folding.plan import plan
from bnfold.graph.index import Index
from bnfold.onnx_io import model_file
from bnfold.onnx_io.tensor_storage import Storage
from bnfold.options import Options
from bnfold.proof.certificate import certify
from bnfold.proof.kernel.outcome import Outcome
from tests.support import bn, numbers, parse

PAIR = "c{0} = Conv (h{0}, w) n{0} = BatchNormalization (c{0}, s, b, m, v) h{1} = Relu (n{0})"
BLOCK = "c{0} = Conv (h{0}, w) n{0} = BatchNormalization (h{0}, s, b, m, v) h{1} = Add (c{0}, n{0})"
RESIDUAL = "c{0} = Conv (h{0}, w) r{0} = Relu (c{0}) h{1} = Add (h{0}, r{0})"
KEPT = "r{0} = Sigmoid (h{0}) h{1} = BatchNormalization (r{0}, s, b, m, v)"


def deep(kind: str, count: int) -> ModelProto:
    body = " ".join(kind.format(i, i + 1) for i in range(count))
    text = f"g (float[1,2,4,4] h0) => (float[1,2,4,4] h{count}) {{ {body} }}"
    return parse(text, w=numbers(2, 2, 1, 1), **bn(2))


def calls(model: ModelProto, options: Options) -> int:
    index = Index(model)
    return counted(lambda: plan(index, options))


def counted(work: Callable[[], object]) -> int:
    """The calls of Python functions that some work makes."""
    counted = 0

    def count(_frame: Any, event: str, _argument: Any) -> None:
        nonlocal counted
        counted += event == "call"

    sys.setprofile(count)
    try:
        with np.errstate(all="ignore"):
            work()
    finally:
        sys.setprofile(None)
    return counted


@pytest.mark.parametrize("merge", [False, True])
@pytest.mark.parametrize(
    "kind", [PAIR, BLOCK, RESIDUAL, KEPT], ids=["pair", "block", "residual", "kept"]
)
def test_five_times_the_nodes_are_five_times_the_work(kind: str, merge: bool) -> None:
    options = Options(merge_branches=merge)
    calls(deep(kind, 10), options)  # what is imported and remembered only once
    few, many = (calls(deep(kind, count), options) for count in (200, 1000))
    assert many < 5.5 * few


def wide(kind: str, count: int) -> ModelProto:
    """Many nodes beside each other, or many constants behind each other."""
    each = range(count)
    read = ", ".join(f"n{i}" for i in each)
    outputs = ", ".join(f"float[1,2,4,4] n{i}" for i in each)
    given = {"w": numbers(2, 2, 1, 1), **bn(2)}
    branches = "c{0} = Conv (x, w) n{0} = BatchNormalization (c{0}, s, b, m, v)"
    kinds = {
        "sum": (" ".join(map(branches.format, each)) + f" y = Sum ({read})", "float[1,2,4,4] y"),
        "concat": (
            " ".join(map("s{0} = Sigmoid (x) n{0} = Mul (s{0}, s)".format, each))
            + f" y = Concat <axis = 3> ({read})", f"float[1,2,4,{4 * count}] y",
        ),
        "readers": (
            "c = Conv (x, w) b0 = BatchNormalization (c, s, b, m, v) "
            + " ".join(map("n{0} = Relu (b0)".format, each)), outputs,
        ),
        "normalisations": (
            "c = Conv (x, w) "
            + " ".join(map("n{0} = BatchNormalization (c, s, b, m, v)".format, each)), outputs,
        ),
        "constants": (
            "k0 = Neg (w) "
            + " ".join(f"k{i + 1} = Neg (k{i}) n{i} = Conv (x, k{i})" for i in each),
            outputs,
        ),
    }  # fmt: skip
    body, made = kinds[kind]
    if kind == "concat":
        given["s"] = numbers(2, 1, 1)
    return parse(f"g (float[1,2,4,4] x) => ({made}) {{ {body} }}", **given)


@pytest.mark.parametrize("kind", ["sum", "concat", "readers", "normalisations", "constants"])
def test_what_is_beside_each_other_is_linear_for_folder_and_checker(
    kind: str, tmp_path: Path
) -> None:
    found = []
    for count in (20, 60, 300):
        model = wide(kind, count)
        result = bnfold.fold(model)
        files = [
            model_file.read(model_file.save(m, Storage(), tmp_path / f"{count}_{number}.onnx"))
            for number, m in enumerate((model, result.model))
        ]
        found.append((calls(model, Options()), counted(partial(certify, *files))))
        assert certify(*files).certificate.verdict is Outcome.VALID
    for few, many in zip(*found[1:], strict=True):
        assert many < 5.5 * few
