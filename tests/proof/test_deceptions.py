"""Pairs of models that differ, with proofs that say they do not: each was once called valid.

Readers whose only aim was to deceive the kernel found them. They stand for kinds of holes: two
obligations of one name, a map taken for that of another slot, names that change hands, windows that
see nothing, shapes that no runtime keeps to, tolerances that count nowhere.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import AttributeProto, ModelProto, TensorProto, helper, numpy_helper, parser

from bnfold.onnx_io.data_files import DataFolder
from bnfold.onnx_io.tensor_storage import Storage
from bnfold.proof.kernel.judge import judge
from bnfold.proof.kernel.outcome import Outcome
from bnfold.proof.reading.model import Model
from bnfold.proof.search.proposal import proposed
from bnfold.steps import (
    IDENTITY,
    Along,
    Carried,
    Indices,
    Inverse,
    Map,
    NodeMap,
    Proof,
    Ref,
    Take,
    Then,
)
from tests.proving import judged
from tests.support import invoke, parse

HEAD = '<ir_version: 8, opset_import: ["" : %s]>\n'
INNER = "int64[2] i1={0,3}, int64[2] i2={1,2}, int64[2] r1={2,1}, int64[1] z4={4}"
SIZES = """q = Shape (x) q1 = Gather (q, i1) q2 = Gather (q, i2) u1 = Reshape (q1, r1)
  u2 = Reshape (q2, r1) cc = Concat <axis = 1> (u1, u2) s = Reshape (cc, z4)"""
DIE = "float ws={1}, int8[1,1,1] wq={1}, int32[1] bq={0}, float bs={1000}"
BIASED = "float ws={{1}}, int8[1,1,1] wq={{1}}, int32[1] bq={{1}}, float bs={{{}}}"
DEQUANTISED = "w = DequantizeLinear (wq, ws) b = DequantizeLinear (bq, bs)"


def model(text: str, opset: str = "17") -> ModelProto:
    return parser.parse_model(HEAD % opset + text)


def gone(*places: int, carried: tuple[Carried, ...] = (), new: tuple[int, ...] = ()) -> Proof:
    return Proof(
        gone=tuple(Ref(0, place) for place in places), carried=carried,
        new=tuple(Ref(0, place) for place in new),
    )  # fmt: skip


def open_dims(pair: tuple[ModelProto, ModelProto]) -> tuple[ModelProto, ModelProto]:
    for each in pair:
        for k in (0, 1):
            each.graph.input[0].type.tensor_type.shape.dim[k].dim_value = -1
    return pair


def scaled(pair: tuple[ModelProto, ModelProto]) -> tuple[ModelProto, ModelProto]:
    for each in pair:
        for tensor in each.graph.initializer:
            if tensor.name == "sc":
                values = np.array([1, 1, 2 / 25], np.float32)
                tensor.CopyFrom(numpy_helper.from_array(values, "sc"))
    return pair


def pooled(op: str, map_: str, opset: str) -> tuple[ModelProto, ModelProto]:
    pool = f"{op} <kernel_shape = [2], dilations = [2], pads = [1,1]>"
    shape = "(float[1,1,1] x) => (float[1,1,1] y)"
    before, after = ("5", "1"), ("6",)
    if map_ == "Mul":
        before, after = ("0.5", "1"), ("0.5",)
    return (
        model(f"g {shape} <float s={{{before[0]}}}, float c={{{before[1]}}}> {{ t = {map_} (x, s)"
              f" r = {pool} (t) y = {map_} (r, c) }}", opset),
        model(f"g {shape} <float c={{{after[0]}}}> {{ r = {pool} (x) y = {map_} (r, c) }}", opset),
    )  # fmt: skip


RESIZED = """{} h = Resize <mode="nearest", coordinate_transformation_mode="asymmetric"> ({},,sc)
  r = Reshape (h, z) y = Mul (r, c)"""
BEHIND = "(float[1,4,25] x) => (float[A,4,C] y)"
KEPT = "float[4,1] k={1,2,3,4}, float[4,1] c={1,1,1,1}"
TAKEN = "float[4,1] c={1,2,3,4}"

PAIRS: dict[str, tuple[tuple[ModelProto, ModelProto], Proof]] = {
    "one constant for a Mul and an Add": (
        (
            model("""g (float[1,4,3] x) => (float[1,4,3] y) <float[4] g={1,2,3,4},
              float[4] b={5,6,7,8}, float[4] m={0,0,0,0}, float[4] v={0.5,0.5,0.5,0.5}>
              { y = BatchNormalization <epsilon = 0.5> (x, g, b, m, v) }"""),
            model("""g (float[1,4,3] x) => (float[1,4,3] y) <float[1,4,1] c={5,6,7,8}>
              { h = Mul (x, c) y = Add (h, c) }"""),
        ),
        gone(new=(0,), carried=(Carried(Ref(0, 0)),)),
    ),
    "shifts along two axes": (
        (
            model("""g (float[1,3,3] x) => (float[1,3,3] y) <float[3] c={1,2,3},
              float[3] g={1,1,1}, float[3] b={5,60,700}, float[3] m={0,0,0},
              float[3] v={0.5,0.5,0.5}>
              { h = Add (x, c) y = BatchNormalization <epsilon = 0.5> (h, g, b, m, v) }"""),
            model("""g (float[1,3,3] x) => (float[1,3,3] y) <float[3] c={2,4,6},
              float[3,1] t={4,58,697}> { h = Add (x, c) y = Add (h, t) }"""),
        ),
        gone(carried=(Carried(Ref(0, 0), IDENTITY, NodeMap(Ref(0, 0))), Carried(Ref(0, 1)))),
    ),
    "the map of C taken for that of A": (
        (
            model("""g (float[2,2] x) => (float[2,2] y) <float[2,2] A={1,2,3,4},
              float[2,2] B={1,2,3,4}, float s={2}>
              { h = Mul (x, s) y = Gemm <beta = 0.0> (A, B, h) }"""),
            model("""g (float[2,2] x) => (float[2,2] y) <float[2,2] A={1,2,3,4},
              float[2,2] B={2,4,6,8}> { y = Gemm <beta = 0.0> (A, B, x) }"""),
        ),
        gone(0, carried=(Carried(Ref(0, 1)),)),
    ),
    "a constant that takes the name of another": (
        (
            model("""g (float[2,2] x) => (float[2,2] y) <float[2,2] B={1,2,3,4}> {
              k1 = Constant <value = float[2,2] {1,2,3,4}> ()
              k2 = Constant <value = float[2,2] {10,20,30,40}> ()
              m = MatMul (k1, B) y = Add (x, m) }"""),
            model("""g (float[2,2] x) => (float[2,2] y) <float[2,2] B={1,2,3,4}> {
              k1 = Constant <value = float[2,2] {10,20,30,40}> ()
              m = MatMul (k1, B) y = Add (x, m) }"""),
        ),
        gone(0, carried=(Carried(Ref(0, 2)),)),
    ),
    "means of nothing": (
        pooled("AveragePool", "Add", "19"), gone(0, carried=(Carried(Ref(0, 2)),)),
    ),
    "maxima of nothing": (
        pooled("MaxPool", "Mul", "17"), gone(0, carried=(Carried(Ref(0, 2)),)),
    ),
    "integers joined as columns": (
        (
            model(f"g (float[2,4,4,1] x) => (float[A,B,C,D] y) <float[4,1,1] k={{1,2,3,4}}, "
                  f"float[4,1] c={{1,1,1,1}}, {INNER}> {{ {SIZES} t = Mul (x, k)"
                  " r = Reshape (t, s) y = Mul (r, c) }"),
            model(f"g (float[2,4,4,1] x) => (float[A,B,C,D] y) <float[4,1] c={{1,2,3,4}}, {INNER}>"
                  f" {{ {SIZES} r = Reshape (x, s) y = Mul (r, c) }}"),
        ),
        gone(7, carried=(Carried(Ref(0, 9)),)),
    ),
    "sizes below 0": (
        open_dims((
            model("""g (float[2,3,4,6] x) => (float[1,4,N] y) <float[4,1] k={1,2,3,4},
              float[4,1] c={1,1,1,1}, int64[3] s={1,4,-1}>
              { t = Mul (x, k) r = Reshape (t, s) y = Mul (r, c) }"""),
            model("""g (float[2,3,4,6] x) => (float[1,4,N] y) <float[4,1] c={1,2,3,4},
              int64[3] s={1,4,-1}> { r = Reshape (x, s) y = Mul (r, c) }"""),
        )),
        gone(0, carried=(Carried(Ref(0, 2)),)),
    ),
    "sizes rounded in float32": (
        scaled((
            model(f"g {BEHIND} <{KEPT}, int64[3] z={{-1,4,1}}, float[3] sc={{1,1,1}}> "
                  f"{{ {RESIZED.format('t = Mul (x, k)', 't')} }}"),
            model(f"g {BEHIND} <{TAKEN}, int64[3] z={{-1,4,1}}, float[3] sc={{1,1,1}}> "
                  f"{{ {RESIZED.format('', 'x')} }}"),
        )),
        gone(0, carried=(Carried(Ref(0, 3)),)),
    ),
    "symbols that nobody keeps to": (
        (
            model("""g (float[A,4,A] x) => (float[U,4,V] y) <float[4,1] k={1,2,3,4},
              float[4,1] c={1,1,1,1}, int64[3] p={2,1,0}>
              { q = Shape (x) s = Gather (q, p) t = Mul (x, k) r = Reshape (t, s)
              y = Mul (r, c) }"""),
            model("""g (float[A,4,A] x) => (float[U,4,V] y) <float[4,1] c={1,2,3,4},
              int64[3] p={2,1,0}>
              { q = Shape (x) s = Gather (q, p) r = Reshape (x, s) y = Mul (r, c) }"""),
        ),
        gone(2, carried=(Carried(Ref(0, 4)),)),
    ),
    "shifts that cancel, and excuse another": (
        (
            model("""g (float[1,1,4] x) => (float[1,1,4] y) <float[1,1,1] w={1}, float[1] b={0},
              float c={1e20}> { h = Conv (x, w, b) t = Add (h, c) y = Sub (t, c) }"""),
            model("""g (float[1,1,4] x) => (float[1,1,4] y) <float[1,1,1] w={1}, float[1] b={999},
              float c={1e20}> { y = Conv (x, w, b) }"""),
        ),
        gone(1, 2, carried=(
            Carried(Ref(0, 0), IDENTITY, Then((NodeMap(Ref(0, 1)), NodeMap(Ref(0, 2))))),
        )),
    ),
    "shifts in float64 that cancel but for 4": (
        (
            model("""g (double[1,1,4] x) => (double[1,1,4] y) <double c={1125899906842624},
              double d={1125899906842620}> { t = Add (x, c) h = Sub (t, d) y = Relu (h) }"""),
            model("g (double[1,1,4] x) => (double[1,1,4] y) { y = Relu (x) }"),
        ),
        gone(0, 1),
    ),
    "a map and its inverse, of a node that has nothing to do with it": (
        (
            model("""g (float[1,1,4] x, float z) => (float[1,1,4] y, float v) <float[1,1,1] w={1},
              float[1] b={0}, float c={1e20}> { y = Conv (x, w, b) v = Add (z, c) }"""),
            model("""g (float[1,1,4] x, float z) => (float[1,1,4] y, float v) <float[1,1,1] w={1},
              float[1] b={999}, float c={1e20}> { y = Conv (x, w, b) v = Add (z, c) }"""),
        ),
        gone(carried=(
            Carried(Ref(0, 0), IDENTITY, Then((NodeMap(Ref(0, 1)), Inverse(NodeMap(Ref(0, 1)))))),
        )),
    ),
    "a bias of integers into which nothing was folded": (
        (
            model(f"g (float[1,1,4] x) => (float[1,1,4] y) <{BIASED.format(1000)}> "
                  f"{{ {DEQUANTISED} y = Conv (x, w, b) }}"),
            model(f"g (float[1,1,4] x) => (float[1,1,4] y) <{BIASED.format(998)}> "
                  f"{{ {DEQUANTISED} y = Conv (x, w, b) }}"),
        ),
        gone(carried=(Carried(Ref(0, 2)),)),
    ),
    "a constant that is an output, of another shape": (
        (
            model("g (float[1,4] x) => (float[1,4] y, float[A,B] c) <float[1,4] c={1,2,3,4}> "
                  "{ y = Add (x, c) }"),
            model("g (float[1,4] x) => (float[1,4] y, float[A,B] c) <float[4] c={1,2,3,4}> "
                  "{ y = Add (x, c) }"),
        ),
        gone(carried=(Carried(Ref(0, 0)),)),
    ),
    "two imports of one domain": (
        (
            model("g (float[4] x) => (float[4] y) { y = Abs (x) }", '17, "ai.onnx" : 18'),
            model("g (float[4] x) => (float[4] y) { y = Abs (x) }", '17, "ai.onnx" : 18'),
        ),
        gone(),
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", PAIRS)
def test_what_was_called_valid_is_not(name: str) -> None:
    (one, other), proof = PAIRS[name]
    for each in (one, other):
        onnx.checker.check_model(each)
    assert not judged(one, other, proof).valid


def test_a_coarse_bias_shows_in_k() -> None:
    """An Add of 499 may be dropped beside steps of 1000; then k must say so."""
    shape = "(float[1,1,4] x) => (float[1,1,4] y)"
    one = model(f"g {shape} <{DIE}, float c={{499}}> {{ {DEQUANTISED} h = Conv (x, w, b)"
                " y = Add (h, c) }")  # fmt: skip
    other = model(f"g {shape} <{DIE}> {{ {DEQUANTISED} y = Conv (x, w, b) }}")
    said = Carried(Ref(0, 2), IDENTITY, NodeMap(Ref(0, 3)))
    assert judged(one, other, gone(3, carried=(said,))).certificate.k > 1e6


@pytest.mark.parametrize(("op", "right", "wrong"), [("Conv", 1, 1.00003), ("MatMul", 0, 0.00003)])
def test_numbers_that_cancel_lend_nothing(op: str, right: float, wrong: float) -> None:
    """2³⁶ + c − 2³⁶ is c, and no bias that is a rounding of 2³⁶ away from it."""
    one_by_one = {"Conv": "[1,1,1]", "MatMul": "[1,1]"}[op]
    shape, w = "(float[1,1,1] x) => (float[1,1,1] y)", f"float{one_by_one} w={{1}}"

    def certified(c: float, bias: float) -> bool:
        one = model(f"g {shape} <{w}, float a={{68719476736}}, float b={{-68719476736}},"
                    f" float c={{{c}}}> {{ h = {op} (x, w) i = Add (h, a) j = Add (i, c)"
                    " y = Add (j, b) }")  # fmt: skip
        inputs = "x, w, d" if op == "Conv" else "x, w"
        other = model(f"g {shape} <{w}, float[1] d={{{bias}}}> {{ y = {op} ({inputs}) }}")
        if op == "MatMul":
            del other.graph.initializer[1:]
        total = Then(tuple(NodeMap(Ref(0, place)) for place in (1, 2, 3)))
        proof = gone(1, 2, 3, carried=(Carried(Ref(0, 0), IDENTITY, total),))
        return judged(one, other, proof).valid

    assert certified(right, right)
    assert not certified(right if op == "Conv" else wrong, wrong)


SCALE = "g (float[1,4,3] x) => (float[1,4,3] y) <float[4,1] c={1,2,3,4}, float[4,1] d={2,2,2,2}>"


@pytest.mark.parametrize(
    "wrong",
    [
        Along(NodeMap(Ref(0, 1)), 7),
        Along(NodeMap(Ref(0, 1)), -1),
        Then((NodeMap(Ref(0, 1)),) * 9999),
        Take(NodeMap(Ref(0, 1)), None, Indices(np.arange(4))),
    ],
)
def test_absurd_maps_are_told_and_raise_nothing(wrong: Map) -> None:
    one = model(f"{SCALE} {{ h = Mul (x, c) y = Mul (h, d) }}")
    other = model(f"{SCALE} {{ y = Mul (x, c) }}")
    said = Carried(Ref(0, 0), IDENTITY, wrong)
    assert not judged(one, other, gone(1, carried=(said,))).valid


def test_an_attribute_with_a_body_may_not_change_its_number() -> None:
    both = [model(f"{SCALE} {{ h = Mul (x, c) y = Mul (h, d) }}") for _ in range(2)]
    for count, each in enumerate(both):
        stray = each.graph.node[0].attribute.add(name="stray", i=count)
        stray.g.name = "body"
    assert not judged(both[0], both[1], Proof()).valid


def test_an_attribute_that_is_said_twice_means_nothing() -> None:
    both = [model("g (float[4] x) => (float[4] y) { y = Elu <alpha = 2.0> (x) }") for _ in range(2)]
    for each in both:
        each.graph.node[0].attribute.append(each.graph.node[0].attribute[0])
    assert not judged(both[0], both[1], Proof()).valid


def test_a_squeeze_of_no_axes_has_no_known_shape() -> None:
    """By the specification it changes nothing; onnxruntime squeezes all axes of size 1."""
    squeezed = model("g (float[1,4,1] x) => (float[A,B,C] y) <int64[0] none={}> "
                     "{ y = Squeeze (x, none) }")  # fmt: skip
    known = Model(squeezed, Storage())
    assert known.shapes.of(known.main, "y") is None


def _external(dims: tuple[int, ...]) -> TensorProto:
    """Floats that are in a file `data` of whatever folder the model is in."""
    tensor = TensorProto(
        name="t", data_type=TensorProto.FLOAT, dims=dims, data_location=TensorProto.EXTERNAL
    )
    tensor.external_data.add(key="location", value="data")
    return tensor


def _reads(holder: str) -> ModelProto:
    """A model with an external tensor that is no initializer."""
    shape = "(float[2] x) => (float[2] y)"
    tensor = _external((2,))
    if holder == "Constant":
        found = model(f"g {shape} {{ c = Constant <value_float = 1.0> () y = Add (x, c) }}")
        del found.graph.node[0].attribute[:]
        found.graph.node[0].attribute.append(helper.make_attribute("value", tensor))
    elif holder == "ConstantOfShape":
        found = model(f"g {shape} <int64[1] n={{2}}> {{ c = ConstantOfShape (n) y = Add (x, c) }}")
        attribute = helper.make_attribute("value", _external((1,)))
        found.graph.node[0].attribute.append(attribute)
    elif holder == "body":
        found = model(f"g {shape} <bool b={{1}}> {{ y = If (b) <"
                      "then_branch = t () => (float[2] u) { u = Identity (x) },"
                      "else_branch = e () => (float[2] v) { v = Neg (x) }> }")  # fmt: skip
        found.graph.node[0].attribute[0].g.node[0].CopyFrom(
            helper.make_node("Constant", [], ["u"], value=tensor)
        )
    else:
        found = model(f"g {shape} {{ y = Add (x, t) }}")
        sparse = found.graph.sparse_initializer.add(dims=[2])
        sparse.values.CopyFrom(tensor)
        sparse.indices.CopyFrom(numpy_helper.from_array(np.arange(2)))
    return found


@pytest.mark.parametrize("holder", ["Constant", "ConstantOfShape", "body", "sparse"])
@pytest.mark.parametrize("named", [False, True])
def test_data_files_are_compared_wherever_tensors_refer_to_them(
    holder: str, named: bool, tmp_path: Path
) -> None:
    def found(place: str, value: float) -> Model:
        folder = tmp_path / place
        folder.mkdir()
        size = 1 if holder == "ConstantOfShape" else 2
        np.full(size, value, np.float32).tofile(folder / "data")
        return Model(_reads(holder), Storage(DataFolder(folder)))

    proof = gone()
    one, same, other = found("one", 1), found("same", 1), found("other", 2)
    if named:
        proof = proposed(one, same)
    assert judge(one, same, proof).valid is not (
        named and holder in ("sparse", "ConstantOfShape")  # of which it knows no values
    )
    judgement = judge(one, other, proof)
    assert not judgement.valid
    if named:  # else the frame has it
        assert judgement.certificate.verdict is not Outcome.VALID


def test_strings_are_compared_and_not_where_they_lie() -> None:
    shape = '(string[1] x) => (bool[1] y) <string[1] s = {"%s"}> { y = Equal (x, s) }'
    one, same, other = (model(f"g {shape % text}", "19") for text in ("ab", "ab", "cd"))
    assert judged(one, same, gone()).valid
    assert not judged(one, other, gone()).valid


def test_a_constant_with_two_values_is_not_known() -> None:
    text = "g (float[1] x) => (float[1] y) {{ c = Constant <value_float = {}> () y = Add (x, c) }}"
    one, other = model(text.format("1.0")), model(text.format("1.0"))
    other.graph.node[0].attribute.append(helper.make_attribute("value_int", 1))
    assert Model(other, Storage()).value(Model(other, Storage()).main, "c") is None
    assert not judged(one, other, gone()).valid


def test_an_input_of_a_body_is_what_runs_it_gives() -> None:
    """Though the body has an initializer of that name."""
    text = """g (float[2] s, float[3,2] xs) => (float[2] t, float[3,2] ys) {
      t, ys = Scan <num_scan_inputs = 1, body = b (float[2] a, float[2] w) =>
        (float[2] b, float[2] c) <float[2] w = {1,1}>
        { b = Add (a, w) c = Identity (b) }> (s, xs) }"""
    found = Model(model(text), Storage(), freeze=True)
    body = next(scope for scope in found.index.scopes if not scope.is_main)
    assert found.tensor(body, "w") is None


def test_a_listed_initializer_below_ir_4_is_no_input_of_a_body() -> None:
    text = """g (float[2] s, float[3,2] xs) => (float[2] t, float[3,2] ys) {
      t, ys = Scan <num_scan_inputs = 1, body = b (float[2] a, float[2] w) =>
        (float[2] b, float[2] c) <float[2] w = {1,1}>
        { b = Add (a, w) c = Identity (b) }> (s, xs) }"""
    proto = model(text)
    proto.ir_version = 3
    found = Model(proto, Storage())
    body = next(scope for scope in found.index.scopes if not scope.is_main)
    assert [value.name for value in found.declared_inputs(body)] == ["a", "w"]


def test_a_model_that_does_not_say_what_its_operators_are_is_not_equal() -> None:
    one = model("g (float[4] x) => (float[4] y) { y = Abs (x) }")
    other = ModelProto()
    other.CopyFrom(one)
    del other.opset_import[:]
    proof = proposed(Model(one, Storage()), Model(other, Storage()))
    assert not judged(one, other, gone()).valid
    assert judged(one, other, proof).certificate.verdict is not Outcome.VALID


def test_an_attribute_without_a_name_counts() -> None:
    text = 'g () => (string y) { y = Constant <value_string = "a"> () }'
    one, other = model(text), model(text)
    other.graph.node[0].attribute.append(AttributeProto(type=AttributeProto.INT, i=1))
    proof = proposed(Model(one, Storage()), Model(one, Storage()))
    assert judged(one, one, proof).certificate.verdict is Outcome.VALID
    assert judged(one, other, proof).certificate.verdict is not Outcome.VALID


def test_a_proof_does_not_freeze_what_the_caller_has_not(tmp_path: Path) -> None:
    """Inputs with defaults are constants only where whoever asks says that nobody changes them."""
    source, folded, proof = "sample_models/overridable_weights.onnx", "f.onnx", "proof.json"
    optimized = ("optimize", source, "-o", tmp_path / folded, "--freeze-initializers")
    assert invoke(*optimized, "--proof", tmp_path / proof).exit_code == 0
    asked = ("verify", source, tmp_path / folded, "--proof", tmp_path / proof, "--level", "proof")
    refused = invoke(*asked)
    assert refused.exit_code == 4
    assert "takes inputs with defaults as constants" in refused.output
    assert invoke(*asked, "--freeze-initializers").exit_code == 0


@pytest.mark.parametrize(("kind", "large"), [("float", 1e30), ("float16", 3e4)])
def test_a_weight_that_has_overflowed_is_no_rounding(kind: str, large: float) -> None:
    """Rounded, 10⁶⁰ is infinite in float32; the original may well make finite numbers of it."""
    dtype = {"float": np.float32, "float16": np.float16}[kind]
    text = (
        f"g ({kind}[1,2,3,3] x) => ({kind}[1,2,3,3] y)"
        " {{ {nodes} }}"
    )  # fmt: skip
    w = np.full((2, 2, 1, 1), large, dtype)
    flat = {"b": np.zeros(2, dtype), "m": np.zeros(2, dtype), "v": np.ones(2, dtype)}
    original = parse(
        text.format(nodes="c = Conv (x, w) y = BatchNormalization (c, s, b, m, v)"),
        w=w, s=np.full(2, large, dtype), **flat,
    )  # fmt: skip
    infinite = np.full((2, 2, 1, 1), np.inf, dtype)
    folded = parse(text.format(nodes="y = Conv (x, w, b)"), w=infinite, b=flat["b"])
    one, other = (Model(model, Storage()) for model in (original, folded))
    assert not judge(one, other, proposed(one, other)).valid
    said = Proof(gone=(Ref(0, 1),), carried=(Carried(Ref(0, 0), q=NodeMap(Ref(0, 1))),))
    assert judged(original, folded, said).certificate.verdict is not Outcome.VALID


# --- what another tool made of it: each is right for no batch, or for one alone, or not at all ----

OPEN = "g (float[N,2,2] x) => (float[N,4] y) {"
HALF = {k: np.full(3, v, np.float32) for k, v in {"s": 0.5, "b": 3, "m": 0, "v": 0.5}.items()}
ROWS = "g (float[N,4] x) => (float[N,3] y) {"
LSTM = {"w": np.ones((1, 12, 4), np.float32), "r": np.ones((1, 12, 3), np.float32)}
SUM = {"w": np.ones((4, 3), np.float32), "b": np.arange(3, dtype=np.float32)}
TOOLS = {
    "a Dropout in the place of a Mul": (
        parse("g (float[1,3,2] x) => (float[1,3,2] y) { r = Relu (x)"
              " y = BatchNormalization <epsilon = 0.5> (r, s, b, m, v) }", **HALF),
        parse("g (float[1,3,2] x) => (float[1,3,2] y) { r = Relu (x) d = Dropout (r, k)"
              " y = Add (d, t) }", k=np.array(0.5, "f"), t=np.array(3, "f")),
    ),
    "a batch that is frozen": (
        parse(f"{OPEN} y = Reshape (x, s) }}", s=np.array([-1, 4])),
        parse(f"{OPEN} y = Reshape (x, s) }}", s=np.array([1, 4])),
    ),
    "another number of elements": (
        parse(f"{OPEN} y = Reshape (x, s) }}", s=np.array([-1, 2])),
        parse(f"{OPEN} y = Reshape (x, s) }}", s=np.array([0, 2])),
    ),
    "a product whose rows are frozen": (
        parse("g (float[N,5,4] x) => (float[N,5,3] y) { h = MatMul (x, w) y = Add (h, b) }", **SUM),
        parse("g (float[N,5,4] x) => (float[N,5,3] y) { f = Reshape (x, s) h = Gemm (f, w, b)"
              " y = Reshape (h, t) }", s=np.array([-1, 4]), t=np.array([1, 5, 3]), **SUM),
    ),
    "zeros to begin with, for one batch": (
        parse("g (float[5,N,4] x) => (float[5,1,N,3] y) {"
              " y = LSTM <hidden_size = 3> (x, w, r) }", **LSTM),
        parse("g (float[5,N,4] x) => (float[5,1,N,3] y) {"
              " y = LSTM <hidden_size = 3> (x, w, r, , , z) }",
              z=np.zeros((1, 1, 3), np.float32), **LSTM),
    ),
    "rows that count for nothing, and must fit": (
        parse(f"{ROWS} h = Gemm (x, w) y = Mul (h, k) }}", w=SUM["w"], k=np.array(2, "f")),
        parse(f"{ROWS} y = Gemm <beta = 0.0> (x, w, c) }}", w=2 * SUM["w"],
              c=np.ones((2, 3), np.float32)),
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", TOOLS)
def test_what_another_tool_made_is_not_proven(name: str) -> None:
    one, other = (Model(each, Storage()) for each in TOOLS[name])
    assert not judge(one, other, proposed(one, other)).valid


def test_what_adapts_to_every_batch_is_proven_all_the_same() -> None:
    right = [
        (TOOLS["a batch that is frozen"][0],
         parse(f"{OPEN} y = Reshape (x, s) }}", s=np.array([0, -1]))),
        (TOOLS["a product whose rows are frozen"][0],
         parse("g (float[N,5,4] x) => (float[N,5,3] y) { f = Reshape (x, s) h = Gemm (f, w, b)"
               " y = Reshape (h, t) }", s=np.array([-1, 4]), t=np.array([-1, 5, 3]), **SUM)),
        (parse("g (float[1,3,2] x) => (float[1,3,2] y) { r = Relu (x)"
               " y = BatchNormalization <epsilon = 0.0> (r, s, b, m, v) }",
               **(HALF | {k: np.ones(3, np.float32) for k in "sv"})),
         parse("g (float[1,3,2] x) => (float[1,3,2] y) { r = Relu (x) d = Identity (r)"
               " y = Add (d, t) }", t=np.array(3, "f"))),
    ]  # fmt: skip
    for pair in right:
        one, other = (Model(each, Storage()) for each in pair)
        judgement = judge(one, other, proposed(one, other))
        assert judgement.certificate.verdict is Outcome.VALID, judgement.certificate.findings
