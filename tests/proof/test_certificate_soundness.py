"""What is certified gives the same results, whatever was done to either model before."""

from __future__ import annotations

import random
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import ModelProto, numpy_helper
from onnx.reference import ReferenceEvaluator

import bnfold
from bnfold import BnfoldError
from bnfold.proof.kernel.outcome import Outcome
from tests.proof.test_certificate import judged, norm, real, values_of, without_bias
from tests.random_graphs import OPERATORS, build
from tests.support import Array, parse

OPS = sorted(OPERATORS)
OTHERS = (
    "Conv", "Relu", "Add", "Gemm", "MatMul", "BatchNormalization", "Concat", "Reshape", "Pad",
    "Split", "Identity", "Mul", "LayerNormalization", "Resize", "Sum",
)  # fmt: skip


def spoil(model: ModelProto, rng: random.Random) -> None:
    """One to three random changes, most of which make the model wrong or invalid."""
    graph = model.graph
    for _ in range(rng.randint(1, 3)):
        if not graph.node or not graph.initializer:
            return
        node, tensor = rng.choice(graph.node), rng.choice(graph.initializer)
        names = [name for n in graph.node for name in n.output]
        names += [t.name for t in graph.initializer] + ["x", "", "nowhere"]
        kind = rng.randrange(10)
        if kind == 0:
            del graph.node[rng.randrange(len(graph.node))]
        elif kind == 1 and node.input:
            node.input[rng.randrange(len(node.input))] = rng.choice(names)
        elif kind == 2 and node.output:
            node.output[rng.randrange(len(node.output))] = rng.choice(names)
        elif kind == 3 and node.attribute:
            del node.attribute[rng.randrange(len(node.attribute))]
        elif kind == 4:
            node.op_type = rng.choice(OTHERS)
        elif kind == 5 and node.input:
            del node.input[-1]
        elif kind == 6:
            node.input.append(rng.choice(names))
        elif kind == 7:
            graph.output[0].name = rng.choice(names)
        elif kind == 8 and node.attribute:
            attribute = rng.choice(node.attribute)
            if attribute.type == onnx.AttributeProto.INT:
                attribute.i = rng.choice([0, -1, 7, 10**12])
            elif attribute.type == onnx.AttributeProto.INTS:
                attribute.ints[:] = rng.choice([[], [0], [-5, 2], [1] * 9])
        else:
            values = np.atleast_1d(numpy_helper.to_array(tensor))
            if values.dtype.kind in "fiu":
                replacements: list[Array] = [
                    values * 2, values[:0], values.reshape(-1), values[None],
                    values.astype(np.float32), values * float("nan"),
                ]  # fmt: skip
                new = np.ascontiguousarray(rng.choice(replacements))
                tensor.CopyFrom(numpy_helper.from_array(new, tensor.name))


def outputs(model: ModelProto) -> list[Any] | None:
    x = np.random.default_rng(0).normal(size=(2, 4, 6, 6))
    try:
        with warnings.catch_warnings(), np.errstate(all="ignore"):
            warnings.simplefilter("ignore")
            return list(ReferenceEvaluator(model).run(None, {"x": x}))
    except Exception:  # the spoiled model does not run
        return None


@pytest.mark.parametrize("block", range(8))
def test_what_is_certified_gives_the_same_results(block: int, tmp_path: Path) -> None:
    valid = 0
    for seed in range(100 * block, 100 * block + 100):
        rng = random.Random(seed)
        ops = [rng.choice(OPS) for _ in range(rng.randint(2, 7))]
        original = build(ops, seed)
        result = bnfold.fold(original).model
        if seed % 4 != 1:
            spoil(result, rng)
        if seed % 4 > 1:
            spoil(original, rng)
        try:
            static = judged(original, result, tmp_path)
        except BnfoldError:
            continue
        if static.certificate.verdict is not Outcome.VALID:
            continue
        before, after = outputs(original), outputs(result)
        if before is None or after is None:
            continue
        valid += 1
        assert len(before) == len(after)
        for a, b in zip(before, after, strict=True):
            assert a.shape == b.shape, (ops, seed)
            scale = np.max(np.abs(a[np.isfinite(a)]), initial=1.0)
            np.testing.assert_allclose(a, b, rtol=1e-6, atol=1e-6 * scale, err_msg=str((ops, seed)))
    assert valid > 20


# --- what such models found ---------------------------------------------------------------------

Change = Callable[[ModelProto], None]
FOLDED = """g (float[N,4,6,6] x) => (float[N,4,6,6] y) {
  [conv] c = Conv (x, w) [next] %s
  n = BatchNormalization (k, s, b, m, v) y = Relu (n) }"""


def tensor(name: str, change: Callable[[Array], Array]) -> Change:
    def edit(model: ModelProto) -> None:
        (found,) = (t for t in model.graph.initializer if t.name == name)
        found.CopyFrom(numpy_helper.from_array(change(values_of(model, name)), name))

    return edit


def more_inputs(model: ModelProto) -> None:
    node = next(n for n in model.graph.node if n.op_type == "Slice")
    node.input[3] = "axes"


CASES: dict[str, tuple[str, dict[str, Array], Change]] = {
    "the shape of an Expand, where a map passes": (
        "k = Expand (c, size)", {"size": np.array([1, 4, 6, 6])},
        tensor("size", lambda v: v[1:].copy()),
    ),
    "an input that a Slice did not have": (
        "k = Slice (c, zero, end, , one)",
        {"zero": np.array([0]), "end": np.array([9]), "one": np.array([1]), "axes": np.array([2])},
        more_inputs,
    ),
    "the type of a weight": ("k = Identity (c)", {}, tensor("w", lambda v: v.astype(np.float64))),
    "a constant of more axes": (
        "k = Add (c, more)", {"more": real(4, 6, 1)}, tensor("more", lambda v: v[None, None]),
    ),
    "the bias that holds the shift": (
        "k = Identity (c)", {}, lambda m: without_bias(m, "w", m.graph.node[0].input[2]),
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", CASES)
def test_a_change_beside_the_fold_is_no_part_of_it(case: str, tmp_path: Path) -> None:
    line, more, change = CASES[case]
    model = parse(FOLDED % line, w=real(4, 4, 1, 1), **norm(4), **more)
    result = bnfold.fold(model).model
    assert judged(model, result, tmp_path).certificate.verdict is Outcome.VALID
    change(result)
    assert judged(model, result, tmp_path).certificate.verdict is not Outcome.VALID


def attribute_of(op: str, name: str, value: Any) -> Change:
    def edit(model: ModelProto) -> None:
        node = next(n for n in model.graph.node if n.op_type == op)
        kept = [a for a in node.attribute if a.name != name]
        del node.attribute[:]
        node.attribute.extend([*kept, onnx.helper.make_attribute(name, value)])

    return edit


def without_else(model: ModelProto) -> None:
    del model.graph.node[0].attribute[1]


def other_sparse_values(model: ModelProto) -> None:
    model.graph.sparse_initializer[0].values.float_data[0] = 7


UNFOLDED: dict[str, tuple[str, Change]] = {
    "beta of a HardSigmoid": (
        "g (float[2,3] x) => (float[2,3] y) { y = HardSigmoid <beta = 0.25> (x) }",
        attribute_of("HardSigmoid", "beta", 0.75),
    ),
    "beta of an LRN": (
        "g (float[1,3,4,4] x) => (float[1,3,4,4] y) { y = LRN <size = 3, beta = 0.5> (x) }",
        attribute_of("LRN", "beta", 0.75),
    ),
    "beta of a Gemm whose weight is computed": (
        "g (float[2,3] x, float[3,3] w, float[3] d) => (float[2,3] y) { y = Gemm (x, w, d) }",
        attribute_of("Gemm", "beta", 2.0),
    ),
    "a body that is gone": (
        """g (bool p, float[2] x) => (float[2] y) {
          y = If (p) <then_branch = t () => (o) { o = Relu (x) },
                      else_branch = e () => (q) { q = Neg (x) }> }""",
        without_else,
    ),
}


@pytest.mark.parametrize("case", UNFOLDED)
def test_a_change_where_nothing_folds_is_found(case: str, tmp_path: Path) -> None:
    text, change = UNFOLDED[case]
    model = parse(text)
    other = ModelProto()
    other.CopyFrom(model)
    assert judged(model, other, tmp_path).certificate.verdict is Outcome.VALID
    change(other)
    assert judged(model, other, tmp_path).certificate.verdict is not Outcome.VALID


def test_nodes_that_stand_in_no_order_are_certified(tmp_path: Path) -> None:
    """Not valid ONNX, but some exporters write it and onnxruntime takes it."""
    text = """g (float[N,4,6,6] x) => (float[N,4,6,6] y) {
      c = Conv (x, w) y = BatchNormalization (c, s, b, m, v) }"""
    model = parse(text.replace("y =", "n =").replace("v) }", "v) y = Relu (n) }"),
                  w=real(4, 4, 1, 1), **norm(4))  # fmt: skip
    result = bnfold.fold(model).model
    for unsorted in (model, result):
        nodes = list(unsorted.graph.node)
        del unsorted.graph.node[:]
        unsorted.graph.node.extend(reversed(nodes))
    assert judged(model, result, tmp_path).certificate.verdict is Outcome.VALID
    tensor("w", lambda v: v * np.float32(1.01))(result)
    assert judged(model, result, tmp_path).certificate.verdict is not Outcome.VALID


def test_sparse_initializers_are_the_same_where_their_bytes_are(tmp_path: Path) -> None:
    model = parse("g (float[3] x) => (float[3] y) { s = Identity (k) y = Add (x, s) }", k=real(3))
    del model.graph.initializer[:]
    values = onnx.helper.make_tensor("k", onnx.TensorProto.FLOAT, [1], [2.0])
    indices = onnx.helper.make_tensor("", onnx.TensorProto.INT64, [1], [1])
    sparse = onnx.helper.make_sparse_tensor(values, indices, [3])
    model.graph.sparse_initializer.append(sparse)
    other = ModelProto()
    other.CopyFrom(model)
    other_sparse_values(other)
    assert judged(model, model, tmp_path).equal
    assert judged(model, other, tmp_path).certificate.verdict is Outcome.UNDECIDED


def test_statistics_that_are_no_numbers_are_not_certified(tmp_path: Path) -> None:
    text = """g (float[N,4,6,6] x) => (float[N,4,6,6] y) {
      r = Sigmoid (x) y = BatchNormalization (r, s, b, m, v) }"""
    model = parse(text, **norm(4))
    other = ModelProto()
    other.CopyFrom(model)
    tensor("v", lambda v: v * np.float32("nan"))(other)
    for one, two in ((model, other), (other, model)):
        assert judged(one, two, tmp_path).certificate.verdict is not Outcome.VALID


def test_a_kernel_of_another_shape_is_another_kernel(tmp_path: Path) -> None:
    text = """g (float[1,3,8,8] x) => (float[1,4,H,W] y) {
      c = Conv (x, w) y = BatchNormalization (c, s, b, m, v) }"""
    model = parse(text, w=real(4, 3, 1, 4), **norm(4))
    folded = bnfold.fold(model).model
    name = folded.graph.node[0].input[1]
    (tensor,) = (t for t in folded.graph.initializer if t.name == name)
    tensor.dims[2:] = [4, 1]
    assert judged(model, folded, tmp_path).certificate.verdict is not Outcome.VALID
