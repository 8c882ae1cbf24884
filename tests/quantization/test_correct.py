"""Biases of quantised models, from which what rounding the weights adds to means is taken."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import ModelProto, numpy_helper
from onnxruntime.quantization import QuantFormat, QuantType, quantize_static

import bnfold
from bnfold import CorrectResult, Dataset, UsageError
from tests.quantization.test_int8 import Calibration
from tests.support import Array, invoke, numbers, parse

pytestmark = pytest.mark.usefixtures("cwd")

C = 4
MEANS = np.array([1, -0.5, 2, 3], "f")  # of the channels of x
STEP = 0.047  # of weights, coarse enough to be seen
BIAS_STEP = 2.0**-12

LAYERS: dict[str, tuple[str, tuple[int, ...]]] = {
    "padded": ("Conv <pads = [1,1,1,1], strides = [2,2]> (x, w, b)", (3, C, 3, 3)),
    "depthwise": ("Conv <group = 4, pads = [1,1,1,1]> (x, w, b)", (C, 1, 3, 3)),
    "grouped": ("Conv <group = 2, dilations = [2,2]> (x, w, b)", (6, 2, 2, 2)),
    "transposed": ("ConvTranspose <strides = [2,2], pads = [1,1,1,1]> (x, w, b)", (C, 3, 3, 3)),
    "behind a Pad": ("Conv (p, w, b)", (3, C, 3, 3)),
}
ROWS: dict[str, tuple[str, tuple[int, ...]]] = {
    "gemm": ("Gemm (x, w, b)", (C, 3)),
    "turned": ("Gemm <transB = 1, alpha = 0.5, beta = 2.0> (x, w, b)", (3, C)),
}
PADS = np.array([0, 0, 1, 1, 0, 0, 1, 1])


def outputs_of(call: str, shape: tuple[int, ...]) -> int:
    return shape[1] if "Transpose" in call or call.startswith("Gemm (") else shape[0]


def pair(
    call: str, shape: tuple[int, ...], *, step: Array | float = STEP, axis: int = 0,
    float_bias: bool = False, text: str = "",
) -> tuple[ModelProto, ModelProto]:  # fmt: skip
    """A layer in float, and as QDQ has it; only weights are quantised, so that nothing else is."""
    size = "[N,4]" if len(shape) == 2 else "[N,4,6,6]"
    count = outputs_of(call, shape)
    weight, bias = numbers(*shape) * np.float32(0.1), numbers(count, seed=1)
    steps = np.asarray(step, np.float32)
    wide = [1] * len(shape)
    wide[axis] = -1
    integers = np.rint(weight / (steps.reshape(wide) if steps.ndim else steps)).astype(np.int8)
    pad = "p = Pad (x, pads)" if "(p," in call else ""
    more: dict[str, Any] = {"pads": PADS} if pad else {}
    head = f"g (float{size} x) => (float y) {{ {pad}"
    original = parse(f"{head} [layer] y = {call} }}", w=weight, b=bias, **more)
    made = f"w = DequantizeLinear <axis = {axis}> (wq, ws, wz)"
    tensors = more | {"wq": integers, "ws": steps, "wz": np.zeros(steps.shape, np.int8)}
    if float_bias:
        tensors["b"] = bias
    else:
        made += " b = DequantizeLinear (bq, bs)"
        tensors["bq"] = np.rint(bias / BIAS_STEP).astype(np.int32)
        tensors["bs"] = np.array(BIAS_STEP, "f")
    quantized = parse(f"{head} {made} [layer] y = {call} {text} }}", **tensors)
    return original, quantized


def data(*shape: int) -> Dataset:
    """Samples whose channels are constant: their windows have just these means."""
    off = np.array([-0.25, 0.25, 0.5, -0.5], "f")
    rows = MEANS + off[:, None]
    np.savez("data.npz", x=np.broadcast_to(rows.reshape(4, C, *[1] * len(shape)), (4, C, *shape)))
    return Dataset("data.npz")


def mean_output(path: str, size: tuple[int, ...]) -> Array:
    options = onnxruntime.SessionOptions()  # with optimisations it would round x as well
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = onnxruntime.InferenceSession(path, options)
    x = np.load("data.npz")["x"]
    y = np.asarray(session.run(None, {"x": x})[0], np.float64)
    return np.asarray(y.mean(axis=(0, *range(2, y.ndim))))


def corrected(original: ModelProto, quantized: ModelProto, **how: Any) -> CorrectResult:
    onnx.save(original, "float.onnx")
    onnx.save(quantized, "int8.onnx")
    return bnfold.correct("float.onnx", "int8.onnx", **(how or {"data": data(6, 6)}))


@pytest.mark.parametrize("name", LAYERS | ROWS)
@pytest.mark.parametrize("bias", ["int32", "float"])
def test_the_mean_of_a_layer_is_again_what_it_was(name: str, bias: str) -> None:
    call, shape = (LAYERS | ROWS)[name]
    size = () if name in ROWS else (6, 6)
    original, quantized = pair(call, shape, float_bias=bias == "float")
    result = corrected(original, quantized, data=data(*size))
    assert [layer.node for layer in result.layers] == ["layer"]
    assert not result.left
    wanted = mean_output("float.onnx", size)
    before, after = (mean_output(p, size) - wanted for p in ("int8.onnx", str(result.model)))
    tolerance = 1e-5 if bias == "float" else 2 * BIAS_STEP
    assert np.abs(before).max() > 20 * tolerance
    assert np.abs(after).max() < tolerance
    assert result.layers[0].largest == pytest.approx(np.abs(before).max(), abs=2 * BIAS_STEP)


def test_steps_of_their_own_for_each_channel() -> None:
    call, shape = LAYERS["padded"]
    original, quantized = pair(call, shape, step=np.array([0.047, 0.031, 0.053]))
    result = corrected(original, quantized)
    off = mean_output(str(result.model), (6, 6)) - mean_output("float.onnx", (6, 6))
    assert np.abs(off).max() < 2 * BIAS_STEP


def test_nothing_but_the_bias_changes() -> None:
    original, quantized = pair(*LAYERS["padded"])
    result = corrected(original, quantized)
    model = onnx.load(result.model)
    (bias,) = (t for t in model.graph.initializer if t.name == "bq")
    assert list(bias.dims) == [3]
    (old,) = (t for t in quantized.graph.initializer if t.name == "bq")
    moved = numpy_helper.to_array(bias).astype(int) - numpy_helper.to_array(old)
    assert np.abs(moved).max() == result.layers[0].steps > 0
    bias.CopyFrom(old)
    assert model == quantized


# --- what onnxruntime's quantiser makes ----------------------------------------------------------

NET = """
g (float[N,3,8,8] x) => (float y) {
  [first] a = Conv <pads = [1,1,1,1]> (x, w1, b1)
  [bn] n = BatchNormalization (a, s, b, m, v)
  r = Relu (n)
  [depthwise] d = Conv <group = 8, pads = [1,1,1,1], strides = [2,2]> (r, w2, b2)
  f = GlobalAveragePool (d)
  k = Flatten (f)
  [last] y = Gemm (k, w3, b3)
}"""


def quantised(form: QuantFormat, *, per_channel: bool) -> Array:
    """int8.onnx, of float.onnx, with moments.json; and the data that it was calibrated on."""
    rng = np.random.default_rng(0)
    model = parse(
        NET, w1=numbers(8, 3, 3, 3), b1=numbers(8), w2=numbers(8, 1, 3, 3), b2=numbers(8),
        w3=numbers(8, 5), b3=numbers(5), s=np.ones(8, "f"), b=numbers(8), m=numbers(8),
        v=np.full(8, 20, "f"),
    )  # fmt: skip
    onnx.save(model, "model.onnx")
    bnfold.optimize("model.onnx", "float.onnx", verify="none", moments_file="moments.json")
    x = rng.standard_normal((16, 3, 8, 8), np.float32) + 1
    quantize_static(
        "float.onnx", "int8.onnx", Calibration(x, "x"), quant_format=form, per_channel=per_channel,
        activation_type=QuantType.QUInt8, weight_type=QuantType.QInt8, reduce_range=True,
    )  # fmt: skip
    np.savez("data.npz", x=x)
    return x


@pytest.mark.parametrize("form", QuantFormat)
@pytest.mark.parametrize("per_channel", [False, True])
def test_both_forms_are_understood(form: QuantFormat, per_channel: bool) -> None:
    quantised(form, per_channel=per_channel)
    result = bnfold.correct("float.onnx", "int8.onnx", data=Dataset("data.npz"))
    assert [layer.node for layer in result.layers] == ["first", "depthwise", "last"]
    assert not result.left
    onnxruntime.InferenceSession(str(result.model))


def test_moments_know_what_stands_behind_a_batch_norm() -> None:
    quantised(QuantFormat.QDQ, per_channel=False)
    by_data = bnfold.correct("float.onnx", "int8.onnx", data=Dataset("data.npz"))
    result = bnfold.correct("float.onnx", "int8.onnx", moments_file="moments.json")
    assert [layer.node for layer in result.layers] == ["depthwise", "last"]
    assert [(one.node, one.sentence) for one in result.left] == [
        ("first", "nothing is known of the mean of x")
    ]
    for told, measured in zip(result.layers, by_data.layers[1:], strict=True):
        assert told.rms == pytest.approx(measured.rms, rel=1)


# --- what is left --------------------------------------------------------------------------------


def left(original: ModelProto, quantized: ModelProto, **how: Any) -> str:
    result = corrected(original, quantized, **how)
    assert not result.layers
    assert Path(result.model).read_bytes() == Path("int8.onnx").read_bytes()
    return result.left[0].sentence


def test_a_layer_without_a_bias_would_need_a_new_node() -> None:
    original, quantized = pair(*LAYERS["padded"])
    for model in (original, quantized):
        (layer,) = (n for n in model.graph.node if n.name == "layer")
        del layer.input[2]
    del quantized.graph.node[1]
    assert "has no bias, and a new one would be a new node" in left(original, quantized)


def test_a_bias_that_others_read() -> None:
    original, quantized = pair(*LAYERS["padded"], text="z = DequantizeLinear (bq, bs)")
    assert left(original, quantized).startswith("others read the bias")
    original, quantized = pair(*LAYERS["padded"], text="z = Neg (b)")
    assert left(original, quantized).startswith("others read the bias")


def test_a_bias_that_would_overflow() -> None:
    original, quantized = pair(*LAYERS["padded"])
    for name, value in (("bs", np.array(1e-12, "f")), ("bq", np.zeros(3, np.int32))):
        (tensor,) = (t for t in quantized.graph.initializer if t.name == name)
        tensor.CopyFrom(numpy_helper.from_array(value, name))
    (bias,) = (t for t in original.graph.initializer if t.name == "b")
    bias.CopyFrom(numpy_helper.from_array(np.zeros(3, "f"), "b"))
    assert "would not fit into 32 bits" in left(original, quantized)


def test_what_was_corrected_is_not_corrected_again() -> None:
    result = corrected(*pair(*LAYERS["padded"]))
    again = bnfold.correct("float.onnx", result.model, "again.onnx", data=Dataset("data.npz"))
    assert not again.layers
    assert "no rounding of the float one" in again.left[0].sentence
    assert Path("again.onnx").read_bytes() == Path(result.model).read_bytes()


def test_no_mean_is_asked_for_where_no_bias_could_take_it() -> None:
    """The vector that this MatMul reads has no channels to average over."""
    text = "g (float[N,4] x) => (float y) { v = ReduceMax <keepdims = 0, axes = [0]> (x) DQ" + (
        "[layer] y = MatMul (v, w) [last] z = Gemm (x, h, b) }"
    )
    weight, bias = numbers(4, 3) * np.float32(0.1), numbers(3)
    original = parse(text.replace("DQ", ""), w=weight, h=weight, b=bias)
    made = "w = DequantizeLinear (wq, ws, wz) h = DequantizeLinear (wq, ws, wz)"
    integers = np.rint(weight / np.float32(STEP)).astype(np.int8)
    quantized = parse(
        text.replace("DQ", made), wq=integers, ws=np.array(STEP, "f"), wz=np.array(0, np.int8),
        b=bias,
    )  # fmt: skip
    result = corrected(original, quantized, data=data())
    assert [layer.node for layer in result.layers] == ["last"]
    assert [one.node for one in result.left] == ["layer"]


@pytest.mark.parametrize(
    ("attributes", "size", "said"),
    [
        ('auto_pad = "SAME_UPPER", strides = [2,2]', "[N,4,6,6]", "follows from its sizes"),
        ("pads = [1,1,1,1]", "[N,4,H,W]", "depends on sizes that are not known"),
    ],
)
def test_a_padding_that_is_not_known(attributes: str, size: str, said: str) -> None:
    original, quantized = pair(f"Conv <{attributes}> (x, w, b)", (3, C, 3, 3))
    for model in (original, quantized):
        dims = model.graph.input[0].type.tensor_type.shape.dim
        for dim, value in zip(dims, size[1:-1].split(","), strict=True):
            if value.isdigit():
                dim.dim_value = int(value)
            else:
                dim.dim_param = value
    assert said in left(original, quantized)


@pytest.mark.parametrize("output", ["data.npz", "moments.json", "float.onnx"])
def test_what_is_read_is_not_overwritten(output: str) -> None:
    quantised(QuantFormat.QDQ, per_channel=False)
    how: dict[str, Any] = {"moments_file": "moments.json"} if output == "moments.json" else {}
    before = Path(output).read_bytes()
    with pytest.raises(UsageError, match="is a file that is read"):
        bnfold.correct("float.onnx", "int8.onnx", output, **(how or {"data": Dataset("data.npz")}))
    assert Path(output).read_bytes() == before


def test_a_new_model_may_stand_among_the_data_and_replaces_none_of_it() -> None:
    original, quantized = pair(*LAYERS["padded"])
    samples = data(6, 6)
    Path("data").mkdir()
    shutil.copy(samples.path, "data")
    among = Dataset("data")
    result = corrected(original, quantized, path_out="data/int8.onnx", data=among)
    assert len(result.layers) == 1
    with pytest.raises(UsageError, match="is the data itself"):
        bnfold.correct("float.onnx", "int8.onnx", "data/data.npz", data=among)


def test_a_model_that_was_not_quantised_has_no_layer_to_correct() -> None:
    original, _ = pair(*LAYERS["padded"])
    with pytest.raises(UsageError, match="no layer with a weight of integers"):
        corrected(original, original)


def other_weight(quantized: ModelProto) -> None:
    (weight,) = (t for t in quantized.graph.initializer if t.name == "wq")
    values = numpy_helper.to_array(weight).copy()
    values.flat[0] += 2
    weight.CopyFrom(numpy_helper.from_array(values, "wq"))


def other_stride(quantized: ModelProto) -> None:
    layer = next(n for n in quantized.graph.node if n.name == "layer")
    next(a for a in layer.attribute if a.name == "strides").ints[:] = [1, 1]


def other_name(quantized: ModelProto) -> None:
    layer = next(n for n in quantized.graph.node if n.name == "layer")
    layer.name, layer.output[0] = "conv", "z"
    quantized.graph.output[0].name = "z"


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (other_weight, "more than a step away"), (other_stride, "another operator"),
        (other_name, "no quantised layer goes by the name"),
    ],
)  # fmt: skip
def test_what_was_made_of_another_model(change: Any, said: str) -> None:
    original, quantized = pair(*LAYERS["padded"])
    change(quantized)
    with pytest.raises(UsageError, match="no layer .* was recognised.*" + said):
        corrected(original, quantized)


@pytest.mark.parametrize("how", [{}, {"moments_file": "m.json", "data": Dataset("data.npz")}])
def test_the_means_come_from_one_place(how: Any) -> None:
    with pytest.raises(UsageError, match="one of two places"):
        bnfold.correct("float.onnx", "int8.onnx", **how)


# --- the command ---------------------------------------------------------------------------------


def test_the_command_tells_by_how_much_means_were_off() -> None:
    result = corrected(*pair(*LAYERS["padded"]))
    done = invoke("correct float.onnx int8.onnx --inputs data.npz")
    assert done.exit_code == 0
    assert "biases of 1 layer corrected" in done.stdout
    assert f"{result.layers[0].largest:.3g}" in done.stdout
    told = json.loads(invoke("correct float.onnx int8.onnx --inputs data.npz --json").stdout)
    assert told["layers"][0]["steps"] == result.layers[0].steps
    done = invoke("correct float.onnx int8.onnx")
    assert done.exit_code == 2
    assert "either --moments or --inputs" in done.stderr
