"""The checker: what it certifies, what it finds, and that it knows nothing of the folder."""

from __future__ import annotations

from collections.abc import Callable
from fractions import Fraction
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import onnx
import pytest
from onnx import ModelProto, helper, numpy_helper

import bnfold
from bnfold.api import comparing
from bnfold.onnx_io.model_file import ModelFile, read, save
from bnfold.onnx_io.tensor_storage import Storage
from bnfold.proof.certificate import Static, certify, explain
from bnfold.proof.kernel.outcome import Outcome
from bnfold.proof.numbers.correct_rounding import Numbers, Tally, compare, half_ulp
from bnfold.proof.numbers.reals import Real, inverse, plus, rational, sign, times
from bnfold.steps import from_json
from tests.random_graphs import build
from tests.support import Array, bn, numbers, parse

SAMPLES = Path(__file__).parents[2] / "sample_models"


def judged(original: ModelProto, folded: ModelProto, tmp_path: Path, loose: float = 0) -> Static:
    """What two files tell, as `verify` has them checked."""
    paths = (tmp_path / "a.onnx", tmp_path / "b.onnx")
    one, two = file_of(original, paths[0]), file_of(folded, paths[1])
    own = comparing._own_fold(*paths, False)
    guesses = [] if own is None else [from_json(own[1].proof.encode())]
    return explain(one, two, guesses, foreign=loose > 0, loose=loose)


def file_of(model: ModelProto, path: Path) -> ModelFile:
    onnx.save(model, path)
    return read(path)


def real(*shape: int, seed: int = 0, low: float = -1.0, dtype: Any = np.float32) -> Array:
    return np.random.default_rng(seed).uniform(low, 1.0, shape).astype(dtype)


def norm(channels: int, name: str = "", dtype: Any = np.float32) -> dict[str, Array]:
    """Parameters as training leaves them."""
    return {
        f"s{name}": real(channels, seed=1, low=0.3, dtype=dtype),
        f"b{name}": real(channels, seed=2, dtype=dtype),
        f"m{name}": real(channels, seed=3, dtype=dtype),
        f"v{name}": real(channels, seed=4, low=0.1, dtype=dtype),
    }


# --- exact numbers ------------------------------------------------------------------------------


def test_sums_of_roots_are_compared_without_a_root() -> None:
    root2 = inverse(((Fraction(1), Fraction(2)),))  # 1/(1/√2)
    assert sign(plus(times(root2, root2), rational(-2.0))) == 0
    below = Fraction(1414213562373095048801688724209698078569, 10**39)
    assert sign(plus(root2, ((-below, Fraction(1)),))) == 1
    assert sign(plus(root2, ((-below - Fraction(1, 10**38), Fraction(1)),))) == -1


def test_sums_of_three_roots_are_compared_to_500_bits() -> None:
    def root(n: int) -> tuple[tuple[Fraction, Fraction], ...]:
        return ((Fraction(n), Fraction(n)),)

    # √2 + √3 − √(5 + 2√6) would be 0; √2 + √3 − √10 is not
    assert sign(plus(plus(root(2), root(3)), times(rational(-1.0), root(10)))) == -1
    assert sign(plus(plus(root(8), times(rational(-2.0), root(2))), ())) == 0


@pytest.mark.parametrize("dtype", ["float32", "float16"])
def test_a_tie_is_decided_exactly(dtype: str) -> None:
    """1 + half an ulp, which float64 holds: both neighbours are right, the next ones are not."""
    kind = np.dtype(dtype)
    eps = float(np.finfo(kind).eps)
    exact = Real.of(np.full(4, 1 + eps / 2))
    stored = np.array([1.0, 1 + eps, 1 - eps, 1 + 2 * eps], kind)
    tally = Tally()
    compare(stored, Numbers(exact.value, exact.magnitude, 4, lambda i: exact.exact(i[0])), tally)
    assert tally.decided == 2
    assert tally.misrounded == 0
    assert tally.faults == 2


def test_half_an_ulp_of_every_type() -> None:
    for kind, digits in ((np.float32, 24), (np.float16, 11), (ml_dtypes.bfloat16, 8)):
        values = np.array([1.0, 1.5, 2.0, 0.75], np.float64).astype(kind)
        expected = [2.0**-digits, 2.0**-digits, 2.0 ** (1 - digits), 2.0 ** (-1 - digits)]
        assert half_ulp(values).tolist() == expected


# --- what is certified --------------------------------------------------------------------------

CONV = """g (float[N,3,8,8] x) => (float[N,4,8,8] y) {
  c = Conv <pads = [1,1,1,1]> (x, w, d)
  y = BatchNormalization <epsilon = 0.001> (c, s, b, m, v)
}"""
FORMS: dict[str, tuple[str, dict[str, tuple[int, ...]]]] = {
    "Conv": (CONV, {"w": (4, 3, 3, 3), "d": (4,)}),
    "grouped Conv": (CONV.replace("Conv <", "Conv <group = 3, ").replace("[N,4", "[N,6"),
                     {"w": (6, 1, 3, 3), "d": (6,)}),
    "ConvTranspose": ("""g (float[N,4,5,5] x) => (float[N,6,P,Q] y) {
        c = ConvTranspose <group = 2, strides = [2,2]> (x, w)
        y = BatchNormalization (c, s, b, m, v) }""", {"w": (4, 3, 2, 2)}),
    "Gemm": ("""g (float[N,5] x) => (float[N,4] y) {
        c = Gemm <alpha = 0.5, beta = 2.0, transB = 1> (x, w, d)
        y = BatchNormalization (c, s, b, m, v) }""", {"w": (4, 5), "d": (4,)}),
    "MatMul": ("""g (float[N,5] x) => (float[N,4] y) {
        c = MatMul (x, w) y = BatchNormalization (c, s, b, m, v) }""", {"w": (5, 4)}),
    "down": ("""g (float[N,3,8,8] x) => (float[N,4,6,6] y) {
        n = BatchNormalization (x, s, b, m, v) y = Conv (n, w, d) }""",
             {"w": (4, 3, 3, 3), "d": (4,)}),
    "split": ("""g (float[N,3,8,8] x) => (float[N,4,8,8] y) {
        c = Conv (x, u) r = Relu (c)
        n = BatchNormalization (r, s, b, m, v) y = Conv (n, w, d) }""",
              {"u": (3, 3, 1, 1), "w": (4, 3, 1, 1), "d": (4,)}),
    "through": ("""g (float[N,3,8,8] x) => (float[N,8] y) {
        c = Conv (x, u) e = Conv (x, w) j = Concat <axis = 1> (c, e)
        p = MaxPool <kernel_shape = [2,2], strides = [2,2]> (j)
        n = BatchNormalization (p, s, b, m, v) r = Relu (n)
        a = GlobalAveragePool (r) y = Flatten (a) }""",
                {"u": (4, 3, 1, 1), "w": (4, 3, 1, 1)}),
    "spread over columns": ("""g (float[N,3,2,2] x) => (float[N,5] y) {
        n = BatchNormalization (x, s, b, m, v) f = Flatten (n) y = Gemm (f, w) }""",
                            {"w": (12, 5)}),
    "residual": ("""g (float[N,3,8,8] x) => (float[N,4,8,8] y) {
        c = Conv (x, u) e = Conv (x, w) j = Add (c, e)
        y = BatchNormalization (j, s, b, m, v) }""", {"u": (4, 3, 1, 1), "w": (4, 3, 1, 1)}),
    "InstanceNormalization": ("""g (float[N,4,8,8] x) => (float[N,4,8,8] y) {
        c = InstanceNormalization (x, w, d)
        y = BatchNormalization (c, s, b, m, v) }""", {"w": (4,), "d": (4,)}),
}  # fmt: skip
CHANNELS = {"grouped Conv": 6, "ConvTranspose": 6, "down": 3, "split": 3, "through": 8,
            "spread over columns": 3}  # fmt: skip


KINDS = {
    "float32": "float", "float16": "float16", "float64": "double", "bfloat16": "bfloat16",
}  # fmt: skip


def pair(form: str, dtype: Any = np.float32) -> tuple[ModelProto, ModelProto]:
    text, shapes = FORMS[form]
    kind = KINDS[np.dtype(dtype).name]
    tensors = {
        name: real(*shape, seed=k, dtype=dtype) for k, (name, shape) in enumerate(shapes.items())
    }
    model = parse(
        text.replace("float[", f"{kind}["), **tensors, **norm(CHANNELS.get(form, 4), dtype=dtype)
    )
    result = bnfold.fold(model)
    assert result.folded, "nothing was folded"
    return model, result.model


@pytest.mark.parametrize("dtype", KINDS)
@pytest.mark.parametrize("form", FORMS)
def test_a_fold_is_certified(form: str, dtype: str, tmp_path: Path) -> None:
    static = judged(*pair(form, np.dtype(getattr(ml_dtypes, dtype, dtype))), tmp_path)
    assert static.frame.verdict is Outcome.VALID, static.frame
    assert static.certificate.verdict is Outcome.VALID, static.certificate
    assert static.certificate.folds
    assert 0 <= static.certificate.k <= (1.0 if dtype != "float64" else 16)
    assert all(fold.sites or form in ("down", "split", "spread over columns")
               for fold in static.certificate.folds)  # fmt: skip


@pytest.mark.parametrize("ratio", [1e2, 1e4, 1e6])
def test_large_means_are_no_false_alarm(ratio: float, tmp_path: Path) -> None:
    """|μ|/σ up to 1e6, where tolerances of 1e-5 reject correct folds."""
    tensors = {"w": real(4, 3, 3, 3), "d": np.full(4, ratio, np.float32), **norm(4)}
    model = parse(CONV, **(tensors | {"m": np.full(4, ratio, np.float32)}))
    static = judged(model, bnfold.fold(model).model, tmp_path)
    assert static.certificate.verdict is static.frame.verdict is Outcome.VALID


@pytest.mark.parametrize("epsilon", [1e-5, 1e-9])
@pytest.mark.parametrize(
    "body",
    [
        "c = Conv (x, w) y = BN (c, s, b, m, v)",
        "c = Conv (x, w, d) p = Relu (c) y = BN (p, s, b, m, v)",  # stays
        "n = BN (x, s, b, m, v) y = Conv (n, w, d)",
        "c = Conv (x, w, d) n = BN (c, s, b, m, v) r = Relu (n) e = Conv (r, w, d) "
        "y = BN (e, s, b, m, v)",
        "c = Conv (x, w) n = BN (c, s, b, m, v) y = BN (n, s, b, m, v)",
        "c = Conv (x, w, d) k = Mul (c, two) y = BN (k, s, b, m, v)",
        "c = Conv (x, w) a = Add (c, zeros) y = BN (a, s, b, m, v)",
        "c = Conv (x, w) f = Flatten (c) y = BN (f, s9, b9, m9, v9)",
    ],
)
def test_an_untrained_network_is_certified(body: str, epsilon: float, tmp_path: Path) -> None:
    """γ = 1, β = 0, μ = 0, σ² = 1: the map is so close to none that roundings may hide it."""
    flat = "[2,12]" if "Flatten" in body else "[2,3,2,2]"
    body = body.replace("BN", f"BatchNormalization <epsilon = {epsilon}>")
    text = f"g (float[2,3,2,2] x) => (float{flat} y) {{ {body} }}"
    given = {"w": real(3, 3, 1, 1), "d": real(3, seed=5), "zeros": np.zeros((1, 3, 1, 1))}
    given["two"] = np.array(2.0)
    for name, count in (("", 3), ("9", 12)):
        ones, zeros = np.ones(count), np.zeros(count)
        given |= {f"s{name}": ones, f"b{name}": zeros, f"m{name}": zeros, f"v{name}": ones}
    model = parse(text, **{name: array.astype(np.float32) for name, array in given.items()})
    static = judged(model, bnfold.fold(model).model, tmp_path)
    assert static.certificate.verdict is Outcome.VALID, static.certificate.findings
    assert static.frame.verdict is Outcome.VALID, static.frame.findings


CONSTANTS_THAT_TAKE_MAPS = {
    "a uniform map behind a Slice of another axis": (
        "g (float[1,3,6,6] x) => (float[1,3,6,4] y) { n = BN (x, s, b, m, v) "
        "c = Slice (n, start, end, last) y = BN (c, s, b, m, v) }"
    ),
    "a map behind a Slice of another axis": (
        "g (float[1,3,6,6] x) => (float[1,3,6,4] y) { n = Mul (x, each) "
        "c = Slice (n, start, end, last) y = BN (c, s, b, m, v) }"
    ),
    "a uniform map before one along another axis": (
        "g (float[1,3,6,6] x) => (float[1,3,6,6] y) { n = BN (x, s, b, m, v) y = Mul (n, six) }"
    ),
    "a class token of zeros": (
        "g (float[1,4,3] x) => (float[1,5,5] y) { p = MatMul (x, w) "
        "c = Concat <axis = 1> (token, p) y = Mul (c, k) }"
    ),
    "a table of zeros": (
        "g (int64[2,7] i) => (float[2,7,4] y) { e = Gather (table, i) n = Mul (e, two) "
        "a = Add (n, position) r = Relu (a) y = MatMul (r, head) }"
    ),
    "a table of zeros beside another": (
        "g (int64[2,7] i) => (float[2,7,4] y) { e = Gather (table, i) f = Gather (other, i) "
        "a = Add (e, f) n = Mul (a, two) r = Relu (n) y = MatMul (r, head) }"
    ),
    "a scale that is led past a Relu and a bias": (
        "g (float[1,3,6,6] x) => (float[1,3,6,6] y) { n = Mul (x, each) r = Relu (n) "
        "a = Add (r, bias) y = Conv (a, weight) }"
    ),
    "a product of constants": (
        "g (float[2,4] x) => (float[2,4] y) { p = MatMul (left, right) n = Mul (p, four) "
        "y = Add (x, n) }"
    ),
}


@pytest.mark.parametrize("kind", CONSTANTS_THAT_TAKE_MAPS)
def test_constants_that_take_maps_in_untrained_networks_are_certified(
    kind: str, tmp_path: Path
) -> None:
    ones, zeros = np.ones(3, np.float32), np.zeros(3, np.float32)
    given = {
        "s": ones, "b": zeros, "m": zeros, "v": ones, "each": np.abs(real(3, 1, 1)),
        "six": real(6), "k": real(5), "w": real(3, 5), "token": np.zeros((1, 1, 5), np.float32),
        "table": np.zeros((10, 6), np.float32), "other": real(10, 6), "head": real(6, 4),
        "two": np.array(2, np.float32), "position": real(1, 7, 6), "bias": real(3, 1, 1, seed=2),
        "weight": real(3, 3, 1, 1), "left": real(2, 3), "right": real(3, 4), "four": real(4),
        "start": np.array([1]), "end": np.array([5]), "last": np.array([3]),
    }  # fmt: skip
    text = CONSTANTS_THAT_TAKE_MAPS[kind].replace("BN (", "BatchNormalization (")
    read = set(text.replace(",", " ").replace(")", " ").replace("(", " ").split())
    model = parse(text, **{name: array for name, array in given.items() if name in read})
    result = bnfold.fold(model)
    assert result.folded
    static = judged(model, result.model, tmp_path)
    assert static.certificate.verdict is Outcome.VALID, static.certificate.findings
    assert static.frame.verdict is Outcome.VALID, static.frame.findings


def test_a_scale_that_a_table_of_zeros_did_not_take_is_found(tmp_path: Path) -> None:
    """Beside a table of other numbers, which cannot have taken it."""
    text = """g (int64[2] i) => (float[2,3] y) {
        e = Gather (t, i) f = Gather (o, i) a = Add (e, f) y = REST }"""
    given = {"t": np.zeros((4, 3), np.float32), "o": real(4, 3)}
    model = parse(text.replace("REST", "Mul (a, two)"), two=np.array(2, np.float32), **given)
    wrong = parse(text.replace("a = Add (e, f) y = REST", "y = Add (e, f)"), **given)
    assert judged(model, wrong, tmp_path).certificate.verdict is not Outcome.VALID


def test_two_maps_that_are_close_to_each_other_are_certified(tmp_path: Path) -> None:
    """Two readers of one value normalise it by nearly the same maps, and one of them stays."""
    text = """
    g (float[1,3,2,2] x) => (float[1,3,2,2] y, float[1,3,2,2] z) {
      c = Conv (x, w, d)
      n = BatchNormalization <epsilon = 1e-5> (c, s, b, m, v)
      y = Relu (n)
      k = Conv (x, w, d)
      o = BatchNormalization <epsilon = 1.001e-5> (k, s, b, m, v)
      z = Relu (o)
    }"""
    model = parse(text, w=real(3, 3, 1, 1), d=real(3, seed=5), **norm(3))
    static = judged(model, bnfold.fold(model).model, tmp_path)
    assert static.certificate.verdict is Outcome.VALID, static.certificate.findings
    assert static.frame.verdict is Outcome.VALID, static.frame.findings


def test_a_map_that_was_dropped_from_an_untrained_network_is_found(tmp_path: Path) -> None:
    """1 − 5·10⁻⁶ is 84 roundings: leaving it out is another function."""
    text = """
    g (float[1,3,2,2] x) => (float[1,3,2,2] y) {
      c = Conv (x, w)
      y = BatchNormalization (c, s, b, m, v)
    }"""
    ones, zeros = np.ones(3, np.float32), np.zeros(3, np.float32)
    model = parse(text, w=real(3, 3, 1, 1), s=ones, b=zeros, m=zeros, v=ones)
    dropped = parse(
        "g (float[1,3,2,2] x) => (float[1,3,2,2] y) { y = Conv (x, w) }", w=real(3, 3, 1, 1)
    )
    assert judged(model, dropped, tmp_path).certificate.verdict is Outcome.INVALID


def test_a_dead_channel_is_certified(tmp_path: Path) -> None:
    tensors = {"w": real(4, 3, 3, 3), "d": real(4), **norm(4)}
    tensors["s"][2] = 0
    model = parse(CONV, **tensors)
    assert judged(model, bnfold.fold(model).model, tmp_path).certificate.verdict is Outcome.VALID


CERTIFIED = (
    "digits_resnet", "digits_depthwise", "digits_autoencoder", "digits_mlp", "digits_repvgg",
    "fp16", "fp16_float_statistics",
)  # fmt: skip


@pytest.mark.parametrize("name", CERTIFIED)
def test_the_sample_models_are_certified(name: str, tmp_path: Path) -> None:
    model = onnx.load(SAMPLES / f"{name}.onnx")
    static = judged(model, bnfold.fold(model).model, tmp_path)
    assert static.frame.verdict is static.certificate.verdict is Outcome.VALID
    assert static.certificate.k <= 1


def test_the_body_of_an_if_is_certified(tmp_path: Path) -> None:
    model = parse(
        """g (bool p, float[1,3,8,8] x) => (float[1,4,8,8] y) {
          y = If (p) <
            then_branch = t () => (o) { c = Conv <pads = [1,1,1,1]> (x, w, d)
                                        o = BatchNormalization (c, s, b, m, v) },
            else_branch = e () => (q) { q = Conv <pads = [1,1,1,1]> (x, w, d) }>
        }""",
        w=real(4, 3, 3, 3), d=real(4), **norm(4),
    )  # fmt: skip
    result = bnfold.fold(model)
    assert result.folded
    static = judged(model, result.model, tmp_path)
    assert static.frame.verdict is static.certificate.verdict is Outcome.VALID


def test_float32_arithmetic_passes_as_foreign_and_its_k_is_told(tmp_path: Path) -> None:
    """As onnxruntime, onnxsim and onnxslim fold: every step rounded to float32."""
    model, result = pair("Conv")
    given = {t.name: numpy_helper.to_array(t) for t in model.graph.initializer}
    scale = given["s"] / np.sqrt(given["v"] + np.float32(0.001))
    replace(result, "w", given["w"] * scale.reshape(-1, 1, 1, 1))
    replace(result, "d", (given["d"] - given["m"]) * scale + given["b"])
    assert judged(model, result, tmp_path).certificate.verdict is Outcome.INVALID
    foreign = judged(model, result, tmp_path, loose=8).certificate
    assert foreign.verdict is Outcome.VALID
    assert 1 < foreign.k < 8


GRAPHS = [
    ["conv", "batch_norm", "unary", "conv", "batch_norm"],
    ["batch_norm", "conv", "pool", "reshape", "gemm"],
    ["conv", "branches", "batch_norm", "concat"],
    ["conv_transpose", "batch_norm", "slice", "unary", "batch_norm"],
    ["conv", "depth_to_space", "batch_norm", "transpose"],
]


@pytest.mark.parametrize("seed", range(12))
@pytest.mark.parametrize("ops", GRAPHS, ids="-".join)
def test_random_graphs_are_never_called_wrong(ops: list[str], seed: int, tmp_path: Path) -> None:
    model = build(ops, seed)
    static = judged(model, bnfold.fold(model).model, tmp_path)
    assert static.certificate.verdict is not Outcome.INVALID, static.certificate
    assert static.frame.verdict is not Outcome.INVALID, static.frame


# --- what is found ------------------------------------------------------------------------------


def replace(model: ModelProto, name: str, values: Array) -> None:
    (tensor,) = (t for t in model.graph.initializer if t.name == name)
    tensor.CopyFrom(numpy_helper.from_array(np.ascontiguousarray(values), name))


def values_of(model: ModelProto, name: str) -> Array:
    (tensor,) = (t for t in model.graph.initializer if t.name == name)
    return numpy_helper.to_array(tensor).copy()


Edit = Callable[[ModelProto, str, str], None]  # of a folded model, the names of a weight and bias


def weight(change: Callable[[Array], Any]) -> Edit:
    def edit(model: ModelProto, name: str, _: str) -> None:
        values = values_of(model, name)
        new = change(values)
        replace(model, name, values if new is None else new.astype(values.dtype))

    return edit


def bias(change: Callable[[Array], Any]) -> Edit:
    def edit(model: ModelProto, _: str, name: str) -> None:
        weight(change)(model, name, "")

    return edit


def node_of(model: ModelProto, name: str) -> onnx.NodeProto:
    return next(node for node in model.graph.node if name in node.input)


def put(index: Any, change: Callable[[Any], Any]) -> Callable[[Array], None]:
    def edit(values: Array) -> None:
        values[index] = change(values[index])

    return edit


def largest(change: Callable[[Any], Any]) -> Callable[[Array], None]:
    def edit(values: Array) -> None:
        index = np.unravel_index(np.argmax(np.abs(values)), values.shape)
        values[index] = change(values[index])

    return edit


def ulps(count: int) -> Callable[[Any], Any]:
    def move(value: Any) -> Any:
        for _ in range(count):
            value = np.nextafter(value, np.array(np.inf, value.dtype))
        return value

    return move


def swap(values: Array) -> None:
    values[[0, 1]] = values[[1, 0]]


def attribute(name: str, value: Any) -> Edit:
    def edit(model: ModelProto, weight_name: str, _: str) -> None:
        node = node_of(model, weight_name)
        kept = [a for a in node.attribute if a.name != name]
        del node.attribute[:]
        node.attribute.extend([*kept, helper.make_attribute(name, value)])

    return edit


def bfloat(values: Array) -> Array:
    return (values.astype(np.float32).view(np.uint32) & 0xFFFF0000).view(np.float32)


def drop_field(name: str) -> Edit:
    return lambda model, *_: model.ClearField(name)


def on(change: Callable[[ModelProto], Any]) -> Edit:
    return lambda model, *_: change(model)


def rename_node(model: ModelProto, name: str, _: str) -> None:
    node_of(model, name).name = "renamed"


def doc_of_node(model: ModelProto, name: str, _: str) -> None:
    node_of(model, name).doc_string = "new"


def metadata_of_node(model: ModelProto, name: str, _: str) -> None:
    node_of(model, name).metadata_props.add(key="k", value="v")


def rewire(model: ModelProto, name: str, _: str) -> None:
    node_of(model, name).input[0] = "x2"


def without_bias(model: ModelProto, name: str, bias_name: str) -> None:
    node = node_of(model, name)
    del node.input[2]
    kept = [t for t in model.graph.initializer if t.name != bias_name]
    del model.graph.initializer[:]
    model.graph.initializer.extend(kept)


def swap_outputs(model: ModelProto, *_: str) -> None:
    for node in model.graph.node:
        node.input[:] = ["x2" if n == "x" else "x" if n == "x2" else n for n in node.input]


def unrelated(change: Callable[[Array], Any]) -> Edit:
    return lambda model, *_: weight(change)(model, "other", "")


def new_initializer(model: ModelProto, *_: str) -> None:
    model.graph.initializer.append(numpy_helper.from_array(np.zeros(3, np.float32), "new"))


def reorder(model: ModelProto, *_: str) -> None:
    nodes = list(model.graph.node)
    del model.graph.node[:]
    model.graph.node.extend([nodes[1], nodes[0], *nodes[2:]])


def value_info(model: ModelProto, *_: str) -> None:
    model.graph.value_info.add(name="y")


def extra_relu(model: ModelProto, *_: str) -> None:
    last = model.graph.node[0]
    model.graph.node.insert(1, helper.make_node("Relu", ["early"], [last.output[0]], "extra"))
    last.output[0] = "early"


def rename_input(model: ModelProto, *_: str) -> None:
    model.graph.input[1].name = "x3"
    for node in model.graph.node:
        node.input[:] = ["x3" if name == "x2" else name for name in node.input]


def other_op(model: ModelProto, *_: str) -> None:
    node = next(n for n in model.graph.node if n.op_type == "Relu")
    node.op_type = "LeakyRelu"


def swap_both(model: ModelProto, name: str, bias_name: str) -> None:
    for constant in (name, bias_name):
        weight(swap)(model, constant, "")


IN_WEIGHT: dict[str, Edit] = {
    "one weight off by 2 ulp": weight(largest(ulps(2))),
    "one weight off by 1 ulp": weight(largest(ulps(1))),
    "one weight 1 % larger": weight(largest(lambda v: v * 1.01)),
    "one weight of the other sign": weight(largest(lambda v: -v)),
    "one weight zeroed": weight(largest(lambda v: v * 0)),
    "one weight NaN": weight(largest(lambda v: v * np.nan)),
    "one weight infinite": weight(largest(lambda v: v * np.inf)),
    "two output channels swapped": weight(swap),
    "a channel halved": weight(put(1, lambda v: v * 0.5)),
    "all weights through float16": weight(lambda v: v.astype(np.float16).astype(np.float32)),
    "all weights through bfloat16": weight(bfloat),
    "all weights 1e-4 larger": weight(lambda v: v * 1.0001),
    "all weights of the other sign": weight(lambda v: -v),
    "the kernel flipped": weight(lambda v: v[..., ::-1]),
    "the first weight of each channel 1 % larger": weight(
        put((slice(None), 0), lambda v: v * 1.01)
    ),
}
IN_BIAS: dict[str, Edit] = {
    "one bias off by 2 ulp": bias(largest(ulps(2))),
    "one bias 1 % larger": bias(largest(lambda v: v * 1.01)),
    "one bias zeroed": bias(largest(lambda v: v * 0)),
    "two biases swapped": bias(swap),
    "all biases through float16": bias(lambda v: v.astype(np.float16).astype(np.float32)),
    "all biases zeroed": bias(lambda v: v * 0),
    "one bias NaN": bias(largest(lambda v: v * np.nan)),
    "the bias gone": without_bias,
    "weights and biases both swapped": swap_both,
}
IN_NODE: dict[str, Edit] = {
    "a padding changed": attribute("pads", [1, 1, 0, 0]),
    "a stride changed": attribute("strides", [2, 2]),
    "a dilation changed": attribute("dilations", [2, 2]),
    "auto_pad set": attribute("auto_pad", "SAME_UPPER"),
    "a consumer rewired": rewire,
    "the data of two nodes swapped": swap_outputs,
    "a Relu in between": extra_relu,
    "another activation": other_op,
}
IN_FRAME: dict[str, Edit] = {
    "an unrelated weight's last bit": unrelated(largest(ulps(1))),
    "an unrelated channel swapped": unrelated(swap),
    "metadata dropped": on(lambda m: m.ClearField("metadata_props")),
    "producer changed": on(lambda m: setattr(m, "producer_name", "another")),
    "doc string dropped": drop_field("doc_string"),
    "model version changed": on(lambda m: setattr(m, "model_version", 9)),
    "opset changed": on(lambda m: setattr(m.opset_import[0], "version", 18)),
    "ir version changed": on(lambda m: setattr(m, "ir_version", 9)),
    "graph renamed": on(lambda m: setattr(m.graph, "name", "another")),
    "node renamed": rename_node,
    "doc string of a node": doc_of_node,
    "metadata of a node": metadata_of_node,
    "an initializer more": new_initializer,
    "nodes in another order": reorder,
    "a value_info more": value_info,
    "an input renamed": rename_input,
    "an output declared in another shape": on(
        lambda m: setattr(m.graph.output[0].type.tensor_type.shape.dim[0], "dim_param", "M")
    ),
    "doc string of an initializer": on(
        lambda m: setattr(m.graph.initializer[0], "doc_string", "d")
    ),
    "metadata_props of the graph": on(lambda m: m.graph.metadata_props.add(key="k", value="v")),
}
MODELS = {
    "conv": """c = Conv <pads = [1,1,1,1]> (x, w, d)
        n = BatchNormalization <epsilon = 0.01> (c, s, b, m, v)""",
    "no bias": """c = Conv <pads = [1,1,1,1]> (x, w)
        n = BatchNormalization <epsilon = 0.01> (c, s, b, m, v)""",
    "mul and add": "c = Conv <pads = [1,1,1,1]> (x, w, d) k = Mul (c, s4) n = Add (k, b4)",
    "two norms": """c = Conv <pads = [1,1,1,1]> (x, w, d) k = BatchNormalization (c, s, b, m, v)
        n = BatchNormalization <epsilon = 0.01> (k, s, b, m, v)""",
    "pool": """c = Conv <pads = [1,1,1,1]> (x, w, d)
        k = MaxPool <kernel_shape = [3,3], pads = [1,1,1,1]> (c)
        n = BatchNormalization <epsilon = 0.01> (k, s, b, m, v)""",
    "norm and constants": """c = Conv <pads = [1,1,1,1]> (x, w, d)
        k = BatchNormalization <epsilon = 0.01> (c, s, b, m, v) n = Sub (k, b4)""",
    "average": """c = Conv <pads = [1,1,1,1]> (x, w, d)
        k = AveragePool <kernel_shape = [3,3], pads = [1,1,1,1]> (c)
        n = BatchNormalization <epsilon = 0.01> (k, s, b, m, v)""",
    "identity": """c = Conv <pads = [1,1,1,1]> (x, w, d) k = Identity (c)
        n = BatchNormalization <epsilon = 0.01> (k, s, b, m, v)""",
    "transposed": """c = Conv <pads = [1,1,1,1]> (x, w, d) t = Transpose <perm = [0,2,3,1]> (c)
        a = Mul (t, s) k = Add (a, b) n = Transpose <perm = [0,3,1,2]> (k)""",
    "negative scales": """c = Conv <pads = [1,1,1,1]> (x, w, d)
        n = BatchNormalization <epsilon = 0.01> (c, negative, b, m, v)""",
}  # fmt: skip
SPOILED = {**IN_WEIGHT, **IN_BIAS, **IN_NODE, **IN_FRAME}


def folded_model(kind: str) -> tuple[ModelProto, ModelProto, str, str]:
    """Original and folded model, and what the weight and the bias are called there."""
    text = f"""
    <ir_version: 10, opset_import: ["" : 17], producer_name: "us", doc_string: "of the model",
     metadata_props: ["author": "us"]>
    g (float[N,3,8,8] x, float[N,3,8,8] x2) => (float[N,4,8,8] y, float[N,4,8,8] z) {{
      {MODELS[kind]}
      y = Relu (n)
      [untouched] z = Conv <pads = [1,1,1,1]> (x2, other)
    }}"""
    text = text.replace(" c = Conv", " [folded] c = Conv").replace(
        "\n      c =", "\n      [folded] c ="
    )
    given = {
        "w": real(4, 3, 3, 3), "d": real(4, seed=9), "other": real(4, 3, 3, 3, seed=5), **norm(4),
        "s4": real(4, 1, 1, seed=6, low=0.3), "b4": real(4, 1, 1, seed=7),
        "negative": -real(4, seed=6, low=0.3),
    }  # fmt: skip
    model = parse(text, **given)
    used = {name for node in model.graph.node for name in node.input}
    kept = [tensor for tensor in model.graph.initializer if tensor.name in used]
    del model.graph.initializer[:]
    model.graph.initializer.extend(kept)
    onnx.checker.check_model(model)
    result = bnfold.fold(model)
    assert result.folded
    assert not result.kept
    node = next(n for n in result.model.graph.node if n.name == "folded")
    return model, result.model, node.input[1], node.input[2]


@pytest.mark.parametrize("kind", MODELS)
def test_the_models_to_be_spoiled_are_certified_as_they_are(kind: str, tmp_path: Path) -> None:
    model, result, *_ = folded_model(kind)
    static = judged(model, result, tmp_path)
    assert static.frame.verdict is static.certificate.verdict is Outcome.VALID, static


@pytest.mark.parametrize("kind", MODELS)
@pytest.mark.parametrize("fault", SPOILED)
def test_a_spoiled_model_is_found_and_the_right_node_blamed(
    fault: str, kind: str, tmp_path: Path
) -> None:
    model, result, weight_name, bias_name = folded_model(kind)
    SPOILED[fault](result, weight_name, bias_name)
    static = judged(model, result, tmp_path)
    if fault in IN_FRAME:
        assert {static.frame.verdict, static.certificate.verdict} != {Outcome.VALID}, static
        return
    assert static.certificate.verdict is not Outcome.VALID, static
    first = static.certificate.findings[0]
    blamed = {"another activation": "Relu→y"}.get(fault, "folded")
    if fault == "a Relu in between":  # which stands behind the folded node, before the next
        assert first.node != "untouched"
    elif fault == "the data of two nodes swapped":
        assert first.node in ("folded", "untouched")
    else:
        assert first.node == blamed, static.certificate.findings
    if fault in IN_WEIGHT and "all weights" not in fault and "kernel" not in fault:
        assert first.verdict is Outcome.INVALID
        assert weight_name in first.sentence


def test_epsilon_left_out_is_found(tmp_path: Path) -> None:
    model, _ = pair("Conv")
    other = ModelProto()
    other.CopyFrom(model)
    other.graph.node[1].attribute[0].f = 0.0
    certificate = judged(model, bnfold.fold(other).model, tmp_path).certificate
    assert certificate.verdict is Outcome.INVALID
    assert certificate.findings[0].node.startswith("Conv")


def test_beta_for_beta_prime_is_found(tmp_path: Path) -> None:
    model, result = pair("Conv")
    replace(result, "d", values_of(model, "b"))
    assert judged(model, result, tmp_path).certificate.verdict is not Outcome.VALID


def test_one_groups_weights_shifted_are_found(tmp_path: Path) -> None:
    model, result = pair("grouped Conv")
    values = values_of(result, "w")
    values[2:4] += np.float32(0.01)
    replace(result, "w", values)
    certificate = judged(model, result, tmp_path).certificate
    assert certificate.verdict is Outcome.INVALID
    assert "w[" in certificate.findings[0].sentence


def test_a_storage_is_not_needed_to_save(tmp_path: Path) -> None:
    model, result = pair("Conv")
    path = save(result, Storage(), tmp_path / "saved.onnx")
    assert certify(file_of(model, tmp_path / "a.onnx"), read(path)).frame.verdict is Outcome.VALID


@pytest.mark.parametrize("spoiled", [False, True])
def test_a_large_constant_of_a_body_counts_by_what_it_holds(spoiled: bool, tmp_path: Path) -> None:
    """A large γ in front of it goes with the fold, so that it is not the second one any more."""
    channels = 3000
    own = bn(channels)
    model = parse(
        f"g (bool b, float[1,{channels},1,1] x) => (float y) {{ s = Constant <value_float = 0.0> ()"
        f" c = Conv <group = {channels}> (x, w) n = BatchNormalization (c, s, b1, m, v)"
        " q = If (b) <then_branch = t () => (float u) { u = Constant <value_float = 0.0> () },"
        " else_branch = e () => (float k) { k = Identity (x) }> y = Add (q, n) }",
        w=numbers(channels, 1, 1, 1), b1=own["b"], m=own["m"], v=own["v"],
    )  # fmt: skip

    def store(node: onnx.NodeProto, values: Array) -> None:
        made = onnx.helper.make_node(
            "Constant", [], node.output, value=numpy_helper.from_array(values)
        )
        node.CopyFrom(made)

    def body(proto: ModelProto) -> onnx.NodeProto:
        (branch,) = (n for n in proto.graph.node if n.op_type == "If")
        return next(a.g.node[0] for a in branch.attribute if a.name == "then_branch")

    large = numbers(1, channels, 4, 1, seed=3)
    store(model.graph.node[0], own["s"])
    store(body(model), large)
    result = bnfold.fold(model).model
    assert [node.op_type for node in result.graph.node] == ["Conv", "If", "Add"]
    if spoiled:
        store(body(result), large + 1)
    found = certify(file_of(model, tmp_path / "a.onnx"), file_of(result, tmp_path / "b.onnx"))
    assert (found.frame.verdict is Outcome.VALID) is not spoiled
    assert (found.certificate.verdict is Outcome.VALID) is not spoiled
