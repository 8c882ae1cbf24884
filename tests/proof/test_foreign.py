"""Results of other tools: nodes that are called otherwise, that went, were merged or put together.

Each pair is equal; and where one thing is changed that its law asks for, it is not called so.
"""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import ModelProto

import bnfold
from bnfold.onnx_io.model_file import read
from bnfold.proof.certificate import Static, certify
from bnfold.proof.kernel.outcome import Outcome
from bnfold.steps import IDENTITY, Carried, NodeMap, Proof, Ref
from tests.proving import judged as by_steps
from tests.support import Array, parse


def judged(one: ModelProto, other: ModelProto, folder: Path) -> Static:
    onnx.save(one, folder / "a.onnx")
    onnx.save(other, folder / "b.onnx")
    return certify(read(folder / "a.onnx"), read(folder / "b.onnx"), loose=8.0)


def real(*shape: int, seed: int = 0) -> Array:
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


def ints(*values: int) -> Array:
    return np.array(values, np.int64)


IMAGE = "g (float[2,3,4,4] x) => (float[2,3,4,4] y)"
ROWS = "g (float[2,5,4] x) => (float[2,5,3] y)"
GIVEN = {
    "w": real(3, 3, 1, 1), "d": real(3, seed=1), "k": real(3, 1, 1, seed=2),
    "m": real(4, 3, seed=3),
    "c": real(3, seed=4), "rows": ints(10, 4), "back": ints(2, 5, 3),
    "turned": ints(5, 2, 3), "h": real(1, 12, 4, seed=5), "u": real(1, 12, 3, seed=6),
    "zeros": np.zeros((1, 2, 3), np.float32), "ones": np.ones((1, 2, 3), np.float32),
    "nothing": np.zeros(3, np.float32), "target": ints(2, 48), "wrong": ints(48, 2),
    "copy": ints(0, -1), "two": np.array(2, np.float32), "half": np.array(0.5, np.float32),
    "mt": real(4, 3, seed=3).T.copy(), "mc": (real(4, 3, seed=3) * 2).astype(np.float32),
}  # fmt: skip


def model(text: str, opset: int = 17) -> ModelProto:
    words = set(re.findall(r"\w+", text))
    return parse(text, opset, **{name: value for name, value in GIVEN.items() if name in words})


CONV = f"{IMAGE} {{ a = Conv (x, w, d) y = Mul (a, k) }}"
PRODUCT = f"{ROWS} {{ a = MatMul (x, m) y = Add (a, c) }}"
FLAT = (
    ROWS
    + """ {{ f = Reshape (x, {first}) a = Gemm {attributes} (f, {matrix}, c)
  y = Reshape (a, {last}) }}"""
)
SEQUENCE = "g (float[5,2,4] x) => (float[5,1,2,3] y) { y, n, e = LSTM <hidden_size = 3> (x, h, u"


def flat(first: str = "rows", matrix: str = "m", last: str = "back", attributes: str = "") -> str:
    return FLAT.format(first=first, matrix=matrix, last=last, attributes=attributes)


# what was done: the original, the result, and one that differs in what the law asks for
PAIRS: dict[str, tuple[str, str, str]] = {
    "another name of a value": (
        f"{IMAGE} {{ a = Relu (x) y = Neg (a) }}", f"{IMAGE} {{ b = Relu (x) y = Neg (b) }}",
        f"{IMAGE} {{ b = Relu (x) y = Neg (x) }}"),
    "nodes in another order": (
        f"{IMAGE} {{ a = Relu (x) b = Neg (x) y = Sub (a, b) }}",
        f"{IMAGE} {{ b = Neg (x) a = Relu (x) y = Sub (a, b) }}",
        f"{IMAGE} {{ b = Neg (x) a = Relu (x) y = Sub (b, a) }}"),
    "nodes that change nothing went": (
        f"{IMAGE} {{ a = Identity (x) b = Relu (a) e = Dropout (b) y = Neg (e) }}",
        f"{IMAGE} {{ b = Relu (x) y = Neg (b) }}", f"{IMAGE} {{ b = Relu (x) y = Abs (b) }}"),
    "and came": (
        f"{IMAGE} {{ a = Relu (x) y = Neg (a) }}",
        f"{IMAGE} {{ a = Relu (x) i = Identity (a) y = Neg (i) }}",
        f"{IMAGE} {{ a = Relu (x) i = Sigmoid (a) y = Neg (i) }}"),
    "nodes nobody reads went": (
        f"{IMAGE} {{ a = Softmax (x) y = Neg (x) }}", f"{IMAGE} {{ y = Neg (x) }}",
        f"{IMAGE} {{ a = Softmax (x) y = Neg (a) }}"),
    "what was computed twice is computed once": (
        f"{IMAGE} {{ a = Relu (x) b = Relu (x) y = Mul (a, b) }}",
        f"{IMAGE} {{ a = Relu (x) y = Mul (a, a) }}", f"{IMAGE} {{ a = Relu (x) y = Mul (a, x) }}"),
    "constants are computed": (
        f"{IMAGE} {{ q = Mul (k, two) y = Div (x, q) }}",
        f"{IMAGE} {{ q = Constant <value = float[3,1,1] {{VALUES}}> () y = Div (x, q) }}",
        f"{IMAGE} {{ y = Div (x, k) }}"),
    "a default is written out": (
        f"{IMAGE} {{ y = LeakyRelu (x) }}", f"{IMAGE} {{ y = LeakyRelu <alpha = 0.01> (x) }}",
        f"{IMAGE} {{ y = LeakyRelu <alpha = 0.02> (x) }}"),
    "a bias of zeros came": (
        f"{IMAGE} {{ a = Conv (x, w) y = Relu (a) }}",
        f"{IMAGE} {{ a = Conv (x, w, nothing) y = Relu (a) }}",
        f"{IMAGE} {{ a = Conv (x, w, d) y = Relu (a) }}"),
    "a product and a sum are a Gemm": (
        "g (float[2,4] x) => (float[2,3] y) { a = MatMul (x, m) y = Add (a, c) }",
        "g (float[2,4] x) => (float[2,3] y) { y = Gemm (x, m, c) }",
        "g (float[2,4] x) => (float[2,3] y) { y = Gemm <alpha = 2.0> (x, m, c) }"),
    "a Gemm of the matrix's other side": (
        "g (float[2,4] x) => (float[2,3] y) { a = MatMul (x, m) y = Add (a, c) }",
        "g (float[2,4] x) => (float[2,3] y) { y = Gemm <transB = 1> (x, mt, c) }",
        "g (float[2,4] x) => (float[2,3] y) { y = Gemm (x, mc, c) }"),
    "a Gemm of rows": (PRODUCT, flat(), flat(matrix="mc")),
    "a Gemm of rows, of the matrix's other side": (
        PRODUCT, flat(matrix="mt", attributes="<transB = 1>"), flat(matrix="mc")),
    "a Gemm of rows that come back": (PRODUCT, flat(), flat(last="turned")),
    "a Gemm of rows of a regrouped value": (
        "g (float[2,20] x) => (float[2,5,3] y) { v = Relu (x) i = Reshape (v, i3)"
        " a = MatMul (i, m) y = Add (a, c) }",
        "g (float[2,20] x) => (float[2,5,3] y) { v = Relu (x) f = Reshape (v, rows)"
        " a = Gemm (f, m, c) y = Reshape (a, back) }",
        "g (float[2,20] x) => (float[2,5,3] y) { v = Relu (x) t = Transpose (v)"
        " f = Reshape (t, rows) a = Gemm (f, m, c) y = Reshape (a, back) }"),
    "sizes are constants": (
        "g (float[2,3,4,4] x) => (float[A,B] y) { r = Relu (x) s = Shape (r) f = Gather (s, first)"
        " o = Concat <axis = 0> (f, rest) y = Reshape (r, o) }",
        "g (float[2,3,4,4] x) => (float[A,B] y) { r = Relu (x) y = Reshape (r, target) }",
        "g (float[2,3,4,4] x) => (float[A,B] y) { r = Relu (x) y = Reshape (r, wrong) }"),
    "a shape in other words": (
        "g (float[2,3,4,4] x) => (float[A,B] y) { y = Reshape (x, target) }",
        "g (float[2,3,4,4] x) => (float[A,B] y) { y = Reshape (x, copy) }",
        "g (float[2,3,4,4] x) => (float[A,B] y) { y = Reshape (x, wrong) }"),
    "one Reshape for two": (
        "g (float[2,3,4,4] x) => (float[A,B] y) { v = Relu (x) r = Flatten <axis = 2> (v)"
        " y = Reshape (r, target) }",
        "g (float[2,3,4,4] x) => (float[A,B] y) { v = Relu (x) y = Reshape (v, target) }",
        "g (float[2,3,4,4] x) => (float[A,B] y) { v = Relu (x) y = Reshape (v, wrong) }"),
    "a first state of zeros is left out": (
        SEQUENCE + ", , , zeros) }", SEQUENCE + ") }", SEQUENCE + ", , , ones) }"),
}  # fmt: skip
GIVEN |= {"first": ints(0), "rest": ints(48), "i3": ints(2, 5, 4)}


def written(text: str) -> ModelProto:
    values = ",".join(str(v) for v in (GIVEN["k"] * 2).reshape(-1))
    return model(text.replace("{VALUES}", f"{{{values}}}"))


@pytest.mark.parametrize("name", PAIRS)
def test_what_other_tools_do_is_proven(name: str, tmp_path: Path) -> None:
    one, result, _ = PAIRS[name]
    found = judged(written(one), written(result), tmp_path)
    assert found.equal, found.certificate.findings


@pytest.mark.parametrize("name", PAIRS)
def test_where_one_thing_is_missing_it_is_not(name: str, tmp_path: Path) -> None:
    one, _, wrong = PAIRS[name]
    assert not judged(written(one), written(wrong), tmp_path).equal


def test_another_opset_is_another_language(tmp_path: Path) -> None:
    one, two = (model(f"{IMAGE} {{ y = Softmax (x) }}", opset) for opset in (12, 13))
    assert not judged(one, two, tmp_path).equal


def test_a_batch_normalization_that_trains_is_no_constant(tmp_path: Path) -> None:
    """The statistics of each batch decide, whatever those are that are stored."""
    norm = {n: np.full(3, v, np.float32) for n, v in (("s", 2), ("b", 1), ("mu", 0.5), ("var", 4))}
    text = f"{IMAGE} {{ a = Conv (x, w) y = BatchNormalization <ATTRIBUTES> (a, s, b, mu, var) }}"
    trains = parse(text.replace("<ATTRIBUTES>", "<training_mode = 1>"), 17, w=GIVEN["w"], **norm)
    scale = np.float32(2) / np.sqrt(np.float64(4) + 1e-5)
    folded = parse(
        f"{IMAGE} {{ y = Conv (x, v, t) }}", 17,
        v=(GIVEN["w"] * scale).astype(np.float32), t=np.full(3, 1 - 0.5 * scale, np.float32),
    )  # fmt: skip
    found = judged(trains, folded, tmp_path).certificate
    assert found.verdict is Outcome.INVALID
    assert any("statistics of each batch" in finding.sentence for finding in found.findings)
    infers = parse(text.replace(" <ATTRIBUTES>", ""), 17, w=GIVEN["w"], **norm)
    assert judged(infers, folded, tmp_path).equal


def test_a_weight_of_another_tool_that_is_off_is_called_wrong(tmp_path: Path) -> None:
    right = (GIVEN["w"] * GIVEN["k"].reshape(3, 1, 1, 1)).astype(np.float32)
    bias = (GIVEN["d"] * GIVEN["k"].reshape(3)).astype(np.float32)
    text = f"{IMAGE} {{ [other] y = Conv (x, v, t) }}"
    assert judged(model(CONV), parse(text, 17, v=right, t=bias), tmp_path).equal
    right[1, 2] *= np.float32(1.001)
    found = judged(model(CONV), parse(text, 17, v=right, t=bias), tmp_path).certificate
    assert found.verdict is Outcome.INVALID
    assert "v[1, 2, 0, 0]" in found.findings[0].sentence


# --- pairs that lie ------------------------------------------------------------------------------

TWO = f"{IMAGE} {{ a = Relu (x) b = Neg (a) y = Abs (b) }}"
SWAPPED = f"{IMAGE} {{ a = Neg (x) b = Relu (a) y = Abs (b) }}"


def by_proof(one: ModelProto, other: ModelProto, proof: Proof) -> bool:
    """Whether the nodes do the same; names, order and metadata are another matter."""
    return by_steps(one, other, proof).certificate.verdict is Outcome.VALID


def pairs(*numbers: tuple[int, int]) -> Proof:
    return Proof(pairs=tuple((Ref(0, a), Ref(0, b)) for a, b in numbers))


def test_pairs_are_not_believed() -> None:
    one, other = model(TWO), model(SWAPPED)
    assert by_proof(one, one, pairs((0, 0), (1, 1), (2, 2)))
    for said in (
        pairs((0, 0), (1, 1), (2, 2)), pairs((0, 1), (1, 0), (2, 2)), pairs((2, 2)), pairs(),
        pairs((0, 0), (0, 1), (2, 2)), pairs((0, 9), (1, 0), (2, 2)), pairs((9, 0)),
    ):  # fmt: skip
        assert not by_proof(one, other, said), said


def test_a_pair_of_nodes_of_two_operators_is_wrong() -> None:
    one = model(f"{IMAGE} {{ y = Relu (x) }}")
    other = model(f"{IMAGE} {{ y = Sigmoid (x) }}")
    assert not by_proof(one, other, pairs((0, 0)))


def test_a_map_that_is_carried_to_nowhere_is_found() -> None:
    one = model(CONV)
    other = model(f"{IMAGE} {{ y = Conv (x, w, d) }}")
    said = Proof(pairs=((Ref(0, 0), Ref(0, 0)),), carried=(Carried(Ref(0, 0)),))
    assert not by_proof(one, other, said)


def test_two_draws_are_not_one() -> None:
    draw = "RandomNormalLike <seed = 1.0>"
    one = model(f"{IMAGE} {{ a = {draw} (x) b = {draw} (x) y = Sub (a, b) }}")
    other = model(f"{IMAGE} {{ a = {draw} (x) y = Sub (a, a) }}")
    assert not by_proof(one, other, pairs((0, 0), (1, 0), (2, 1)))


def test_of_two_nodes_that_became_one_each_is_judged() -> None:
    """The first has taken the map behind it; the second has other weights altogether."""
    one = parse(
        f"{IMAGE} {{ a = Conv (x, w) b = Mul (a, two) e = Conv (x, v) y = Sub (b, e) }}", 17,
        w=GIVEN["w"], v=real(3, 3, 1, 1, seed=9), two=GIVEN["two"],
    )  # fmt: skip
    other = parse(f"{IMAGE} {{ a = Conv (x, w) y = Sub (a, a) }}", 17, w=GIVEN["w"] * np.float32(2))
    said = Proof(
        pairs=((Ref(0, 0), Ref(0, 0)), (Ref(0, 2), Ref(0, 0)), (Ref(0, 3), Ref(0, 1))),
        carried=(Carried(Ref(0, 0), IDENTITY, NodeMap(Ref(0, 1))),),
    )  # fmt: skip
    assert not by_proof(one, other, said)


def parsed(text: str, opset: int = 13) -> ModelProto:
    return onnx.parser.parse_model(f'<ir_version: 8, opset_import: ["" : {opset}]>' + text)


NORM = "BatchNormalization <epsilon = 0.5>"
STORED = "float[2] s={1,1}, float[2] o={0,0}, float[2] m={5,5}, float[2] v={2,2}"
DECEPTIONS = {  # each was once called equal: the models, and how their nodes were paired
    "a Split into as many parts as it has outputs": (
        parsed("g (float[6] x) => (float[A] y) { y, b = Split (x) }"),
        parsed("g (float[6] x) => (float[A] y) { y, b, c = Split (x) }"), pairs((0, 0))),
    "a BatchNormalization that trains by its outputs": (
        parsed(f"g (float[3,2] x) => (float[3,2] y) <{STORED}>"
               f"{{ y, a, b, c, d = {NORM} (x, s, o, m, v) }}", 9),
        parsed(f"g (float[3,2] x) => (float[3,2] y) <{STORED}>"
               f"{{ y = {NORM} (x, s, o, m, v) }}", 9),
        pairs((0, 0))),
    "a size of another rank": (
        parsed("g (int64[N,2] x, int64[2] i) => (int64[A,B] y) <int64[1] one={1}, int64[2] k={1,1}>"
               " { t = Shape (x) u = Gather (t, k) c = Unsqueeze (u, one) y = Mul (c, i) }"),
        parsed("g (int64[N,2] x, int64[2] i) => (int64[A] y) <int64[1] one={1}, int64[2] k={1,1},"
               " int64[2] z={2,2}>"
               " { t = Shape (x) u = Gather (t, k) c = Unsqueeze (u, one) y = Mul (z, i) }"),
        pairs((0, 0), (1, 1), (2, 2), (3, 3))),
    "an input of another type": (
        parsed("g (int32[2] x) => (int32[2] y) { y = Div (x, x) }"),
        parsed("g (float[2] x) => (float[2] y) { y = Div (x, x) }"), pairs((0, 0))),
    "an input of another size": (
        parsed("g (float[2,4] x) => (float[A,B] y) { y = Neg (x) }"),
        parsed("g (float[4,2] x) => (float[A,B] y) { y = Neg (x) }"), pairs((0, 0))),
    "zeros of more rows than a batch may have": (
        parsed("g (float[M,2] x) => (float[A,B] y) <float[2,2] w={1,2,3,4}> { y = Gemm (x, w) }"),
        parsed("g (float[M,2] x) => (float[A,B] y) <float[2,2] w={1,2,3,4}, float[2,2] c={0,0,0,0}>"
               " { y = Gemm (x, w, c) }"), pairs((0, 0))),
}  # fmt: skip


@pytest.mark.parametrize("name", DECEPTIONS)
def test_what_named_pairs_once_deceived(name: str) -> None:
    one, other, said = DECEPTIONS[name]
    assert not by_proof(one, other, said)
    assert by_proof(one, one, said), "what is the same is equal"


# --- and of our own ------------------------------------------------------------------------------

SAMPLES = sorted(Path(__file__).parents[2].joinpath("sample_models").glob("digits_*.onnx"))


@pytest.mark.parametrize("path", SAMPLES, ids=lambda path: path.stem)
def test_a_model_is_equal_to_itself_and_to_what_part_of_its_folds_make(
    path: Path, tmp_path: Path
) -> None:
    one = onnx.load(path)
    found = judged(one, one, tmp_path)
    assert found.equal
    assert found.frame.verdict is Outcome.VALID, found.frame.findings
    last = [node for node in one.graph.node if node.op_type == "BatchNormalization"][-1]
    part = bnfold.fold(one, options=bnfold.Options(skip=(last.name,)))
    assert part.kept
    found = judged(one, part.model, tmp_path)
    assert found.equal
    assert found.frame.verdict is Outcome.VALID, found.frame.findings
