"""Planning is linear in the number of nodes, counted in calls and not in seconds."""

from __future__ import annotations

import sys
from typing import Any

import numpy as np
import pytest
from onnx import ModelProto

from bnfold.graph import Index
from bnfold.options import Options
from bnfold.plan import plan
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
    counted = 0

    def count(_frame: Any, event: str, _argument: Any) -> None:
        nonlocal counted
        counted += event == "call"

    sys.setprofile(count)
    try:
        with np.errstate(all="ignore"):
            plan(index, options)
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
