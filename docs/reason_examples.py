"""An example for each reason: a graph that gets it. The documentation shows them, a test runs them.

The graphs are in ONNX's text syntax. Their initializers are s, b, m and v, the parameters of a
BatchNormalization of as many channels as it needs, and those that the example names.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import numpy as np
import onnx
from onnx import ModelProto, helper, numpy_helper

from bnfold import Options, Reason

Shape = tuple[int, ...]


@dataclass(frozen=True)
class Example:
    """One graph. `tensors` are initializers by name, `change` what text cannot say.

    `frozen`: the reason is one of `bnfold freeze --assume-inference`, `measured`: one of
    `bnfold stats`.
    """

    text: str
    tensors: Mapping[str, Shape] = field(default_factory=dict)
    channels: int = 4
    opset: int = 17
    options: Options = field(default_factory=Options)
    words: str = ""
    dtypes: Mapping[str, str] = field(default_factory=dict)
    change: Callable[[ModelProto], object] | None = None
    frozen: bool = False
    measured: bool = False

    def model(self) -> ModelProto:
        """The model, with numbers in its tensors."""
        text = self.text.strip()
        header = (
            "" if text.startswith("<") else f'<ir_version: 8, opset_import: ["": {self.opset}]>'
        )
        model = onnx.parser.parse_model(header + text)
        shapes = dict.fromkeys("sbmv", (self.channels,)) | dict(self.tensors)
        read = set(text.replace(",", " ").replace(")", " ").replace("(", " ").split())
        for place, (name, shape) in enumerate(shapes.items()):
            if name not in read:
                continue
            values = np.random.default_rng(place).uniform(0.5, 1.5, shape)
            array = values.astype(self.dtypes.get(name, "float32"))
            model.graph.initializer.append(numpy_helper.from_array(array, name))
        if self.change is not None:
            self.change(model)
        return model


def _after(middle: str, shape: str = "1,4,6,6") -> str:
    return f"g (float[1,4,6,6] x) => (float[{shape}] y) {{\n{middle}\n}}"


CONV = "  [conv] c = Conv (x, w)\n"
NORM = "  [norm] y = BatchNormalization (c, s, b, m, v)"
SITE = _after(CONV + NORM)
W: Mapping[str, Shape] = {"w": (4, 4, 1, 1)}
K: Mapping[str, Shape] = {"w": (4, 4, 3, 3)}


def _negative(name: str) -> Callable[[ModelProto], None]:
    def change(model: ModelProto) -> None:
        for tensor in model.graph.initializer:
            if tensor.name == name:
                array = -numpy_helper.to_array(tensor)
                tensor.CopyFrom(numpy_helper.from_array(array, name))

    return change


def _set(name: str, value: float) -> Callable[[ModelProto], None]:
    def change(model: ModelProto) -> None:
        for tensor in model.graph.initializer:
            if tensor.name == name:
                array = np.full_like(numpy_helper.to_array(tensor), value)
                tensor.CopyFrom(numpy_helper.from_array(array, name))

    return change


DEAD = "With one s = 0: else the scale goes down, and the shift stays as an Add."


def _dead_channel(model: ModelProto) -> None:
    for tensor in model.graph.initializer:
        if tensor.name == "s":
            array = numpy_helper.to_array(tensor).copy()
            array[0] = 0
            tensor.CopyFrom(numpy_helper.from_array(array, "s"))


def _sparse(model: ModelProto) -> None:
    tensor = next(t for t in model.graph.initializer if t.name == "m")
    model.graph.initializer.remove(tensor)
    values = numpy_helper.from_array(np.array([5], np.float32), "m")
    indices = numpy_helper.from_array(np.array([1], np.int64), "i")
    model.graph.sparse_initializer.append(helper.make_sparse_tensor(values, indices, [4]))


def _annotate(model: ModelProto) -> None:
    annotation = model.graph.quantization_annotation.add(tensor_name="c")
    annotation.quant_parameter_tensor_names.add(key="SCALE_TENSOR", value="s")


def _overridable(model: ModelProto) -> None:
    model.graph.input.append(helper.make_tensor_value_info("w", 1, [4, 4, 1, 1]))


def _without_shape(model: ModelProto) -> None:
    model.graph.input[0].type.tensor_type.ClearField("shape")


def _two_scales(model: ModelProto) -> None:
    array = np.array([1, 2, 3, 4], np.float32)
    tensor = next(t for t in model.graph.initializer if t.name == "s")
    tensor.CopyFrom(numpy_helper.from_array(array, "s"))


FUNCTION = """
<ir_version: 8, opset_import: ["": 17, "own": 1]>
g (float[1,4,6,6] x) => (float[1,4,6,6] y) {
  z = own.Block <eps = 1.0> (x)
  y = own.Block <eps = 1.0> (z)
}
<domain: "own", opset_import: ["": 17]>
Block <eps> (x) => (y) {
  w = Constant <value = float[4,1,1,1] {1.0, 2.0, 3.0, 4.0}> ()
  k = Constant <value_floats = [1.0, 2.0, 3.0, 4.0]> ()
  RELUS
  c = Conv <group = 4> (LAST, w)
  [norm] y = BatchNormalization <epsilon : float = @eps> (c, k, k, k, k)
}"""
_RELUS = " ".join(f"r{n} = Relu ({f'r{n - 1}' if n else 'x'})" for n in range(8))
BLOCKS = "\n  ".join(
    f"c{n} = Conv <group = 4> ({f'y{n - 1}' if n else 'LAST'}, w) "
    f"y{n} = BatchNormalization (c{n}, k, k, k, k)"
    for n in range(3)
)
TWO_CALLS = """
<ir_version: 8, opset_import: ["": 17, "own": 1]>
g (float[1,4,6,6] x) => (float[1,4,6,6] y) {
  z = own.Block (x, w)
  y = own.Block (z, w)
}
<domain: "own", opset_import: ["": 17]>
Block (x, w) => (y) {
  k = Constant <value_floats = [1.0, 2.0, 3.0, 4.0]> ()
  RELUS
  c = Conv (LAST, w)
  [norm] y = BatchNormalization (c, k, k, k, k)
}"""


def _long(text: str) -> str:
    return text.replace("RELUS", _RELUS).replace("LAST", "r7")


EXAMPLES: dict[Reason, Example] = {
    Reason.TRAINING_MODE: Example(
        _after(CONV + "  [norm] y = BatchNormalization <training_mode = 1> (c, s, b, m, v)"), W
    ),
    Reason.TRAINING_OUTPUTS: Example(
        _after(CONV + "  [norm] y, q, r, t, u = BatchNormalization (c, s, b, m, v)"), W, opset=13
    ),
    Reason.IS_TEST_ZERO: Example(SITE, W, opset=6),
    Reason.DUMMY_STATISTICS: Example(
        _after(CONV + "  [norm] y = BatchNormalization <training_mode = 1> (c, s, b, m, v)"), W,
        words="With m = 0 and v = 1, in bnfold freeze --assume-inference.", frozen=True,
        change=lambda m: (_set("m", 0)(m), _set("v", 1)(m)),
    ),
    Reason.OLD_BROADCASTING: Example(
        _after(CONV + "  [norm] y = BatchNormalization <is_test = 1> (c, s, b, m, v)"), W, opset=6,
        words="In bnfold freeze.", frozen=True,
    ),
    Reason.SPATIAL_ZERO: Example(
        _after(CONV + "  [norm] y = BatchNormalization <spatial = 0> (c, s, b, m, v)"), W, opset=8
    ),
    Reason.LEFT_OUT: Example(SITE, W, options=Options(skip=("norm",)), words="With --skip norm."),
    Reason.ATTRIBUTE_FROM_CALL: Example(
        _long(FUNCTION), words="Inlining a function that is as long as this would make the model "
        "longer.",
    ),
    Reason.MALFORMED: Example(_after(CONV + "  [norm] y = BatchNormalization (c, s, b, m)"), W),
    Reason.COMPUTED: Example(
        "g (float[1,4,6,6] x, float[4,4,1,1] w) => (float[1,4,6,6] y) {\n" + CONV + NORM + "\n}"
    ),
    Reason.OVERRIDABLE: Example(
        SITE, W, words="With w listed among the inputs of the graph.", change=_overridable
    ),
    Reason.FUNCTION_ARGUMENT: Example(
        _long(TWO_CALLS), W, words="Inlining both calls would make the model longer."
    ),
    Reason.SPARSE: Example(SITE, W, words="With m as a sparse initializer.", change=_sparse),
    Reason.DTYPE: Example(
        "g (int32[1,4] x) => (int32[1,4] y) {\n  [norm] y = BatchNormalization (x, s, b, m, v)\n}",
        dtypes=dict.fromkeys("sbmv", "int32"), words="With int32 parameters.",
    ),
    Reason.SHAPE_MISMATCH: Example(SITE, {**W, "s": (3,)}, words="With three numbers in s."),
    Reason.NOT_FINITE: Example(SITE, W, words="With NaN in m.", change=_set("m", np.nan)),
    Reason.VARIANCE_NOT_POSITIVE: Example(SITE, W, words="With v = −1.", change=_set("v", -1)),
    Reason.OVERFLOW: Example(SITE, W, words="With w = 10³⁰ and s = 10¹⁰.",
                             change=lambda m: (_set("w", 1e30)(m), _set("s", 1e10)(m))),
    Reason.UNDERFLOW: Example(SITE, W, words="With w = 10⁻³⁰, s = 10⁻²⁰, b = 0.",
                              change=lambda m: (_set("w", 1e-30)(m), _set("s", 1e-20)(m),
                                                _set("b", 0.0)(m), _set("m", 0.0)(m))),
    Reason.QUANTIZED: Example(
        _after("  w = DequantizeLinear (q, k, z)\n" + CONV + NORM),
        {"q": (4, 4, 1, 1), "k": (), "z": ()}, opset=12, dtypes={"q": "int8", "z": "int8"},
        words="Before opset 13 a scale is one number.", change=_two_scales,
    ),
    Reason.ANOTHER_READER: Example(
        _after("  [conv] c = Conv (x, w)\n  [norm] d = BatchNormalization (c, s, b, m, v)\n"
               "  [add] y = Add (c, d)"), W,
    ),
    Reason.GRAPH_OUTPUT: Example(
        "g (float[1,4,6,6] x) => (float[1,4,6,6] y, float[1,4,6,6] c) {\n" + CONV + NORM + "\n}", W
    ),
    Reason.RESULT: Example(
        "g (float[1,4,6,6] x) => (float[1,4,6,6] y, float[1,4,6,6] c) {\n" + CONV + NORM + "\n}", W,
        words="It does not go up because c is read elsewhere, and not down because of this.",
    ),
    Reason.CAPTURED: Example(
        "g (float[1,4,6,6] x, bool k) => (float[1,4,6,6] y, float[1,4,6,6] z) {\n" + CONV + NORM
        + "\n  z = If (k) <\n    then_branch = t () => (p) { p = Relu (c) },\n"
        "    else_branch = e () => (q) { q = Relu (x) }>\n}", W,
    ),
    Reason.ANNOTATED: Example(
        SITE, W, words="With a quantization_annotation of c.", change=_annotate
    ),
    Reason.NO_LINEAR_PRODUCER: Example(_after("  [norm] y = BatchNormalization (x, s, b, m, v)")),
    Reason.CHANNEL_AXIS: Example(
        "g (float[1,4,4] x) => (float[1,4,4] y) {\n  [fc] c = MatMul (x, w)\n" + NORM + "\n}",
        {"w": (4, 4)}, words="MatMul has its channels on the last axis, BatchNormalization on 1.",
    ),
    Reason.AXIS_LOST: Example(
        "g (float[1,4,2,2] x) => (float[1,16] y) {\n" + CONV + "  f = Flatten (c)\n"
        "  [norm] y = BatchNormalization (f, s, b, m, v)\n}", W, channels=16,
    ),
    Reason.NEGATIVE_SCALE: Example(
        _after(CONV + "  [relu] r = Relu (c)\n  [norm] y = BatchNormalization (r, s, b, m, v)"), W,
        words="With s < 0.", change=_negative("s"),
    ),
    Reason.SHIFT: Example(
        _after(CONV + "  [relu] r = Relu (c)\n  [norm] n = BatchNormalization (r, s, b, m, v)\n"
               "  [exp] y = Exp (n)"), W,
        words="With x of unknown rank: else the scale goes up, and the shift stays as an Add.",
        change=_without_shape,
    ),
    Reason.ZERO_PADDING: Example(
        _after("  [norm] c = BatchNormalization (x, s, b, m, v)\n"
               "  [conv] y = Conv <pads = [1, 1, 1, 1]> (c, w)"), K,
        words=DEAD, change=_dead_channel,
    ),
    Reason.BORDER: Example(
        _after("  [norm] c = BatchNormalization (x, s, b, m, v)\n"
               "  [up] y = ConvTranspose (c, w)", "1,4,8,8"), K,
        words=DEAD, change=_dead_channel,
    ),
    Reason.RUN_TIME_WEIGHT: Example(
        "g (float[4,4,2,2] x, float[1,4,6,6] z) => (float[1,4,5,5] y) {\n"
        "  [norm] c = BatchNormalization (x, s, b, m, v)\n  [conv] y = Conv (z, c)\n}",
    ),
    Reason.NO_PLACE_FOR_SHIFT: Example(
        "g (float[2,5,3] x) => (float[2,5,4] y) {\n  [fc] c = MatMul (x, w)\n"
        "  [sub] y = Sub (k, c)\n}", {"w": (3, 4), "k": (4,)},
    ),
    Reason.NOT_TRANSPARENT: Example(
        "g (float[1,4,6,6] x) => (float16[1,4,6,6] y) {\n" + CONV
        + "  [cast] d = Cast <to = 10> (c)\n  [norm] y = BatchNormalization (d, s, b, m, v)\n}", W,
        dtypes=dict.fromkeys("sbmv", "float16"),
    ),
    Reason.NARROWER: Example(
        "g (float16[1,4,6,6] x) => (float[1,4,6,6] y) {\n" + CONV + "  [cast] d = Cast <to = 1> (c)"
        "\n  [norm] y = BatchNormalization (d, s, b, m, v)\n}", W, dtypes={"w": "float16"},
    ),
    Reason.NOT_EVALUATED: Example(
        _after("  u = Softplus (w)\n  [conv] c = Conv (x, u)\n"
               "  [norm] y = BatchNormalization (c, s, b, m, v)"), W,
    ),
    Reason.SHARED_WEIGHT: Example(
        "g (int64[3] i) => (float[3,4] y, float[9000,4] z) {\n  [table] e = Gather (w, i)\n"
        "  [scale] y = Mul (e, s)\n  z = Tanh (w)\n}", {"w": (9000, 4)},
    ),
    Reason.INSTANCE_NORM: Example(
        "g (float[2,4,6,6] x) => (float[2,4,6,6] y) {\n  f = Reshape (x, merged)\n"
        "  [norm] n, k, l = BatchNormalization <training_mode = 1> (f, s, b, m, v)\n"
        "  y = Reshape (n, apart)\n}", channels=8, change=lambda m: m.graph.initializer.extend([
            numpy_helper.from_array(np.array([1, 8, 6, 6]), "merged"),
            numpy_helper.from_array(np.array([2, 4, 6, 6]), "apart"),
        ]),
    ),
    Reason.OTHER_GRAPH: Example(
        "g (float[1,4,6,6] x, int64 count, bool yes) => (float[1,4,6,6] y) {\n"
        "  y = Loop (count, yes, x) <body = b (int64 i, bool c, float[1,4,6,6] h) =>"
        " (bool d, float[1,4,6,6] k) {\n    d = Identity (c)\n    k = If (c) <\n"
        "      then_branch = t () => (float[1,4,6,6] p) {\n"
        "        [norm] p = BatchNormalization (h, s, b, m, v)\n      },\n"
        "      else_branch = e () => (float[1,4,6,6] r) { r = Relu (h) }\n    >\n  }>\n}",
        words="In bnfold stats.", measured=True,
    ),
    Reason.ROUNDING: Example(
        _after("  q = QuantizeLinear (x, k, z)\n  [dq] d = DequantizeLinear (q, k, z)\n"
               "  [norm] n = BatchNormalization (d, s, b, m, v)\n"
               "  [q2] p = QuantizeLinear (n, k, z)\n  y = DequantizeLinear (p, k, z)"),
        {"k": (), "z": ()}, dtypes={"z": "int8"},
    ),
    Reason.OTHER_BRANCH: Example(
        "g (float[1,4,6,6] x, float[1,4,6,6] z) => (float[1,4,6,6] y) {\n"
        "  [norm] n = BatchNormalization (x, s, b, m, v)\n  [add] a = Add (n, z)\n"
        "  [conv] y = Conv (a, w)\n}", W,
    ),
    Reason.BRANCHES: Example(
        "g (float[1,4,6,6] x) => (float[1,4,6,6] y, float[1,4,6,6] d) {\n"
        "  [one] c = Conv (x, w)\n  [two] d = Conv (x, k)\n  [join] y = Add (c, d)\n}",
        {**W, "k": (4, 4, 1, 1)}, options=Options(merge_branches=True),
        words="With --merge-branches.",
    ),
    Reason.TOO_FAR: Example(
        SITE, W, words="With 1,500 Identities between the two.",
        change=lambda m: _stretch(m),
    ),
    Reason.SHADOWED: Example(
        "g (float[1,4,6,6] x, bool k) => (float[1,4,6,6] y, float[1,4,6,6] z) {\n" + CONV
        + "  z = If (k) <\n    then_branch = t () => (p) { y = Relu (x) p = Neg (y) },\n"
        "    else_branch = e () => (q) { q = Relu (x) }>\n" + NORM + "\n}", W,
        words="The y in the body is another one.",
    ),
    Reason.TOO_LARGE: Example(
        "g (float[1000,4] x) => (float[1000,300] y) {\n  [fc] c = Gemm (x, w, k)\n" + NORM + "\n}",
        {"w": (4, 300), "k": (1000, 1)}, channels=300,
    ),
    Reason.MORE_NODES: Example(
        _long(FUNCTION).replace("<eps = 1.0> ", "").replace("<eps> ", "").split("c = Conv")[0]
        + BLOCKS.replace("LAST", "r7").replace("y2 =", "y =") + "\n}",
    ),
    Reason.UNKNOWN_RANK: Example(
        "g (float[1,4] x) => (float[] y) {\n  [fc] c = MatMul (x, w)\n" + NORM + "\n}",
        {"w": (4, 4)}, words="With the shape of x left out.", change=_without_shape,
    ),
}  # fmt: skip


def _stretch(model: ModelProto) -> None:
    """Many Identities behind the convolution."""
    norm = model.graph.node.pop()
    for n in range(1500):
        before = f"i{n - 1}" if n else "c"
        model.graph.node.add(op_type="Identity", input=[before], output=[f"i{n}"])
    norm.input[0] = "i1499"
    model.graph.node.append(norm)
