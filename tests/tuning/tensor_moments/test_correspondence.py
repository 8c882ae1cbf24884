"""Which tensor of a folded model is which value of the original: checked by running both."""

from __future__ import annotations

import os
from random import Random

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import ModelProto
from onnx.reference import ReferenceEvaluator

from bnfold.folding.in_place import fold_in_place
from bnfold.folding.plan import Plan
from bnfold.folding.weights.affine import Affine
from bnfold.graph.index import Index
from bnfold.onnx_io.tensor_storage import Storage
from bnfold.options import Options
from bnfold.steps import Proof
from bnfold.tuning.tensor_moments.correspondence import Place, named, places
from tests.random_graphs import OPERATORS, build
from tests.support import Array, bn, numbers, parse

C = 4
SEEDS = int(os.environ.get("BNFOLD_EXAMPLES", "120"))  # `make fuzz` sets it higher


class Pairs:
    """Watches a fold, and keeps which tensor is which value of the main graph."""

    def __init__(self) -> None:
        self.found: list[Place] = []
        self.pairs: list[tuple[Place, str]] = []

    def planned(self, index: Index, plan: Plan) -> None:
        self.found = list(places(index, plan))

    def applied(self, index: Index, proof: Proof) -> None:
        pairs = named(index, proof, [(place, place) for place in self.found])
        self.pairs = [(place, name) for place, name in pairs if place.scope.is_main]


def values(model: ModelProto, names: list[str], x: Array) -> dict[str, Array]:
    shown = ModelProto()
    shown.CopyFrom(model)
    have = {output.name for output in shown.graph.output}
    shown.graph.output.extend(onnx.ValueInfoProto(name=n) for n in names if n not in have)
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = onnxruntime.InferenceSession(shown.SerializeToString(), options)
    return dict(zip(names, session.run(names, {"x": x}), strict=True))


def applied(a: Affine, value: Array) -> Array:
    shape = [1] * value.ndim
    if a.axis is not None:
        shape[a.axis] = len(a.scale)
    return np.asarray(a.scale.reshape(shape) * value + a.shift.reshape(shape))


CONSTANTS: dict[str, Array] = {
    "w": numbers(C, C, 1, 1), "w3": numbers(C, C, 3, 3), "w1": numbers(C, C, 1, 1, seed=1),
    "bias": numbers(C), "s2": np.array([0.5, 2, 1, 0.25], "f"), "each": numbers(C, 1, 1),
    "cut": np.array([1, 3]),
}  # fmt: skip
# what is done to x, and the names that must be among the tensors
CASES = [
    ("c = Conv (x, w) n = BatchNormalization (c, s, b, m, v) y = Relu (n)", {"y"}),
    ("n = BatchNormalization (x, s, b, m, v) y = Conv (n, w)", {"y"}),
    ("r = Relu (x) n = BatchNormalization (r, s, b, m, v) y = Conv (n, w)", {"n", "y"}),
    ("c = Conv (x, w) r = Relu (c) n = BatchNormalization (r, s2, b, m, v) d = Conv (n, w3)"
     " y = Relu (d)", {"n", "d", "y"}),
    ("c = Conv (x, w) k = Clip (c) n = BatchNormalization (k, s2, b, m, v) y = Relu (n)", {"y"}),
    ("c = Conv (x, w) a = Mul (c, each) n = BatchNormalization (a, s, b, m, v)"
     " d = Conv (n, w1) o = BatchNormalization (d, s, b, m, v) y = Add (n, o)", {"y"}),
    ("c = Conv (x, w) d = Conv (x, w1) k = Concat <axis = 1> (c, d) p, q = Split <axis = 1> (k)"
     " n = BatchNormalization (p, s, b, m, v) o = BatchNormalization (q, s2, b, m, v)"
     " y = Add (n, o)", {"y"}),
    ("t = Transpose <perm = [0,1,3,2]> (x) n = BatchNormalization (t, s, b, m, v) r = Abs (n)"
     " y = Conv (r, w)", {"y"}),
    ("c = Conv (x, w) u = MaxPool <kernel_shape = [2,2]> (c)"
     " n = BatchNormalization (u, s2, b, m, v) y = Conv (n, w1)", {"y"}),
]  # fmt: skip


@pytest.mark.parametrize(("text", "among"), CASES, ids=[text for text, _ in CASES])
def test_each_tensor_holds_its_map_of_a_value(text: str, among: set[str]) -> None:
    model = parse(
        f"g (float[2,{C},5,5] x) => (float y) {{ {text} }}",
        **{k: v for k, v in CONSTANTS.items() if k in text}, **bn(C),
    )  # fmt: skip
    original = ModelProto()
    original.CopyFrom(model)
    pairs = Pairs()
    fold_in_place(model, Storage(), Options(), watch=pairs)
    x = numbers(2, C, 5, 5)
    before = values(original, sorted({place.name for place, _ in pairs.pairs}), x)
    after = values(model, [name for _, name in pairs.pairs], x)
    for place, name in pairs.pairs:
        wanted = applied(place.map, before[place.name])
        scale = np.abs(wanted).max() + 1
        np.testing.assert_allclose(after[name], wanted, atol=1e-5 * scale, err_msg=name)
    assert among <= {name for _, name in pairs.pairs}
    assert len({name for _, name in pairs.pairs}) == len(pairs.pairs)


@pytest.mark.parametrize("seed", range(SEEDS))
def test_the_tensors_of_a_random_graph_hold_what_is_said(seed: int) -> None:
    random = Random(seed)
    common = ["batch_norm", "conv", "unary", "arithmetic", "branches"]
    names = random.choices([*common, *sorted(OPERATORS)], k=random.randint(3, 9))
    model = build(["batch_norm", *names], seed)
    original = ModelProto()
    original.CopyFrom(model)
    pairs = Pairs()
    options = Options(allow_max=seed % 2 == 1, merge_branches=seed % 3 > 0)
    fold_in_place(model, Storage(), options, watch=pairs)
    (entry,) = [value for value in model.graph.input if value.name == "x"]
    shape = [d.dim_value or 2 for d in entry.type.tensor_type.shape.dim]
    x = np.random.default_rng(seed).normal(size=shape)
    with np.errstate(all="ignore"):
        before = results(original, {place.name for place, _ in pairs.pairs}, x)
        after = results(model, {name for _, name in pairs.pairs}, x)
        for place, name in pairs.pairs:
            wanted = applied(place.map, np.asarray(before[place.name]))
            known = np.isfinite(wanted)
            scale = np.abs(wanted[known]).max(initial=1.0)
            off = np.abs(np.asarray(after[name]) - wanted)[known]
            assert np.all(off <= 1e-6 * scale), (name, place.name)


def results(model: ModelProto, names: set[str], x: Array) -> dict[str, Array]:
    evaluator = ReferenceEvaluator(model)
    order = sorted(names)
    return dict(zip(order, evaluator.run(order, {"x": x}), strict=True))
