"""Operators that ONNX's reference evaluator has wrong, slow or not at all at some opsets.

Its BatchNormalization mixes batch statistics in from opset 9 to 13 and raises at 7 and 8; its pools
and ConvTranspose loop over elements; DequantizeLinear and QuantizeLinear are missing below opset
19. Here they are sums over the taps of a kernel, each a slice of the input or a matrix product.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from onnx.reference.op_run import OpRun

from bnfold.onnx_io.protos import Array


class BatchNormalization(OpRun):
    """Inference at every opset, in the form in which onnxruntime computes it: x·s + (β − μ·s)."""

    op_domain = ""

    def _run(self, x: Any, *parameters: Any, **attributes: Any) -> tuple[Any]:
        if attributes.get("training_mode") or len(self.output) > 1:
            raise NotImplementedError("training mode")
        gamma, beta, mean, variance = (p.astype(x.dtype) for p in parameters)
        given = attributes.get("epsilon")
        epsilon = x.dtype.type(np.float32(1e-5) if given is None else given)
        scale = gamma / np.sqrt(variance + epsilon)
        shape = (1, -1) + (1,) * (x.ndim - 2)
        return (x * scale.reshape(shape) + (beta - mean * scale).reshape(shape),)


class MaxPool(OpRun):
    """The largest of each window."""

    op_domain = ""

    def _run(self, x: Any, **attributes: Any) -> tuple[Any]:
        if len(self.output) > 1:
            raise NotImplementedError("indices")
        windows = _Windows.of(x.shape[2:], attributes)
        padded = windows.padded(x, -np.inf if x.dtype.kind == "f" else np.iinfo(x.dtype).min)
        return (np.maximum.reduce(list(windows.taps(padded))),)


class AveragePool(OpRun):
    """The mean of each window; of padding only where count_include_pad says so."""

    op_domain = ""

    def _run(self, x: Any, **attributes: Any) -> tuple[Any]:
        windows = _Windows.of(x.shape[2:], attributes)
        ones = np.ones((1, 1, *x.shape[2:]), x.dtype)
        if attributes.get("count_include_pad"):
            wide = [(0, 0), (0, 0), *zip(windows.begins, windows.output_judge, strict=True)]
            counted = _Windows(**{**vars(windows), "begins": [0] * len(windows.begins)})
            count = counted.padded(np.pad(ones, wide, constant_values=1), 0)
        else:
            count = windows.padded(ones, 0)
        total = sum(windows.taps(windows.padded(x, 0)))
        return (np.asarray(total / sum(windows.taps(count))).astype(x.dtype),)


class ConvTranspose(OpRun):
    """Each tap a matrix product, added where it falls."""

    op_domain = ""

    def _run(self, x: Any, w: Any, b: Any = None, **attributes: Any) -> tuple[Any]:
        axes = x.ndim - 2
        if attributes.get("output_shape") or attributes.get("auto_pad") not in (None, "NOTSET"):
            raise NotImplementedError("automatic padding")
        group = attributes.get("group") or 1
        strides, dilations = (attributes.get(n) or [1] * axes for n in ("strides", "dilations"))
        pads = attributes.get("pads") or [0] * (2 * axes)
        more = attributes.get("output_padding") or [0] * axes
        sizes = [
            (n - 1) * s + (k - 1) * d + 1
            for n, s, k, d in zip(x.shape[2:], strides, w.shape[2:], dilations, strict=True)
        ]
        output_judge = [max(0, o - p) for o, p in zip(more, pads[axes:], strict=True)]
        grouped = x.reshape(x.shape[0], group, -1, *x.shape[2:])
        kernels = w.reshape(group, -1, *w.shape[1:])
        whole = np.zeros((x.shape[0], group, w.shape[1], *sizes), x.dtype)
        for tap in itertools.product(*map(range, w.shape[2:])):
            place = tuple(
                slice(t * d, t * d + (n - 1) * s + 1, s)
                for t, d, n, s in zip(tap, dilations, x.shape[2:], strides, strict=True)
            )
            product = np.einsum(
                "ngi...,gio->ngo...", grouped, kernels[(..., *tap)], optimize=True
            )  # fmt: skip
            whole[(slice(None), slice(None), slice(None), *place)] += product
        y = whole.reshape(x.shape[0], -1, *sizes)
        y = np.pad(y, [(0, 0), (0, 0), *((0, end) for end in output_judge)])
        cut = [
            slice(begin, size + o - end)
            for begin, size, o, end in zip(pads[:axes], sizes, more, pads[axes:], strict=True)
        ]
        y = y[(slice(None), slice(None), *cut)]
        return (y if b is None else y + b.reshape(-1, *(1,) * axes),)


class DequantizeLinear(OpRun):
    """(q − z)·k, by tensor or along one axis, in the type of the scale."""

    op_domain = ""

    def _run(self, q: Any, scale: Any, zero: Any = None, **attributes: Any) -> tuple[Any]:
        scale, zero = _beside(q, scale, zero, attributes)
        wide = q.astype(scale.dtype)
        return (((wide - zero.astype(scale.dtype)) if zero is not None else wide) * scale,)


class QuantizeLinear(OpRun):
    """x/k + z, rounded to even and held within the range of z's type."""

    op_domain = ""

    def _run(self, x: Any, scale: Any, zero: Any = None, **attributes: Any) -> tuple[Any]:
        scale, zero = _beside(x, scale, zero, attributes)
        if attributes.get("output_dtype") or (zero is not None and zero.dtype.kind not in "iu"):
            raise NotImplementedError("another type")
        kind = np.dtype(np.uint8) if zero is None else zero.dtype
        output_judge = np.iinfo(kind)
        rounded = np.rint(x / scale.astype(x.dtype)) + (0 if zero is None else zero.astype(x.dtype))
        return (np.clip(rounded, output_judge.min, output_judge.max).astype(kind),)


def _beside(x: Array, scale: Array, zero: Array | None, attributes: Any) -> tuple[Array, Any]:
    """Scale and zero point as they broadcast against x."""
    if attributes.get("block_size"):
        raise NotImplementedError("blocks")
    if scale.size == 1:
        return scale.reshape(()), None if zero is None else zero.reshape(())
    axis = attributes.get("axis")
    shape = [1] * x.ndim
    shape[1 if axis is None else axis] = -1
    return scale.reshape(shape), None if zero is None else zero.reshape(shape)


class _Windows:
    """The places that a pool reads, axis by axis."""

    def __init__(
        self, sizes: Sequence[int], kernel: Sequence[int], strides: Sequence[int],
        dilations: Sequence[int], begins: Sequence[int], output_judge: Sequence[int],
    ) -> None:  # fmt: skip
        self.sizes, self.kernel, self.strides = sizes, kernel, strides  # sizes: of the output
        self.dilations, self.begins, self.output_judge = dilations, begins, output_judge

    @classmethod
    def of(cls, shape: Sequence[int], attributes: Any) -> _Windows:
        """From a pool's attributes; ceil_mode and auto_pad as onnxruntime reads them."""
        axes = len(shape)
        kernel = attributes["kernel_shape"]
        strides, dilations = (attributes.get(n) or [1] * axes for n in ("strides", "dilations"))
        pads = list(attributes.get("pads") or [0] * (2 * axes))
        auto = attributes.get("auto_pad") or "NOTSET"
        sizes = []
        for axis, n in enumerate(shape):
            span = (kernel[axis] - 1) * dilations[axis] + 1
            if auto in ("SAME_UPPER", "SAME_LOWER"):
                size = -(-n // strides[axis])
                total = max((size - 1) * strides[axis] + span - n, 0)
                less, more = total // 2, total - total // 2
                pads[axis], pads[axes + axis] = (less, more) if auto[5] == "U" else (more, less)
            else:
                if auto == "VALID":
                    pads[axis] = pads[axes + axis] = 0
                room = n + pads[axis] + pads[axes + axis] - span
                up = bool(attributes.get("ceil_mode"))
                size = (-(-room // strides[axis]) if up else room // strides[axis]) + 1
                if up and (size - 1) * strides[axis] >= n + pads[axis]:
                    size -= 1  # it would begin in the padding
            sizes.append(size)
        return cls(sizes, kernel, strides, dilations, pads[:axes], pads[axes:])

    def padded(self, x: Array, value: float) -> Array:
        """The input with `value` around it, as far as windows reach."""
        widths = [(0, 0), (0, 0)]
        for axis, n in enumerate(x.shape[2:]):
            span = (self.kernel[axis] - 1) * self.dilations[axis] + 1
            reach = (self.sizes[axis] - 1) * self.strides[axis] + span
            widths.append((self.begins[axis], max(0, reach - n - self.begins[axis])))
        return np.pad(x, widths, constant_values=value)

    def taps(self, padded: Array) -> Iterator[Array]:
        """What each tap of the kernel reads, for all windows."""
        for tap in itertools.product(*map(range, self.kernel)):
            place = tuple(
                slice(t * d, t * d + (size - 1) * s + 1, s)
                for t, d, size, s in zip(tap, self.dilations, self.sizes, self.strides, strict=True)
            )
            yield padded[(slice(None), slice(None), *place)]


MENDED = [
    AveragePool, BatchNormalization, ConvTranspose, DequantizeLinear, MaxPool, QuantizeLinear,
]  # fmt: skip
