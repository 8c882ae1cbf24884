"""Every row of the table, up and down: where it holds, and where each precondition alone fails.

UP is Conv → operator → BatchNormalization, DOWN is BatchNormalization → operator → Conv or Gemm.
Numbers are exact (see support), so results must agree bit for bit.
"""

from __future__ import annotations

import time

import numpy as np
import onnx
import pytest
from onnx import ModelProto, numpy_helper

import bnfold
from bnfold.folding.rules.affine_nodes import affine_map
from bnfold.folding.walk.propagation import Propagation
from bnfold.folding.weights.affine import Affine
from bnfold.folding.weights.draft import Draft
from bnfold.graph.index import Index
from bnfold.options import Options
from tests.support import (
    Array,
    affine,
    bn,
    folded,
    free,
    kept,
    numbers,
    parse,
    reason,
    shift_stays,
)


def floats(*values: float) -> Array:
    return np.array(values, np.float32)


def scale_only(channels: int, *, negative: bool = False, seed: int = 0) -> dict[str, Array]:
    """A BatchNormalization without a shift, its scales positive or of both signs."""
    zeros = np.zeros(channels, np.float32)
    p = bn(channels, seed=seed) | {"b": zeros, "m": zeros.copy()}
    if not negative:
        p["s"] = np.abs(p["s"])
    return p


def positive(channels: int) -> dict[str, Array]:
    """A BatchNormalization with a shift and positive scales."""
    p = bn(channels)
    return p | {"s": np.abs(p["s"])}


def up(op: str, channels: int = 4, opset: int = 17, /, **tensors: Array) -> ModelProto:
    """Conv (4 channels, 6×6) → op (reads c, gives d) → BatchNormalization of `channels`."""
    text = f"""
    g (float[2,3,6,6] x) => (float y) {{
      [conv] c = Conv (x, w)
      {op}
      [norm] y = BatchNormalization <epsilon = 0.0> (d, s, b, m, v)
    }}"""
    return free(parse(text, opset, w=numbers(4, 3, 1, 1), **({**bn(channels), **tensors})))


def down(op: str, head: str = "conv", opset: int = 17, /, **tensors: Array) -> ModelProto:
    """BatchNormalization of 4 channels, 6×6 → op (reads c, gives d) → Conv or Gemm."""
    last = {"conv": "Conv (d, w)", "padded": "Conv <pads = [1,1,1,1]> (d, w)"}.get(head, head)
    text = f"""
    g (float[2,4,6,6] x) => (float y) {{
      [norm] c = BatchNormalization <epsilon = 0.0> (x, s, b, m, v)
      {op}
      [last] y = {last}
    }}"""
    return free(parse(text, opset, **({"w": numbers(3, 4, 2, 2), **bn(4), **tensors})))


INT = np.int64
SPREAD = {"w": numbers(144, 5)}

BOTH = {
    "Identity": ("d = Identity (c)", {}),
    "Dropout": ("d = Dropout (c)", {}),
    "Dropout told not to train": ("d = Dropout (c, r, f)", {
        "r": np.array(0.5, np.float32), "f": np.array(False)}),
    "Transpose and back": (
        "e = Transpose <perm = [0,2,3,1]> (c) d = Transpose <perm = [0,3,1,2]> (e)", {}),
    "Transpose without perm, twice": ("e = Transpose (c) d = Transpose (e)", {}),
    "Reshape and back": ("e = Reshape (c, k) d = Reshape (e, l)", {
        "k": np.array([2, 4, 36], INT), "l": np.array([2, 4, 6, 6], INT)}),
    "Reshape with 0 and -1": ("d = Reshape (c, k)", {"k": np.array([0, 0, 6, -1], INT)}),
    "Unsqueeze and Squeeze": ("e = Unsqueeze (c, k) d = Squeeze (e, k)", {"k": np.array([1], INT)}),
    "AveragePool": ("d = AveragePool <kernel_shape = [2,2]> (c)", {}),
    "AveragePool padded": (
        "d = AveragePool <kernel_shape = [2,2], strides = [1,1], pads = [1,1,0,0]> (c)", {}),
    "Pad reflect": ('d = Pad <mode = "reflect"> (c, k)', {
        "k": np.array([0, 0, 1, 1, 0, 0, 1, 1], INT)}),
    "Pad edge": ('d = Pad <mode = "edge"> (c, k)', {"k": np.array([0, 0, 1, 1, 0, 0, 1, 1], INT)}),
    "Pad nothing": ("d = Pad (c, k)", {"k": np.zeros(8, INT)}),
    "Resize nearest": ('d = Resize <mode = "nearest"> (c, , k)', {
        "k": floats(1, 1, 2, 2)}),
    "Resize to sizes": ('d = Resize <mode = "nearest"> (c, , , k)', {
        "k": np.array([2, 4, 12, 12], INT)}),
    "Slice of positions": ("d = Slice (c, k, l, j)", {
        "k": np.array([1], INT), "l": np.array([5], INT), "j": np.array([2], INT)}),
    "Slice of the batch": ("d = Slice (c, k, l, j)", {
        "k": np.array([0], INT), "l": np.array([1], INT), "j": np.array([0], INT)}),
    "Gather of positions": ("d = Gather <axis = 2> (c, k)", {"k": np.array([0, 2, 2, 5], INT)}),
    "Gather of the batch": ("d = Gather <axis = 0> (c, k)", {"k": np.array([1, 0, 1], INT)}),
    "Tile": ("d = Tile (c, k)", {"k": np.array([1, 1, 2, 1], INT)}),
    "Expand that copies nothing": ("d = Expand (c, k)", {"k": np.array([2, 4, 6, 6], INT)}),
    "Cast to the same type": ("d = Cast <to = 1> (c)", {}),
    "constant Add": ("d = Add (c, k)", {"k": numbers(4, 1, 1, seed=5)}),
    "constant Add in front": ("d = Add (k, c)", {"k": numbers(1, 4, 1, 1, seed=5)}),
    "constant Sub": ("d = Sub (c, k)", {"k": numbers(4, 1, 1, seed=5)}),
    "subtracted from a constant": ("d = Sub (k, c)", {"k": numbers(4, 1, 1, seed=5)}),
    "constant Mul": ("d = Mul (c, k)", {"k": numbers(4, 1, 1, seed=5)}),
    "constant Div": ("d = Div (c, k)", {"k": floats(2, 4, 0.5, -1).reshape(4, 1, 1)}),
    "scalar Mul": ("d = Mul (c, k)", {"k": np.array(2, np.float32)}),
    "Mul of another axis between": ("d = Mul (c, k)", {"k": floats(1, 2, 4, 2, 1, 2)}),
}  # fmt: skip


@pytest.mark.parametrize("name", sorted(BOTH))
def test_what_passes_up(name: str) -> None:
    op, tensors = BOTH[name]
    parameters = scale_only(4) if "another axis" in name else {}
    result = folded(up(op, **{**parameters, **tensors}))
    assert "BatchNormalization" not in result.ops


@pytest.mark.parametrize("name", sorted(set(BOTH)))
def test_what_passes_down(name: str) -> None:
    op, tensors = BOTH[name]
    scaled = name.startswith(("constant Add", "constant Sub", "subtracted", "Mul of another"))
    parameters = scale_only(4) if scaled else {}
    if scaled:  # the constant is divided by s: powers of two keep that exact
        parameters |= {"s": floats(1, 2, 4, 8)}
    count = 1 if name.startswith("Mul of") else None  # that Mul is a site too, and stays
    result = folded(down(op, **{**parameters, **tensors}), count=count)
    assert "BatchNormalization" not in result.ops


CONSTANTS = sorted(name for name in BOTH if name.startswith(("constant", "subtracted", "scalar")))


@pytest.mark.parametrize("name", CONSTANTS)
def test_constants_that_are_no_neighbours_take_what_they_can_hold(name: str) -> None:
    """With another operator in between they are no chain: the map meets them on its way."""
    op, tensors = BOTH[name]
    exact = {"k": np.abs(tensors["k"])} if "Mul" in name or "Div" in name else {}
    if exact:  # the shift is divided by the constant
        exact["k"] = 2.0 ** np.round(np.log2(exact["k"])).astype(np.float32)
    between = op.replace("d =", "[op] e =") + " [same] d = Identity (e)"
    result = folded(up(between, **{**tensors, **exact}))
    assert "BatchNormalization" not in result.ops
    between = "[same] e = Identity (c) [op] " + op.replace("c,", "e,").replace("c)", "e)")
    scale = {"s": floats(1, 2, 4, 8), "v": np.ones(4, np.float32)}
    result = folded(down(between, **{**bn(4), **scale, **tensors, **exact}))
    assert "BatchNormalization" not in result.ops


SCALES = {
    "Relu": "d = Relu (c)",
    "LeakyRelu": "d = LeakyRelu <alpha = 0.5> (c)",
    "PRelu": "d = PRelu (c, k)",
    "Abs": "d = Abs (c)",
    "Trilu": "d = Trilu (c)",
    "CumSum": "d = CumSum (c, last)",
    "LpPool": "d = LpPool <kernel_shape = [2,2], p = 1> (c)",
    "Relu and MaxPool": "e = Relu (c) d = MaxPool <kernel_shape = [2,2]> (e)",
    "AveragePool with zeros": (
        "d = AveragePool <kernel_shape = [2,2], pads = [1,1,1,1], count_include_pad = 1> (c)"
    ),
    "constant Pad": "d = Pad (c, p)",
    "Mul of computed values": "e = Sigmoid (x0) d = Mul (c, e)",
    "Div by a computed value": "e = Exp (x0) d = Div (c, e)",
}


@pytest.mark.parametrize("op", ["Mul", "Div"])
def test_a_scale_passes_to_the_operand_that_has_the_channels(op: str) -> None:
    text = f"""
    g (float[1,4,6,6] x, float[1,1,6,6] gate) => (float[1,4,6,6] y) {{
      c = Conv (x, w)
      d = {op} (c, gate)
      y = BatchNormalization <epsilon = 0.0> (d, s, b, m, v)
    }}"""
    assert folded(parse(text, w=numbers(4, 4, 1, 1), **scale_only(4)), execute=False).ops == [
        "Conv", op
    ]  # fmt: skip


def with_second_input(model: ModelProto, name: str) -> ModelProto:
    if "computed" in name:
        model.graph.input.add(name="x0").CopyFrom(model.graph.input[0])
        model.graph.input[1].name = "x0"
        for place, dim in enumerate((2, 4, 6, 6)):
            model.graph.input[1].type.tensor_type.shape.dim[place].dim_value = dim
    return free(model)


@pytest.mark.parametrize("direction", ["up", "down"])
@pytest.mark.parametrize("name", sorted(SCALES))
def test_what_lets_only_a_scale_pass(name: str, direction: str) -> None:
    tensors = {"k": floats(0.5, 0.25, 2, 0).reshape(4, 1, 1)}
    tensors["p"] = np.array([0, 0, 1, 1, 0, 0, 1, 1], INT)
    tensors["last"] = np.array(3)
    build = up if direction == "up" else down
    computed = "computed" in name
    good = with_second_input(build(SCALES[name], **scale_only(4), **tensors), name)
    folded(good, execute=not computed)
    if computed:
        good = with_second_input(build(SCALES[name].replace("Sigmoid", "Relu").replace(
            "Exp", "Ceil"), **scale_only(4), **tensors), name)  # fmt: skip
    shifted = positive(4) | {"s": floats(3, 5, 6, 7)}
    if name != "constant Pad" and not (direction == "down" and name == "x"):
        model = with_second_input(build(SCALES[name], **shifted, **tensors), name)
        _stays(model, "zero-padding" if "zeros" in name else "shift", direction)
    if "elu" in name:
        model = build(SCALES[name], **scale_only(4, negative=True), **tensors)
        _stays(model, "negative-scale", direction)


def _stays(model: ModelProto, code: str, direction: str) -> None:
    """The whole map does not go that way; its scale may, and its shift stay (partial folds)."""
    index = Index(model)
    draft = Draft(index, Options())
    (norm,) = (node for node in index.nodes() if node.op == "BatchNormalization")
    found = affine_map(draft, norm)
    assert isinstance(found, tuple)
    walk = Propagation(draft)
    if direction == "up":
        refusal = walk.push_up(norm, 0, found[1])
    else:
        refusal = walk.push_down(norm, norm.output, found[1])
    assert refusal is not None
    assert refusal.reason.code == code, refusal


@pytest.mark.parametrize("direction", ["up", "down"])
def test_a_scale_of_0_is_not_negative(direction: str) -> None:
    dead = scale_only(4) | {"s": floats(0, 1, 2, 4)}
    folded((up if direction == "up" else down)("d = Relu (c)", **dead))


@pytest.mark.parametrize("opset", [7, 8, 13, 21])
def test_constants_broadcast_by_shape_from_opset_7_on(opset: int) -> None:
    op, tensors = BOTH["constant Mul"]
    assert folded(up(op, 4, opset, **tensors)).ops == ["Conv"]


@pytest.mark.parametrize("direction", ["up", "down"])
def test_a_dropout_that_trains_ends_the_way(direction: str) -> None:
    build = up if direction == "up" else down
    tensors = {"r": np.array(0.5, np.float32), "t": np.array(True)}
    _stays(build("d = Dropout (c, r, t)", **tensors), "not-transparent", direction)


@pytest.mark.parametrize("direction", ["up", "down"])
def test_max_pool_lets_a_shift_pass_but_no_negative_scale(direction: str) -> None:
    build = up if direction == "up" else down
    op = "d = MaxPool <kernel_shape = [2,2], pads = [1,1,0,0]> (c)"
    folded(build(op, **positive(4)))
    _stays(build(op, **bn(4)), "negative-scale", direction)


def test_a_padding_that_one_new_constant_can_stand_for() -> None:
    pads = np.array([0, 0, 1, 1, 0, 0, 1, 1], INT)
    same = {
        "s": np.full(4, 2, np.float32), "b": np.full(4, 3, np.float32),
        "m": np.zeros(4, np.float32), "v": np.ones(4, np.float32),
    }  # fmt: skip
    result = folded(up("d = Pad (c, k, f)", k=pads, f=np.array(5, np.float32), **same))
    assert result.ops == ["Conv", "Pad"]
    folded(down("d = Pad (c, k, f)", k=pads, f=np.array(5, np.float32), **same))
    _stays(up("d = Pad (c, k)", k=pads), "zero-padding", "up")


@pytest.mark.parametrize("axes", ["[2,3]", "[-1,-2]"])
@pytest.mark.parametrize("keep", [0, 1])
@pytest.mark.parametrize("op", ["ReduceMean", "ReduceMax", "ReduceMin", "ReduceSum"])
def test_reductions_over_positions(op: str, keep: int, axes: str) -> None:
    parameters = scale_only(4)
    attributes = f"axes = {axes}, keepdims = {keep}"
    folded(up(f"d = {op} <{attributes}> (c)", 4, 11, **parameters), execute=op != "ReduceMean")
    head = "Gemm (d, w)" if not keep else "Conv (d, w)"
    weight = {"w": numbers(4, 5) if not keep else numbers(3, 4, 1, 1)}
    model = down(f"d = {op} <{attributes}> (c)", head, 11, **parameters, **weight)
    folded(model, execute=op != "ReduceMean")
    if op in ("ReduceMax", "ReduceMin"):
        negative = scale_only(4, negative=True)
        _stays(up(f"d = {op} <{attributes}> (c)", 4, 11, **negative), "negative-scale", "up")
    if op == "ReduceSum":
        _stays(up(f"d = {op} <{attributes}> (c)", 4, 11), "shift", "up")


def test_a_reduction_over_the_channels_ends_the_way() -> None:
    op = "d = ReduceMean <axes = [1], keepdims = 1> (c)"
    _stays(down(op, w=numbers(3, 1, 2, 2)), "axis-lost", "down")


@pytest.mark.parametrize("op", ["GlobalAveragePool", "GlobalMaxPool"])
def test_global_pooling(op: str) -> None:
    folded(up(f"d = {op} (c)", **positive(4)), execute=op == "GlobalMaxPool")
    weight = {"w": numbers(3, 4, 1, 1)}
    folded(down(f"d = {op} (c)", **positive(4), **weight), execute=op == "GlobalMaxPool")
    if op == "GlobalMaxPool":
        _stays(up(f"d = {op} (c)"), "negative-scale", "up")


@pytest.mark.parametrize("op", ["d = Flatten (c)", "d = Reshape (c, k)"])
def test_a_channel_spreads_over_the_columns_of_a_flattened_map(op: str) -> None:
    tensors = {"k": np.array([0, -1], INT)}
    result = folded(down(op, "Gemm (d, w)", w=numbers(144, 5), **tensors))
    assert "BatchNormalization" not in result.ops
    folded(down(op, "MatMul (d, w)", w=numbers(144, 5), **tensors))


def test_columns_that_differ_do_not_make_a_channel() -> None:
    text = """
    g (float[2,3,6,6] x) => (float[2,144] y) {
      [conv] c = Conv (x, w)
      d = Flatten (c)
      [norm] y = BatchNormalization <epsilon = 0.0> (d, s, b, m, v)
    }"""
    assert reason(parse(text, w=numbers(4, 3, 1, 1), **bn(144))) == "axis-lost"
    repeated = {name: array.repeat(36) for name, array in bn(4).items()}
    folded(parse(text, w=numbers(4, 3, 1, 1), **repeated))


def test_channels_that_come_last_repeat_over_the_columns() -> None:
    """As TensorFlow flattens: [N, H, W, C] → [N, H·W·C]."""
    op = "e = Transpose <perm = [0,2,3,1]> (c) d = Reshape (e, k)"
    tensors = {"k": np.array([2, 144], INT)}
    result = folded(down(op, "Gemm (d, w)", w=numbers(144, 5), **tensors))
    assert "BatchNormalization" not in result.ops
    text = """
    g (float[2,3,6,6] x) => (float[2,144] y) {
      [conv] c = Conv (x, w)
      e = Transpose <perm = [0,2,3,1]> (c)
      d = Reshape (e, k)
      [norm] y = BatchNormalization <epsilon = 0.0> (d, s, b, m, v)
    }"""
    same = {name: np.tile(array, 36) for name, array in bn(4).items()}
    folded(parse(text, w=numbers(4, 3, 1, 1), **tensors, **same))
    repeated = {name: array.repeat(36) for name, array in bn(4).items()}
    model = parse(text, w=numbers(4, 3, 1, 1), **tensors, **repeated)
    assert reason(model) == "axis-lost"


@pytest.mark.parametrize("mode", ["DCR", "CRD"])
def test_depth_to_space(mode: str) -> None:
    op = f'd = DepthToSpace <blocksize = 2, mode = "{mode}"> (c)'
    folded(up(op, 1))
    same = {name: array.repeat(4) for name, array in bn(1).items()}
    folded(down(op, w=numbers(3, 1, 2, 2), **same))
    _stays(down(op, w=numbers(3, 1, 2, 2)), "axis-lost", "down")


def test_space_to_depth() -> None:
    op = "d = SpaceToDepth <blocksize = 2> (c)"
    folded(down(op, w=numbers(3, 16, 2, 2)))
    same = {name: np.tile(array, 4) for name, array in bn(4).items()}
    folded(up(op, 16, **same))
    _stays(up(op, 16, **bn(16)), "axis-lost", "up")


# --- branches -----------------------------------------------------------------------------------


def two_convs(join: str, channels: int, extra: str = "", /, **tensors: Array) -> ModelProto:
    text = f"""
    g (float[2,3,6,6] x) => (float y) {{
      [conv1] c1 = Conv (x, w1)
      [conv2] c2 = Conv (x, w2)
      {extra}
      d = {join}
      [norm] y = BatchNormalization <epsilon = 0.0> (d, s, b, m, v)
    }}"""
    weights = {"w1": numbers(4, 3, 1, 1), "w2": numbers(4, 3, 1, 1, seed=3)}
    return free(parse(text, **weights, **bn(channels), **tensors))


@pytest.mark.parametrize(
    ("join", "channels"),
    [
        ("Concat <axis = 1> (c1, c2)", 8), ("Concat <axis = 2> (c1, c2)", 4),
        ("Concat <axis = -1> (c1, c2)", 4), ("Add (c1, c2)", 4), ("Sub (c1, c2)", 4),
        ("Sum (c1, c2)", 4),
    ],
)  # fmt: skip
def test_joined_branches_share_the_map_out(join: str, channels: int) -> None:
    result = folded(two_convs(join, channels))
    assert set(result.result.folded[0].into) == {"conv1", "conv2"}


def test_a_product_takes_the_scale_in_one_factor() -> None:
    model = two_convs("Mul (c1, c2)", 4)
    _stays(model, "shift", "up")
    text = two_convs("Mul (c1, c2)", 4)
    for tensor in text.graph.initializer:
        if tensor.name in "bm":
            tensor.raw_data = np.zeros(4, np.float32).tobytes()
    assert len(folded(text).result.folded[0].into) == 1


def test_a_branch_that_others_read_cannot_take_part() -> None:
    text = two_convs("Add (c1, c2)", 4)
    text.graph.output.add(name="c2").type.CopyFrom(text.graph.output[0].type)
    for place, dim in enumerate((2, 4, 6, 6)):
        text.graph.output[1].type.tensor_type.shape.dim[place].dim_value = dim
    assert reason(text) == "graph-output"


def test_the_shift_goes_to_the_branch_that_can_hold_it() -> None:
    """A Relu lets only a scale pass, so the other branch takes the whole shift."""
    model = two_convs("Add (r, c2)", 4, "r = Relu (c1)")
    for tensor in model.graph.initializer:
        if tensor.name == "s":
            tensor.raw_data = floats(1, 2, 4, 2).tobytes()
    folded(model)


@pytest.mark.parametrize("axis", [1, 2])
def test_split_up(axis: int) -> None:
    text = f"""
    g (float[2,3,6,6] x) => (float y, float[2,P,Q,6] z) {{
      [conv] c = Conv (x, w)
      d, z = Split <axis = {axis}> (c, k)
      [norm] y = BatchNormalization <epsilon = 0.0> (d, s, b, m, v)
    }}"""
    sizes, channels = ([3, 1], 3) if axis == 1 else ([2, 4], 4)
    model = free(parse(text, w=numbers(4, 3, 1, 1), k=np.array(sizes, INT), **bn(channels)))
    if axis == 1:
        folded(model)
    else:
        _stays(model, "other-branch", "up")


@pytest.mark.parametrize("axis", [1, 2])
def test_split_down_every_output_takes_its_piece(axis: int) -> None:
    text = f"""
    g (float[2,4,6,6] x) => (float[2,3,P,Q] y, float[2,3,R,S] z) {{
      [norm] c = BatchNormalization <epsilon = 0.0> (x, s, b, m, v)
      d, e = Split <axis = {axis}> (c, k)
      y = Conv (d, w1)
      z = Conv (e, w2)
    }}"""
    widths = (3, 1) if axis == 1 else (4, 4)
    sizes = [3, 1] if axis == 1 else [2, 4]
    folded(
        parse(
            text, w1=numbers(3, widths[0], 2, 2), w2=numbers(3, widths[1], 2, 2, seed=2),
            k=np.array(sizes, INT), **bn(4),
        )
    )  # fmt: skip


def test_slices_and_gathers_of_channels() -> None:
    bounds = {"k": np.array([3], INT), "l": np.array([-9], INT), "j": np.array([1], INT),
              "i": np.array([-2], INT)}  # fmt: skip
    folded(up("d = Slice (c, k, l, j, i)", 2, **bounds))
    folded(down("d = Slice (c, k, l, j, i)", w=numbers(3, 2, 2, 2), **bounds))
    twice = {"k": np.array([0, 2, 0], INT)}
    folded(down("d = Gather <axis = 1> (c, k)", w=numbers(3, 3, 2, 2), **twice))
    _stays(up("d = Gather <axis = 1> (c, k)", 3, **twice), "axis-lost", "up")
    folded(up("d = Gather <axis = 1> (c, k)", 2, k=np.array([-1, 1], INT)))


def test_concat_down_gives_the_other_branch_the_identity() -> None:
    text = """
    g (float[2,4,6,6] x, float[2,2,6,6] z) => (float[2,3,5,5] y) {
      [norm] c = BatchNormalization <epsilon = 0.0> (x, s, b, m, v)
      d = Concat <axis = AXIS> (z, c)
      y = Conv (d, w)
    }"""
    folded(parse(text.replace("AXIS", "1"), w=numbers(3, 6, 2, 2), **bn(4)))
    text = text.replace("AXIS", "2").replace("float[2,2,6,6]", "float[2,4,6,6]")
    model = free(parse(text, w=numbers(3, 4, 2, 2), **bn(4)))
    _stays(model, "other-branch", "down")


# --- down into weights --------------------------------------------------------------------------


def test_down_into_all_readers_at_once() -> None:
    text = """
    g (float[2,4,6,6] x) => (float[2,3,5,5] y, float[2,2,6,6] z) {
      [norm] c = BatchNormalization <epsilon = 0.0> (x, s, b, m, v)
      y = Conv (c, w1)
      z = Conv <group = 2> (c, w2)
    }"""
    weights = {"w1": numbers(3, 4, 2, 2), "w2": numbers(2, 2, 1, 1, seed=3)}
    result = folded(parse(text, **weights, **bn(4)))
    assert result.ops == ["Conv", "Conv"]
    relu = text.replace("z = Conv <group = 2> (c, w2)", "z = Softmax (c)").replace(
        "2,2,6,6", "2,4,6,6"
    )
    _stays(parse(relu, w1=weights["w1"], **bn(4)), "not-transparent", "down")


def test_zero_padding_stops_a_shift_but_no_scale() -> None:
    _stays(down("d = Identity (c)", "padded"), "zero-padding", "down")
    folded(down("d = Identity (c)", "padded", **scale_only(4, negative=True)))
    same = 'Conv <auto_pad = "SAME_UPPER"> (d, w)'
    _stays(down("d = Identity (c)", same), "zero-padding", "down")
    folded(down("d = Identity (c)", same, w=numbers(3, 4, 1, 1)))
    folded(down("d = Identity (c)", 'Conv <auto_pad = "VALID"> (d, w)'))


def test_the_border_of_a_conv_transpose_stops_a_shift_but_no_scale() -> None:
    head = "ConvTranspose <group = 2> (d, w)"
    weight = {"w": numbers(4, 2, 2, 2)}
    _stays(down("d = Identity (c)", head, **weight), "border", "down")
    folded(down("d = Identity (c)", head, **weight, **scale_only(4, negative=True)))


def test_a_map_on_what_is_read_as_a_weight() -> None:
    text = """
    g (float[3,4,2,2] x, float[1,4,6,6] z) => (float[1,3,5,5] y) {
      [norm] c = BatchNormalization <epsilon = 0.0> (x, s, b, m, v)
      y = Conv (z, c)
    }"""
    _stays(parse(text, **bn(4)), "run-time-weight", "down")


@pytest.mark.parametrize("trans", [0, 1])
def test_down_into_gemm(trans: int) -> None:
    weight = numbers(5, 4) if trans else numbers(4, 5)
    text = f"""
    g (float[3,4] x) => (float[3,5] y) {{
      [norm] c = BatchNormalization <epsilon = 0.0> (x, s, b, m, v)
      y = Gemm <transB = {trans}, alpha = 0.5, beta = 2.0> (c, w, k)
    }}"""
    folded(parse(text, w=weight, k=numbers(5), **bn(4)))


def test_down_into_matmul_the_shift_goes_on_or_makes_a_gemm() -> None:
    text = """
    g (float[3,4] x) => (float[3,5] y) {
      [norm] c = BatchNormalization <epsilon = 0.0> (x, s, b, m, v)
      NEXT
    }"""
    w, k = numbers(4, 5), numbers(5, seed=9)
    result = folded(parse(text.replace("NEXT", "y = MatMul (c, w)"), w=w, **bn(4)))
    assert result.ops == ["Gemm"]
    added = text.replace("NEXT", "e = MatMul (c, w) y = Add (e, k)")
    assert folded(parse(added, w=w, k=k, **bn(4))).ops == ["MatMul", "Add"]


def test_down_into_batch_normalization() -> None:
    text = """
    g (float[2,4,6,6] x) => (float[2,4,6,6] y) {
      [norm1] c = BatchNormalization <epsilon = 0.0> (x, s, b, m, v)
      d = Relu (c)
      [norm2] y = BatchNormalization <epsilon = 0.0> (d, s2, b2, m2, v2)
    }"""
    two = {f"{k}2": v for k, v in bn(4, seed=5).items()}
    model = parse(text, **scale_only(4), **two)
    assert folded(model, count=1).ops == ["Relu", "BatchNormalization"]


# --- up into other normalisations, and MatMul of higher rank ------------------------------------


def test_up_into_instance_normalization() -> None:
    model = up("d = InstanceNormalization (c, k, l)", k=numbers(4), l=numbers(4, seed=2))
    assert folded(model, execute=False).ops == ["Conv", "InstanceNormalization"]


def test_up_into_group_normalization_from_opset_21_on() -> None:
    op = "d = GroupNormalization <num_groups = 2> (c, k, l)"
    model = up(op, 4, 21, k=numbers(4), l=numbers(4, seed=2))
    assert folded(model, execute=False).ops == ["Conv", "GroupNormalization"]
    model = up(op, 4, 20, k=numbers(2), l=numbers(2, seed=2))
    _stays(model, "channel-axis", "up")


@pytest.mark.parametrize("axis", [-1, 1])
@pytest.mark.parametrize("bias", [True, False])
def test_up_into_layer_normalization_where_the_axes_agree(axis: int, bias: bool) -> None:
    """x is [2, 5, 3]; behind a Transpose the BatchNormalization's channels are its last axis."""
    text = f"""
    g (float[2,5,3] x) => (float[2,3,5] y) {{
      [ln] c = LayerNormalization <axis = {axis}> (x, k{", l" if bias else ""})
      d = Transpose <perm = [0,2,1]> (c)
      [norm] y = BatchNormalization <epsilon = 0.0> (d, s, b, m, v)
    }}"""
    shape = (3,) if axis == -1 else (5, 3)
    tensors = {"k": numbers(*shape), **({"l": numbers(*shape, seed=2)} if bias else {})}
    result = folded(parse(text, **tensors, **bn(3)), execute=False)
    assert result.ops == ["LayerNormalization", "Transpose"]
    text = text.replace("(d, s,", "(c, s,").replace("d = Transpose <perm = [0,2,1]> (c)", "")
    model = parse(text.replace("float[2,3,5] y", "float[2,5,3] y"), **tensors, **bn(5))
    if axis == -1:
        _stays(model, "channel-axis", "up")
    else:
        folded(model, execute=False)


RANK_3 = """
g (float[2,5,3] x) => (float[2,4,5] y) {
  [fc] c = MatMul (x, w)
  MIDDLE
  d = Transpose <perm = [0,2,1]> (e)
  [norm] y = BatchNormalization <epsilon = 0.0> (d, s, b, m, v)
}"""


def test_matmul_of_rank_3_with_an_add_gives_it_the_shift() -> None:
    text = RANK_3.replace("MIDDLE", "e = Add (c, k)")
    result = folded(parse(text, w=numbers(3, 4), k=numbers(4), **bn(4)))
    assert result.ops == ["MatMul", "Add", "Transpose"]


def test_matmul_of_rank_3_without_an_add_leaves_one_in_place_of_the_normalization() -> None:
    text = RANK_3.replace("MIDDLE", "e = Identity (c)")
    result = folded(parse(text, w=numbers(3, 4), **bn(4)))
    assert result.ops == ["MatMul", "Identity", "Transpose", "Add"]
    assert result.model.graph.node[-1].name == "norm"
    zero = folded(parse(text, w=numbers(3, 4), **scale_only(4, negative=True)))
    assert zero.ops == ["MatMul", "Identity", "Transpose"]


def test_matmul_of_rank_3_has_no_place_for_a_shift_that_nothing_behind_it_can_hold() -> None:
    text = """
    g (float[2,5,3] x) => (float[2,5,4] y) {
      [fc] c = MatMul (x, w)
      [sub] y = Sub (k, c)
    }"""
    assert reason(parse(text, w=numbers(3, 4), k=numbers(4))) == "no-place-for-shift"


def test_matmul_with_the_constant_on_the_left() -> None:
    text = """
    g (float[2,3,5] x) => (float[2,4,5] y) {
      [fc] c = MatMul (w, x)
      [norm] y = BatchNormalization <epsilon = 0.0> (c, s, b, m, v)
    }"""
    assert folded(parse(text, w=numbers(4, 3), **bn(4))).ops == ["MatMul", "Add"]


def test_linear_and_batch_norm_on_rows_as_in_levit() -> None:
    text = """
    g (float[2,5,3] x) => (float[2,5,4] y) {
      [fc] c = MatMul (x, w)
      d = Reshape (c, k)
      [norm] e = BatchNormalization <epsilon = 0.0> (d, s, b, m, v)
      y = Reshape (e, l)
    }"""
    result = folded(
        parse(text, w=numbers(3, 4), k=np.array([10, 4], INT), l=np.array([2, 5, 4], INT), **bn(4))
    )
    assert "BatchNormalization" not in result.ops


def test_matmul_and_add_in_front_keeps_the_matmul() -> None:
    text = """
    g (float[5,3] x) => (float[5,4] y) {
      [fc] c = MatMul (x, w)
      d = Add (c, k)
      [norm] y = BatchNormalization <epsilon = 0.0> (d, s, b, m, v)
    }"""
    assert folded(parse(text, w=numbers(3, 4), k=numbers(4), **bn(4))).ops == ["MatMul", "Add"]


# --- the chain as a whole -----------------------------------------------------------------------


def test_scale_up_and_shift_down() -> None:
    """The Relu in front stops the shift, the sum behind stops the scale."""
    text = """
    g (float[2,3,6,6] x, float[2,4,6,6] z) => (float[2,5,P,Q] y) {
      [conv1] c = Conv (x, w1)
      d = Relu (c)
      [norm] e = BatchNormalization <epsilon = 0.0> (d, s, b, m, v)
      f = NEXT
      [conv2] y = Conv (f, w2)
    }"""
    weights = {"w1": numbers(4, 3, 1, 1), "w2": numbers(5, 4, 2, 2, seed=4)}
    result = folded(parse(text.replace("NEXT", "Add (e, z)"), **weights, **positive(4)))
    assert result.result.folded[0].into == ("conv1", "conv2")
    pooled = text.replace("NEXT", "MaxPool <kernel_shape = [2,2]> (e)")
    assert folded(parse(pooled, **weights, **positive(4))).result.folded[0].into == ("conv2",)


def test_shift_up_and_scale_down() -> None:
    """The padding behind stops the shift, the sum in front stops the scale."""
    text = """
    g (float[2,3,6,6] x, float[2,4,6,6] z) => (float[2,5,6,6] y) {
      [conv1] c = Conv (x, w1)
      d = Add (c, z)
      [norm] e = BatchNormalization <epsilon = 0.0> (d, s, b, m, v)
      [conv2] y = Conv <pads = [1,1,1,1]> (e, w2)
    }"""
    p = positive(4) | {"s": floats(1, 2, 4, 2), "v": np.ones(4, np.float32)}
    weights = {"w1": numbers(4, 3, 1, 1), "w2": numbers(5, 4, 3, 3, seed=4)}
    assert folded(parse(text, **weights, **p)).result.folded[0].into == ("conv1", "conv2")


def test_the_input_normalisation_folds_into_the_first_convolution() -> None:
    """(x/255 − mean)/std, here with numbers that float32 holds."""
    text = """
    g (float[1,3,6,6] x) => (float[1,4,5,5] y) {
      a = Div (x, k)
      b0 = Sub (a, mean)
      c = Div (b0, std)
      [conv] y = Conv (c, w)
    }"""
    result = folded(
        parse(
            text, k=np.array(256, np.float32), mean=floats(0.5, 0.25, 0.75).reshape(3, 1, 1),
            std=floats(0.25, 0.5, 0.125).reshape(1, 3, 1, 1), w=numbers(4, 3, 2, 2),
        )
    )  # fmt: skip
    assert result.ops == ["Conv"]
    assert result.node.input[0] == "x"


def test_a_map_that_is_the_identity_disappears() -> None:
    one = {
        "s": floats(2, 1, 4), "b": np.zeros(3, np.float32), "m": np.zeros(3, np.float32),
        "v": floats(4, 1, 16),
    }  # fmt: skip
    text = """
    g (float[1,3,4,4] x) => (float[1,3,4,4] y) {
      [norm] c = BatchNormalization <epsilon = 0.0> (x, s, b, m, v)
      y = Sigmoid (c)
    }"""
    assert folded(parse(text, **one)).ops == ["Sigmoid"]
    alone = """
    g (float[1,3,4,4] x) => (float[1,3,4,4] y) {
      y = BatchNormalization <epsilon = 0.0> (x, s, b, m, v)
    }"""
    assert len(bnfold.fold(parse(alone, **one)).kept) == 1, "the output has to keep its name"


def test_caffes_batch_norm_and_scale_become_one() -> None:
    text = """
    g (float[1,3,4,4] x) => (float[1,3,4,4] y) {
      [norm] a = BatchNormalization <epsilon = 0.0> (x, s, b, m, v)
      [scale] c = Mul (a, k)
      [shift] y = Add (c, l)
    }"""
    model = parse(text, k=numbers(3, 1, 1), l=numbers(3, 1, 1, seed=8), **bn(3))
    result = folded(model, count=1, execute=False)
    assert result.ops == ["BatchNormalization"]
    assert [v.op for v in result.result.folded] == ["Add"]


# --- what is no per-channel constant ------------------------------------------------------------


@pytest.mark.parametrize(
    "shape", [(3,), (3, 1), (1, 1, 1, 3), (3, 1, 1, 1), (1, 1, 3, 1), (3, 3), (1, 1, 3, 1, 1)]
)
def test_a_constant_on_another_axis_is_not_taken_for_a_channel(shape: tuple[int, ...]) -> None:
    """All sizes agree: channels, height, width and batch are 3."""
    text = """
    g (float[3,3,3,3] x) => (float y) {
      [conv] c = Conv (x, w)
      y = Mul (c, k)
    }"""
    model = free(parse(text, w=numbers(3, 3, 1, 1), k=numbers(*shape)))
    result = bnfold.fold(model)
    assert result.after.nodes == result.before.nodes
    assert not result.folded


def test_a_constant_that_makes_the_result_larger_is_no_map() -> None:
    text = """
    g (float[1,3,4,4] x) => (float[5,3,4,4] y) {
      [conv] c = Conv (x, w)
      y = Mul (c, k)
    }"""
    assert not bnfold.fold(parse(text, w=numbers(3, 3, 1, 1), k=numbers(5, 1, 1, 1))).folded


# --- what a caller may allow --------------------------------------------------------------------


def test_a_relu_may_become_a_max() -> None:
    """Conv → Relu → BatchNormalization → padded Conv: scale down, shift up."""
    text = """
    g (float[2,3,6,6] x) => (float[2,5,6,6] y) {
      [conv1] c = Conv (x, w1)
      [relu] d = Relu (c)
      [norm] e = BatchNormalization <epsilon = 0.0> (d, s, b, m, v)
      [conv2] y = Conv <pads = [1,1,1,1]> (e, w2)
    }"""
    weights = {"w1": numbers(4, 3, 1, 1), "w2": numbers(5, 4, 3, 3, seed=4)}
    p = bn(4) | {"s": floats(1, -2, 4, -1)}
    assert shift_stays(parse(text, **weights, **p)).ops == ["Conv", "Relu", "Add", "Conv"]
    result = folded(parse(text, **weights, **p), options=bnfold.Options(allow_max=True))
    assert result.ops == ["Conv", "Max", "Conv"]
    assert result.model.graph.node[1].name == "relu"
    dead = p | {"s": floats(1, 0, 4, -1)}
    kept = bnfold.fold(parse(text, **weights, **dead), options=bnfold.Options(allow_max=True)).kept
    assert len(kept) == 1, "the shift of a dead channel has no place before the scale"


def test_initializers_that_are_inputs_may_be_frozen() -> None:
    from onnx import helper

    text = """
    g (float[2,3,6,6] x) => (float[2,4,6,6] y) {
      [conv] c = Conv (x, w)
      [norm] y = BatchNormalization <epsilon = 0.0> (c, s, b, m, v)
    }"""
    model = parse(text, w=numbers(4, 3, 1, 1), **bn(4))
    model.graph.input.extend(
        helper.make_tensor_value_info(t.name, t.data_type, t.dims) for t in model.graph.initializer
    )
    assert reason(model) == "overridable-input"
    result = folded(model, options=bnfold.Options(freeze_initializers=True))
    assert result.ops == ["Conv"]
    assert result.model.graph.input == model.graph.input


# --- found by review ----------------------------------------------------------------------------


def test_a_sum_of_three_with_a_constant_lets_no_scale_pass() -> None:
    text = """
    g (float[2,4,6,6] x, float[2,4,6,6] z) => (float[2,3,6,6] y) {
      [norm] c = BatchNormalization <epsilon = 0.0> (x, s, b, m, v)
      d = Sum (ORDER)
      y = Conv (d, w)
    }"""
    shift = bn(4) | {"s": np.ones(4, np.float32), "v": np.ones(4, np.float32)}
    for order in ("c, k, z", "k, c, z", "z, k, c", "z, c, k"):
        model = parse(
            text.replace("ORDER", order), w=numbers(3, 4, 1, 1), k=numbers(4, 1, 1), **bn(4)
        )
        _stays(model, "other-branch", "down")
        folded(
            parse(text.replace("ORDER", order), w=numbers(3, 4, 1, 1), k=numbers(4, 1, 1), **shift)
        )


@pytest.mark.parametrize("used", ["y, mm", "y, , mm"])
def test_the_statistics_of_a_layer_normalization_are_not_its_result(used: str) -> None:
    text = f"""
    g (float[2,3,4] x) => (float[2,3,4] y, float[2,3,1] z) {{
      {used} = LayerNormalization (x, k)
      z = Mul (mm, c)
    }}"""
    model = parse(text, k=numbers(4), c=np.array(3, np.float32))
    assert not bnfold.fold(model).folded


def test_the_scales_of_a_resize_stand_in_the_order_of_its_axes() -> None:
    resize = (
        'Resize <mode = "nearest", coordinate_transformation_mode = "asymmetric", '
        'nearest_mode = "floor", axes = [3,1]> (c, , k)'
    )
    _stays(up(f"d = {resize}", 4, 18, k=floats(1, 1.2)), "channel-axis", "up")
    folded(up(f"d = {resize}", 4, 18, k=floats(2, 1)))


@pytest.mark.parametrize(
    ("start", "end", "step", "count"),
    [(-10, -(1 << 62), -1, 1), (9, -9, -1, 4), (9, 0, -2, 2), (-9, 9, 3, 2), (-1, -3, -1, 2)],
)
def test_slices_are_clamped_as_onnx_says(start: int, end: int, step: int, count: int) -> None:
    bounds = {
        name: np.array([value], INT)
        for name, value in (("k", start), ("l", end), ("j", 1), ("i", step))
    }
    model = down("d = Slice (c, k, l, j, i)", w=numbers(3, count, 2, 2), **bounds)
    assert "BatchNormalization" not in folded(model).ops
    if count != 1:
        folded(up("d = Slice (c, k, l, j, i)", count, **bounds))


def test_a_map_does_not_go_up_through_a_cast_to_a_wider_type() -> None:
    text = """
    g (float16[2,3,6,6] x) => (float[2,4,6,6] y) {
      [conv] c = Conv (x, w)
      d = Cast <to = 1> (c)
      [norm] y = BatchNormalization <epsilon = 0.0> (d, s, b, m, v)
    }"""
    model = parse(text, w=numbers(4, 3, 1, 1, dtype=np.float16), **bn(4))
    assert reason(model) == "narrower-type"
    for op in ("Relu", "Exp"):
        rest = f"e = {op} (n) y = Cast <to = 10> (e)"
        again = parse(
            text.replace("float[2,4,6,6] y", "float16[2,4,6,6] y").replace(
                "] y = Batch", "] n = Batch"
            ).replace("m, v)", f"m, v) {rest}"),
            w=numbers(4, 3, 1, 1, dtype=np.float16), **bn(4),
        )  # fmt: skip
        if op == "Relu":  # as mixed precision has it: all is rounded to float16 again
            assert folded(again, execute=False).ops == ["Conv", "Cast", "Relu", "Cast"]
        else:
            assert reason(again) == "narrower-type"
    wider = text.replace("float[2,4,6,6] y", "double[2,4,6,6] y").replace(
        "] y = Batch", "] n = Batch"
    )
    wider = wider.replace("m, v)", "m, v) y = Cast <to = 11> (n)")
    model = parse(wider, w=numbers(4, 3, 1, 1, dtype=np.float16), **bn(4))
    assert reason(model) == "narrower-type", "it is cast, and not back"
    text = """
    g (float16[2,4,6,6] x) => (float[2,3,6,6] y) {
      [norm] c = BatchNormalization <epsilon = 0.0> (x, s, b, m, v)
      d = Cast <to = 1> (c)
      [conv] y = Conv (d, w)
    }"""
    folded(parse(text, w=numbers(3, 4, 1, 1), **bn(4, dtype=np.float16)))


def test_an_add_has_one_output() -> None:
    text = """
    g (float[2,3,5] x) => (float[2,4,5] y) {
      [fc] c = MatMul (w, x)
      [norm] y = BatchNormalization <epsilon = 0.0> (c, s, b, m, v)
    }"""
    model = parse(text, 9, w=numbers(4, 3), **bn(4))
    model.graph.node[1].output.extend(["", "", "", ""])
    assert folded(model, execute=False).ops == ["MatMul", "Add"]


def test_an_output_without_a_name_has_no_readers() -> None:
    text = """
    g (float[2,4,6,6] x) => (float[2,3,5,5] y) {
      [norm] c = BatchNormalization <epsilon = 0.0> (x, s, b, m, v)
      d, unused = Split <axis = 1> (c, k)
      y = Conv (d, w)
    }"""
    model = parse(text, w=numbers(3, 3, 2, 2), k=np.array([3, 1], INT), **bn(4))
    model.graph.node[1].output[1] = ""
    # without the shape of the nameless piece the channels cannot be counted
    _stays(model, "unknown-rank", "down")
    batch = parse(text.replace("axis = 1", "axis = 0").replace("[2,3,5,5]", "[1,3,5,5]"),
                  w=numbers(3, 4, 2, 2), k=np.array([1, 1], INT), **bn(4))  # fmt: skip
    batch.graph.node[1].output[1] = ""
    folded(batch, execute=False)


@pytest.mark.parametrize(
    "model",
    [
        up("d = Pad (c, k, f)", k=np.array([0, 0, 1, 1, 0, 0, 1, 1], INT), f=floats()),
        up("d = Gather <axis = 1> (c, k)", k=floats(0, 1, 2, 3)),
    ],
)
def test_operators_that_contradict_themselves_end_the_way(model: ModelProto) -> None:
    assert bnfold.fold(model).kept


# --- constants that are stored along more axes than they vary along -----------------------------

STORED = """
g (float[{0}] x) => (float[{0}] y) {{
  [conv] c = Conv (x, w)
  [mul] y = Mul (c, k)
}}"""


@pytest.mark.parametrize(
    ("shape", "axes"), [((4, 6, 6), (0,)), ((2, 4, 6, 6), (1,)), ((4, 6, 6), ()), ((4, 1, 6), (0,))]
)
def test_a_constant_written_out_along_axes_on_which_it_does_not_vary(
    shape: tuple[int, ...], axes: tuple[int, ...]
) -> None:
    own = numbers(*(n if axis in axes else 1 for axis, n in enumerate(shape)), seed=3)
    k = np.broadcast_to(own, shape).copy()
    folded(parse(STORED.format("2,4,6,6"), w=numbers(4, 4, 1, 1), k=k))


def test_a_constant_that_does_vary_along_two_axes_stays() -> None:
    k = np.broadcast_to(numbers(4, 1, 1), (4, 6, 6)).copy()
    k[2, 3, 3] += 1
    result = bnfold.fold(parse(STORED.format("2,4,6,6"), w=numbers(4, 4, 1, 1), k=k))
    assert not result.verdicts


def test_a_constant_that_may_enlarge_what_it_is_written_out_against_stays() -> None:
    k = np.broadcast_to(numbers(4, 1, 1), (4, 6, 6)).copy()
    model = parse(STORED.format("2,4,H,6").replace("(float[2,4,H,6] y)", "(float[2,4,I,6] y)"),
                  w=numbers(4, 4, 1, 1), k=k)  # fmt: skip
    assert not bnfold.fold(model).verdicts


# --- readers that ask for the shape only --------------------------------------------------------


def test_who_asks_for_the_shape_does_not_mind_the_values() -> None:
    text = """
    g (float[2,5,6] x) => (float[2,5,4] y) {
      [linear] l = MatMul (x, w)
      [rows] r = Reshape (l, flat)
      [norm] n = BatchNormalization <epsilon = 0.0> (r, s, b, m, v)
      [shape] back = Shape (l)
      [like] y = Reshape (n, back)
    }"""
    result = folded(parse(text, w=numbers(6, 4), flat=np.array([10, 4]), **bn(4)))
    assert "BatchNormalization" not in result.ops


def test_and_so_downwards() -> None:
    text = """
    g (float[2,4,6,6] x) => (float[2,5,P,Q] y, int64[1] count) {
      [norm] n = BatchNormalization <epsilon = 0.0> (x, s, b, m, v)
      [size] c = Size (n)
      [vector] count = Reshape (c, one)
      [conv] y = Conv (n, w)
    }"""
    result = folded(parse(text, w=numbers(5, 4, 2, 2), one=np.array([1]), **bn(4)))
    assert list(result.model.graph.node[0].input) == ["x"]


def test_a_shape_that_another_reader_makes_use_of_is_not_the_value() -> None:
    text = """
    g (float[2,4,6,6] x) => (float[2,4,6,6] y, float[2,4,6,6] other) {
      [conv] c = Conv (x, w)
      [norm] y = BatchNormalization <epsilon = 0.0> (c, s, b, m, v)
      [shape] sh = Shape (c)
      [reader] other = Reshape (c, sh)
    }"""
    assert reason(parse(text, w=numbers(4, 4, 1, 1), **bn(4))) == "another-reader"


# --- what mutants got away with -----------------------------------------------------------------


@pytest.mark.parametrize(("opset", "becomes"), [(8, True), (7, False)])
def test_a_max_broadcasts_from_opset_8_on(opset: int, becomes: bool) -> None:
    text = """
    g (float[1,3,6,6] x) => (float[1,4,P,Q] y) {
      [conv] c = Conv (x, w)
      [relu] r = Relu (c)
      [norm] n = BatchNormalization <epsilon = 0.0> (r, s, b, m, v)
      [padded] y = Conv <pads = [1,1,1,1]> (n, w2)
    }"""
    model = parse(text, opset, w=numbers(4, 3, 1, 1), w2=numbers(4, 4, 3, 3), **positive(4))
    result = bnfold.fold(model, options=bnfold.Options(allow_max=True))
    assert ("Max" in [node.op_type for node in result.model.graph.node]) == becomes


def test_a_relu_of_unknown_shape_does_not_become_a_max() -> None:
    text = """
    <ir_version: 8, opset_import: ["": 17, "own": 1]>
    g (float[1,3,6,6] x) => (float[1,4,P,Q] y) {
      c = own.Thing (x)
      [conv] e = Conv (c, w)
      [relu] r = Relu (e)
      [norm] n = BatchNormalization <epsilon = 0.0> (r, s, b, m, v)
      [padded] y = Conv <pads = [1,1,1,1]> (n, w2)
    }"""
    model = parse(text, w=numbers(4, 3, 1, 1), w2=numbers(4, 4, 3, 3), **positive(4))
    result = bnfold.fold(model, options=bnfold.Options(allow_max=True))
    assert not result.folded


def test_a_shift_before_a_scale_of_0_is_only_that_of_0() -> None:
    dead = Affine(1, np.array([0.0, 2.0]), np.array([0.0, 3.0])).shift_first()
    assert dead is not None
    np.testing.assert_array_equal(dead.shift, [0, 1.5])
    assert Affine(1, np.array([0.0, 2.0]), np.array([1.0, 3.0])).shift_first() is None


def test_a_gemm_that_lost_its_beta_takes_what_comes_next_without_it() -> None:
    text = """
    g (float[5,3] x) => (float[5,4] y) {
      [below] z = BatchNormalization <epsilon = 0.0> (x, s0, b0, m0, v0)
      [gemm] h = Gemm <beta = 2.0> (z, w)
      [above] y = BatchNormalization <epsilon = 0.0> (h, s, b, m, v)
    }"""
    assert folded(parse(text, w=numbers(3, 4), **bn(3, name="0"), **bn(4))).ops == ["Gemm"]


def test_of_two_values_that_are_computed_the_second_is_blamed() -> None:
    text = """
    g (float[2,3] x, float[3,4] w) => (float[2,4] y) {
      [product] h = MatMul (x, w)
      [norm] y = BatchNormalization <epsilon = 0.0> (h, s, b, m, v)
    }"""
    (verdict,) = bnfold.fold(parse(text, **bn(4))).verdicts
    assert verdict.refusal is not None
    assert "graph input w" in verdict.refusal.sentence


def test_an_expand_to_a_shape_that_is_computed() -> None:
    text = """
    g (float[2,4,6,6] x, int64[R] r) => (float y) {
      [conv] c = Conv (x, w)
      [expand] e = Expand (c, r)
      [norm] y = BatchNormalization <epsilon = 0.0> (e, s, b, m, v)
    }"""
    model = parse(text, w=numbers(4, 4, 1, 1), **bn(4))
    assert reason(model, check=False) == "unknown-rank"


def test_a_matmul_of_rank_3_does_not_become_a_gemm_for_a_shift_from_below() -> None:
    text = """
    g (float[2,5,4] x) => (float[2,5,3] y) {
      [scale] a = Mul (x, k)
      [shift] b = Add (a, t)
      [product] y = MatMul (b, w)
    }"""
    model = parse(text, k=numbers(4), t=numbers(4, seed=3), w=numbers(4, 3))
    assert folded(model, execute=False).ops == ["Add", "MatMul"]


def test_the_epsilon_that_is_not_given() -> None:
    text = """
    g (float[1,1,1,1] x) => (float[1,1,P,Q] y) {
      c = Conv (x, w)
      y = BatchNormalization (c, s, b, m, v)
    }"""
    one, zero = np.ones(1, np.float32), np.zeros(1, np.float32)
    model = parse(text, w=numbers(1, 1, 1, 1), s=one, b=zero, m=zero, v=zero)
    result = bnfold.fold(model).model
    expected = numbers(1, 1, 1, 1) / np.sqrt(np.float64(np.float32(1e-5)))
    found = onnx.numpy_helper.to_array(result.graph.initializer[0])
    np.testing.assert_array_equal(found, expected.astype(np.float32))


@pytest.mark.parametrize(
    ("opset", "slots"),
    [(8, 'd = Upsample <mode = "nearest"> (c, k)'), (10, 'd = Resize <mode = "nearest"> (c, k)')],
)
def test_scales_as_the_second_input(opset: int, slots: str) -> None:
    attribute = slots.replace("(c, k)", "(c)").replace(">", ", scales = [1.0, 1.0, 2.0, 2.0]>")
    op = attribute if opset == 8 else slots
    model = up(op, 4, opset, k=np.array([1, 1, 2, 2], np.float32))
    if opset == 8:
        del model.graph.initializer[-1]
    folded(model)


def test_a_pad_up_takes_the_value_that_the_map_makes_of_it() -> None:
    same = {"s": floats(2, 2, 2, 2), "b": floats(3, 3, 3, 3), "m": floats(0, 0, 0, 0),
            "v": floats(1, 1, 1, 1)}  # fmt: skip
    pads = np.array([0, 0, 1, 0, 0, 0, 0, 1], np.int64)
    result = folded(up("d = Pad (c, p, q)", p=pads, q=np.array(3, np.float32), **same))
    assert result.tensor(result.model.graph.node[1].input[2]) == 9  # 2·3 + 3, and 2·3 − 3 is 3


def test_pads_at_the_end_of_the_last_axis_only() -> None:
    pads = np.array([0, 0, 0, 0, 0, 1, 0, 0], np.int64)  # of the channels: where the map is
    model = up('d = Pad <mode = "edge"> (c, p)', 5, p=pads)
    assert reason(model, check=False) == "channel-axis"


def test_a_cast_below_opset_6_names_its_type_in_words() -> None:
    text = """
    g (float[2,4,6,6] x) => (float y) {
      [conv] c = Conv (x, w)
      [cast] d = Cast <to = "FLOAT"> (c)
      [norm] y = BatchNormalization <epsilon = 0.0, is_test = 1> (d, s, b, m, v)
    }"""
    model = parse(text, 5, w=numbers(4, 4, 1, 1), **bn(4))
    assert reason(model, check=False) == "not-transparent"


def test_a_cast_at_opset_6_names_it_by_number() -> None:
    text = """
    g (float[2,4,6,6] x) => (float y) {
      [conv] c = Conv (x, w)
      [cast] d = Cast <to = 1> (c)
      [norm] y = BatchNormalization <epsilon = 0.0, is_test = 1> (d, s, b, m, v)
    }"""
    assert bnfold.fold(parse(text, 6, w=numbers(4, 4, 1, 1), **bn(4))).folded


@pytest.mark.parametrize("used", [True, False])
def test_the_indices_of_a_max_pool(used: bool) -> None:
    model = up("d, i = MaxPool <kernel_shape = [2,2]> (c)", **positive(4))
    if used:
        assert reason(model, check=False) == "not-transparent"
    else:
        model.graph.node[1].output[1] = ""
        folded(model)


def test_what_divides_by_a_constant_is_a_map_and_what_a_constant_is_divided_by_is_none() -> None:
    model = up("e = Relu (c) f = Add (e, l) d = Div (k, f)", k=numbers(4, 1, 1),
               l=np.full((4, 1, 1), 9, np.float32))  # fmt: skip
    _stays(model, "shift", "up")


@pytest.mark.parametrize("constant", [np.array([1, np.nan, 2, 3]), np.array([1, np.inf, 2, 3])])
def test_a_constant_that_is_not_finite_is_no_map(constant: Array) -> None:
    model = up("d = Mul (c, k)", k=constant.reshape(4, 1, 1).astype(np.float32))
    assert bnfold.fold(model).kept


@pytest.mark.parametrize("opset", [13, 12])
def test_a_sub_holds_what_remains_of_the_shift(opset: int) -> None:
    text = """
    g (float[2,5,4] x) => (float[2,5,3] y) {
      [product] p = MatMul (x, w)
      [minus] q = Sub (p, t)
      [scale] y = Mul (q, k)
    }"""
    result = folded(parse(text, opset, w=numbers(4, 3), t=numbers(3, seed=2), k=numbers(3, seed=4)))
    assert result.ops == ["MatMul", "Sub"]
    np.testing.assert_array_equal(result.tensor("t"), numbers(3, seed=2) * numbers(3, seed=4))


def test_a_constant_minus_the_product_is_no_place_for_a_shift() -> None:
    text = """
    g (float[2,5,4] x) => (float[2,5,3] y) {
      [product] p = MatMul (x, w)
      [minus] q = Sub (t, p)
      [scale] y = Mul (q, k)
    }"""
    model = parse(text, w=numbers(4, 3), t=numbers(3, seed=2), k=numbers(3, seed=4))
    assert reason(model) == "no-place-for-shift"


def test_a_branch_with_one_channel_for_all_takes_no_map_of_several() -> None:
    text = """
    g (float[2,3,6,6] x) => (float[2,4,6,6] y) {
      [many] c = Conv (x, w)
      [one] d = Conv (x, k)
      [join] e = Add (c, d)
      [norm] y = BatchNormalization <epsilon = 0.0> (e, s, b, m, v)
    }"""
    given = {"w": numbers(4, 3, 1, 1), "k": numbers(1, 3, 1, 1), **bn(4)}
    assert reason(parse(text, **given)) == "other-branch"


def test_a_concat_below_opset_4_joins_the_channels_by_default() -> None:
    text = """
    g (float[2,3,6,6] x) => (float y) {
      [first] c = Conv (x, w, i)
      [second] d = Conv (x, k, j)
      [join] e = Concat (c, d)
      [norm] y = BatchNormalization <epsilon = 0.0, is_test = 1, consumed_inputs = [0,0,0,1,1]>
        (e, s, b, m, v)
    }"""
    p = bn(5)
    given = {"w": numbers(2, 3, 1, 1), "i": numbers(2), "k": numbers(3, 3, 1, 1), "j": numbers(3)}
    result = bnfold.fold(parse(text, 3, **given, **p))
    scale, shift = affine(p)
    tensors = {t.name: onnx.numpy_helper.to_array(t) for t in result.model.graph.initializer}
    np.testing.assert_array_equal(tensors["i"], scale[:2] * numbers(2) + shift[:2])
    np.testing.assert_array_equal(tensors["j"], scale[2:] * numbers(3) + shift[2:])


def test_a_constant_over_a_value_is_no_map_per_channel() -> None:
    text = """
    g (float[2,3,6,6] x) => (float[2,4,6,6] y) {
      [conv] c = Conv (x, w)
      [over] y = Div (k, c)
    }"""
    model = parse(text, w=numbers(4, 3, 1, 1), k=numbers(4, 1, 1))
    assert not bnfold.fold(model).verdicts


def test_a_product_of_a_value_with_itself_takes_no_scale() -> None:
    text = """
    g (float[2,4,6,6] x) => (float[2,3,P,Q] y) {
      [norm] n = BatchNormalization <epsilon = 0.0> (x, s, b, m, v)
      [square] q = Mul (n, n)
      [conv] y = Conv (q, w)
    }"""
    (verdict,) = bnfold.fold(parse(text, w=numbers(3, 4, 1, 1), **scale_only(4))).verdicts
    assert verdict.below is not None
    assert "with itself" in verdict.below.detail


@pytest.mark.parametrize("name", "sbmv")
def test_one_parameter_of_another_shape(name: str) -> None:
    model = up("d = Identity (c)")
    given = {**bn(4), name: np.ones(3, np.float32)}
    for tensor in model.graph.initializer:
        if tensor.name == name:
            tensor.CopyFrom(onnx.numpy_helper.from_array(given[name], name))
    assert reason(model, check=False) == "shape-mismatch"


# --- constants that become values: tables, tokens ------------------------------------------------


@pytest.mark.parametrize("axis", [0, 1])
def test_a_map_into_the_table_of_a_gather(axis: int) -> None:
    """An embedding, whose rows (or columns) are chosen at run time."""
    shape = "2,3" if axis == 0 else "3,2"
    text = f"""
    g (int64[2] i) => (float[{shape}] y) {{
      [emb] e = Gather <axis = {axis}> (table, i)
      [norm] y = Mul (e, k)
    }}"""
    k = numbers(3) if axis == 0 else numbers(3, 1)
    table = numbers(5, 3) if axis == 0 else numbers(3, 5)
    assert folded(parse(text, table=table, k=k), execute=False).ops == ["Gather"]


def test_a_map_along_what_is_gathered_at_run_time_stays() -> None:
    text = """
    g (int64[2] i) => (float[2,3] y) {
      e = Gather (table, i)
      y = Mul (e, k)
    }"""
    assert reason(parse(text, table=numbers(5, 3), k=numbers(2, 1))) == "axis-lost"


def test_a_scaled_embedding_that_two_read() -> None:
    """Embeddings × √d with a tied head: the table is copied, the head reads it as it was."""
    text = """
    g (int64[4] i) => (float[4,5] y) {
      [embedding] e = Gather (table, i)
      [scale] h = Mul (e, root)
      [act] r = Tanh (h)
      [turn] t = Transpose <perm = [1, 0]> (table)
      [head] y = MatMul (r, t)
    }"""
    assert folded(parse(text, table=numbers(5, 3), root=np.array(2.0, np.float32)), execute=False)


def test_a_map_into_a_class_token() -> None:
    """A constant is expanded to the batch, joined to what is computed, and normalised."""
    text = """
    g (float[N,2,3] x, int64[3] shape) => (float[N,3,3] y) {
      p = MatMul (x, w)
      token = Expand (cls, shape)
      both = Concat <axis = 1> (token, p)
      y = Mul (both, k)
    }"""
    model = parse(text, w=numbers(3, 3), cls=numbers(1, 1, 3), k=numbers(3))
    assert folded(model, execute=False).ops == ["MatMul", "Expand", "Concat"]


def test_a_map_into_a_constant_that_is_joined_to_what_is_computed() -> None:
    text = """
    g (float[2,2,3] x) => (float[2,3,3] y) {
      p = MatMul (x, w)
      both = Concat <axis = 1> (token, p)
      y = Mul (both, k)
    }"""
    assert folded(parse(text, w=numbers(3, 3), token=numbers(2, 1, 3), k=numbers(3)))


# --- copies of shared weights --------------------------------------------------------------------

SHARED = """
g (float[1,IN,4,4] x, float[1,IN,4,4] z) => (float[1,OUT,4,4] y, float[1,OUT,4,4] q) {
  [one] c = Conv (x, w)
  [norm] y = BatchNormalization <epsilon = 0.0> (c, s, b, m, v)
  [other] q = Conv (z, w)
}"""


def shared(inputs: int, outputs: int) -> ModelProto:
    text = SHARED.replace("IN", str(inputs)).replace("OUT", str(outputs))
    return parse(text, w=numbers(outputs, inputs, 1, 1), **bn(outputs))


def with_both_normalised(variance: str) -> ModelProto:
    """The other reader of the large weight has a BatchNormalization behind it as well."""
    model = shared(513, 512)
    model.graph.node[2].output[0] = "d"
    also = onnx.helper.make_node(
        "BatchNormalization", ["d", "s", "b", "m", variance], ["q"], "also", epsilon=0.0
    )
    model.graph.node.append(also)
    return model


def test_a_batch_normalization_is_worth_a_copy_of_some_bytes() -> None:
    assert folded(shared(3, 4)).result.copied_bytes == 48
    assert folded(shared(512, 512), execute=False).result.copied_bytes == 1 << 20


def test_no_batch_normalization_is_worth_a_copy_of_most_of_the_model() -> None:
    verdict = kept(shared(513, 512))
    assert verdict.refusal is not None
    assert verdict.refusal.reason.code == "shared-weight"
    assert "a copy of w, which others read as it is, of 1.1 MB" in verdict.refusal.sentence


def test_a_shared_weight_that_all_readers_change_alike_is_no_copy() -> None:
    model = with_both_normalised(variance="v")
    assert folded(model, execute=False).result.copied_bytes == 0


def test_of_two_readers_that_change_a_weight_apart_one_needs_a_copy() -> None:
    """Which is too dear; and what that one reads, the other needs a copy of."""
    model = with_both_normalised(variance="u")
    model.graph.initializer.append(numpy_helper.from_array(bn(512)["v"] * 4, "u"))
    verdicts = bnfold.fold(model).kept
    codes = [verdict.refusal.reason.code for verdict in verdicts if verdict.refusal]
    assert codes == ["shared-weight", "shared-weight"]


def test_a_reader_that_goes_needs_no_copy() -> None:
    text = """
    g (float[1,1] x) => (float[1,16400] y) {
      c = Gemm (x, w, k)
      y = Mul (c, k)
    }"""
    model = parse(text, w=numbers(1, 16400), k=numbers(16400))
    assert folded(model, execute=False).ops == ["Gemm"]


@pytest.mark.parametrize(("rows", "worth"), [(4096, True), (4097, False)])
def test_a_chain_of_constants_is_worth_no_more_than_a_small_copy(rows: int, worth: bool) -> None:
    """Embeddings × √d with a tied head."""
    text = f"""
    g (int64[2] i) => (float[2,4] y, float[{rows},4] z) {{
      [table] e = Gather (w, i)
      [scale] y = Mul (e, k)
      [head] z = Tanh (w)
    }}"""
    model = parse(text, w=numbers(rows, 4), k=numbers(4))
    if worth:
        assert folded(model, execute=False).result.copied_bytes == 65536
    else:
        assert reason(model) == "shared-weight"


def test_one_value_that_is_added_up_a_thousand_times_is_given_up_soon() -> None:
    """Whichever of them is to hold the shift, the others read the same value."""
    text = f"""
    g (float[1,4,4,4] x) => (float[1,4,4,4] y) {{
      c = Conv (x, w)
      d = Sum ({", ".join(["c"] * 1000)})
      [norm] y = BatchNormalization <epsilon = 0.0> (d, s, b, m, v)
    }}"""
    start = time.monotonic()
    assert reason(parse(text, w=numbers(4, 4, 1, 1), **bn(4))) == "another-reader"
    assert time.monotonic() - start < 10
