"""The law of each rule, axis by axis, in numbers: f′(A′(x)) = A(f(x)) up, A′(f′(x)) = f(A(x)) down.

Each case is one node. For every axis of its output (up) and of its input (down), and for a map
that is the same everywhere (–), the rule is asked, and what it says is tried on random numbers:
its edits are made, and its demands met. SAID says what it must say: "held" where constants change,
the axes on which the map goes on, or the code of the refusal; "or" stands before another way.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import ModelProto, TypeProto, helper, numpy_helper
from onnx.reference import ReferenceEvaluator

from bnfold.folding.rules.base import Step
from bnfold.folding.walk.table import DOWN, UP
from bnfold.folding.weights.affine import Affine
from bnfold.folding.weights.draft import Draft
from bnfold.folding.weights.edits import Rescale, SetOperator, Supply
from bnfold.graph.index import Index, Node
from bnfold.options import Options
from bnfold.reasons import Refusal
from tests.support import Array, parse

I64 = np.int64


def ints(*values: int) -> Array:
    return np.array(values, I64)


def weights(*shape: int) -> Array:
    return np.random.default_rng(sum(shape)).choice([-2.0, -1, 0.5, 1, 3, 4], shape)


# name: (node, that reads x and gives y; shape of x; opset; what kind of map; constants)
# kind: "st" scales > 0 and shifts, "s" scales > 0, "t" shifts, "-" scales < 0
Case = tuple[str, str, int, str, dict[str, Array]]
CASES: dict[str, Case] = {
    "identity": ("y = Identity (x)", "2,3,4", 17, "st", {}),
    "relu": ("y = Relu (x)", "2,3,4", 17, "s", {}),
    "relu, shifted": ("y = Relu (x)", "2,3", 17, "st", {}),
    "relu, turned": ("y = Relu (x)", "2,3", 17, "-", {}),
    "leaky relu": ("y = LeakyRelu (x)", "2,3,4", 17, "s", {}),
    "abs": ("y = Abs (x)", "2,3,4", 17, "s", {}),
    "abs, turned": ("y = Abs (x)", "2,3,4", 17, "-", {}),
    "abs, shifted": ("y = Abs (x)", "2,3,4", 17, "st", {}),
    "neg": ("y = Neg (x)", "2,3,4", 17, "st", {}),
    "neg, turned": ("y = Neg (x)", "2,3,4", 17, "-", {}),
    "trilu": ("y = Trilu <upper = 0> (x)", "2,3,4", 17, "-", {}),
    "trilu, shifted": ("y = Trilu (x)", "2,3,4", 17, "st", {}),
    "cumulative sum": ("y = CumSum (x, k)", "2,3,4", 17, "-", {"k": np.array(-1)}),
    "cumulative sum, shifted": ("y = CumSum (x, k)", "2,3,4", 17, "st", {"k": np.array(1)}),
    "reverse sequence": (
        "y = ReverseSequence <batch_axis = 0, time_axis = 1> (x, k)", "2,3,4", 17, "st", {
            "k": ints(3, 2)}),
    "reverse sequence of the first axis": (
        "y = ReverseSequence (x, k)", "2,3,4", 17, "st", {"k": ints(2, 1, 2)}),
    "lp pool": ("y = LpPool <kernel_shape = [2], p = 2, pads = [1, 0]> (x)", "2,3,4", 18, "s", {}),
    "lp pool, turned": ("y = LpPool <kernel_shape = [2]> (x)", "2,3,4", 18, "-", {}),
    "lp pool, shifted": ("y = LpPool <kernel_shape = [2]> (x)", "2,3,4", 18, "st", {}),
    "global lp pool": ("y = GlobalLpPool (x)", "2,3,4,5", 17, "s", {}),
    "reduce l2": ("y = ReduceL2 <axes = [2], keepdims = 0> (x)", "2,3,4", 17, "s", {}),
    "reduce l2, turned": ("y = ReduceL2 <axes = [2]> (x)", "2,3,4", 17, "-", {}),
    "reduce l1, shifted": ("y = ReduceL1 <axes = [2]> (x)", "2,3,4", 17, "st", {}),
    "prelu": ("y = PRelu (x, k)", "2,3,4", 17, "s", {"k": np.full((3, 1), 0.25)}),
    "prelu, turned": ("y = PRelu (x, k)", "2,3,4", 17, "-", {"k": np.full((3, 1), 0.25)}),
    "dropout": ("y = Dropout (x)", "2,3", 7, "st", {}),
    "dropout at 6": ("y = Dropout (x)", "2,3", 6, "st", {}),
    "dropout at 6, testing": ("y = Dropout <is_test = 1> (x)", "2,3", 6, "st", {}),
    "max pool": ("y = MaxPool <kernel_shape = [2]> (x)", "2,3,4", 17, "st", {}),
    "max pool, turned": ("y = MaxPool <kernel_shape = [2]> (x)", "2,3,4", 17, "-", {}),
    "max pool, dilated": (
        "y = MaxPool <kernel_shape = [2], dilations = [2]> (x)", "2,3,4", 17, "st", {}),
    "max pool, padded and dilated": (
        "y = MaxPool <kernel_shape = [2], dilations = [2], pads = [1, 1]> (x)",
        "2,3,4", 17, "s", {}),
    "max pool, same size and dilated": (
        'y = MaxPool <kernel_shape = [2], dilations = [2], auto_pad = "SAME_UPPER"> (x)',
        "2,3,4", 17, "s", {}),
    "average pool": ("y = AveragePool <kernel_shape = [2]> (x)", "2,3,4", 17, "st", {}),
    "average pool with zeros": (
        "y = AveragePool <kernel_shape = [2], pads = [1, 0], count_include_pad = 1> (x)",
        "2,3,4", 17, "st", {}),
    "average pool with zeros, scaled": (
        "y = AveragePool <kernel_shape = [2], pads = [1, 0], count_include_pad = 1> (x)",
        "2,3,4", 17, "-", {}),
    "average pool, same size": (
        'y = AveragePool <kernel_shape = [2], auto_pad = "SAME_UPPER", count_include_pad = 1> (x)',
        "2,3,4", 17, "st", {}),
    "average pool, valid": (
        'y = AveragePool <kernel_shape = [2], auto_pad = "VALID", count_include_pad = 1> (x)',
        "2,3,4", 17, "st", {}),
    "average pool, ceil": (
        "y = AveragePool <kernel_shape = [2], strides = [2], ceil_mode = 1> (x)",
        "2,3,5", 17, "st", {}),
    "average pool, dilated": (
        "y = AveragePool <kernel_shape = [2], dilations = [2]> (x)", "2,3,4", 19, "st", {}),
    "average pool, padded and dilated": (
        "y = AveragePool <kernel_shape = [2], dilations = [2], pads = [1, 1]> (x)",
        "2,3,4", 19, "st", {}),
    "average pool, padded and dilated, scaled": (
        "y = AveragePool <kernel_shape = [2], dilations = [2], pads = [1, 1]> (x)",
        "2,3,4", 19, "-", {}),
    "global average pool": ("y = GlobalAveragePool (x)", "2,3,4,5", 17, "st", {}),
    "global max pool": ("y = GlobalMaxPool (x)", "2,3,4,5", 17, "st", {}),
    "global max pool, turned": ("y = GlobalMaxPool (x)", "2,3,4,5", 17, "-", {}),
    "reduce mean": ("y = ReduceMean <axes = [2], keepdims = 0> (x)", "2,3,4,5", 17, "st", {}),
    "reduce mean, kept": ("y = ReduceMean <axes = [-2]> (x)", "2,3,4,5", 17, "st", {}),
    "reduce mean of all": ("y = ReduceMean (x)", "2,3", 17, "st", {}),
    "reduce mean at 18": ("y = ReduceMean <keepdims = 0> (x, k)", "2,3,4", 18, "st", {
        "k": ints(-2)}),
    "reduce mean of none": (
        "y = ReduceMean <noop_with_empty_axes = 1> (x)", "2,3", 18, "st", {}),
    "reduce max": ("y = ReduceMax <axes = [1], keepdims = 0> (x)", "2,3,4", 17, "st", {}),
    "reduce min, turned": ("y = ReduceMin <axes = [1]> (x)", "2,3,4", 17, "-", {}),
    "reduce sum": ("y = ReduceSum <keepdims = 0> (x, k)", "2,3,4", 17, "-", {"k": ints(2)}),
    "reduce sum, shifted": ("y = ReduceSum <keepdims = 0> (x, k)", "2,3,4", 17, "st", {
        "k": ints(2)}),
    "transpose": ("y = Transpose <perm = [2, 0, 1]> (x)", "2,3,4", 17, "st", {}),
    "transpose backwards": ("y = Transpose (x)", "2,3,4", 17, "st", {}),
    "squeeze": ("y = Squeeze (x, k)", "2,1,3,1", 17, "st", {"k": ints(1)}),
    "squeeze from behind": ("y = Squeeze (x, k)", "2,1,3,1", 17, "st", {"k": ints(-1)}),
    "squeeze all": ("y = Squeeze (x)", "2,1,3,1", 17, "st", {}),
    "squeeze at 11": ("y = Squeeze <axes = [1]> (x)", "2,1,3", 11, "st", {}),
    "squeeze an unknown": ("y = Squeeze (x)", "2,N,3", 17, "st", {}),
    "unsqueeze": ("y = Unsqueeze (x, k)", "2,3", 17, "st", {"k": ints(0, 2)}),
    "unsqueeze from behind": ("y = Unsqueeze (x, k)", "2,3", 17, "st", {"k": ints(-1, -2)}),
    "flatten": ("y = Flatten (x)", "2,3,4", 17, "st", {}),
    "flatten at 2": ("y = Flatten <axis = 2> (x)", "2,3,4", 17, "st", {}),
    "reshape apart": ("y = Reshape (x, k)", "2,6,4", 17, "st", {"k": ints(2, 2, 3, 4)}),
    "reshape together": ("y = Reshape (x, k)", "2,3,2,2", 17, "st", {"k": ints(2, 3, 4)}),
    "reshape to rows": ("y = Reshape (x, k)", "2,3,4", 17, "st", {"k": ints(6, 4)}),
    "reshape across": ("y = Reshape (x, k)", "2,3,4", 17, "st", {"k": ints(3, 2, 4)}),
    "reshape with ones": ("y = Reshape (x, k)", "2,3,1", 17, "st", {"k": ints(1, 2, 3)}),
    "reshape, batch unknown": ("y = Reshape (x, k)", "N,3,4", 17, "st", {"k": ints(0, 12)}),
    "reshape, tail unknown": ("y = Reshape (x, k)", "2,3,N", 17, "st", {"k": ints(0, 0, -1)}),
    "cast": ("y = Cast <to = 11> (x)", "2,3", 17, "st", {}),
    "expand in front": ("y = Expand (x, k)", "2,3,1", 17, "st", {"k": ints(4, 2, 3, 1)}),
    "expand an axis": ("y = Expand (x, k)", "2,3,1", 17, "st", {"k": ints(2, 3, 5)}),
    "tile": ("y = Tile (x, k)", "2,3,4", 17, "st", {"k": ints(1, 1, 2)}),
    "tile at 6": ("y = Tile (x, k)", "2,3", 6, "st", {"k": ints(2, 1)}),
    "slice": ("y = Slice (x, k, l, m)", "2,6,4", 17, "st", {
        "k": ints(1), "l": ints(5), "m": ints(1)}),
    "slice without axes": ("y = Slice (x, k, l)", "2,6,4", 17, "st", {
        "k": ints(0, 2), "l": ints(2, 6)}),
    "slice by steps": ("y = Slice (x, k, l, m, n)", "2,6,4", 17, "st", {
        "k": ints(5), "l": ints(-7), "m": ints(-2), "n": ints(-2)}),
    "slice beyond": ("y = Slice (x, k, l, m, n)", "2,6,4", 17, "st", {
        "k": ints(9), "l": ints(1), "m": ints(1), "n": ints(-1)}),
    "slice to the end": ("y = Slice (x, k, l, m)", "2,6,4", 17, "st", {
        "k": ints(-3), "l": ints(100), "m": ints(1)}),
    "gather": ("y = Gather <axis = 1> (x, k)", "2,4,3", 17, "st", {"k": ints(3, 1)}),
    "gather at 0": ("y = Gather (x, k)", "4,2,3", 17, "st", {"k": ints(-1, 0)}),
    "gather one": ("y = Gather <axis = -2> (x, k)", "2,4,3", 17, "st", {"k": np.array(2)}),
    "gather a table": ("y = Gather <axis = 1> (x, k)", "2,4,3", 17, "st", {
        "k": np.array([[0, 1], [2, 3]])}),
    "gather twice": ("y = Gather <axis = 1> (x, k)", "2,4,3", 17, "st", {"k": ints(1, 1)}),
    "split": ("y, z = Split <axis = 1> (x, k)", "2,5,3", 17, "st", {"k": ints(2, 3)}),
    "split at 0": ("y, z = Split (x, k)", "5,2", 17, "st", {"k": ints(2, 3)}),
    "split at 11": ("y, z = Split <axis = -1, split = [1, 3]> (x)", "2,4", 11, "st", {}),
    "concat": ("y = Concat <axis = 1> (x, z)", "2,3,4", 17, "st", {}),
    "concat from behind": ("y = Concat <axis = -1> (x, z)", "2,3,4", 17, "st", {}),
    "depth to space": ("y = DepthToSpace <blocksize = 2> (x)", "1,8,2,3", 17, "st", {}),
    "depth to space, crd": (
        'y = DepthToSpace <blocksize = 2, mode = "CRD"> (x)', "1,8,2,3", 17, "st", {}),
    "depth to space by 3": ("y = DepthToSpace <blocksize = 3> (x)", "1,18,1,1", 17, "st", {}),
    "space to depth": ("y = SpaceToDepth <blocksize = 2> (x)", "1,2,4,6", 17, "st", {}),
    "resize": ('y = Resize <mode = "linear"> (x, , k)', "1,2,3,4", 17, "st", {
        "k": np.array([1, 1, 2, 2], np.float32)}),
    "resize at 10": ('y = Resize <mode = "nearest"> (x, k)', "1,2,3,4", 10, "st", {
        "k": np.array([1, 1, 2, 1], np.float32)}),
    "resize the channels": ('y = Resize <mode = "nearest"> (x, , k)', "1,2,3,4", 17, "st", {
        "k": np.array([1, 2, 1, 1], np.float32)}),
    "resize to sizes": ('y = Resize <mode = "nearest"> (x, , , k)', "1,2,3,4", 17, "st", {
        "k": ints(1, 2, 6, 4)}),
    "resize by axes": (
        'y = Resize <mode = "nearest", axes = [3, 2]> (x, , k)', "1,2,3,4", 18, "st", {
            "k": np.array([2, 1], np.float32)}),
    "pad by reflection": ('y = Pad <mode = "reflect"> (x, k)', "2,3,4", 17, "st", {
        "k": ints(0, 0, 1, 0, 0, 1)}),
    "pad at the end": ('y = Pad <mode = "edge"> (x, k)', "2,3,4", 17, "st", {
        "k": ints(0, 0, 0, 0, 0, 1)}),
    "pad by axes": ('y = Pad <mode = "edge"> (x, k, , j)', "2,3,4", 18, "st", {
        "k": ints(1, 0), "j": ints(-1)}),
    "pad with zeros": ("y = Pad (x, k)", "2,3,4", 17, "-", {"k": ints(0, 0, 1, 0, 0, 0)}),
    "pad with zeros at 2": ("y = Pad <pads = [0, 0, 1, 0, 0, 0]> (x)", "2,3,4", 2, "-", {}),
    "pad with ones at 10": (
        "y = Pad <pads = [0, 0, 1, 0, 0, 0], value = 1.0> (x)", "2,3,4", 10, "-", {}),
    "space to depth by 3": ("y = SpaceToDepth <blocksize = 3> (x)", "1,2,3,3", 17, "st", {}),
    "depth to space of blocks of one": (
        "y = DepthToSpace <blocksize = 1> (x)", "1,4,2,2", 17, "st", {}),
    "resize at 11": ('y = Resize <mode = "nearest"> (x, j, k)', "1,2,3,4", 11, "st", {
        "j": np.zeros(0), "k": np.array([1, 1, 2, 1], np.float32)}),
    "pad with a number": ("y = Pad (x, k, v)", "2,3,4", 11, "s", {
        "k": ints(0, 0, 1, 0, 0, 0), "v": np.array(2.0)}),
    "pad with a number, shifted": ("y = Pad (x, k, v)", "2,3,4", 17, "st", {
        "k": ints(0, 0, 1, 0, 0, 0), "v": np.array(2.0)}),
    "transpose and the like of one axis": ("y = Transpose (x)", "3", 17, "st", {}),
    "reduce mean, not kept, by default": ("y = ReduceMean <axes = [0]> (x)", "2,3", 17, "st", {}),
    "conv": ("y = Conv (x, k, j)", "2,3,5,5", 17, "st", {
        "k": weights(4, 3, 2, 2), "j": weights(4)}),
    "conv without bias": ("y = Conv (x, k)", "2,3,5", 17, "st", {"k": weights(4, 3, 2)}),
    "conv of groups": ("y = Conv <group = 2> (x, k)", "2,4,5", 17, "st", {"k": weights(6, 2, 2)}),
    "conv, padded": ("y = Conv <pads = [0, 1]> (x, k)", "2,3,5", 17, "st", {"k": weights(4, 3, 2)}),
    "conv, padded, scaled": (
        "y = Conv <pads = [0, 1]> (x, k)", "2,3,5", 17, "-", {"k": weights(4, 3, 2)}),
    "conv, same size": (
        'y = Conv <auto_pad = "SAME_UPPER"> (x, k)', "2,3,5,5", 17, "st", {
            "k": weights(4, 3, 2, 1)}),
    "conv of points, same size": (
        'y = Conv <auto_pad = "SAME_UPPER"> (x, k)', "2,3,5,5", 17, "st", {
            "k": weights(4, 3, 1, 1)}),
    "conv transpose": ("y = ConvTranspose (x, k, j)", "2,4,3,3", 17, "st", {
        "k": weights(4, 3, 2, 2), "j": weights(3)}),
    "conv transpose, scaled": ("y = ConvTranspose <group = 2> (x, k)", "2,4,3,3", 17, "-", {
        "k": weights(4, 3, 2, 2)}),
    "gemm": ("y = Gemm (x, k, j)", "2,3", 17, "st", {"k": weights(3, 4), "j": weights(4)}),
    "gemm without c": ("y = Gemm (x, k)", "2,3", 17, "st", {"k": weights(3, 4)}),
    "gemm of every kind": (
        "y = Gemm <alpha = 0.5, beta = 2.0, transA = 1, transB = 1> (x, k, j)", "3,2", 17, "st", {
            "k": weights(4, 3), "j": weights(1, 4)}),
    "gemm with a number": ("y = Gemm (x, k, j)", "2,3", 17, "st", {
        "k": weights(3, 4), "j": np.array(2.0)}),
    "gemm with a column": ("y = Gemm (x, k, j)", "2,3", 17, "st", {
        "k": weights(3, 4), "j": weights(2, 1)}),
    "gemm, beta 0": ("y = Gemm <beta = 0.0> (x, k, j)", "2,3", 17, "st", {
        "k": weights(3, 4), "j": weights(4)}),
    "matmul": ("y = MatMul (x, k)", "2,3", 17, "st", {"k": weights(3, 4)}),
    "matmul, scaled": ("y = MatMul (x, k)", "2,3", 17, "-", {"k": weights(3, 4)}),
    "matmul of rank 3": ("y = MatMul (x, k)", "2,5,3", 17, "st", {"k": weights(3, 4)}),
    "matmul of rank 3, scaled": ("y = MatMul (x, k)", "2,5,3", 17, "-", {"k": weights(3, 4)}),
    "matmul from the left": ("y = MatMul (k, x)", "2,3,5", 17, "-", {"k": weights(4, 3)}),
    "batch norm": ("y = BatchNormalization (x, k, l, m, n)", "2,3,4", 17, "st", {
        "k": weights(3), "l": weights(3), "m": weights(3), "n": np.array([1.0, 4, 0.25])}),
    "instance norm": ("y = InstanceNormalization (x, k, l)", "2,3,4", 17, "st", {
        "k": weights(3), "l": weights(3)}),
    "group norm": ("y = GroupNormalization <num_groups = 2> (x, k, l)", "2,4,3", 21, "st", {
        "k": weights(4), "l": weights(4)}),
    "layer norm": ("y = LayerNormalization (x, k, l)", "2,3,4", 17, "st", {
        "k": weights(4), "l": weights(4)}),
    "layer norm of two axes": ("y = LayerNormalization <axis = 1> (x, k)", "2,3,4", 17, "st", {
        "k": weights(3, 4)}),
    "add a constant": ("y = Add (x, k)", "2,3,4", 17, "st", {"k": weights(3, 1)}),
    "add to a constant": ("y = Add (k, x)", "2,3,4", 17, "st", {"k": weights(1, 3, 1)}),
    "subtract a constant": ("y = Sub (x, k)", "2,3,4", 17, "st", {"k": weights(3, 1)}),
    "subtract from a constant": ("y = Sub (k, x)", "2,3,4", 17, "st", {"k": weights(3, 1)}),
    "add a table": ("y = Add (x, k)", "2,3,4", 17, "st", {"k": weights(3, 4)}),
    "multiply by a constant": ("y = Mul (x, k)", "2,3,4", 17, "st", {"k": weights(3, 1)}),
    "multiply a constant, scaled": ("y = Mul (k, x)", "2,3,4", 17, "-", {"k": weights(3, 1)}),
    "multiply by a table": ("y = Mul (x, k)", "2,3,4", 17, "st", {"k": weights(3, 4)}),
    "multiply by a table, scaled": ("y = Mul (x, k)", "2,3,4", 17, "-", {"k": weights(3, 4)}),
    "divide by a constant": ("y = Div (x, k)", "2,3,4", 17, "st", {"k": weights(3, 1)}),
    "divide by a constant, scaled": ("y = Div (x, k)", "2,3,4", 17, "-", {"k": weights(3, 1)}),
    "divide a constant, scaled": ("y = Div (k, x)", "2,3,4", 17, "-", {"k": weights(3, 1)}),
    "divide a constant": ("y = Div (k, x)", "2,3,4", 17, "st", {"k": weights(3, 1)}),
    "add": ("y = Add (x, z)", "2,3,4", 17, "st", {}),
    "subtract": ("y = Sub (x, z)", "2,3,4", 17, "st", {}),
    "subtract x": ("y = Sub (z, x)", "2,3,4", 17, "st", {}),
    "sum": ("y = Sum (x, z)", "2,3,4", 17, "st", {}),
    "add, shifts only": ("y = Add (x, z)", "2,3,4", 17, "t", {}),
    "subtract x, shifts only": ("y = Sub (z, x)", "2,3,4", 17, "t", {}),
    "subtract, shifts only": ("y = Sub (x, z)", "2,3,4", 17, "t", {}),
    "add to fewer axes, shifts only": ("y = Add (u, x)", "2,3,4", 17, "t", {}),
    "add a value of fewer axes": ("y = Add (x, u)", "2,3,4", 17, "st", {}),
    "multiply": ("y = Mul (x, z)", "2,3,4", 17, "-", {}),
    "multiply, shifted": ("y = Mul (x, z)", "2,3,4", 17, "st", {}),
    "multiply by a value of fewer axes": ("y = Mul (x, u)", "2,3,4", 17, "-", {}),
    "divide": ("y = Div (x, z)", "2,3,4", 17, "-", {}),
    "multiply fewer axes by x": ("y = Mul (u, x)", "2,3,4", 17, "-", {}),
    "matmul from the left, shifted": ("y = MatMul (k, x)", "2,3,5", 17, "st", {
        "k": weights(4, 3)}),
    "slice by no step": ("y = Slice (x, k, l, m, n)", "2,6,4", 17, "st", {
        "k": ints(0), "l": ints(6), "m": ints(1), "n": ints(0)}),
    "divide something": ("y = Div (z, x)", "2,3,4", 17, "-", {}),
}  # fmt: skip

UNTRIED = {  # what the reference evaluator cannot do
    "dropout at 6, testing", "resize at 10", "conv transpose, scaled", "slice by no step",
    "global lp pool",
}  # fmt: skip

SAID: dict[str, tuple[str, str]] = {
    "abs": (
        "–: –; 0: 0; 1: 1; 2: 2",
        "–: –; 0: 0; 1: 1; 2: 2",
    ),
    "abs, turned": (
        "always negative-scale",
        "always negative-scale",
    ),
    "abs, shifted": (
        "always shift",
        "always shift",
    ),
    "neg": (
        "–: –; 0: 0; 1: 1; 2: 2",
        "–: –; 0: 0; 1: 1; 2: 2",
    ),
    "neg, turned": (
        "–: –; 0: 0; 1: 1; 2: 2",
        "–: –; 0: 0; 1: 1; 2: 2",
    ),
    "trilu": (
        "–: –; 0: 0; 1: 1; 2: 2",
        "–: –; 0: 0; 1: 1; 2: 2",
    ),
    "trilu, shifted": (
        "always shift",
        "always shift",
    ),
    "cumulative sum": (
        "–: –; 0: 0; 1: 1; 2: axis-lost",
        "–: –; 0: 0; 1: 1; 2: axis-lost",
    ),
    "cumulative sum, shifted": (
        "always shift",
        "always shift",
    ),
    "reverse sequence": (
        "–: –; 0: 0; 1: axis-lost; 2: 2",
        "–: –; 0: 0; 1: axis-lost; 2: 2",
    ),
    "reverse sequence of the first axis": (
        "–: –; 0: axis-lost; 1: 1; 2: 2",
        "–: –; 0: axis-lost; 1: 1; 2: 2",
    ),
    "lp pool": (
        "–: –; 0: channel-axis; 1: 1; 2: channel-axis",
        "–: –; 0: channel-axis; 1: 1; 2: channel-axis",
    ),
    "lp pool, turned": (
        "always negative-scale",
        "always negative-scale",
    ),
    "lp pool, shifted": (
        "always shift",
        "always shift",
    ),
    "global lp pool": (
        "–: –; 0: channel-axis; 1: 1; 2: channel-axis; 3: channel-axis",
        "–: –; 0: channel-axis; 1: 1; 2: channel-axis; 3: channel-axis",
    ),
    "reduce l2": (
        "–: –; 0: 0; 1: 1",
        "–: –; 0: 0; 1: 1; 2: axis-lost",
    ),
    "reduce l2, turned": (
        "always negative-scale",
        "always negative-scale",
    ),
    "reduce l1, shifted": (
        "always shift",
        "always shift",
    ),
    "identity": (
        "–: –; 0: 0; 1: 1; 2: 2",
        "–: –; 0: 0; 1: 1; 2: 2",
    ),
    "relu": (
        "–: –; 0: 0; 1: 1; 2: 2",
        "–: –; 0: 0; 1: 1; 2: 2",
    ),
    "relu, shifted": (
        "always shift",
        "always shift",
    ),
    "relu, turned": (
        "always negative-scale",
        "always negative-scale",
    ),
    "leaky relu": (
        "–: –; 0: 0; 1: 1; 2: 2",
        "–: –; 0: 0; 1: 1; 2: 2",
    ),
    "prelu": (
        "–: –; 0: 0; 1: 1; 2: 2",
        "–: –; 0: 0; 1: 1; 2: 2",
    ),
    "prelu, turned": (
        "always negative-scale",
        "always negative-scale",
    ),
    "dropout": (
        "–: –; 0: 0; 1: 1",
        "–: –; 0: 0; 1: 1",
    ),
    "dropout at 6": (
        "always not-transparent",
        "always not-transparent",
    ),
    "dropout at 6, testing": (
        "–: –; 0: 0; 1: 1",
        "–: –; 0: 0; 1: 1",
    ),
    "max pool": (
        "–: –; 0: channel-axis; 1: 1; 2: channel-axis",
        "–: –; 0: channel-axis; 1: 1; 2: channel-axis",
    ),
    "max pool, turned": (
        "always negative-scale",
        "always negative-scale",
    ),
    "max pool, dilated": (
        "–: –; 0: channel-axis; 1: 1; 2: channel-axis",
        "–: –; 0: channel-axis; 1: 1; 2: channel-axis",
    ),
    "max pool, padded and dilated": (
        "always not-transparent",
        "always not-transparent",
    ),
    "max pool, same size and dilated": (
        "always not-transparent",
        "always not-transparent",
    ),
    "average pool, dilated": (
        "–: –; 0: channel-axis; 1: 1; 2: channel-axis",
        "–: –; 0: channel-axis; 1: 1; 2: channel-axis",
    ),
    "average pool, padded and dilated": (
        "always zero-padding",
        "always zero-padding",
    ),
    "average pool, padded and dilated, scaled": (
        "–: –; 0: channel-axis; 1: 1; 2: channel-axis",
        "–: –; 0: channel-axis; 1: 1; 2: channel-axis",
    ),
    "average pool": (
        "–: –; 0: channel-axis; 1: 1; 2: channel-axis",
        "–: –; 0: channel-axis; 1: 1; 2: channel-axis",
    ),
    "average pool with zeros": (
        "always zero-padding",
        "always zero-padding",
    ),
    "average pool with zeros, scaled": (
        "–: –; 0: channel-axis; 1: 1; 2: channel-axis",
        "–: –; 0: channel-axis; 1: 1; 2: channel-axis",
    ),
    "average pool, same size": (
        "always zero-padding",
        "always zero-padding",
    ),
    "average pool, valid": (
        "–: –; 0: channel-axis; 1: 1; 2: channel-axis",
        "–: –; 0: channel-axis; 1: 1; 2: channel-axis",
    ),
    "average pool, ceil": (
        "always zero-padding",
        "always zero-padding",
    ),
    "global average pool": (
        "–: –; 0: channel-axis; 1: 1; 2: channel-axis; 3: channel-axis",
        "–: –; 0: channel-axis; 1: 1; 2: channel-axis; 3: channel-axis",
    ),
    "global max pool": (
        "–: –; 0: channel-axis; 1: 1; 2: channel-axis; 3: channel-axis",
        "–: –; 0: channel-axis; 1: 1; 2: channel-axis; 3: channel-axis",
    ),
    "global max pool, turned": (
        "always negative-scale",
        "always negative-scale",
    ),
    "reduce mean": (
        "–: –; 0: 0; 1: 1; 2: 3",
        "–: –; 0: 0; 1: 1; 2: axis-lost; 3: 2",
    ),
    "reduce mean, kept": (
        "–: –; 0: 0; 1: 1; 2: axis-lost; 3: 3",
        "–: –; 0: 0; 1: 1; 2: axis-lost; 3: 3",
    ),
    "reduce mean of all": (
        "–: –; 0: axis-lost; 1: axis-lost",
        "–: –; 0: axis-lost; 1: axis-lost",
    ),
    "reduce mean at 18": (
        "–: –; 0: 0; 1: 2",
        "–: –; 0: 0; 1: axis-lost; 2: 1",
    ),
    "reduce mean of none": (
        "–: –; 0: 0; 1: 1",
        "–: –; 0: 0; 1: 1",
    ),
    "reduce max": (
        "–: –; 0: 0; 1: 2",
        "–: –; 0: 0; 1: axis-lost; 2: 1",
    ),
    "reduce min, turned": (
        "always negative-scale",
        "always negative-scale",
    ),
    "reduce sum": (
        "–: –; 0: 0; 1: 1",
        "–: –; 0: 0; 1: 1; 2: axis-lost",
    ),
    "reduce sum, shifted": (
        "always shift",
        "always shift",
    ),
    "transpose": (
        "–: –; 0: 2; 1: 0; 2: 1",
        "–: –; 0: 1; 1: 2; 2: 0",
    ),
    "transpose backwards": (
        "–: –; 0: 2; 1: 1; 2: 0",
        "–: –; 0: 2; 1: 1; 2: 0",
    ),
    "squeeze": (
        "–: –; 0: 0; 1: 2; 2: 3",
        "–: –; 0: 0; 1: axis-lost; 2: 1; 3: 2",
    ),
    "squeeze from behind": (
        "–: –; 0: 0; 1: 1; 2: 2",
        "–: –; 0: 0; 1: 1; 2: 2; 3: axis-lost",
    ),
    "squeeze all": (
        "–: –; 0: 0; 1: 2",
        "–: –; 0: 0; 1: axis-lost; 2: 1; 3: axis-lost",
    ),
    "squeeze at 11": (
        "–: –; 0: 0; 1: 2",
        "–: –; 0: 0; 1: axis-lost; 2: 1",
    ),
    "squeeze an unknown": (
        "always –",
        "–: –; 0: unknown-rank; 1: ?; 2: unknown-rank",
    ),
    "unsqueeze": (
        "–: –; 0: axis-lost; 1: 0; 2: axis-lost; 3: 1",
        "–: –; 0: 1; 1: 3",
    ),
    "unsqueeze from behind": (
        "–: –; 0: 0; 1: 1; 2: axis-lost; 3: axis-lost",
        "–: –; 0: 0; 1: 1",
    ),
    "flatten": (
        "–: –; 0: 0; 1: axis-lost or, alike, 1",
        "–: –; 0: 0; 1: 1; 2: 1",
    ),
    "flatten at 2": (
        "–: –; 0: axis-lost or, alike, 0; 1: 2",
        "–: –; 0: 0; 1: 0; 2: 1",
    ),
    "reshape apart": (
        "–: –; 0: 0; 1: 1; 2: 1; 3: 2",
        "–: –; 0: 0; 1: axis-lost or, alike, 1; 2: 3",
    ),
    "reshape together": (
        "–: –; 0: 0; 1: 1; 2: axis-lost or, alike, 2",
        "–: –; 0: 0; 1: 1; 2: 2; 3: 2",
    ),
    "reshape to rows": (
        "–: –; 0: axis-lost or, alike, 0; 1: 2",
        "–: –; 0: 0; 1: 0; 2: 1",
    ),
    "reshape across": (
        "–: –; 0: axis-lost; 1: axis-lost; 2: 2",
        "–: –; 0: axis-lost; 1: axis-lost; 2: 2",
    ),
    "reshape with ones": (
        "–: –; 0: axis-lost; 1: 0; 2: 1",
        "–: –; 0: 1; 1: 2; 2: axis-lost",
    ),
    "reshape, batch unknown": (
        "–: –; 0: ?; 1: axis-lost or, alike, 1",
        "–: –; 0: ?; 1: 1; 2: 1",
    ),
    "reshape, tail unknown": (
        "–: –; 0: 0; 1: 1; 2: ?",
        "–: –; 0: 0; 1: 1; 2: ?",
    ),
    "cast": (
        "–: –; 0: 0; 1: 1",
        "–: –; 0: 0; 1: 1",
    ),
    "expand in front": (
        "–: –; 0: axis-lost; 1: 0; 2: 1; 3: 2",
        "–: –; 0: 1; 1: 2; 2: 3",
    ),
    "expand an axis": (
        "–: –; 0: 0; 1: 1; 2: axis-lost",
        "–: –; 0: 0; 1: 1; 2: axis-lost",
    ),
    "tile": (
        "–: –; 0: 0; 1: 1; 2: axis-lost",
        "–: –; 0: 0; 1: 1; 2: axis-lost",
    ),
    "tile at 6": (
        "–: –; 0: axis-lost; 1: 1",
        "–: –; 0: axis-lost; 1: 1",
    ),
    "slice": (
        "–: –; 0: 0; 1: 1; 2: 2",
        "–: –; 0: 0; 1: 1; 2: 2",
    ),
    "slice without axes": (
        "–: –; 0: 0; 1: 1; 2: 2",
        "–: –; 0: 0; 1: 1; 2: 2",
    ),
    "slice by steps": (
        "–: –; 0: 0; 1: 1; 2: 2",
        "–: –; 0: 0; 1: 1; 2: 2",
    ),
    "slice beyond": (
        "–: –; 0: 0; 1: 1; 2: 2",
        "–: –; 0: 0; 1: 1; 2: 2",
    ),
    "slice to the end": (
        "–: –; 0: 0; 1: 1; 2: 2",
        "–: –; 0: 0; 1: 1; 2: 2",
    ),
    "gather": (
        "–: –; 0: 0; 1: 1; 2: 2",
        "–: –; 0: 0; 1: 1; 2: 2",
    ),
    "gather at 0": (
        "–: –; 0: 0; 1: 1; 2: 2",
        "–: –; 0: 0; 1: 1; 2: 2",
    ),
    "gather one": (
        "–: –; 0: 0; 1: 2",
        "–: –; 0: 0; 1: axis-lost; 2: 1",
    ),
    "gather a table": (
        "–: –; 0: 0; 1: axis-lost; 2: axis-lost; 3: 2",
        "–: –; 0: 0; 1: axis-lost; 2: 3",
    ),
    "gather twice": (
        "–: –; 0: 0; 1: axis-lost; 2: 2",
        "–: –; 0: 0; 1: 1; 2: 2",
    ),
    "split": (
        "–: other-branch; 0: other-branch; 1: 1; 2: other-branch",
        "–: –; 0: 0; 1: 1; 2: 2",
    ),
    "split at 0": (
        "–: other-branch; 0: 0; 1: other-branch",
        "–: –; 0: 0; 1: 1",
    ),
    "split at 11": (
        "–: other-branch; 0: other-branch; 1: 1",
        "–: –; 0: 0; 1: 1",
    ),
    "concat": (
        "–: –; 0: 0; 1: 1; 2: 2",
        "–: other-branch; 0: other-branch; 1: 1; 2: other-branch",
    ),
    "concat from behind": (
        "–: –; 0: 0; 1: 1; 2: 2",
        "–: other-branch; 0: other-branch; 1: other-branch; 2: 2",
    ),
    "depth to space": (
        "–: –; 0: channel-axis; 1: 1; 2: channel-axis; 3: channel-axis",
        "–: –; 0: channel-axis; 1: axis-lost or, alike, 1; 2: channel-axis; 3: channel-axis",
    ),
    "depth to space, crd": (
        "–: –; 0: channel-axis; 1: 1; 2: channel-axis; 3: channel-axis",
        "–: –; 0: channel-axis; 1: axis-lost or, alike, 1; 2: channel-axis; 3: channel-axis",
    ),
    "depth to space by 3": (
        "–: –; 0: channel-axis; 1: 1; 2: channel-axis; 3: channel-axis",
        "–: –; 0: channel-axis; 1: axis-lost or, alike, 1; 2: channel-axis; 3: channel-axis",
    ),
    "space to depth": (
        "–: –; 0: channel-axis; 1: axis-lost or, alike, 1; 2: channel-axis; 3: channel-axis",
        "–: –; 0: channel-axis; 1: 1; 2: channel-axis; 3: channel-axis",
    ),
    "resize": (
        "–: –; 0: 0; 1: 1; 2: channel-axis; 3: channel-axis",
        "–: –; 0: 0; 1: 1; 2: channel-axis; 3: channel-axis",
    ),
    "resize at 10": (
        "–: –; 0: 0; 1: 1; 2: channel-axis; 3: 3",
        "–: –; 0: 0; 1: 1; 2: channel-axis; 3: 3",
    ),
    "resize the channels": (
        "–: –; 0: 0; 1: channel-axis; 2: 2; 3: 3",
        "–: –; 0: 0; 1: channel-axis; 2: 2; 3: 3",
    ),
    "resize to sizes": (
        "–: –; 0: 0; 1: 1; 2: channel-axis; 3: 3",
        "–: –; 0: 0; 1: 1; 2: channel-axis; 3: 3",
    ),
    "resize by axes": (
        "–: –; 0: 0; 1: 1; 2: 2; 3: channel-axis",
        "–: –; 0: 0; 1: 1; 2: 2; 3: channel-axis",
    ),
    "pad by reflection": (
        "–: –; 0: 0; 1: 1; 2: channel-axis",
        "–: –; 0: 0; 1: 1; 2: channel-axis",
    ),
    "pad at the end": (
        "–: –; 0: 0; 1: 1; 2: channel-axis",
        "–: –; 0: 0; 1: 1; 2: channel-axis",
    ),
    "pad by axes": (
        "–: –; 0: 0; 1: 1; 2: channel-axis",
        "–: –; 0: 0; 1: 1; 2: channel-axis",
    ),
    "pad with zeros": (
        "–: –; 0: 0; 1: 1; 2: channel-axis",
        "–: –; 0: 0; 1: 1; 2: channel-axis",
    ),
    "pad with zeros at 2": (
        "–: –; 0: 0; 1: 1; 2: channel-axis",
        "–: –; 0: 0; 1: 1; 2: channel-axis",
    ),
    "pad with ones at 10": (
        "–: zero-padding; 0: zero-padding; 1: zero-padding; 2: channel-axis",
        "–: zero-padding; 0: zero-padding; 1: zero-padding; 2: channel-axis",
    ),
    "space to depth by 3": (
        "–: –; 0: channel-axis; 1: axis-lost or, alike, 1; 2: channel-axis; 3: channel-axis",
        "–: –; 0: channel-axis; 1: 1; 2: channel-axis; 3: channel-axis",
    ),
    "depth to space of blocks of one": (
        "–: –; 0: channel-axis; 1: 1; 2: channel-axis; 3: channel-axis",
        "–: –; 0: channel-axis; 1: 1; 2: channel-axis; 3: channel-axis",
    ),
    "resize at 11": (
        "–: –; 0: 0; 1: 1; 2: channel-axis; 3: 3",
        "–: –; 0: 0; 1: 1; 2: channel-axis; 3: 3",
    ),
    "pad with a number": (
        "–: held,–; 0: zero-padding; 1: zero-padding; 2: channel-axis",
        "–: held,–; 0: zero-padding; 1: zero-padding; 2: channel-axis",
    ),
    "pad with a number, shifted": (
        "–: held,–; 0: zero-padding; 1: zero-padding; 2: channel-axis",
        "–: held,–; 0: zero-padding; 1: zero-padding; 2: channel-axis",
    ),
    "transpose and the like of one axis": (
        "–: –; 0: 0",
        "–: –; 0: 0",
    ),
    "reduce mean, not kept, by default": (
        "–: –; 0: axis-lost; 1: 1",
        "–: –; 0: axis-lost; 1: 1",
    ),
    "conv": (
        "–: held; 0: channel-axis; 1: held; 2: channel-axis; 3: channel-axis",
        "–: held; 0: channel-axis; 1: held; 2: channel-axis; 3: channel-axis",
    ),
    "conv without bias": (
        "–: held; 0: channel-axis; 1: held; 2: channel-axis",
        "–: held; 0: channel-axis; 1: held; 2: channel-axis",
    ),
    "conv of groups": (
        "–: held; 0: channel-axis; 1: held; 2: channel-axis",
        "–: held; 0: channel-axis; 1: held; 2: channel-axis",
    ),
    "conv, padded": (
        "–: held; 0: channel-axis; 1: held; 2: channel-axis",
        "always zero-padding",
    ),
    "conv, padded, scaled": (
        "–: held; 0: channel-axis; 1: held; 2: channel-axis",
        "–: held; 0: channel-axis; 1: held; 2: channel-axis",
    ),
    "conv, same size": (
        "–: held; 0: channel-axis; 1: held; 2: channel-axis; 3: channel-axis",
        "always zero-padding",
    ),
    "conv of points, same size": (
        "–: held; 0: channel-axis; 1: held; 2: channel-axis; 3: channel-axis",
        "–: held; 0: channel-axis; 1: held; 2: channel-axis; 3: channel-axis",
    ),
    "conv transpose": (
        "–: held; 0: channel-axis; 1: held; 2: channel-axis; 3: channel-axis",
        "always border",
    ),
    "conv transpose, scaled": (
        "–: held; 0: channel-axis; 1: held; 2: channel-axis; 3: channel-axis",
        "–: held; 0: channel-axis; 1: held; 2: channel-axis; 3: channel-axis",
    ),
    "gemm": (
        "–: held; 0: channel-axis; 1: held",
        "–: held; 0: channel-axis; 1: held",
    ),
    "gemm without c": (
        "–: held; 0: channel-axis; 1: held",
        "–: held; 0: channel-axis; 1: held",
    ),
    "gemm of every kind": (
        "–: held; 0: channel-axis; 1: held",
        "–: held; 0: held; 1: channel-axis",
    ),
    "gemm with a number": (
        "–: held; 0: channel-axis; 1: held",
        "–: held; 0: channel-axis; 1: held",
    ),
    "gemm with a column": (
        "–: held; 0: channel-axis; 1: held",
        "–: held; 0: channel-axis; 1: held",
    ),
    "gemm, beta 0": (
        "–: held; 0: channel-axis; 1: held",
        "–: held; 0: channel-axis; 1: held",
    ),
    "matmul": (
        "–: held; 0: channel-axis; 1: held",
        "–: held,1 or held; 0: channel-axis; 1: held,1 or held",
    ),
    "matmul, scaled": (
        "–: held; 0: channel-axis; 1: held",
        "–: held; 0: channel-axis; 1: held",
    ),
    "matmul of rank 3": (
        "–: no-place-for-shift; 0: channel-axis; 1: channel-axis; 2: no-place-for-shift",
        "–: held,2; 0: channel-axis; 1: channel-axis; 2: held,2",
    ),
    "matmul of rank 3, scaled": (
        "–: held; 0: channel-axis; 1: channel-axis; 2: held",
        "–: held; 0: channel-axis; 1: channel-axis; 2: held",
    ),
    "matmul from the left": (
        "–: held; 0: channel-axis; 1: held; 2: channel-axis",
        "–: held; 0: channel-axis; 1: held; 2: channel-axis",
    ),
    "batch norm": (
        "–: held; 0: channel-axis; 1: held; 2: channel-axis",
        "–: held; 0: channel-axis; 1: held; 2: channel-axis",
    ),
    "instance norm": (
        "–: held; 0: channel-axis; 1: held; 2: channel-axis",
        "always no rule",
    ),
    "group norm": (
        "always held",
        "always no rule",
    ),
    "layer norm": (
        "–: held; 0: channel-axis; 1: channel-axis; 2: held",
        "always no rule",
    ),
    "layer norm of two axes": (
        "–: held; 0: channel-axis; 1: held; 2: held",
        "always no rule",
    ),
    "add a constant": (
        "–: held,–; 0: held,0; 1: held,1; 2: held,2",
        "–: held,–; 0: held,0; 1: held,1; 2: held,2",
    ),
    "add to a constant": (
        "–: held,–; 0: held,0; 1: held,1; 2: held,2",
        "–: held,–; 0: held,0; 1: held,1; 2: held,2",
    ),
    "subtract a constant": (
        "–: held,–; 0: held,0; 1: held,1; 2: held,2",
        "–: held,–; 0: held,0; 1: held,1; 2: held,2",
    ),
    "subtract from a constant": (
        "–: held,–; 0: held,0; 1: held,1; 2: held,2",
        "–: held,–; 0: held,0; 1: held,1; 2: held,2",
    ),
    "add a table": (
        "–: held,–; 0: held,0; 1: held,1; 2: held,2",
        "–: held,–; 0: held,0; 1: held,1; 2: held,2",
    ),
    "multiply by a constant": (
        "–: 1; 0: channel-axis; 1: 1; 2: channel-axis",
        "–: held,1; 0: channel-axis; 1: held,1; 2: channel-axis",
    ),
    "multiply a constant, scaled": (
        "always held",
        "always held",
    ),
    "multiply by a table": (
        "always shift",
        "always shift",
    ),
    "multiply by a table, scaled": (
        "always held",
        "always held",
    ),
    "divide by a constant": (
        "–: 1; 0: channel-axis; 1: 1; 2: channel-axis",
        "–: held,1; 0: channel-axis; 1: held,1; 2: channel-axis",
    ),
    "divide by a constant, scaled": (
        "always held",
        "always held",
    ),
    "divide a constant, scaled": (
        "always held",
        "always not-transparent",
    ),
    "divide a constant": (
        "always shift",
        "always not-transparent",
    ),
    "add": (
        "–: – or –; 0: 0 or 0; 1: 1 or 1; 2: 2 or 2",
        "always other-branch",
    ),
    "subtract": (
        "–: – or –; 0: 0 or 0; 1: 1 or 1; 2: 2 or 2",
        "always other-branch",
    ),
    "subtract x": (
        "–: – or –; 0: 0 or 0; 1: 1 or 1; 2: 2 or 2",
        "always other-branch",
    ),
    "sum": (
        "–: – or –; 0: 0 or 0; 1: 1 or 1; 2: 2 or 2",
        "always other-branch",
    ),
    "add, shifts only": (
        "–: – or –; 0: 0 or 0; 1: 1 or 1; 2: 2 or 2",
        "–: –; 0: 0; 1: 1; 2: 2",
    ),
    "subtract x, shifts only": (
        "–: – or –; 0: 0 or 0; 1: 1 or 1; 2: 2 or 2",
        "–: –; 0: 0; 1: 1; 2: 2",
    ),
    "subtract, shifts only": (
        "–: – or –; 0: 0 or 0; 1: 1 or 1; 2: 2 or 2",
        "–: –; 0: 0; 1: 1; 2: 2",
    ),
    "add to fewer axes, shifts only": (
        "–: – or –; 0: other-branch; 1: 0 or 1; 2: 1 or 2",
        "–: –; 0: 0; 1: 1; 2: 2",
    ),
    "add a value of fewer axes": (
        "–: – or –; 0: other-branch; 1: 0,1 or 0,1; 2: 1,2 or 1,2",
        "always other-branch",
    ),
    "multiply": (
        "–: – or –; 0: 0 or 0; 1: 1 or 1; 2: 2 or 2",
        "–: –; 0: 0; 1: 1; 2: 2",
    ),
    "multiply, shifted": (
        "always shift",
        "always shift",
    ),
    "multiply by a value of fewer axes": (
        "–: – or –; 0: 0; 1: 1 or 0; 2: 2 or 1",
        "–: –; 0: 0; 1: 1; 2: 2",
    ),
    "divide": (
        "–: –; 0: 0; 1: 1; 2: 2",
        "–: –; 0: 0; 1: 1; 2: 2",
    ),
    "multiply fewer axes by x": (
        "–: – or –; 0: 0; 1: 0 or 1; 2: 1 or 2",
        "–: –; 0: 0; 1: 1; 2: 2",
    ),
    "matmul from the left, shifted": (
        "–: no-place-for-shift; 0: channel-axis; 1: no-place-for-shift; 2: channel-axis",
        "–: held,1; 0: channel-axis; 1: held,1; 2: channel-axis",
    ),
    "slice by no step": (
        "always –",
        "–: –; 0: 0; 1: axis-lost; 2: 2",
    ),
    "divide something": (
        "–: –; 0: 0; 1: 1; 2: 2",
        "always not-transparent",
    ),
}


def model_of(name: str) -> ModelProto:
    node, shape, opset, _, tensors = CASES[name]
    arguments = node.rpartition("(")[2].rstrip(")").replace(" ", "").split(",")
    second = f", double[{shape}] z" if "z" in arguments else ""
    second += f", double[{shape.partition(',')[2]}] u" if "u" in arguments else ""
    outputs = "double y, double z" if node.startswith("y, z") else "double y"
    text = f"g (double[{shape}] x{second}) => ({outputs}) {{ [node] {node} }}"
    model = parse(text, opset, 10, **tensors)
    for output in model.graph.output:  # of whatever shape
        output.type.CopyFrom(TypeProto())
    return model


def maps(name: str, axis: int | None, channels: int) -> Affine:
    """A map of the case's kind, with numbers that are all different."""
    kind, rng = CASES[name][3], np.random.default_rng(5)
    scale = rng.permutation(np.arange(1, channels + 1) / 4)
    shift = rng.permutation(np.arange(1, channels + 1) / 8) if "t" in kind else np.zeros(channels)
    scale = {"-": -scale, "t": np.ones(channels)}.get(kind, scale)
    return Affine(axis, scale, shift)


def alike(name: str, axis: int | None, channels: int) -> Affine:
    """A map that is the same for all channels, for rules that ask some of them to agree."""
    a = maps(name, axis, 1)
    return a if axis is None else a.uniform_along(axis, channels)


def applied(a: Affine, x: Array) -> Array:
    shape = [-1 if axis == a.axis else 1 for axis in range(x.ndim)] if a.axis is not None else ()
    return np.asarray(x * a.scale.reshape(shape) + a.shift.reshape(shape))


def said(name: str, model: ModelProto, up: bool, a: Affine) -> str:
    """What the rule says, tried on numbers."""
    draft = Draft(Index(model), Options())
    node = draft_node(draft)
    rule = (UP if up else DOWN).get(node.op)
    place = 0 if up else list(node.proto.input).index("x")
    step = rule(draft, node, place, a) if rule else None
    words = []
    while isinstance(step, Step):
        if name not in UNTRIED:
            assert_law(model, draft, up, a, step)
        axes = sorted({axis_of(d.affine) for d in step.demands if not d.affine.is_identity})
        words.append(",".join((["held"] if step.edits else []) + axes) or "gone")
        step = step.otherwise() if step.otherwise else None
    return " or ".join(words) or (step.reason.code if isinstance(step, Refusal) else "no rule")


def draft_node(draft: Draft) -> Node:
    return draft.constants._index.scopes[0].nodes[-1]


def axis_of(a: Affine) -> str:
    return "–" if a.axis is None else str(a.axis)


def assert_law(model: ModelProto, draft: Draft, up: bool, a: Affine, step: Step) -> None:
    node = draft_node(draft)
    rng = np.random.default_rng(3)
    feed = {
        value.name: rng.normal(size=[d.dim_value or 4 for d in value.type.tensor_type.shape.dim])
        for value in model.graph.input
    }
    before, after = dict(feed), dict(feed)
    shares = {demand.place: demand.affine for demand in step.demands}
    for place, share in shares.items() if up else ():
        name = node.proto.input[place]
        after[name] = applied(share, feed[name])
    if not up:
        before["x"] = applied(a, feed["x"])
    one, other = run(model, before), run(edited(model, draft, step), after)
    if up:
        one[0] = applied(a, one[0])
    for place, share in shares.items() if not up else ():
        other[place] = applied(share, other[place])
    for expected, found in zip(one, other, strict=True):
        np.testing.assert_allclose(found, expected, rtol=1e-12, atol=1e-12)


def edited(model: ModelProto, draft: Draft, step: Step) -> ModelProto:
    """The model with the step's edits made, its constants still in float64."""
    copy = ModelProto()
    copy.CopyFrom(model)
    node, planned = draft_node(draft), len(draft.edits)
    for edit in step.edits:
        draft.add(replace(edit, node=node))
    for number, edit in enumerate(step.edits):
        if isinstance(edit, SetOperator):
            copy.graph.node[-1].op_type = edit.op_type
            for name, value in edit.put.items():
                copy.graph.node[-1].attribute.append(helper.make_attribute(name, value))
            kept = [a for a in copy.graph.node[-1].attribute if a.name not in edit.drop]
            del copy.graph.node[-1].attribute[:]
            copy.graph.node[-1].attribute.extend(kept)
        elif isinstance(edit, Rescale | Supply):
            values = draft.values(node, edit.slot)
            copy.graph.initializer.append(numpy_helper.from_array(values, f"new{number}"))
            while len(copy.graph.node[-1].input) <= edit.slot:
                copy.graph.node[-1].input.append("")
            copy.graph.node[-1].input[edit.slot] = f"new{number}"
    draft.undo_to(planned)
    return copy


def run(model: ModelProto, feed: dict[str, Array]) -> list[Any]:
    return [np.asarray(value) for value in ReferenceEvaluator(model).run(None, feed)]


def table(name: str) -> tuple[str, str]:
    """Everything that the rule says, up and down."""
    model = model_of(name)
    inferred = onnx.shape_inference.infer_shapes(model, data_prop=True).graph
    lines = []
    for up, value in ((True, inferred.output[0]), (False, inferred.input[0])):
        dims = [d.dim_value for d in value.type.tensor_type.shape.dim]
        words = []
        for axis, size in [(None, 1), *enumerate(dims)]:
            word = said(name, model, up, maps(name, axis, size)) if size else "?"
            if size > 1 and word in ("axis-lost", "channel-axis"):
                agreeing = said(name, model, up, alike(name, axis, size))
                word = word if agreeing == word else f"{word} or, alike, {agreeing}"
            words.append(f"{'–' if axis is None else axis}: {word}")
        same = {word.split(": ")[1] for word in words}
        lines.append(f"always {same.pop()}" if len(same) == 1 else "; ".join(words))
    return lines[0], lines[1]


@pytest.mark.parametrize("name", CASES)
def test_the_law(name: str) -> None:
    assert table(name) == SAID[name]


@pytest.mark.parametrize("hidden", ["xzu", "zu"])
@pytest.mark.parametrize("name", CASES)
def test_of_a_value_of_unknown_shape_nothing_is_believed(name: str, hidden: str) -> None:
    model = model_of(name)
    behind = ModelProto()  # some operator that nobody knows
    behind.CopyFrom(model)
    behind.opset_import.append(helper.make_opsetid("own", 1))
    for value in behind.graph.input:
        if value.name in hidden:
            maker = helper.make_node("Thing", [value.name + "0"], [value.name], domain="own")
            behind.graph.node.insert(0, maker)
            value.name += "0"
    inferred = onnx.shape_inference.infer_shapes(model, data_prop=True).graph
    draft = Draft(Index(behind), Options())
    node = draft_node(draft)
    for up, value in ((True, inferred.output[0]), (False, inferred.input[0])):
        rule = (UP if up else DOWN).get(node.op)
        place = 0 if up else list(node.proto.input).index("x")
        for axis, dim in enumerate(value.type.tensor_type.shape.dim):
            a = maps(name, axis, dim.dim_value or 4)
            step = rule(draft, node, place, a) if rule else None
            while isinstance(step, Step) and name not in UNTRIED:
                assert_law(model, Draft(Index(model), Options()), up, a, step)
                step = step.otherwise() if step.otherwise else None
