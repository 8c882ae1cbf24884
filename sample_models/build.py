"""Train, export and build every model in this folder again.

    pip install --group samples && python sample_models/build.py

The trained models learn scikit-learn's handwritten digits (1797 images of 8×8 pixels) with PyTorch
and are exported with their BatchNormalizations kept. The synthetic ones are built with
onnx-graphsurgeon's layer API and hold the situations an exporter meets that must *not* fold, or
fold only with care. Everything is seeded; on another machine the weights differ in the last digits.
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import onnx
import onnx_graphsurgeon as gs
import torch
from sklearn.datasets import load_digits
from torch import Tensor, nn

HERE = Path(__file__).parent
HELD_OUT = 450


def digits() -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """(train x, train y, test x, test y); x is float32 [N, 1, 8, 8] in [0, 1], y is int64 [N]."""
    data = load_digits()
    order = np.random.default_rng(0).permutation(len(data.target))
    x = torch.tensor(data.images[order] / 16, dtype=torch.float32)[:, None]
    y = torch.tensor(data.target[order], dtype=torch.int64)
    return x[HELD_OUT:], y[HELD_OUT:], x[:HELD_OUT], y[:HELD_OUT]


# --- the architectures ------------------------------------------------------------------------


class Residual(nn.Module):
    """A basic ResNet block: two 3×3 convolutions and a projection where the shape changes."""

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(outputs)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(outputs)
        self.project: nn.Module = nn.Identity()
        if stride != 1 or inputs != outputs:
            self.project = nn.Sequential(
                nn.Conv2d(inputs, outputs, 1, stride, bias=False), nn.BatchNorm2d(outputs)
            )

    def forward(self, x: Tensor) -> Tensor:
        y = torch.relu(self.bn1(self.conv1(x)))
        return torch.relu(self.bn2(self.conv2(y)) + self.project(x))


def separable(inputs: int, outputs: int, stride: int = 1) -> nn.Sequential:
    """MobileNetV1's pair: depthwise 3×3, pointwise 1×1, a BatchNormalization behind each."""
    return nn.Sequential(
        nn.Conv2d(inputs, inputs, 3, stride, 1, groups=inputs, bias=False),
        nn.BatchNorm2d(inputs),
        nn.ReLU6(),
        nn.Conv2d(inputs, outputs, 1, bias=False),
        nn.BatchNorm2d(outputs),
        nn.ReLU6(),
    )


class RepVGGBlock(nn.Module):
    """RepVGG at training time (Ding et al. 2021): 3×3, 1×1 and identity branches, a BN in each."""

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.conv3 = nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False)
        self.bn3 = nn.BatchNorm2d(outputs)
        self.conv1 = nn.Conv2d(inputs, outputs, 1, stride, bias=False)
        self.bn1 = nn.BatchNorm2d(outputs)
        self.bn0 = nn.BatchNorm2d(inputs) if stride == 1 and inputs == outputs else None

    def forward(self, x: Tensor) -> Tensor:
        y = self.bn3(self.conv3(x)) + self.bn1(self.conv1(x))
        if self.bn0 is not None:
            y = y + self.bn0(x)
        return torch.relu(y)


class Classifier(nn.Sequential):
    """A trunk of feature maps, the mean over positions, one linear layer."""

    def __init__(self, *trunk: nn.Module, features: int) -> None:
        super().__init__(*trunk, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(features, 10))


def stem(outputs: int) -> list[nn.Module]:
    return [nn.Conv2d(1, outputs, 3, 1, 1), nn.BatchNorm2d(outputs), nn.ReLU()]


def resnet() -> nn.Module:
    return Classifier(
        *stem(12), Residual(12, 12, 1), Residual(12, 24, 2), Residual(24, 32, 2), features=32
    )


def depthwise_separable() -> nn.Module:
    return Classifier(
        *stem(16), separable(16, 32), separable(32, 48, 2), separable(48, 64), features=64
    )


def repvgg() -> nn.Module:
    return Classifier(
        RepVGGBlock(1, 16, 1), RepVGGBlock(16, 16, 1), RepVGGBlock(16, 32, 2),
        RepVGGBlock(32, 32, 1), features=32,
    )  # fmt: skip


def mlp() -> nn.Module:
    return nn.Sequential(
        nn.Flatten(),
        nn.Linear(64, 64), nn.BatchNorm1d(64), nn.ReLU(),
        nn.Linear(64, 48, bias=False), nn.BatchNorm1d(48), nn.ReLU(),
        nn.Linear(48, 10),
    )  # fmt: skip


def autoencoder() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(1, 16, 3, 2, 1, bias=False), nn.BatchNorm2d(16), nn.LeakyReLU(0.1),
        nn.Conv2d(16, 12, 3, 2, 1, bias=False), nn.BatchNorm2d(12), nn.LeakyReLU(0.1),
        nn.ConvTranspose2d(12, 16, 4, 2, 1, bias=False), nn.BatchNorm2d(16), nn.ReLU(),
        nn.ConvTranspose2d(16, 16, 4, 2, 1, groups=2), nn.BatchNorm2d(16), nn.ReLU(),
        nn.Conv2d(16, 1, 3, 1, 1), nn.Sigmoid(),
    )  # fmt: skip


# --- training and export ----------------------------------------------------------------------


def train(
    model: nn.Module, x: Tensor, y: Tensor, *, epochs: int, jitter: bool, reconstruct: bool
) -> None:
    optimiser = torch.optim.AdamW(model.parameters(), lr=4e-3, weight_decay=1e-3)
    steps = epochs * (len(x) // 64)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, 8e-3, total_steps=steps)
    model.train()
    for _ in range(epochs):
        order = torch.randperm(len(x))
        for batch in order[: len(x) // 64 * 64].split(64):
            image = x[batch]
            if jitter:  # by a pixel, else the convolutional nets only memorise 1347 images
                image = torch.roll(image, [int(torch.randint(-1, 2, ())) for _ in range(2)], (2, 3))
            out = model(image)
            loss = (
                nn.functional.mse_loss(out, image)
                if reconstruct
                else nn.functional.cross_entropy(out, y[batch])
            )
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
            schedule.step()
    model.eval()


def export(model: nn.Module, path: Path, *, dynamo: bool) -> None:
    """Export in evaluation mode with the BatchNormalizations kept and a symbolic batch."""
    example = (torch.zeros(2, 1, 8, 8),)
    if dynamo:
        batch = torch.export.Dim("batch")
        program = torch.onnx.export(
            model, example, dynamo=True, optimize=False, dynamic_shapes=({0: batch},),
            input_names=["image"], output_names=["output"], verbose=False,
        )  # fmt: skip
        assert program is not None
        proto = program.model_proto
        for graph in (proto.graph, *proto.functions):
            for node in graph.node:  # stack traces name folders of the machine that exported
                keep = [p for p in node.metadata_props if p.key != "pkg.torch.onnx.stack_trace"]
                del node.metadata_props[:]
                node.metadata_props.extend(keep)
        onnx.save(proto, path)
    else:
        torch.onnx.export(
            model, example, path, dynamo=False, opset_version=17,
            input_names=["image"], output_names=["output"],
            training=torch.onnx.TrainingMode.PRESERVE, do_constant_folding=False,
            dynamic_axes={"image": {0: "batch"}, "output": {0: "batch"}},
        )  # fmt: skip


# name: (architecture, exported through torch.export, epochs, jitter)
TRAINED = {
    "digits_resnet": (resnet, True, 40, True),
    "digits_depthwise": (depthwise_separable, False, 60, True),
    "digits_repvgg": (repvgg, False, 40, True),
    "digits_mlp": (mlp, False, 40, False),
    "digits_autoencoder": (autoencoder, False, 80, False),
}


def build_trained() -> None:
    x, y, test_x, test_y = digits()
    np.savez_compressed(
        HERE / "digits_test.npz",
        image=(test_x.numpy() * 16).astype(np.uint8),
        label=test_y.numpy().astype(np.uint8),
    )
    for name, (architecture, dynamo, epochs, jitter) in TRAINED.items():
        torch.manual_seed(0)
        model = architecture()
        reconstruct = name == "digits_autoencoder"
        train(model, x, y, epochs=epochs, jitter=jitter, reconstruct=reconstruct)
        with torch.no_grad():
            out = model(test_x)
        score = (
            f"mean squared error {nn.functional.mse_loss(out, test_x):.5f}"
            if reconstruct
            else f"accuracy {(out.argmax(1) == test_y).float().mean():.4f}"
        )
        export(model, HERE / f"{name}.onnx", dynamo=dynamo)
        print(f"{name}: {score} on {len(test_x)} held-out images")


# --- synthetic models: what must be refused, or folded with care -------------------------------


@gs.Graph.register()  # type: ignore[untyped-decorator]
def conv(self: gs.Graph, x: gs.Tensor, w: gs.Tensor, name: str) -> gs.Tensor:
    return self.layer(
        op="Conv", name=name, inputs=[x, w], outputs=[f"{name}_out"], attrs={"pads": [1, 1, 1, 1]}
    )[0]


@gs.Graph.register()  # type: ignore[untyped-decorator]
def batch_norm(
    self: gs.Graph, x: gs.Tensor, name: str, params: list[gs.Tensor], outputs: int = 1, **attrs: int
) -> gs.Tensor:
    names = [f"{name}_out", f"{name}_running_mean", f"{name}_running_var"][:outputs]
    return self.layer(
        op="BatchNormalization", name=name, inputs=[x, *params], outputs=names, attrs=attrs
    )[0]


def parameters(rng: np.random.Generator, channels: int, dtype: type, name: str) -> list[gs.Tensor]:
    drawn = {
        "weight": rng.uniform(0.5, 1.5, channels), "bias": rng.normal(size=channels),
        "running_mean": rng.normal(size=channels), "running_var": rng.uniform(0.1, 2, channels),
    }  # fmt: skip
    return [gs.Constant(f"{name}.{key}", value.astype(dtype)) for key, value in drawn.items()]


def synthetic(dtype: type, bn_dtype: type, **bn_attrs: int) -> gs.Graph:
    """x → Conv → BatchNormalization → Relu → y on [1, 3, 8, 8], opset 17."""
    rng = np.random.default_rng(1)
    graph = gs.Graph(opset=17, name="synthetic")
    x = gs.Variable("x", dtype, (1, 3, 8, 8))
    w = gs.Constant("conv.weight", rng.normal(0, 0.3, (8, 3, 3, 3)).astype(dtype))
    y = graph.conv(x, w, "conv")
    y = graph.batch_norm(
        y, "bn", parameters(rng, 8, bn_dtype, "bn"),
        outputs=3 if bn_attrs.get("training_mode") else 1, **bn_attrs,
    )  # fmt: skip
    y = graph.layer(
        op="Relu", name="relu", inputs=[y], outputs=[gs.Variable("y", dtype, (1, 8, 8, 8))]
    )[0]
    graph.inputs, graph.outputs = [x], [y]
    return graph


def build_synthetic() -> None:
    models = {
        "training_mode": synthetic(np.float32, np.float32, training_mode=1),
        "fp16": synthetic(np.float16, np.float16),
        "fp16_float_statistics": synthetic(np.float16, np.float32),
        "overridable_weights": synthetic(np.float32, np.float32),
    }
    for name, graph in models.items():
        model = gs.export_onnx(graph, do_type_check=False)
        model.ir_version = 8
        if name == "overridable_weights":  # IR ≥ 4: an initializer that is an input is a default
            model.graph.input.extend(
                onnx.helper.make_tensor_value_info(t.name, t.data_type, t.dims)
                for t in model.graph.initializer
            )
        onnx.checker.check_model(model, full_check=True)
        onnx.save(model, HERE / f"{name}.onnx")
        print(f"{name}: built")


if __name__ == "__main__":
    torch.set_num_threads(1)
    if "--synthetic-only" not in sys.argv:
        build_trained()
    build_synthetic()
