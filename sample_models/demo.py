"""Fold the trained sample models and measure them on real images before and after.

Runs `bnfold optimize` on each, then both models on the 450 held-out images of digits_test.npz.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
import numpy.typing as npt
import onnxruntime as ort

HERE = Path(__file__).parent


def outputs(model: Path, images: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    """What the model makes of the images, float32 [N, 1, 8, 8] in [0, 1]."""
    options = ort.SessionOptions()
    # onnxruntime would fold Conv + BatchNormalization itself; here the file is to be measured
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = ort.InferenceSession(model, options, providers=["CPUExecutionProvider"])
    result: npt.NDArray[np.float32] = session.run(None, {"image": images})[0]
    return result


def score(model: Path, images: npt.NDArray[np.float32], labels: npt.NDArray[np.uint8]) -> str:
    """Top-1 accuracy of a classifier, or the mean squared error of an autoencoder."""
    result = outputs(model, images)
    if result.shape == images.shape:
        return f"mean squared error {np.mean((result - images) ** 2):.6f}"
    right = int(np.count_nonzero(result.argmax(axis=1) == labels))
    return f"accuracy {right / len(labels):.4f} ({right} of {len(labels)})"


def main() -> None:
    """Fold and measure every trained model, the first one with its whole report."""
    held_out = np.load(HERE / "digits_test.npz")
    images = held_out["image"].astype(np.float32) / 16
    models = sorted(HERE.glob("digits_*.onnx"), key=lambda path: "resnet" not in path.name)
    with tempfile.TemporaryDirectory() as folder:
        for number, model in enumerate(models):
            folded = Path(folder, f"{model.stem}.folded.onnx")
            command = [sys.executable, "-m", "bnfold", "optimize", str(model), "-o", str(folded)]
            if "repvgg" in model.name:
                command.append("--merge-branches")
            done = subprocess.run(command, check=True, text=True, stdout=subprocess.PIPE)
            if number == 0:
                print(f"$ bnfold optimize {model.name}\n\n{done.stdout}")
            print(f"{model.stem}: {done.stdout.splitlines()[1]}")
            print(f"  before  {score(model, images, held_out['label'])}")
            print(f"  after   {score(folded, images, held_out['label'])}")


if __name__ == "__main__":
    main()
