"""What equalising is for: int8 weights with one step for a whole tensor."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import onnxruntime
from onnxruntime.quantization import CalibrationDataReader, QuantType, quantize_static

import bnfold
from tests.quantization.test_equalize import uneven
from tests.support import Array

SAMPLES = Path("sample_models")


class Calibration(CalibrationDataReader):  # type: ignore[misc]
    """Samples one by one."""

    def __init__(self, samples: Array, name: str = "image") -> None:
        self.feeds = iter([{name: sample[None]} for sample in samples])

    def get_next(self) -> dict[str, Array] | None:
        return next(self.feeds, None)


def accuracy(model: Path, images: Array, labels: Array) -> float:
    session = onnxruntime.InferenceSession(str(model))
    scores = np.asarray(session.run(None, {"image": images})[0])
    return float(np.mean(scores.argmax(axis=1) == labels))


def test_uneven_channels_are_lost_per_tensor_and_come_back(tmp_path: Path) -> None:
    held_out = np.load(SAMPLES / "digits_test.npz")
    images, labels = held_out["image"].astype(np.float32) / 16, held_out["label"]
    folded, rough, smooth = (tmp_path / f"{n}.onnx" for n in ("folded", "uneven", "equalised"))
    bnfold.optimize(SAMPLES / "digits_resnet.onnx", folded, verify="none")
    model = onnx.load(folded)
    uneven(model, np.random.default_rng(0))
    onnx.save(model, rough)
    bnfold.equalize(rough, smooth)
    found = {}
    for path in (rough, smooth):
        assert accuracy(path, images[225:], labels[225:]) == 1
        small = tmp_path / "int8.onnx"
        quantize_static(
            path, small, Calibration(images[:225]), activation_type=QuantType.QUInt8,
            weight_type=QuantType.QInt8,
        )  # fmt: skip
        found[path] = accuracy(small, images[225:], labels[225:])
    assert found[rough] < 0.5
    assert found[smooth] > 0.98
