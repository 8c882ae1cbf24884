"""Fine-tune a frozen BatchNormalization on other data: learn γ′ and β′, and nothing else.

    pip install torch && python examples/finetune_frozen_bn.py

The digits network has learned light strokes on a dark ground; here it gets them inverted, with
noise. Of the 450 images that it has never seen, 225 are learned from and 225 are measured on. All
weights stay as they are: PyTorch runs the frozen ONNX graph, with γ′ and β′ as its parameters.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
import torch
from onnx import numpy_helper
from torch import Tensor
from torch.nn import functional

ROOT = Path(__file__).parents[1]
MODEL = ROOT / "sample_models" / "digits_depthwise.onnx"
EPOCHS, RATE = 200, 0.01


def shifted_digits() -> tuple[np.ndarray, np.ndarray]:
    """Inverted images with noise, float32 [450, 1, 8, 8], and their labels, int64 [450]."""
    held_out = np.load(ROOT / "sample_models" / "digits_test.npz")
    images = 1 - held_out["image"].astype(np.float32) / 16
    noise = np.random.default_rng(0).normal(0, 0.1, images.shape)
    return (images + noise).astype(np.float32), held_out["label"].astype(np.int64)


def accuracy(model: Path, images: np.ndarray, labels: np.ndarray) -> float:
    """The share of images that the model names right, in onnxruntime."""
    options = ort.SessionOptions()
    options.log_severity_level = 3  # it warns of every initializer that is an input
    session = ort.InferenceSession(model, options, providers=["CPUExecutionProvider"])
    (scores,) = session.run(None, {"image": images})
    return float(np.mean(scores.argmax(axis=1) == labels))


class Network:
    """An ONNX graph run by PyTorch: the few operators that this network has."""

    def __init__(self, path: Path, learnable: list[str]) -> None:
        model = onnx.load(path)
        self.nodes = list(model.graph.node)
        self.output = model.graph.output[0].name
        self.values = {
            tensor.name: torch.tensor(numpy_helper.to_array(tensor))
            for tensor in model.graph.initializer
        }
        self.parameters = {name: self.values[name].requires_grad_() for name in learnable}

    def __call__(self, image: Tensor) -> Tensor:
        """Run the graph on images."""
        values = {"image": image, **self.values}
        for node in self.nodes:
            inputs = [values[name] for name in node.input]
            attributes = {a.name: onnx.helper.get_attribute_value(a) for a in node.attribute}
            values[node.output[0]] = OPERATORS[node.op_type](inputs, attributes)
        return values[self.output]


def convolution(inputs: list[Tensor], attributes: dict[str, object]) -> Tensor:
    """Conv with symmetric padding."""
    rank = inputs[0].ndim - 2
    pads = attributes.get("pads", [0] * (2 * rank))
    assert pads[:rank] == pads[rank:]
    return functional.conv2d(
        *inputs, stride=attributes.get("strides", 1), padding=pads[:rank],
        dilation=attributes.get("dilations", 1), groups=attributes.get("group", 1),
    )  # fmt: skip


def mean(inputs: list[Tensor], attributes: dict[str, object]) -> Tensor:
    """ReduceMean, with its axes as an attribute or an input."""
    axes = attributes["axes"] if "axes" in attributes else inputs[1].tolist()
    return inputs[0].mean(axes, keepdim=bool(attributes.get("keepdims", 1)))


def gemm(inputs: list[Tensor], attributes: dict[str, object]) -> Tensor:
    """Gemm with alpha and beta 1."""
    weight = inputs[1] if attributes.get("transB") else inputs[1].T
    return functional.linear(inputs[0], weight, *inputs[2:])


OPERATORS = {
    "Add": lambda i, _: i[0] + i[1],
    "Constant": lambda _, a: torch.tensor(numpy_helper.to_array(a["value"])),
    "Conv": convolution,
    "Flatten": lambda i, _: i[0].flatten(1),
    "Gemm": gemm,
    "GlobalAveragePool": lambda i, _: i[0].mean((2, 3), keepdim=True),
    "Mul": lambda i, _: i[0] * i[1],
    "ReduceMean": mean,
    "Relu": lambda i, _: i[0].relu(),
    "Clip": lambda i, _: i[0].clamp(*i[1:]),
    "Reshape": lambda i, _: i[0].reshape(i[1].tolist()),
}


def learn(frozen: Path, images: np.ndarray, labels: np.ndarray) -> dict[str, np.ndarray]:
    """γ′ and β′ after some epochs of Adam on these images."""
    listed = json.loads(frozen.with_suffix(".learnable.json").read_text())
    network = Network(frozen, [entry["name"] for entry in listed["parameters"]])
    optimizer = torch.optim.Adam(network.parameters.values(), RATE)
    x, y = torch.tensor(images), torch.tensor(labels)
    generator = torch.Generator().manual_seed(0)
    for _ in range(EPOCHS):
        for batch in torch.randperm(len(x), generator=generator).split(45):
            optimizer.zero_grad()
            functional.cross_entropy(network(x[batch]), y[batch]).backward()
            optimizer.step()
    return {name: value.detach().numpy() for name, value in network.parameters.items()}


def bnfold(*words: object) -> None:
    """Run a command, and show its last line."""
    command = [sys.executable, "-m", "bnfold", *map(str, words)]
    print("$ bnfold", *(Path(w).name if isinstance(w, Path) else w for w in words))
    done = subprocess.run(command, check=True, text=True, stdout=subprocess.PIPE)
    print(" ", done.stdout.strip().splitlines()[-1].replace(f"{words[-1].parent}/", ""))


def main() -> None:
    """Freeze, learn, assign, fold; the accuracy after each step."""
    torch.manual_seed(0)
    images, labels = shifted_digits()
    half = len(images) // 2
    test = images[half:], labels[half:]
    with tempfile.TemporaryDirectory() as name:
        frozen, tuned, folded = (
            Path(name, f"{stem}.onnx") for stem in ("frozen", "tuned", "folded")
        )
        bnfold("freeze", MODEL, "--learnable", "-o", frozen)
        print(f"accuracy on inverted images: {accuracy(frozen, *test):.4f}")
        params = Path(name, "params.npz")
        np.savez(params, **learn(frozen, images[:half], labels[:half]))
        bnfold("assign", frozen, params, "-o", tuned)
        print(f"after fine-tuning γ′ and β′: {accuracy(tuned, *test):.4f}")
        bnfold("optimize", tuned, "-o", folded)
        print(f"after folding them:          {accuracy(folded, *test):.4f}")


if __name__ == "__main__":
    main()
