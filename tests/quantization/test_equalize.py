"""Scales moved between layers: the same function, with weights whose channels have like ranges."""

from __future__ import annotations

import json
from pathlib import Path
from random import Random
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import ModelProto, numpy_helper

import bnfold
from bnfold import EqualizeResult, Outcome, UsageError
from bnfold.folding.apply import apply
from bnfold.folding.plan import Plan
from bnfold.folding.weights.draft import Draft
from bnfold.graph.index import Index
from bnfold.options import Options
from bnfold.quantization.regions import Region, regions
from tests.random_graphs import OPERATORS, build
from tests.support import Array, initializer, invoke, numbers, parse

SAMPLES = Path("sample_models")
C = 4
UNEVEN = np.array([1, 32, 0.25, 8], "f")  # how much larger a channel is than the one it shall be
W = {
    "a": numbers(C, 3, 3, 3) * UNEVEN.reshape(C, 1, 1, 1), "ab": numbers(C) * UNEVEN,
    "d": numbers(C, 1, 3, 3), "b": numbers(5, C, 1, 1) / UNEVEN.reshape(1, C, 1, 1),
    "p": np.full((C, 1, 1), 0.25, "f"), "g": numbers(C * 16, 5), "m": numbers(C, 5),
    "a2": numbers(C, 3, 3, 3) * UNEVEN.reshape(C, 1, 1, 1), "t": numbers(C, 2, 2, 2),
    "e": numbers(C, C, 1, 1),
    "six": np.array(6, "f"), "zero": np.array(0, "f"), "row": np.array([2, -1]),
    "w3": numbers(3, C, 1, 1),
}  # fmt: skip

# what stands between an uneven Conv, which makes `c`, and `y`; how many values take one scale
CROSSED = [
    ("y = Conv (c, b)", 1),
    ("r = Relu (c) y = Conv (r, b)", 2),
    ("r = LeakyRelu (c) k = MaxPool <kernel_shape = [2,2]> (r) y = Conv (k, b)", 3),
    ("r = PRelu (c, p) y = Conv (r, b)", 2),
    ("r = Relu (c) k = Conv <group = 4, pads = [1,1,1,1]> (r, d) y = Conv (k, b)", 2),
    ("r = AveragePool <kernel_shape = [2,2], pads = [1,1,1,1]> (c) y = Conv (r, b)", 2),
    ("r = GlobalAveragePool (c) y = Conv (r, b)", 2),
    ("r = Relu (c) y = Reshape (r, row) z = Gemm (y, g)", 2),
    ("r = Relu (c) k = Transpose <perm = [0,2,3,1]> (r) y = MatMul (k, m)", 2),
    ("r = Relu (c) y = ConvTranspose (r, t)", 2),
    ("q = Conv (x, a2) s = Add (c, q) r = Relu (s) y = Conv (r, b)", 4),
    ("q = Conv (c, e) s = Add (q, c) r = Relu (s) y = Conv (r, b)", -1),
    ("q = Conv (x, a2) k = Concat <axis = 1> (q, c) h = Relu (k) u = Slice (h, from, to, one)"
     " y = Conv (u, b)", 0),
    ("r = Pad (c, pads) y = Conv (r, b)", 2),
    ("r = Resize (c, , twice) y = Conv (r, b)", 2),
]  # fmt: skip
MORE = {
    "from": np.array([4]), "to": np.array([8]), "one": np.array([1]),
    "pads": np.array([0, 0, 1, 1, 0, 0, 1, 1]), "twice": np.array([1, 1, 2, 2], "f"),
}  # fmt: skip


def net(text: str) -> ModelProto:
    last = "z" if " z = " in text else "y"
    words = set(text.replace("(", " ").replace(")", " ").replace(",", " ").split())
    return parse(
        f"g (float[2,3,6,6] x) => (float {last})"
        f" {{ c = Conv (x, a, ab) {text} }}",
        **{k: v for k, v in (W | MORE).items() if k in words | {"a", "ab"}},
    )  # fmt: skip


def outputs(path: Path) -> list[Array]:
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = onnxruntime.InferenceSession(str(path), options)
    feed = {
        i.name: np.random.default_rng(0)
        .normal(size=[d if isinstance(d, int) else 2 for d in i.shape])
        .astype("f")
        for i in session.get_inputs()
    }
    return [np.asarray(value) for value in session.run(None, feed)]


def equalized(model: ModelProto, tmp_path: Path, **how: Any) -> EqualizeResult:
    onnx.save(model, tmp_path / "model.onnx")
    return bnfold.equalize(tmp_path / "model.onnx", tmp_path / "out.onnx", **how)


@pytest.mark.parametrize(("text", "values"), CROSSED, ids=[text for text, _ in CROSSED])
def test_powers_of_two_leave_every_bit(text: str, values: int, tmp_path: Path) -> None:
    result = equalized(net(text), tmp_path)
    if values < 0:  # of a Conv that both makes and reads the values nothing is gained
        assert result.comparison is None
        return
    assert result.comparison is not None
    assert result.comparison.certificate is not None
    assert result.comparison.certificate.verdict is Outcome.VALID
    for one, other in zip(
        outputs(tmp_path / "model.onnx"), outputs(tmp_path / "out.onnx"), strict=True
    ):
        assert one.tobytes() == other.tobytes()
    moved = [region for region in result.regions if region.least != region.largest]
    assert moved
    if values > 0:
        assert moved[0].values == values
        before, after = (max(getattr(layer, name) for layer in result.layers)
                         for name in ("before", "after"))  # fmt: skip
        assert after < before
    ours, theirs = (onnx.load(tmp_path / name).graph for name in ("out.onnx", "model.onnx"))
    assert [n.op_type for n in ours.node] == [n.op_type for n in theirs.node]


def test_weights_that_mirror_each_other_become_alike(tmp_path: Path) -> None:
    """Uneven by u in what makes a channel, and by 1/u in what reads it: u goes."""
    equalized(net("y = Conv (c, b)"), tmp_path, scales="free")
    made = onnx.load(tmp_path / "out.onnx")
    first = np.abs(initializer(made, "a")).reshape(C, -1).max(axis=1)
    second = np.abs(initializer(made, "b")).max(axis=(0, 2, 3))
    np.testing.assert_allclose(first / first.max(), second / second.max(), rtol=0.05)


def test_free_scales_are_proven(tmp_path: Path) -> None:
    result = equalized(net("r = Relu (c) y = Conv (r, b)"), tmp_path, scales="free")
    assert result.comparison is not None
    assert result.comparison.certificate is not None
    assert result.comparison.certificate.verdict is Outcome.VALID
    (moved,) = [region for region in result.regions if region.least != region.largest]
    exponents = np.log2(moved.largest)
    assert exponents != np.rint(exponents)


@pytest.mark.parametrize(("text", "reason"), [
    ("r = Clip (c, zero, six) y = Conv (r, b)", "not-transparent"),  # ReLU6 stays what it is
    ("r = Sigmoid (c) y = Conv (r, b)", "not-transparent"),
    ("q = Conv (x, a2) s = Mul (q, c) y = Conv (s, b)", "not-transparent"),  # s twice
    ("gap = GlobalAveragePool (c) s = Mul (c, gap) y = Conv (s, b)", "not-transparent"),
    ("r = LpPool <kernel_shape = [2,2], p = 3> (c) y = Conv (r, b)", "not-transparent"),
    ("y = Relu (c)", "result"),
    ("q = Add (c, x4) y = Conv (q, b)", "no-linear-producer"),
])  # fmt: skip
def test_what_a_scale_does_not_pass_is_said(text: str, reason: str, tmp_path: Path) -> None:
    model = net(text)
    if "x4" in text:
        model.graph.input.append(onnx.helper.make_tensor_value_info("x4", 1, [2, C, 4, 4]))
    result = equalized(model, tmp_path)
    first = result.regions[0]
    assert first.refusal is not None
    assert first.refusal.reason.code == reason
    assert (tmp_path / "out.onnx").read_bytes() == (tmp_path / "model.onnx").read_bytes()
    assert result.comparison is None


def test_what_would_be_a_new_number_is_not_moved(tmp_path: Path) -> None:
    """β of a BatchNormalization that reads the values is one, unless scales may be free."""
    model = net("r = Relu (c) y = Conv (r, b) z = BatchNormalization (r, bs, bh, bm, bv)")
    model.graph.initializer.extend(
        numpy_helper.from_array(np.abs(numbers(C, seed=k)) + np.float32(1), name)
        for k, name in enumerate(("bs", "bh", "bm", "bv"))
    )
    model.graph.output.append(onnx.ValueInfoProto(name="y"))
    result = equalized(model, tmp_path)
    (first,) = [region for region in result.regions if region.node == "Conv→c"]
    assert first.refusal is not None
    assert first.refusal.reason.code == "underflow"
    assert equalized(model, tmp_path, scales="free").regions[0].refusal is None


def test_weights_of_float16_keep_all_of_their_bits(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    narrow = 2.0 ** np.linspace(-6, 0, 32)
    model = parse(
        "g (float16[1,3,4,4] x) => (float16[1,4,4,4] y) { c = Conv (x, a) r = Relu (c)"
        " y = Conv (r, b) }",
        a=rng.normal(0, 0.02, (32, 3, 1, 1)).astype(np.float16),
        b=(rng.normal(size=(4, 32, 1, 1)) * narrow.reshape(1, 32, 1, 1)).astype(np.float16),
    )  # fmt: skip
    result = equalized(model, tmp_path, verify="proof")
    made = onnx.load(tmp_path / "out.onnx")
    assert result.regions[0].largest > 1
    for name in "ab":
        before, after = (initializer(m, name).astype(np.float64) for m in (model, made))
        exponents = np.log2(np.abs(after[before != 0] / before[before != 0]))
        assert np.array_equal(exponents, np.rint(exponents))


def test_dead_channels_are_left_alone(tmp_path: Path) -> None:
    model = net("r = Relu (c) y = Conv (r, b)")
    dead = initializer(model, "a").copy()
    dead[1] = 0
    next(t for t in model.graph.initializer if t.name == "a").CopyFrom(
        numpy_helper.from_array(dead, "a")
    )
    equalized(model, tmp_path)
    made = onnx.load(tmp_path / "out.onnx")
    assert np.array_equal(initializer(made, "b")[:, 1], initializer(model, "b")[:, 1])
    assert np.all(np.isfinite(initializer(made, "a")))


def test_activations_grow_no_further_than_is_allowed(tmp_path: Path) -> None:
    """The second channel is 32 times smaller than the rest, and its reader 32 times larger."""
    scale = np.array([1, 1 / 1024, 1, 1], "f")
    text = "g (float[2,3,4,4] x) => (float y) { c = Conv (x, a) y = Conv (c, b) }"
    model = parse(
        text, a=numbers(C, 3, 1, 1) * scale.reshape(C, 1, 1, 1),
        b=numbers(5, C, 1, 1) / scale.reshape(1, C, 1, 1),
    )  # fmt: skip
    blind = equalized(model, tmp_path)
    assert blind.regions[0].least == 1 / 16
    moments = tmp_path / "m.json"
    ends = np.array([1.0, 1.0, 1.0, 1.0])

    def told(second: float) -> Path:
        high = ends.copy()
        high[1] = second
        entry = {
            "name": "c", "scope": "", "batch_norm": "n", "axis": 1, "mean": [0.0] * C,
            "deviation": [1.0] * C, "low": [0.0] * C, "high": high.tolist(), "assumes": [],
        }  # fmt: skip
        head = {"moments": 1, "model": "", "deviations": 6, "tensors": [entry]}
        moments.write_text(json.dumps(head))
        return moments

    small = equalized(model, tmp_path, moments_file=told(1 / 1024), growth=1.0)
    assert small.regions[0].least < 1 / 16
    large = equalized(model, tmp_path, moments_file=told(1.0), growth=2.0)
    assert large.regions[0].least >= 1 / 2


@pytest.mark.parametrize(
    "name", ["digits_resnet", "digits_mlp", "digits_autoencoder", "digits_repvgg"]
)
def test_a_trained_model_gives_the_same_bits(name: str, tmp_path: Path) -> None:
    folded, out = tmp_path / "f.onnx", tmp_path / "out.onnx"
    bnfold.optimize(SAMPLES / f"{name}.onnx", folded, verify="none")
    model, rng = onnx.load(folded), np.random.default_rng(0)
    uneven(model, rng)
    onnx.save(model, folded)
    result = bnfold.equalize(folded, out)
    worst = max(result.layers, key=lambda layer: layer.before)
    assert worst.after < worst.before / 2
    for one, other in zip(outputs(folded), outputs(out), strict=True):
        assert one.tobytes() == other.tobytes()


def uneven(model: ModelProto, rng: np.random.Generator) -> None:
    """Each region's channels by factors of their own, as folding leaves them."""
    index = Index(model)
    draft = Draft(index, Options())
    for _, region in list(regions(draft, index)):
        if isinstance(region, Region) and region.takers:
            region.rescale(draft, 2.0 ** rng.integers(-4, 5, region.channels))
    apply(index, Plan(tuple(draft.edits), (), draft.constants))


@pytest.mark.parametrize("seed", range(60))
def test_random_graphs_stay_the_same_function(seed: int, tmp_path: Path) -> None:
    random = Random(seed)
    common = ["conv", "conv", "unary", "branches"]
    names = random.choices([*common, *sorted(OPERATORS)], k=random.randint(3, 9))
    model = build(["conv", *names], seed)
    scales = "free" if seed % 2 else "power-of-two"
    result = equalized(model, tmp_path, scales=scales, verify="proof")
    if result.comparison is not None:
        assert result.comparison.certificate is not None
        assert result.comparison.certificate.verdict is Outcome.VALID


def test_the_command_shows_each_layer(tmp_path: Path) -> None:
    onnx.save(
        net("r = Relu (c) k = Conv (r, e) s = Sigmoid (k) y = Conv (s, b)"), tmp_path / "m.onnx"
    )
    result = invoke("equalize", tmp_path / "m.onnx", "-o", tmp_path / "o.onnx")
    assert result.exit_code == 0
    assert "scales moved in 1 region and verified" in result.output
    assert "Sigmoid at Sigmoid→s does not commute" in " ".join(result.output.split())
    result = invoke("equalize", tmp_path / "m.onnx", "-o", tmp_path / "o.onnx", "--json")
    told = json.loads(result.output)
    assert [layer["node"] for layer in told["layers"]] == ["Conv→c", "Conv→k", "Conv→y"]
    assert [region["values"] for region in told["regions"]] == [2, 0, 0]


def test_a_model_that_is_not_folded_is_said_to_be_better_folded_first(tmp_path: Path) -> None:
    result = invoke("equalize", SAMPLES / "digits_mlp.onnx", "-o", tmp_path / "o.onnx")
    assert "2 BatchNormalizations in the model: fold first, bnfold optimize" in result.output


def test_a_growth_below_one_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="growth"):
        equalized(net("y = Conv (c, b)"), tmp_path, growth=0.5)


def test_a_residual_sum_of_sixty_blocks_takes_one_scale(tmp_path: Path) -> None:
    """More makers and takers than one walk may have steps, each of them a step away."""
    uneven, even = UNEVEN.reshape(C, 1, 1, 1), np.sign(numbers(C, C, 1, 1)) + 2
    text, last = "s0 = Conv (x, a2)", "s0"
    for block in range(60):
        text += f" h{block} = Conv ({last}, u) g{block} = Relu (h{block})"
        text += f" k{block} = Conv (g{block}, d) s{block + 1} = Add ({last}, k{block})"
        last = f"s{block + 1}"
    model = parse(
        f"g (float[1,3,4,4] x) => (float y) {{ {text} y = Conv ({last}, b) }}",
        a2=W["a2"], b=W["b"], u=(even / uneven.reshape(1, C, 1, 1)).astype("f"),
        d=(even * uneven).astype("f"),
    )  # fmt: skip
    result = equalized(model, tmp_path, verify="proof")
    (first,) = [region for region in result.regions if region.node == "Conv→s0"]
    assert (first.values, first.refusal) == (121, None)
    assert first.largest > first.least


# --- with optimize, and what is known afterwards -------------------------------------------------

BLOCK = """
g (float[N,3,6,6] x) => (float[N,5,4,4] y) {
  [first] a = Conv (x, w1)
  [bn] n = BatchNormalization (a, s, b, m, v)
  r = Relu (n)
  [second] y = Conv (r, w2)
}"""


def block() -> None:
    spread = np.array([1, 32, 0.25, 8], "f")
    model = parse(
        BLOCK, w1=numbers(C, 3, 3, 3), w2=numbers(5, C, 1, 1), s=spread, b=spread, m=numbers(C),
        v=np.ones(C, "f"),
    )  # fmt: skip
    onnx.save(model, "model.onnx")


@pytest.mark.usefixtures("cwd")
def test_optimize_equalises_as_the_two_commands_do_one_after_the_other() -> None:
    block()
    result = bnfold.optimize(
        "model.onnx", "both.onnx", equalize="power-of-two", moments_file="both.json"
    )
    bnfold.optimize("model.onnx", "folded.onnx", moments_file="folded.json")
    apart = bnfold.equalize(
        "folded.onnx", "apart.onnx", moments_file="folded.json", moments_out="apart.json"
    )
    assert Path("both.onnx").read_bytes() == Path("apart.onnx").read_bytes()
    assert Path("both.onnx").read_bytes() != Path("folded.onnx").read_bytes()
    tensors = [json.loads(Path(f"{n}.json").read_text())["tensors"] for n in ("both", "apart")]
    assert tensors[0] == tensors[1]
    assert result.comparison is not None
    assert result.equalized is not None
    assert result.equalized.comparison is not None
    assert result.equalized.layers == apart.layers
    assert all(np.array_equal(a, b) for a, b in zip(*map(outputs, map(Path, (
        "folded.onnx", "both.onnx"))), strict=True))  # fmt: skip


@pytest.mark.usefixtures("cwd")
def test_moments_of_the_equalised_model_are_those_of_its_own_tensors() -> None:
    block()
    bnfold.optimize("model.onnx", "both.onnx", equalize="free", moments_file="both.json")
    known = {t["name"]: t for t in json.loads(Path("both.json").read_text())["tensors"]}
    made = known["n"]
    mean, deviation = (np.array(made[name]) for name in ("mean", "deviation"))
    scale = np.array([1, 32, 0.25, 8]) / mean  # β and γ are alike in this model
    np.testing.assert_allclose(deviation * scale, [1, 32, 0.25, 8], rtol=1e-4)
    assert scale.max() / scale.min() > 8


@pytest.mark.usefixtures("cwd")
def test_where_nothing_folds_optimize_equalises_all_the_same() -> None:
    onnx.save(net(CROSSED[0][0]), "model.onnx")
    done = invoke("optimize model.onnx --equalize")
    assert done.exit_code == 0, done.output
    assert "nothing to fold; scales moved in 1 region" in done.stdout
    assert "largest range / median" in done.stdout
    again = invoke("optimize model.folded.onnx -o again.onnx --equalize")
    assert "again.onnx is a copy of the original; no scale to move" in again.stdout


@pytest.mark.usefixtures("cwd")
def test_what_does_not_go_together() -> None:
    block()
    with pytest.raises(UsageError, match="one proof"):
        bnfold.optimize("model.onnx", equalize="free", proof_file="model.proof.json")
    with pytest.raises(UsageError, match="made of `moments_file`"):
        bnfold.equalize("model.onnx", moments_out="moments.json")
    assert sorted(path.name for path in Path().iterdir()) == ["model.onnx"]


@pytest.mark.usefixtures("cwd")
@pytest.mark.parametrize("level", ["proof", "run", "full"])
def test_what_was_equalised_can_be_verified_without_its_proof(level: bnfold.Level) -> None:
    """Against the original, which was folded on the way, and against the folded model."""
    block()
    bnfold.optimize("model.onnx", "folded.onnx", verify="none")
    bnfold.optimize("model.onnx", "both.onnx", verify="none", equalize="power-of-two")
    for before in ("model.onnx", "folded.onnx"):
        given = bnfold.RunOptions(counterexample="counterexample")
        found = bnfold.verify(before, "both.onnx", level=level, run_options=given)
        assert found.equal
        assert not Path("counterexample").exists()
        assert found.certificate is not None
        assert found.certificate.verdict is Outcome.VALID


def spoil(name: str, change: Any) -> None:
    model = onnx.load("both.onnx")
    tensor = next(t for t in model.graph.initializer if t.name == name)
    values = numpy_helper.to_array(tensor).copy()
    change(values)
    tensor.CopyFrom(numpy_helper.from_array(values, name))
    onnx.save(model, "spoiled.onnx")


def one_ulp(values: Array) -> None:
    values.flat[3] = np.nextafter(values.flat[3], np.float32(np.inf))


def one_channel(values: Array) -> None:
    values[0] *= 2


@pytest.mark.usefixtures("cwd")
@pytest.mark.parametrize("name", ["w1", "w2"])
@pytest.mark.parametrize("change", [one_ulp, one_channel])
def test_an_equalised_model_that_was_spoiled_is_not_proven(name: str, change: Any) -> None:
    block()
    bnfold.optimize("model.onnx", "both.onnx", verify="none", equalize="power-of-two")
    spoil(name, change)
    for before in ("model.onnx", "both.onnx"):
        try:
            found = bnfold.verify(before, "spoiled.onnx", level="proof")
        except bnfold.UndecidedError:
            continue
        assert not found.equal


@pytest.mark.usefixtures("cwd")
@pytest.mark.parametrize(
    ("text", "tensor"),
    [
        ("k = Concat <axis = 1> (r, r) l = Slice (k, from, to, one) y = Conv (l, w4)", "l"),
        ("e = Add (r, three) f = Relu (e) y = Conv (f, w2)", "f"),
        ("q, h = Split <axis = 1> (r) y = Conv (q, half)", "q"),
        ("q = Gather <axis = 1> (r, order) y = Conv (q, half)", "q"),
    ],
)
def test_moments_follow_scales_beyond_where_they_were_moved(text: str, tensor: str) -> None:
    more = {
        "from": np.array([2]), "to": np.array([6]), "one": np.array([1]), "three": np.array(3, "f"),
        "order": np.array([3, 0]), "half": numbers(5, 2, 1, 1), "w2": numbers(5, C, 1, 1),
        "w4": numbers(5, C, 1, 1),
    }  # fmt: skip
    spread = np.array([1, 32, 0.25, 8], "f")
    model = parse(
        "g (float[1,3,6,6] x) => (float y) { a = Conv (x, w1)"
        f" n = BatchNormalization (a, s, b, m, v) r = Relu (n) {text} }}",
        w1=numbers(C, 3, 3, 3), s=spread, b=spread, m=numbers(C), v=np.ones(C, "f"),
        **{name: value for name, value in more.items() if f"{name})" in text or f"{name}," in text},
    )  # fmt: skip
    onnx.save(model, "model.onnx")
    result = bnfold.optimize("model.onnx", "folded.onnx", moments_file="folded.json")
    bnfold.equalize(result.model, "e.onnx", moments_file="folded.json", moments_out="e.json")
    highs, largest = [], []
    for name in ("folded", "e"):
        found = {t["name"]: t for t in json.loads(Path(f"{name}.json").read_text())["tensors"]}
        highs.append(np.array(found[tensor]["high"]))
        exposed = onnx.load(f"{name}.onnx")
        exposed.graph.output.add(name=tensor)
        onnx.save(exposed, "exposed.onnx")
        largest.append(np.abs(outputs(Path("exposed.onnx"))[-1]).max(axis=(0, 2, 3)))
    assert not np.array_equal(*largest)
    np.testing.assert_allclose(highs[1] / highs[0], largest[1] / largest[0], rtol=1e-5)


@pytest.mark.usefixtures("cwd")
def test_padding_with_minus_infinity_is_crossed_and_proven() -> None:
    model = parse(
        "g (float[1,3,6,6] x) => (float y) { a = Conv (x, w1) p = Pad (a, pads, low)"
        " k = MaxPool <kernel_shape = [2,2]> (p) y = Conv (k, w2) }",
        w1=numbers(C, 3, 3, 3) * UNEVEN.reshape(C, 1, 1, 1), w2=numbers(5, C, 1, 1),
        pads=MORE["pads"], low=np.array(-np.inf, "f"),
    )  # fmt: skip
    onnx.save(model, "model.onnx")
    result = bnfold.equalize("model.onnx", verify="proof")
    assert result.regions[0].least != result.regions[0].largest
