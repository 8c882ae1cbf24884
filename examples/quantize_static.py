"""Fold first, quantise then: what `quantize_static` makes of a model with and without bnfold.

    python examples/quantize_static.py [MODEL]

8-bit static quantisation in onnxruntime's QDQ form, calibrated on 225 of the held-out digits and
measured on the other 225. A BatchNormalization that is still there when the quantiser comes is a
layer of its own, with roundings before and after it.
"""

from __future__ import annotations

import logging
import sys
import tempfile
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import numpy.typing as npt
import onnx
import onnxruntime as ort
from onnxruntime.quantization import CalibrationDataReader, QuantType, quantize_static

import bnfold

ROOT = Path(__file__).parents[1]
MODEL = ROOT / "sample_models" / "digits_depthwise.onnx"

Images = npt.NDArray[np.float32]
Labels = npt.NDArray[np.uint8]


class Calibration(CalibrationDataReader):
    """The images one by one, as the quantiser asks for them."""

    def __init__(self, images: Images) -> None:
        self._feeds: Iterator[dict[str, Images]] = iter({"image": i[None]} for i in images)

    def get_next(self) -> dict[str, Images] | None:
        """One more, or None."""
        return next(self._feeds, None)


def quantized(model: Path, images: Images, folder: Path) -> Path:
    """The model in 8 bits, its weights per channel."""
    out = folder / f"{model.stem}.int8.onnx"
    quantize_static(
        model, out, Calibration(images), per_channel=True, activation_type=QuantType.QUInt8,
        weight_type=QuantType.QInt8,
    )  # fmt: skip
    return out


def scores(model: Path, images: Images) -> Images:
    """What the model gives, float32 [N, 10]."""
    options = ort.SessionOptions()
    options.log_severity_level = 3  # the quantiser leaves initializers that nobody reads
    session = ort.InferenceSession(model, options, providers=["CPUExecutionProvider"])
    result: Images = session.run(None, {"image": images})[0]
    return result


def described(model: Path, images: Images, labels: Labels, exact: Images) -> str:
    """Accuracy, how far its scores are from those of the float model, and what it is made of."""
    found = scores(model, images)
    accuracy = float(np.mean(found.argmax(axis=1) == labels))
    off = float(np.sqrt(np.mean((found - exact) ** 2)) / np.sqrt(np.mean(exact**2)))
    ops = Counter(node.op_type for node in onnx.load(model).graph.node)
    return (
        f"accuracy {accuracy:.4f}, scores off by {off:6.2%}, {sum(ops.values()):3} nodes, "
        f"{ops['QuantizeLinear']:2} roundings, {ops['BatchNormalization']} BatchNormalizations"
    )


def main() -> None:
    """Quantise the model as it is, and folded, and compare both with the model in float."""
    ort.set_default_logger_severity(3)
    logging.getLogger().setLevel(logging.ERROR)  # the quantiser recommends its own preprocessing
    model = Path(sys.argv[1]) if len(sys.argv) > 1 else MODEL
    data = np.load(ROOT / "sample_models" / "digits_test.npz")
    images = data["image"].astype(np.float32) / np.float32(16)
    half = len(images) // 2
    test, labels = images[half:], data["label"][half:]
    exact = scores(model, test)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        folded = bnfold.optimize(model, folder / "folded.onnx").model
        print(f"{'float:':20}{described(model, test, labels, exact)}")
        for title, source in (("quantised as it is", model), ("folded, quantised", folded)):
            small = quantized(source, images[:half], folder)
            print(f"{title + ':':20}{described(small, test, labels, exact)}")


if __name__ == "__main__":
    main()
