"""Fold, equalise, quantise, correct: what each step does to an 8-bit model.

    python examples/quantize_static.py [MODEL ...]

Static quantisation in onnxruntime's QDQ form, calibrated on 225 of the held-out digits and measured
on the other 225. A BatchNormalization that is still there when the quantiser comes is a layer of
its own, with roundings before and after it. Weights have 7 bits (`reduce_range`), with which the
result does not depend on the CPU: without VNNI, sums of two products of 8 bits saturate.
"""

from __future__ import annotations

import logging
import shutil
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


def quantized(model: Path, images: Images, *, per_channel: bool) -> Path:
    """The model in 8 bits, in a file beside it."""
    out = model.with_suffix(".int8.onnx")
    quantize_static(
        model, out, Calibration(images), per_channel=per_channel, reduce_range=True,
        activation_type=QuantType.QUInt8, weight_type=QuantType.QInt8,
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


def steps(
    model: Path, images: Images, folder: Path, *, per_channel: bool
) -> Iterator[tuple[str, Path]]:
    """What there is after each step."""
    yield "as it is", quantized(Path(shutil.copy(model, folder)), images, per_channel=per_channel)
    folded = bnfold.optimize(model, folder / "folded.onnx").model
    yield "folded", quantized(folded, images, per_channel=per_channel)
    equalised = bnfold.optimize(model, folder / "equalised.onnx", equalize="power-of-two").model
    yield "and equalised", (small := quantized(equalised, images, per_channel=per_channel))
    data = folder / "calibration.npz"
    np.savez(data, image=images)
    yield "and corrected", bnfold.correct(equalised, small, data=bnfold.Dataset(data)).model


def main() -> None:
    """Quantise each model, and compare it with the model in float after each step."""
    ort.set_default_logger_severity(3)
    logging.getLogger().setLevel(logging.ERROR)  # the quantiser recommends its own preprocessing
    data = np.load(ROOT / "sample_models" / "digits_test.npz")
    images = data["image"].astype(np.float32) / np.float32(16)
    half = len(images) // 2
    test, labels = images[half:], data["label"][half:]
    for model in map(Path, sys.argv[1:] or [MODEL]):
        exact = scores(model, test)
        print(f"{model.stem}, float:  {described(model, test, labels, exact)}")
        for per_channel in (False, True):
            print(f"one step per {'channel' if per_channel else 'tensor'}:")
            with tempfile.TemporaryDirectory() as folder:
                for title, small in steps(
                    model, images[:half], Path(folder), per_channel=per_channel
                ):
                    print(f"  {title:15}{described(small, test, labels, exact)}")


if __name__ == "__main__":
    main()
